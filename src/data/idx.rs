//! IDX files (MNIST and its family): a big-endian header `[magic, sizes...]`, then unsigned bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::{DataError, Dataset, MAX_SIDE, Opening, Options, picture, read_head};

/// Unsigned bytes, of the rank in the lowest byte.
const MAGIC: u32 = 0x0000_0800;
const GZIP: [u8; 2] = [0x1F, 0x8B];
/// Deflate cannot shrink data below one part in 1032.
const MAX_INFLATION: u64 = 1032;

/// An IDX file: `bytes` has the shape `shape`.
struct Idx {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Whether a file is meant as an IDX file: its name or its content says so.
pub(super) fn looks_like(path: &Path) -> Result<bool, DataError> {
    let head = read_head(path, 4)?;
    let named = path.file_name().and_then(|name| name.to_str()).is_some_and(names_images);
    Ok(named || head.starts_with(&[0, 0]) || head.starts_with(&GZIP))
}

fn names_images(name: &str) -> bool {
    name.contains("images-idx3") || name.contains("images.idx3")
}

/// The images file to read among the (sorted) `names` of a folder: training before test, plain before
/// gzip.
pub(super) fn find_images(names: &[String]) -> Option<&String> {
    names.iter().filter(|name| names_images(name)).min_by_key(|name| !name.contains("train-images"))
}

/// The labels file that belongs to an images file, plain or gzip, if it is there.
fn find_labels(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let labels = name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1");
    if labels == name {
        return None;
    }
    let plain = labels.strip_suffix(".gz").unwrap_or(&labels);
    let candidates = [labels.clone(), plain.to_owned(), format!("{plain}.gz")];
    candidates.into_iter().map(|name| images.with_file_name(name)).find(|path| path.is_file())
}

/// Reads an images file and, if there is one beside it, its labels file.
pub(super) fn dataset(path: &Path, opening: &mut Opening) -> Result<Dataset, DataError> {
    let options = opening.options;
    opening.report.layout = "IDX".into();
    let spec = path.display().to_string();
    let idx = read(path, 3, |shape| {
        let (count, height, width) = (shape[0], shape[1], shape[2]);
        let sides = 1..=MAX_SIDE as usize;
        if count == 0 || !sides.contains(&height) || !sides.contains(&width) {
            return Err(DataError::IdxShape { path: path.into(), shape: shape.into() });
        }
        // Both the raw and the resampled pictures are held for a while.
        let raw = Options { size: (height, width), channels: 1, ..options.clone() };
        raw.check_memory(&spec, count as u64)?;
        options.check_memory(&spec, count as u64)
    })?;
    let (count, height, width) = (idx.shape[0], idx.shape[1], idx.shape[2]);
    let labels: Vec<u32> = match find_labels(path) {
        None => Vec::new(),
        Some(labels) => read(&labels, 1, |shape| {
            if shape[0] == count {
                return Ok(());
            }
            let (images, labels) = (path.into(), labels.clone());
            Err(DataError::LabelCount { images, labels, found: shape[0], expected: count })
        })?
        .bytes
        .into_iter()
        .map(u32::from)
        .collect(),
    };
    let classes = labels.iter().max().map_or(0, |last| last + 1);
    let class_names = (0..classes).map(|class| class.to_string()).collect();
    let mut pixels = Vec::with_capacity(count * options.stride());
    for row in idx.bytes.chunks_exact(height * width) {
        pixels.extend(picture::fit_raw(row, (height, width), options));
    }
    Ok(Dataset::from_parts(options, class_names, pixels, labels))
}

/// Reads an IDX file of unsigned bytes of this rank. The header is believed only after `check` of the
/// shape and a comparison with the length of the file, and nothing is allocated from it before.
fn read(
    path: &Path,
    rank: u8,
    check: impl FnOnce(&[usize]) -> Result<(), DataError>,
) -> Result<Idx, DataError> {
    let unreadable = |source| DataError::Read { path: path.into(), source };
    let file = File::open(path).map_err(unreadable)?;
    let file_bytes = file.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::new(file);
    let gzip = reader.fill_buf().map_err(unreadable)?.starts_with(&GZIP);
    let mut stream: Box<dyn Read> =
        if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let broken = |source| match gzip {
        true => DataError::Gzip { path: path.into(), source },
        false => unreadable(source),
    };
    let wrong_length = |found, expected| Err(DataError::IdxLength { path: path.into(), found, expected });

    let header_bytes = 4 + 4 * u64::from(rank);
    let mut header = Vec::new();
    stream.by_ref().take(header_bytes).read_to_end(&mut header).map_err(broken)?;
    let mut words = header.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
    if let Some(found) = words.next()
        && found != MAGIC + u32::from(rank)
    {
        return Err(DataError::IdxMagic { path: path.into(), found, expected: MAGIC + u32::from(rank) });
    }
    if (header.len() as u64) < header_bytes {
        return wrong_length(header.len() as u64, header_bytes);
    }
    let shape: Vec<usize> = words.map(|size| size as usize).collect();
    check(&shape)?;

    let body = shape.iter().fold(1u64, |product, &size| product.saturating_mul(size as u64));
    let expected = body.saturating_add(header_bytes);
    if gzip && expected > file_bytes.saturating_mul(MAX_INFLATION) {
        return Err(DataError::IdxInflation { path: path.into(), found: file_bytes, expected });
    }
    if !gzip && expected != file_bytes {
        return wrong_length(file_bytes, expected);
    }
    // One byte more than announced tells a longer file from a right one without inflating all of it.
    let mut bytes = Vec::new();
    stream.take(body.saturating_add(1)).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 != body {
        return wrong_length(header_bytes + bytes.len() as u64, expected);
    }
    Ok(Idx { shape, bytes })
}
