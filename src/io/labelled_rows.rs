//! Rows of pictures with a label at the left of each, as a PNG file.

use std::path::Path;

use plotters::prelude::{BitMapBackend, IntoDrawingArea, TextStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::FileError;
use super::drawing::{font, one_line, text_width};
use super::image_grid::{BORDER, Layout};
use super::palette::save_png;

const LABEL_SIZE: u32 = 18;
/// Pixels to either side of a label.
const LABEL_MARGIN: u32 = 8;

/// Saves rows of pictures with a label at the left of each, such as "noise", "half-way" and "end". Rows may differ
/// in length. Enlarged as by [`save_grid`](super::save_grid).
///
/// # Errors
/// As [`save_grid`](super::save_grid).
pub fn save_rows(
    path: &Path,
    rows: &[(String, Vec<f32>)],
    height: usize,
    width: usize,
    channels: usize,
    min_side: usize,
) -> Result<(), FileError> {
    let layout = Layout::new(path, height, width, channels, min_side)?;
    let pictures = rows.iter().map(|(_, images)| layout.split(images)).collect::<Result<Vec<_>, _>>()?;
    let labels: Vec<String> = rows.iter().map(|(label, _)| one_line(label)).collect();

    let font = font(f64::from(LABEL_SIZE));
    let widest = labels.iter().map(|label| text_width(label, &font)).max().unwrap_or(0);
    let gutter = widest.saturating_add(2 * LABEL_MARGIN);
    let columns = pictures.iter().map(Vec::len).max().unwrap_or(0);
    let row_height = layout.cell_height().max(LABEL_SIZE + BORDER);
    let mut canvas = layout.canvas(gutter, columns, rows.len(), row_height)?;
    for (top, row) in layout.positions(0, row_height).zip(&pictures) {
        layout.draw_row(&mut canvas, row, gutter, top);
    }

    let size = canvas.dimensions();
    let area = BitMapBackend::with_buffer(&mut canvas, size).into_drawing_area();
    let style = TextStyle::from(font).pos(Pos::new(HPos::Right, VPos::Center));
    for (top, label) in layout.positions(0, row_height).zip(&labels) {
        // Below MAX_SIDE, so both fit.
        let at = ((gutter - LABEL_MARGIN).cast_signed(), (top + layout.drawn_height() / 2).cast_signed());
        area.draw_text(label, &style, at).map_err(FileError::encoding(path))?;
    }
    drop(area);
    save_png(path, &canvas)
}

#[cfg(test)]
mod tests {
    use super::super::image_grid::BACKGROUND;
    use super::*;

    #[test]
    fn labelled_rows_have_text_at_the_left() {
        let rows =
            [("noise".to_owned(), vec![1.0; 8]), ("half\nway, and then some".to_owned(), vec![1.0; 4])];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.png");
        save_rows(&path, &rows, 2, 2, 1, 4).unwrap();
        let image = image::open(path).unwrap().to_rgb8();
        let gutter = image.width() - 2 * (4 + BORDER) - BORDER;
        let inked = |rows: std::ops::Range<u32>| {
            rows.flat_map(|y| (0..gutter).map(move |x| (x, y))).filter(|&at| image[at].0[0] < 100).count()
        };
        assert!(inked(0..LABEL_SIZE + BORDER) > 20 && inked(LABEL_SIZE + BORDER..image.height()) > 40);
        assert!((0..image.height()).all(|y| image[(0, y)] == BACKGROUND), "no text is clipped at the left");
    }

    #[test]
    fn no_rows_are_refused() {
        let message = save_rows(Path::new("never/written.png"), &[], 2, 2, 1, 1).unwrap_err().to_string();
        assert!(message.contains("written.png") && message.contains("0 rows"), "{message}");
    }

    /// For looking at: `INKWASH_SAMPLES=folder cargo test --lib io -- samples`.
    #[test]
    fn samples() {
        let Some(folder) = std::env::var_os("INKWASH_SAMPLES") else { return };
        // A bright spot on black, which moves from picture to picture; 4 pixels apart in red, green and blue.
        let picture = |index: u16| {
            (0..28_u16 * 28 * 3).map(move |i| {
                let (x, y, channel) = (i / 3 % 28, i / 3 / 28, i % 3);
                let dx = f32::from(x) - 4.0 - f32::from(index);
                let dy = f32::from(y) - 14.0 + 4.0 * f32::from(channel);
                2.0 * (-(dx * dx + dy * dy) / 40.0).exp() - 1.0
            })
        };
        let row = |label: &str, from: u16| (label.to_owned(), (from..from + 6).flat_map(picture).collect());
        let rows = [row("noise", 0), row("half-way", 6), row("end", 12)];
        save_rows(&Path::new(&folder).join("rows.png"), &rows, 28, 28, 3, 64).unwrap();
    }
}
