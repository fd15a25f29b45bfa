//! Pictures as PNG files: one alone, or many in a grid.
//!
//! Pictures are f32 in [-1, 1], row-major and channels-last: `count × height × width × channels`, with one
//! channel (grey) or three (red, green, blue). Values beyond the range are drawn as its ends.

use std::io::Write;
use std::path::Path;

use image::{Rgb, RgbImage};

use super::FileError;
use super::atomic::{write_atomic, write_new};
use super::png::encode_png;

/// Pixels around each picture.
pub(super) const BORDER: u32 = 2;
/// A light grey, so that white pictures still show their edges.
pub(super) const BACKGROUND: Rgb<u8> = Rgb([228, 228, 228]);
/// The most pixels a side of a drawing may have: larger ones are a mistake, and few viewers open them.
const MAX_SIDE: u32 = 16_384;

/// The most pixels a side of a grid that may show fewer pictures than there are: every viewer opens it.
const GRID_SIDE: u32 = 4096;
/// The longer side up to which a picture is enlarged: a narrow strip would otherwise become longer than any drawing.
const ENLARGED_SIDE: u32 = 512;

/// What a grid shows of many pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridExtent {
    /// Pictures a row.
    pub columns: usize,
    /// Pictures in all: the first so many. None if a single one is too large for a drawing.
    pub shown: usize,
}

impl GridExtent {
    /// For [`save_grid`] of `count` pictures with the same sizes and the same `min_side`: narrower than `columns` and of
    /// fewer pictures where the drawing would have more than 4096 pixels a side.
    pub fn new(count: usize, columns: usize, height: usize, width: usize, min_side: usize) -> Self {
        let Some((height, width)) = sides(height, width) else { return Self { columns: 1, shown: 0 } };
        let scale = scale(height, width, min_side);
        let fit = |side: u32| -> usize {
            let cell = side * scale + BORDER;
            let alone = u32::from(cell + BORDER <= MAX_SIDE);
            ((GRID_SIDE - BORDER) / cell).max(alone) as usize
        };
        let columns = columns.clamp(1, fit(width).max(1));
        Self { columns, shown: count.min(fit(height).saturating_mul(columns.min(fit(width)))) }
    }
}

/// The sides of pictures that can be drawn.
fn sides(height: usize, width: usize) -> Option<(u32, u32)> {
    let side = |side: usize| u32::try_from(side).ok().filter(|side| (1..=MAX_SIDE).contains(side));
    Some((side(height)?, side(width)?))
}

/// By which whole factor pictures are enlarged so that both sides have at least `min_side` pixels, and neither more than
/// [`ENLARGED_SIDE`].
fn scale(height: u32, width: u32, min_side: usize) -> u32 {
    let wanted = u32::try_from(min_side).unwrap_or(u32::MAX).div_ceil(height.min(width));
    wanted.min(ENLARGED_SIDE / height.max(width)).max(1)
}

/// Saves `images` as a grid of `columns` pictures a row on a light ground, each enlarged by a whole factor so that
/// both its sides have at least `min_side` pixels, but neither more than 512. [`GridExtent`] says beforehand how many
/// pictures make a drawing of a sensible size.
///
/// # Errors
/// Sizes that do not fit `images`, no pictures, a value that is not finite, or whatever the disk says.
pub fn save_grid(
    path: &Path,
    images: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    columns: usize,
    min_side: usize,
) -> Result<(), FileError> {
    let bytes = encode_grid(path, images, height, width, channels, columns, min_side)?;
    write_atomic(path, |out| out.write_all(&bytes))
}

/// The bytes of the file that [`save_grid`] writes. `path` is for messages.
///
/// # Errors
/// As [`save_grid`], but for those of the disk.
pub fn encode_grid(
    path: &Path,
    images: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    columns: usize,
    min_side: usize,
) -> Result<Vec<u8>, FileError> {
    let layout = Layout::new(path, height, width, channels, min_side)?;
    let pictures = layout.split(images)?;
    let columns = columns.clamp(1, pictures.len().max(1));
    let rows: Vec<&[&[f32]]> = pictures.chunks(columns).collect();
    let mut canvas = layout.canvas(0, columns, rows.len(), layout.cell_height())?;
    for (top, row) in layout.positions(0, layout.cell_height()).zip(rows) {
        layout.draw_row(&mut canvas, row, 0, top);
    }
    encode_png(path, &canvas)
}

