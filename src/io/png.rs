//! PNG files.

use std::io::{Cursor, Write};
use std::path::Path;

use image::{ImageFormat, RgbImage};

use super::FileError;
use super::atomic::write_atomic;

pub(super) fn save_png(path: &Path, image: &RgbImage) -> Result<(), FileError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(FileError::encoding(path))?;
    write_atomic(path, |out| out.write_all(bytes.get_ref()))
}
