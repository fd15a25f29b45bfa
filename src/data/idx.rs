//! IDX files: a big-endian header `[magic, sizes...]`, then numbers. What their names say is `mnist.rs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::{DataError, read_head};

/// Unsigned bytes of rank 3: pictures.
pub(super) const IMAGES: u32 = 0x0000_0803;
/// Unsigned bytes of rank 1: labels.
pub(super) const LABELS: u32 = 0x0000_0801;
/// 32-bit integers of rank 2: QMNIST's labels, whose first column is the class.
pub(super) const WIDE_LABELS: u32 = 0x0000_0C02;
const GZIP: [u8; 2] = [0x1F, 0x8B];
/// Deflate cannot shrink data below one part in 1032.
const MAX_INFLATION: u64 = 1032;

/// Whether the content of a file could be an IDX file, plain or gzip.
pub(super) fn looks_like(path: &Path) -> Result<bool, DataError> {
    let head = read_head(path, 4)?;
    Ok(head.starts_with(&[0, 0]) || head.starts_with(&GZIP))
}

/// An IDX file whose header was read.
pub(super) struct Idx {
    path: PathBuf,
    magic: u32,
    /// Sizes, the slowest first.
    pub shape: Vec<usize>,
    /// Whether the file is known to be as long as the header says; not before the end of a gzip stream.
    pub certain: bool,
    stream: Box<dyn Read>,
}

impl Idx {
    /// Opens a file of one of these `kinds`. The header is believed only after `check` of the shape and a comparison with
    /// the length of the file, and nothing is allocated from it before.
    pub fn open(
        path: &Path,
        kinds: &[u32],
        check: impl FnOnce(&[usize]) -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Read { path: path.into(), source };
        let file = File::open(path).map_err(unreadable)?;
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let mut reader = BufReader::new(file);
        let gzip = reader.fill_buf().map_err(unreadable)?.starts_with(&GZIP);
        let stream: Box<dyn Read> =
            if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
        let mut idx = Self { path: path.into(), magic: kinds[0], shape: Vec::new(), certain: !gzip, stream };

        let mut words = Vec::new();
        while (words.len() as u64) < idx.header_bytes() / 4 {
            let mut word = Vec::new();
            idx.read(4, &mut word)?;
            let Some(word) = word.first_chunk::<4>() else {
                return Err(idx.length((4 * words.len() + word.len()) as u64, idx.header_bytes()));
            };
            words.push(u32::from_be_bytes(*word));
            match kinds.iter().find(|kind| **kind == words[0]) {
                Some(kind) => idx.magic = *kind,
                None => {
                    return Err(DataError::IdxMagic {
                        path: path.into(),
                        found: words[0],
                        expected: kinds[0],
                    });
                }
            }
        }
        idx.shape = words[1..].iter().map(|size| *size as usize).collect();
        check(&idx.shape)?;

        let expected = idx.expected_bytes();
        if gzip && expected > file_bytes.saturating_mul(MAX_INFLATION) {
            return Err(DataError::IdxInflation { path: path.into(), found: file_bytes, expected });
        }
        if !gzip && expected != file_bytes {
            return Err(idx.length(file_bytes, expected));
        }
        Ok(idx)
    }

    fn header_bytes(&self) -> u64 {
        4 + 4 * u64::from(self.magic & 0xFF)
    }

    /// Bytes of one number.
    fn number_bytes(&self) -> u64 {
        if self.magic == WIDE_LABELS { 4 } else { 1 }
    }

    fn expected_bytes(&self) -> u64 {
        let body =
            self.shape.iter().fold(self.number_bytes(), |bytes, &size| bytes.saturating_mul(size as u64));
        body.saturating_add(self.header_bytes())
    }

    fn length(&self, found: u64, expected: u64) -> DataError {
        DataError::IdxLength { path: self.path.clone(), found, expected }
    }

    /// Up to `count` bytes, fewer only at the end.
    fn read(&mut self, count: u64, to: &mut Vec<u8>) -> Result<(), DataError> {
        to.clear();
        match self.stream.by_ref().take(count).read_to_end(to) {
            Ok(_) => Ok(()),
            Err(source) if self.certain => Err(DataError::Read { path: self.path.clone(), source }),
            Err(source) => Err(DataError::Gzip { path: self.path.clone(), source }),
        }
    }

    /// Gives the bytes of each item of the slowest dimension, one after another.
    pub fn each(mut self, mut take: impl FnMut(&[u8]) -> Result<(), DataError>) -> Result<(), DataError> {
        let expected = self.expected_bytes();
        let count = self.shape[0] as u64;
        let bytes = (expected - self.header_bytes()).checked_div(count).unwrap_or(0);
        let mut item = Vec::new();
        for i in 0..count {
            self.read(bytes, &mut item)?;
            if (item.len() as u64) < bytes {
                return Err(self.length(self.header_bytes() + i * bytes + item.len() as u64, expected));
            }
            take(&item)?;
        }
        // One byte more tells a longer file from a right one without inflating all of it, and checks gzip's sum.
        self.read(1, &mut item)?;
        if !item.is_empty() {
            return Err(self.length(expected + 1, expected));
        }
        Ok(())
    }
}
