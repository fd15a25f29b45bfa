//! What charts and labelled grids share: a font that needs nothing of the system, and PNG files.

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Once;

use image::{ImageFormat, RgbImage};
use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

use super::FileError;
use super::atomic::write_atomic;

/// A sans-serif font whose height is about `size` pixels: DejaVu Sans in pictures, which is built in, and the
/// viewer's own in SVG.
pub(super) fn font(size: f64) -> FontDesc<'static> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // Were the built-in font ever unreadable, drawing text would say so as an error.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    FontDesc::new(FontFamily::SansSerif, size, FontStyle::Normal)
}

/// Text fit to be drawn: on one line and without control characters, which SVG does not allow either.
pub(super) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The width in pixels that `text` takes in `font`, or 0 where it cannot be told.
pub(super) fn text_width(text: &str, font: &FontDesc) -> u32 {
    font.box_size(text).map_or(0, |(width, _)| width)
}

pub(super) fn save_png(path: &Path, image: &RgbImage) -> Result<(), FileError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(FileError::encoding(path))?;
    write_atomic(path, |out| out.write_all(bytes.get_ref()))
}
