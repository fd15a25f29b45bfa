//! PNG files.

use std::io::{Cursor, Write};
use std::path::Path;

use image::{ImageFormat, RgbImage};

use super::FileError;
use super::atomic::write_atomic;

/// The bytes of a PNG file. `path` is for messages.
pub(super) fn encode_png(path: &Path, image: &RgbImage) -> Result<Vec<u8>, FileError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(FileError::encoding(path))?;
    Ok(bytes.into_inner())
}

pub(super) fn save_png(path: &Path, image: &RgbImage) -> Result<(), FileError> {
    let bytes = encode_png(path, image)?;
    write_atomic(path, |out| out.write_all(&bytes))
}
