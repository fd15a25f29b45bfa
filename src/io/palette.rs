//! Drawings as PNG files of a byte for each pixel: a chart takes a third of what it takes in true colour.

use super::FileError;
use super::atomic::write_atomic;
use super::png::encode_png;
use image::RgbImage;
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Filter};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// The colours that a palette has room for.
const ROOM: usize = 256;

type Colour = [u8; 3];

/// The colours of a picture, the most frequent first.
fn colours(image: &RgbImage) -> Vec<Colour> {
    let mut counts: HashMap<Colour, usize> = HashMap::new();
    image.pixels().for_each(|pixel| *counts.entry(pixel.0).or_default() += 1);
    let mut colours: Vec<(Colour, usize)> = counts.into_iter().collect();
    colours.sort_unstable_by_key(|&(colour, count)| (Reverse(count), colour));
    colours.into_iter().map(|(colour, _)| colour).collect()
}

/// A drawing with its most frequent colours, as many as a palette has room for; each other becomes the nearest of them.
/// Those that go are mixtures at the edges of lines: a chart of six lines has some 700 colours, and 250 of them
/// make all but a few hundred of its 900,000 pixels.
pub(super) fn reduced(mut image: RgbImage) -> RgbImage {
    let colours = colours(&image);
    let (kept, rare) = colours.split_at(colours.len().min(ROOM));
    let distance =
        |a: &Colour, b: &Colour| a.iter().zip(b).map(|(&a, &b)| a.abs_diff(b)).map(u32::from).sum::<u32>();
    let nearest = |colour: &Colour| kept.iter().copied().min_by_key(|k| distance(k, colour));
    let replaced: HashMap<Colour, Colour> =
        rare.iter().filter_map(|colour| Some((*colour, nearest(colour)?))).collect();
    for pixel in image.pixels_mut() {
        pixel.0 = replaced.get(&pixel.0).copied().unwrap_or(pixel.0);
    }
    image
}

/// Saves a drawing as a PNG file, with a palette if its colours fit in one.
pub(super) fn save_png(path: &Path, image: &RgbImage) -> Result<(), FileError> {
    let palette = colours(image);
    let bytes = if palette.len() <= ROOM {
        indexed(image, &palette).map_err(FileError::encoding(path))?
    } else {
        encode_png(path, image)?
    };
    write_atomic(path, |out| out.write_all(&bytes))
}

/// The bytes of a PNG file whose pixels are places in the palette.
fn indexed(image: &RgbImage, palette: &[Colour]) -> Result<Vec<u8>, EncodingError> {
    let places: HashMap<Colour, u8> = palette.iter().copied().zip(0..=u8::MAX).collect();
    let pixels: Vec<u8> = image.pixels().map(|pixel| places[&pixel.0]).collect();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(palette.concat());
    encoder.set_compression(Compression::High);
    // Neighbouring places in the palette are no neighbouring colours.
    encoder.set_filter(Filter::NoFilter);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// A picture of as many colours, the first on two of three pixels.
    fn picture(count: u32) -> RgbImage {
        RgbImage::from_fn(count, 3, |x, y| {
            let x = if y == 0 { x } else { 0 };
            Rgb([(x & 255) as u8, (x >> 8) as u8, 7])
        })
    }

    #[test]
    fn what_fits_in_a_palette_comes_back_exactly() {
        let folder = tempfile::tempdir().unwrap();
        for count in [1, 2, 256, 257] {
            let path = folder.path().join(format!("{count}.png"));
            save_png(&path, &picture(count)).unwrap();
            assert_eq!(image::open(&path).unwrap().to_rgb8(), picture(count), "{count}");
            let kind = std::fs::read(&path).unwrap()[25];
            assert_eq!(kind, if count > 256 { 2 } else { 3 }, "{count}: the colour type of PNG's header");
        }
    }

    #[test]
    fn frequent_colours_stay_and_rare_ones_become_the_nearest() {
        assert_eq!(reduced(picture(256)), picture(256));
        let (before, after) = (picture(300), reduced(picture(300)));
        assert_eq!(colours(&after).len(), 256);
        assert_eq!(after.get_pixel(0, 1), before.get_pixel(0, 1));
        for (a, b) in before.pixels().zip(after.pixels()) {
            assert!(a.0[1].abs_diff(b.0[1]) <= 1 && a.0[2] == b.0[2]);
        }
    }
}
