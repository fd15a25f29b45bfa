//! Tensors by name in a safetensors file, as f32 in memory whatever the file holds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorInfo, TensorView};
use serde::Serialize;

use super::FileError;
use super::atomic::write_atomic;
use super::checksum::{self, Checksum};
use super::error::{Cause, quoted, shortened};
use super::header::{self, Fault};
use super::open::open_file;

/// The format's own limit on its header, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The file begins with the header's length as a little-endian u64; the header is padded to a multiple of it.
const LENGTH_BYTES: usize = 8;

const KIND: &str = "tensor file";
const REMEDY: &str = "The file is cut short, damaged or of another kind: copy or save it again.";
const PICKLE_REMEDY: &str = "It can run any program when it is opened, so it is not read: load it with PyTorch where you \
                             trust it, and write its tensors with safetensors.torch.save_file.";
const BAD_TENSOR: &str = "Save the file again from its source, or use an earlier one.";
const NOT_WRITTEN: &str = "Nothing was written: an earlier file is as it was.";

/// An array of f32 in row-major order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tensor {
    /// The sides, outermost first; their product is the length of `data`. Empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements, innermost side contiguous.
    pub data: Vec<f32>,
}

/// All that one file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorFile {
    /// Every tensor by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Free text by key, such as the step and the model's settings.
    pub metadata: BTreeMap<String, String>,
}

/// Reads all tensors of the file at `path`, of dtype F32, F16, BF16, F64, I64 or I32, widened or rounded to f32. A checksum
/// that [`write_sealed`] gave it is checked, and is not part of the metadata that is returned.
///
/// # Errors
/// Whatever is wrong with the file or a tensor in it, including a value that is not finite, an integer that
/// f32 cannot hold exactly, and content other than that of its checksum. Nothing is allocated on the word of the header alone.
pub fn read(path: &Path) -> Result<TensorFile, FileError> {
    let (mut file, length) = open_file(path, KIND)?;
    read_from(path, length, &mut file)
}

/// The same for a file that is already in memory; `name` stands for its path in errors.
///
/// # Errors
/// As [`read`].
pub fn parse(name: &str, bytes: &[u8]) -> Result<TensorFile, FileError> {
    read_from(Path::new(name), bytes.len() as u64, &mut &*bytes)
}

/// Reads a file of `length` bytes from `source`; `path` is for messages.
fn read_from(path: &Path, length: u64, source: &mut impl Read) -> Result<TensorFile, FileError> {
    let mut bytes = Vec::new();
    read_up_to(path, LENGTH_BYTES as u64, source, &mut bytes)?;
    let Some(&prefix) = bytes.first_chunk::<LENGTH_BYTES>() else {
        let found = format!("{} bytes", bytes.len());
        return Err(malformed(path, found, "at least the 8 bytes of the header's length", None));
    };
    let header_len = u64::from_le_bytes(prefix);
    let room = length.saturating_sub(LENGTH_BYTES as u64);
    if header_len > room.min(MAX_HEADER_BYTES) {
        if let Some(found) = pickle(&prefix) {
            return Err(FileError::malformed(path, KIND, found, "safetensors", PICKLE_REMEDY));
        }
        let found = format!("a header said to be {header_len} bytes long");
        let expected = if header_len > MAX_HEADER_BYTES {
            format!("at most {MAX_HEADER_BYTES}")
        } else {
            format!("at most the {room} bytes that follow in the file")
        };
        return Err(malformed(path, found, expected, None));
    }
    read_up_to(path, header_len, source, &mut bytes)?;
    let too_large = || malformed(path, format!("{length} bytes"), "a file that fits in memory", None);
    let data_len = usize::try_from(room - header_len).map_err(|_| too_large())?;
    let mut metadata =
        header::check(&bytes[LENGTH_BYTES..], data_len).map_err(|fault| refused(path, fault, BAD_TENSOR))?;

    bytes.try_reserve_exact(data_len).map_err(|_| too_large())?;
    read_up_to(path, room - header_len, source, &mut bytes)?;
    let parsed = SafeTensors::deserialize(&bytes)
        .map_err(|error| malformed(path, error.to_string(), "a valid file", Some(error.into())))?;
    let views: BTreeMap<&str, TensorView> = parsed.iter().collect();
    if let Some(said) = metadata.remove(checksum::KEY) {
        let mut found = Checksum::new(&metadata);
        for (name, view) in &views {
            found.tensor(name, &view.dtype().to_string(), view.shape(), view.data());
        }
        let found = found.text();
        if found != said {
            let found = format!("content with the checksum {found}");
            return Err(malformed(
                path,
                found,
                format!("{}, as the file says of itself", quoted(&said)),
                None,
            ));
        }
    }
    let mut tensors = BTreeMap::new();
    for (name, view) in views {
        let data = widen(&view).map_err(|(index, found)| {
            let shape = format!("{:?}", view.shape());
            let found = format!("{found} at index {index} of shape {}", shortened(&shape));
            refused(path, Fault::tensor(name, found, "finite values that f32 can hold"), BAD_TENSOR)
        })?;
        tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), data });
    }
    Ok(TensorFile { tensors, metadata })
}

/// Names what PyTorch writes without safetensors, in whose place a length would stand that no header has.
fn pickle(prefix: &[u8; LENGTH_BYTES]) -> Option<&'static str> {
    match prefix {
        [b'P', b'K', 3, 4, ..] => Some("a zip archive, as torch.save writes it"),
        [0x80, 2..=5, ..] => Some("a Python pickle"),
        _ => None,
    }
}