/// Saves one picture as it is: `height × width × channels`, one pixel for each, without a border. A file that is there
/// is not replaced.
///
/// # Errors
/// As [`save_grid`], and a file of that name.
pub fn save_single(
    path: &Path,
    image: &[f32],
    height: usize,
    width: usize,
    channels: usize,
) -> Result<(), FileError> {
    let layout = Layout::new(path, height, width, channels, 1)?;
    let [picture] = layout.split(image)?[..] else {
        return Err(layout.unfit(format!("{} values", image.len()), "one picture"));
    };
    let mut canvas = RgbImage::new(layout.width, layout.height);
    layout.draw(&mut canvas, picture, 0, 0);
    let bytes = encode_png(path, &canvas)?;
    write_new(path, |out| out.write_all(&bytes))
}

/// Pictures as bytes: [-1, 1] to 0..=255.
///
/// # Errors
/// As [`save_grid`], but for those of the disk. `path` is for messages.
pub fn to_bytes(
    path: &Path,
    images: &[f32],
    height: usize,
    width: usize,
    channels: usize,
) -> Result<Vec<u8>, FileError> {
    Layout::new(path, height, width, channels, 1)?.split(images)?;
    Ok(images.iter().copied().map(to_byte).collect())
}

/// The size of the pictures, and how much they are enlarged.
pub(super) struct Layout<'a> {
    path: &'a Path,
    height: u32,
    width: u32,
    channels: usize,
    /// Values in one picture.
    values: usize,
    scale: u32,
}

impl<'a> Layout<'a> {
    pub(super) fn new(
        path: &'a Path,
        height: usize,
        width: usize,
        channels: usize,
        min_side: usize,
    ) -> Result<Self, FileError> {
        let (Some((rows, columns)), 1 | 3) = (sides(height, width), channels) else {
            let found = format!("pictures of {height} × {width} × {channels}");
            let expected = format!("1 to {MAX_SIDE} pixels a side and 1 or 3 channels");
            return Err(FileError::unwritable(path, found, expected, CHECK_SIZES));
        };
        let scale = scale(rows, columns, min_side);
        Ok(Layout { path, height: rows, width: columns, channels, values: height * width * channels, scale })
    }

    fn unfit(&self, found: String, expected: &str) -> FileError {
        let expected = format!("{expected} of {} × {} × {}", self.height, self.width, self.channels);
        FileError::unwritable(self.path, found, expected, CHECK_SIZES)
    }

    /// The pictures one by one, once they are known to be whole and finite.
    pub(super) fn split<'b>(&self, images: &'b [f32]) -> Result<Vec<&'b [f32]>, FileError> {
        let pictures = images.chunks_exact(self.values);
        if !pictures.remainder().is_empty() {
            return Err(self.unfit(format!("{} values", images.len()), "a whole number of pictures"));
        }
        if let Some(index) = images.iter().position(|value| !value.is_finite()) {
            let found = format!("{} in picture {}", images[index], index / self.values);
            let remedy = "The model that made the pictures has diverged: use an earlier checkpoint.";
            return Err(FileError::unwritable(self.path, found, "finite values", remedy));
        }
        Ok(pictures.collect())
    }

    pub(super) fn drawn_height(&self) -> u32 {
        self.height.saturating_mul(self.scale)
    }

    /// From the top of one picture to the top of the next.
    pub(super) fn cell_height(&self) -> u32 {
        self.drawn_height().saturating_add(BORDER)
    }

    fn cell_width(&self) -> u32 {
        self.width.saturating_mul(self.scale).saturating_add(BORDER)
    }

    /// Where pictures begin along one direction, after `start` pixels and a border.
    pub(super) fn positions(&self, start: u32, step: u32) -> impl Iterator<Item = u32> + use<> {
        (0..).map(move |index: u32| start + BORDER + index * step)
    }

    /// An empty drawing with `gutter` pixels at the left, for `rows` of up to `columns` pictures.
    pub(super) fn canvas(
        &self,
        gutter: u32,
        columns: usize,
        rows: usize,
        row_height: u32,
    ) -> Result<RgbImage, FileError> {
        let side = |count: usize, step: u32, extra: u32| {
            let side =
                u32::try_from(count).ok()?.checked_mul(step)?.checked_add(extra)?.checked_add(BORDER)?;
            (count > 0 && side <= MAX_SIDE).then_some(side)
        };
        let sides = (side(columns, self.cell_width(), gutter), side(rows, row_height, 0));
        let (Some(width), Some(height)) = sides else {
            let found = format!("{rows} rows of {columns}, enlarged {} times", self.scale);
            let expected = format!("at least one picture, and a drawing of at most {MAX_SIDE} pixels a side");
            return Err(FileError::unwritable(self.path, found, expected, CHECK_SIZES));
        };
        Ok(RgbImage::from_pixel(width, height, BACKGROUND))
    }

    pub(super) fn draw_row(&self, canvas: &mut RgbImage, pictures: &[&[f32]], gutter: u32, top: u32) {
        for (left, picture) in self.positions(gutter, self.cell_width()).zip(pictures) {
            self.draw(canvas, picture, left, top);
        }
    }

    fn draw(&self, canvas: &mut RgbImage, picture: &[f32], left: u32, top: u32) {
        let places = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (x, y)));
        for (pixel, (x, y)) in picture.chunks_exact(self.channels).zip(places) {
            let colour = match *pixel {
                [r, g, b] => Rgb([r, g, b].map(to_byte)),
                _ => Rgb([to_byte(pixel[0]); 3]),
            };
            for dy in 0..self.scale {
                for dx in 0..self.scale {
                    canvas.put_pixel(left + x * self.scale + dx, top + y * self.scale + dy, colour);
                }
            }
        }
    }
}

