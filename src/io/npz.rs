//! NumPy's `.npz`: a zip file of arrays, each as NumPy's `.npy` has it (NEP 1). Arrays are stored, not compressed, and are
//! read and written as they come, whatever their size.

use std::io::{BufReader, Read, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::FileError;
use super::atomic::{write_atomic, write_new};
use super::disk::Output;
use super::open::open_file;

/// Zip entries of this size and more need the 64-bit form.
const LARGE: u64 = u32::MAX as u64;

/// An array to be written.
pub struct NpzArray<'a> {
    /// Its name: `arr_0` for the first one that `numpy.savez` is given without a name.
    pub name: &'a str,
    /// NumPy's name of its numbers, as `|u1` or `<i8`.
    pub dtype: &'a str,
    /// Its axes, the last one running fastest.
    pub shape: &'a [usize],
    /// All its bytes, and none behind them.
    pub data: &'a mut dyn Read,
}

/// The header of a `.npy` file.
fn header(dtype: &str, shape: &[usize]) -> Vec<u8> {
    let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let axes = if shape.len() > 1 { axes.trim_end_matches(", ") } else { axes.trim_end() };
    let facts = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({axes}), }}");
    // Magic, version and length take 10 bytes; with spaces and a line's end the whole is a multiple of 64.
    let length = (10 + facts.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    header.extend(format!("{facts:<width$}\n", width = length - 1).into_bytes());
    header
}

/// Writes arrays as an `.npz`, beside its destination and then renamed. `replace` says whether an earlier file may be
/// replaced.
///
/// # Errors
/// Whatever the disk says; an earlier file is then as it was.
pub fn write_npz(path: &Path, replace: bool, arrays: &mut [NpzArray<'_>]) -> Result<(), FileError> {
    let fill = |out: &mut Output<'_>| {
        let mut zip = ZipWriter::new(out);
        for NpzArray { name, dtype, shape, data } in arrays {
            let header = header(dtype, shape);
            let size: u64 = dtype.chars().filter_map(|c| c.to_digit(10)).next_back().unwrap_or(1).into();
            let bytes = shape.iter().fold(size, |bytes, &axis| bytes.saturating_mul(axis as u64));
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .large_file(bytes.saturating_add(header.len() as u64) >= LARGE);
            zip.start_file(format!("{name}.npy"), options)?;
            zip.write_all(&header)?;
            let copied = std::io::copy(data, &mut zip)?;
            if copied != bytes {
                return Err(std::io::Error::other(format!("{name} has {copied} bytes and not {bytes}")));
            }
        }
        zip.finish()?;
        Ok(())
    };
    if replace { write_atomic(path, fill) } else { write_new(path, fill) }
}

/// Calls `take` with the bytes of array `name` if it is stored with exactly this header, and says whether it was.
///
/// # Errors
/// A file that is no zip file, and whatever the disk or `take` says.
pub fn read_npz_array(
    path: &Path,
    name: &str,
    dtype: &str,
    shape: &[usize],
    take: impl FnOnce(&mut dyn Read) -> std::io::Result<()>,
) -> Result<bool, FileError> {
    let (file, _) = open_file(path, "npz file")?;
    let broken = |error: zip::result::ZipError| {
        let found = format!("damage ({error})");
        FileError::malformed(
            path,
            "npz file",
            found,
            "a zip file of NumPy's arrays",
            "Remove it, or name another.",
        )
    };
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let Some(number) = zip.index_for_name(&format!("{name}.npy")) else { return Ok(false) };
    let mut entry = zip.by_index(number).map_err(broken)?;
    let expected = header(dtype, shape);
    let mut found = Vec::new();
    let head = (&mut entry).take(expected.len() as u64).read_to_end(&mut found);
    head.map_err(FileError::io("read", path))?;
    if found != expected {
        return Ok(false);
    }
    take(&mut entry).map_err(FileError::io("read", path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_numpy_writes_them() {
        // numpy.lib.format.write_array_header_1_0, NumPy 2.
        let written = header("|u1", &[3, 16, 16, 1]);
        let facts = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 16, 16, 1), }";
        assert_eq!(&written[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(written[10..].starts_with(facts) && written.ends_with(b" \n"));
        assert_eq!(written.len(), 128);
        let text = |shape| String::from_utf8_lossy(&header("<i8", shape)[10..]).trim().to_string();
        assert_eq!(text(&[7]), "{'descr': '<i8', 'fortran_order': False, 'shape': (7,), }");
        assert!((1..40).all(|axes| header("|u1", &vec![9; axes]).len().is_multiple_of(64)));
    }

    #[test]
    fn arrays_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npz");
        let (pixels, labels): (Vec<u8>, Vec<u8>) = ((0..24).collect(), (0..32).collect());
        let write = |replace: bool, pixels: &[u8]| {
            write_npz(
                &path,
                replace,
                &mut [
                    NpzArray { name: "arr_0", dtype: "|u1", shape: &[4, 2, 3, 1], data: &mut &*pixels },
                    NpzArray { name: "arr_1", dtype: "<i8", shape: &[4], data: &mut &*labels },
                ],
            )
        };
        assert!(write(false, &pixels[..23]).unwrap_err().to_string().contains("23 bytes and not 24"));
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "litter");
        write(false, &pixels).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert!(write(false, &pixels).unwrap_err().to_string().contains("samples.npz"));
        write(true, &pixels).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole, "the same bytes each time");

        let read = |name: &str, dtype: &str, shape: &[usize]| {
            let mut bytes = Vec::new();
            let found =
                read_npz_array(&path, name, dtype, shape, |data| data.read_to_end(&mut bytes).map(drop));
            found.map(|found| found.then_some(bytes))
        };
        assert_eq!(read("arr_0", "|u1", &[4, 2, 3, 1]).unwrap(), Some(pixels));
        assert_eq!(read("arr_1", "<i8", &[4]).unwrap(), Some(labels));
        assert_eq!(read("arr_1", "<i8", &[5]).unwrap(), None);
        assert_eq!(read("arr_2", "<i8", &[4]).unwrap(), None);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read("arr_0", "|u1", &[4, 2, 3, 1]).is_err(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x41;
            std::fs::write(&path, &damaged).unwrap();
            let _ = read("arr_0", "|u1", &[4, 2, 3, 1]);
        }
    }
}