/// Appends the next `count` bytes, or as many as there are: what is missing shows when the bytes are used.
fn read_up_to(path: &Path, count: u64, source: &mut impl Read, bytes: &mut Vec<u8>) -> Result<(), FileError> {
    source.take(count).read_to_end(bytes).map(drop).map_err(FileError::io("read", path))
}

/// The values of a tensor as f32, or the first that will not do: its flat index and what it is.
fn widen(view: &TensorView) -> Result<Vec<f32>, (usize, String)> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => decode(bytes, |b| finite(f32::from_le_bytes(b))),
        Dtype::F16 => decode(bytes, |b| finite(f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => decode(bytes, |b| finite(bf16::from_le_bytes(b).to_f32())),
        Dtype::F64 => decode(bytes, |b| narrow(f64::from_le_bytes(b))),
        Dtype::I64 => decode(bytes, |b| exact(i64::from_le_bytes(b))),
        Dtype::I32 => decode(bytes, |b| exact(i32::from_le_bytes(b).into())),
        other => Err((0, format!("dtype {other}"))),
    }
}

fn decode<const N: usize>(
    bytes: &[u8],
    to_f32: impl Fn([u8; N]) -> Result<f32, String>,
) -> Result<Vec<f32>, (usize, String)> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut values = Vec::with_capacity(elements.len());
    for (index, &element) in elements.iter().enumerate() {
        values.push(to_f32(element).map_err(|found| (index, found))?);
    }
    Ok(values)
}

fn finite(value: f32) -> Result<f32, String> {
    if value.is_finite() { Ok(value) } else { Err(value.to_string()) }
}

fn narrow(value: f64) -> Result<f32, String> {
    // Rounding to the nearest f32 is what is asked for; overflow shows as an infinity.
    finite(value as f32).map_err(|_| format!("{value:e}"))
}

fn exact(value: i64) -> Result<f32, String> {
    // The cast rounds, and the way back tells whether it had to.
    let rounded = value as f32;
    if rounded as i128 == i128::from(value) { Ok(rounded) } else { Err(value.to_string()) }
}

/// Writes all tensors as F32. The same content gives the same bytes, and a crash leaves the old file or the new.
///
/// # Errors
/// What [`read`] would refuse to read back (a shape that does not match its data, a harmful name, a value that is
/// not finite), before the disk is touched; then whatever the disk says.
pub fn write(path: &Path, file: &TensorFile) -> Result<(), FileError> {
    write_with(path, file, &file.metadata)
}

/// The same with a checksum of the content in the metadata, which [`read`] checks.
///
/// # Errors
/// As [`write()`].
pub fn write_sealed(path: &Path, file: &TensorFile) -> Result<(), FileError> {
    let mut checksum = Checksum::new(&file.metadata);
    for (name, tensor) in &file.tensors {
        checksum.tensor(name, &Dtype::F32.to_string(), &tensor.shape, &little_endian(&tensor.data));
    }
    let mut metadata = file.metadata.clone();
    metadata.insert(checksum::KEY.into(), checksum.text());
    write_with(path, file, &metadata)
}

fn write_with(path: &Path, file: &TensorFile, metadata: &BTreeMap<String, String>) -> Result<(), FileError> {
    let header = header_of(file, metadata)
        .map_err(|fault| refused(path, fault, NOT_WRITTEN))?
        .to_json()
        .map_err(FileError::encoding(path))?;
    write_atomic(path, |out| {
        // `usize` to `u64` loses nothing on any platform that Rust supports.
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        file.tensors.values().try_for_each(|tensor| out.write_all(&little_endian(&tensor.data)))
    })
}

/// The header as the format has it. Not the crate's own writer, which puts the metadata in random order.
#[derive(Serialize)]
struct HeaderJson<'a> {
    #[serde(rename = "__metadata__", skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

impl HeaderJson<'_> {
    /// Padded with spaces so that the data begins aligned.
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec(self)?;
        json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
        Ok(json)
    }
}

fn header_of<'a>(
    file: &'a TensorFile,
    metadata: &'a BTreeMap<String, String>,
) -> Result<HeaderJson<'a>, Fault> {
    let mut tensors = BTreeMap::new();
    let mut start = 0;
    for (name, Tensor { shape, data }) in &file.tensors {
        header::check_name(name)?;
        if header::element_count(shape) != Some(data.len()) {
            let found = format!("{} values", data.len());
            return Err(Fault::tensor(name, found, format!("as many as shape {shape:?} has")));
        }
        if let Some(index) = data.iter().position(|value| !value.is_finite()) {
            let found = format!("{} at index {index} of shape {shape:?}", data[index]);
            return Err(Fault::tensor(name, found, "finite values (has the training diverged?)"));
        }
        let end = start + size_of_val(data.as_slice());
        let info = TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) };
        tensors.insert(name.as_str(), info);
        start = end;
    }
    Ok(HeaderJson { metadata, tensors })
}

fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

fn malformed(
    path: &Path,
    found: impl Into<String>,
    expected: impl Into<String>,
    source: Option<Cause>,
) -> FileError {
    FileError::Malformed {
        path: path.to_path_buf(),
        kind: KIND,
        found: found.into(),
        expected: expected.into(),
        remedy: REMEDY,
        source,
    }
}

fn refused(path: &Path, fault: Fault, remedy: &'static str) -> FileError {
    match fault.tensor {
        None => malformed(path, fault.found, fault.expected, fault.source),
        Some(name) => FileError::Tensor {
            path: path.to_path_buf(),
            tensor: quoted(&name),
            found: fault.found,
            expected: fault.expected,
            remedy,
        },
    }
}

#[cfg(test)]
#[path = "tensor_file_tests.rs"]
mod tests;