const CHECK_SIZES: &str = "Check the number and the sizes of the pictures and how far they are enlarged.";

/// [-1, 1] to 0..=255, the middle of each step rounding to it.
fn to_byte(value: f32) -> u8 {
    // A whole number within 0..=255 after the clamp, so the cast is exact.
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::super::png::{is_whole_png, read_single};
    use super::*;

    fn saved(save: impl FnOnce(&Path) -> Result<(), FileError>) -> RgbImage {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        save(&path).unwrap();
        image::open(path).unwrap().to_rgb8()
    }

    #[test]
    fn values_map_to_bytes() {
        let bytes = [-9.0, -1.0, 0.0, 1.0, 9.0, f32::INFINITY, f32::NAN].map(to_byte);
        assert_eq!(bytes, [0, 0, 128, 255, 255, 255, 0]);
    }

    #[test]
    fn a_single_picture_is_pixel_for_pixel() {
        let image = saved(|path| save_single(path, &[-1.0, 1.0, 0.0, 1.0, -1.0, 1.0], 1, 2, 3));
        assert_eq!(image.dimensions(), (2, 1));
        assert_eq!((image[(0, 0)].0, image[(1, 0)].0), ([0, 255, 128], [255, 0, 255]));
    }

    #[test]
    fn a_grid_has_borders_and_enlarged_pictures() {
        // Three black 2×3 pictures in two columns, enlarged 3 times so that 2 pixels become at least 5.
        let image = saved(|path| save_grid(path, &[-1.0; 18], 2, 3, 1, 2, 5));
        assert_eq!(image.dimensions(), (2 + 2 * (9 + 2), 2 + 2 * (6 + 2)));
        let dark = |x, y| image[(x, y)].0 == [0; 3];
        assert!(!dark(1, 1) && dark(2, 2) && dark(10, 7) && !dark(11, 7) && !dark(12, 8) && dark(13, 2));
        assert!(dark(2, 10) && !dark(13, 10), "the fourth place is empty");
        assert_eq!(image[(13, 10)], BACKGROUND);
    }

    #[test]
    fn a_single_picture_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        for channels in [1, 3] {
            let path = folder.path().join(format!("{channels}.png"));
            let picture: Vec<f32> = (0..6 * channels).map(|i| i as f32 / 9.0 - 1.0).collect();
            save_single(&path, &picture, 2, 3, channels).unwrap();
            let bytes = to_bytes(&path, &picture, 2, 3, channels).unwrap();
            assert_eq!(read_single(&path, 2, 3, channels).unwrap(), bytes);
            assert!(is_whole_png(&path, 2, 3).unwrap() && !is_whole_png(&path, 3, 2).unwrap());
            let whole = std::fs::read(&path).unwrap();
            for length in 0..whole.len() {
                std::fs::write(&path, &whole[..length]).unwrap();
                assert!(!is_whole_png(&path, 2, 3).unwrap() && read_single(&path, 2, 3, channels).is_err());
            }
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x10;
                std::fs::write(&path, &damaged).unwrap();
                // An error or other pixels, and never a panic.
                let _ = read_single(&path, 2, 3, channels);
            }
        }
    }

    #[test]
    fn a_single_picture_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00000.png");
        std::fs::write(&path, "mine").unwrap();
        let message = save_single(&path, &[0.0], 1, 1, 1).unwrap_err().to_string();
        assert!(message.contains("00000.png"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_narrow_strip_is_enlarged_no_further_than_fits() {
        let image = saved(|path| save_grid(path, &[0.0; 200], 2, 100, 1, 1, 64));
        assert_eq!(image.dimensions(), (2 + 500 + 2, 2 + 10 + 2));
        let image = saved(|path| save_grid(path, &[0.0; 4], 2, 2, 1, 2, usize::MAX));
        assert_eq!(image.dimensions(), (2 + 512 + 2, 2 + 512 + 2));
    }

    #[test]
    fn a_grid_shows_as_many_as_fit() {
        let extent = |count, columns, height, width, min_side| {
            let GridExtent { columns, shown } = GridExtent::new(count, columns, height, width, min_side);
            (columns, shown)
        };
        assert_eq!(extent(25, 5, 16, 16, 64), (5, 25));
        // 4 times enlarged: 66 pixels from one to the next, 62 of them in 4094.
        assert_eq!(extent(2500, 10, 16, 16, 64), (10, 620));
        assert_eq!(extent(10_000, 100, 16, 16, 64), (62, 62 * 62));
        assert_eq!(extent(1000, 1000, 16, 16, 64), (62, 1000));
        assert_eq!(extent(9, 3, 3000, 3000, 64), (1, 1));
        assert_eq!(extent(9, 3, 5000, 100, 64), (3, 3));
        for (height, width) in [(16_384, 1), (1, 16_384), (0, 1), (1, usize::MAX)] {
            assert_eq!(extent(9, 3, height, width, 64).1, 0, "{height} x {width}");
        }
        for (count, columns, height, width) in [(2500, 10, 28, 28), (10_000, 100, 3, 41), (7, 3, 5000, 100)] {
            let extent = GridExtent::new(count, columns, height, width, 64);
            let pictures = vec![0.0; extent.shown * height * width];
            let image = saved(|path| save_grid(path, &pictures, height, width, 1, extent.columns, 64));
            assert!(image.width().max(image.height()) <= GRID_SIDE.max(5000 + 4), "{:?}", image.dimensions());
        }
    }

    /// For looking at: `INKWASH_SAMPLES=folder cargo test --lib io -- samples`.
    #[test]
    fn samples() {
        let Some(folder) = std::env::var_os("INKWASH_SAMPLES") else { return };
        let folder = Path::new(&folder);
        let side = 28_u16;
        let blob = |index: u16| {
            let pixels = (0..side).flat_map(move |y| (0..side).map(move |x| (x, y)));
            pixels.map(move |(x, y)| {
                let (dx, dy) = (f32::from(x) - 4.0 - f32::from(index), f32::from(y) - 14.0);
                2.0 * (-(dx * dx + dy * dy) / 40.0).exp() - 1.0
            })
        };
        let grey: Vec<f32> = (0..20).flat_map(blob).collect();
        save_grid(&folder.join("grid.png"), &grey, 28, 28, 1, 8, 64).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let path = Path::new("never/written.png");
        let refuses = |result: Result<(), FileError>, part: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains("written.png") && message.contains(part), "{message}");
        };
        refuses(save_grid(path, &[0.0; 5], 2, 2, 1, 2, 1), "5 values");
        refuses(save_grid(path, &[], 2, 2, 1, 2, 1), "0 rows");
        refuses(save_grid(path, &[0.0; 8], 2, 2, 2, 2, 1), "2 × 2 × 2");
        refuses(save_grid(path, &[0.0; 8], 0, 2, 1, 2, 1), "0 × 2 × 1");
        refuses(save_grid(path, &[0.0; 8], usize::MAX, usize::MAX, 3, 2, 1), "a side");
        refuses(save_grid(path, &[0.0; 100_000], 1, 1, 1, 1, 1), "100000 rows");
        refuses(save_grid(path, &[0.0, 0.0, f32::NAN, 0.0], 1, 2, 1, 1, 1), "NaN in picture 1");
        refuses(save_single(path, &[0.0; 8], 2, 2, 1), "one picture");
        refuses(save_grid(path, &[0.0; 4], 2, 2, 1, 1, 1), "folder exists");
    }
}
