//! A decoded picture to one row of pixels.

use super::values::on_white;
use crate::data::Options;
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, RgbImage};

/// Lays a picture on white, turns it to grey or RGB, crops it about the centre to the aspect ratio of
/// `options.size` and resamples it to that size: `[H, W, C]`.
///
/// Cropping first shows the same part as scaling to cover and cropping then, and never makes a large
/// intermediate of a long thin picture.
pub(super) fn fit(image: DynamicImage, options: &Options) -> Vec<u8> {
    let image = on_white(image);
    let image = match options.channels {
        1 => DynamicImage::ImageLuma8(image.into_luma8()),
        _ => DynamicImage::ImageRgb8(image.into_rgb8()),
    };
    // Options::check keeps both sides within MAX_SIDE.
    let (height, width) = (options.size.0 as u32, options.size.1 as u32);
    if (image.width(), image.height()) == (width, height) {
        return image.into_bytes();
    }
    let (crop_width, crop_height) = largest_crop((image.width(), image.height()), (width, height));
    let (left, top) = ((image.width() - crop_width) / 2, (image.height() - crop_height) / 2);
    let image = image.crop_imm(left, top, crop_width, crop_height);
    let shrinks = crop_width > width || crop_height > height;
    let filter = if shrinks { FilterType::Lanczos3 } else { FilterType::CatmullRom };
    image.resize_exact(width, height, filter).into_bytes()
}

/// The largest (width, height) within `source` that has the aspect ratio of `target`.
fn largest_crop(source: (u32, u32), target: (u32, u32)) -> (u32, u32) {
    let share = |length: u32, part: u32, whole: u32| {
        // Rounded to the nearest pixel; the quotient is at most the side it is clamped to.
        let (length, part, whole) = (u64::from(length), u64::from(part), u64::from(whole));
        u32::try_from((length * part + whole / 2) / whole).unwrap_or(u32::MAX)
    };
    let width = share(source.1, target.0, target.1).clamp(1, source.0);
    let height = share(source.0, target.1, target.0).clamp(1, source.1);
    (width, height)
}

/// Fits raw channels-last bytes, grey or RGB by their number, of `height` x `width` pixels, both within
/// [`MAX_SIDE`].
pub(in crate::data) fn fit_raw(bytes: &[u8], (height, width): (usize, usize), options: &Options) -> Vec<u8> {
    let size = (width as u32, height as u32);
    let image = if bytes.len() == height * width {
        let mut grey = GrayImage::new(size.0, size.1);
        grey.copy_from_slice(bytes);
        DynamicImage::ImageLuma8(grey)
    } else {
        let mut rgb = RgbImage::new(size.0, size.1);
        rgb.copy_from_slice(bytes);
        DynamicImage::ImageRgb8(rgb)
    };
    fit(image, options)
}
