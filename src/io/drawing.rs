//! What charts and labelled rows share: a font that needs nothing of the system.

use std::sync::Once;

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

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
