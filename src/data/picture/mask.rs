//! A picture file as a mask: one number a pixel.

use super::{PictureError, decode, fit};
use crate::data::{Mask, Options};
use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use std::path::Path;

/// Luminance times alpha, fitted as the picture is, with what a person should know of it.
pub(in crate::data) fn load(path: &Path, encoded: &[u8], options: &Options) -> Result<Mask, PictureError> {
    decode(path, encoded, options, |mut picture| {
        let mut notes = Vec::new();
        // Of a compression with loss, 1 is what is left of 0.
        let exact = !matches!(picture.format, ImageFormat::Jpeg | ImageFormat::WebP);
        if exact && stretch(&mut picture.image) {
            notes.push("its values are 0 and 1, as booleans are saved; 1 is taken as white".to_string());
        }
        let shades = picture.into_srgb()?.into_luma_alpha8();
        let grey = GrayImage::from_fn(shades.width(), shades.height(), |x, y| {
            let [luminance, alpha] = shades.get_pixel(x, y).0.map(u32::from);
            // A product of two bytes over 255 is a byte.
            Luma([((luminance * alpha + 127) / 255) as u8])
        });
        let options = Options { channels: 1, ..options.clone() };
        let shades = fit::fit(DynamicImage::ImageLuma8(grey), &options);
        // Pictures that were compressed with loss have no pure black or white.
        if shades.iter().all(|&shade| shade < 8) {
            notes.push(
                "it is black all over, so nothing is drawn anew; paint white what is to be drawn (what is \
                 transparent counts as black)"
                    .into(),
            );
        } else if shades.iter().all(|&shade| shade > 247) {
            notes.push(
                "it is white all over, so everything is drawn anew and nothing of the picture is kept; paint \
                 black what is to be kept"
                    .into(),
            );
        }
        Ok(Mask { values: shades.into_iter().map(|shade| f32::from(shade) / 255.0).collect(), notes })
    })
}

/// Whether the largest number of the channels is 1; if so, 1 is made the brightest there is.
fn stretch(image: &mut DynamicImage) -> bool {
    fn of<T: Copy + Ord + From<u8>>(values: &mut [T], channels: usize, has_alpha: bool, full: T) -> bool {
        let one = T::from(1);
        let largest = |values: &[T], from: usize, to: usize| {
            values.chunks_exact(channels).flat_map(|pixel| &pixel[from..to]).copied().max()
        };
        let colours = channels - usize::from(has_alpha);
        if largest(values, 0, colours) != Some(one) {
            return false;
        }
        let alpha_too = has_alpha && largest(values, colours, channels) == Some(one);
        for pixel in values.chunks_exact_mut(channels) {
            let upto = if alpha_too { channels } else { colours };
            pixel[..upto].iter_mut().filter(|value| **value == one).for_each(|value| *value = full);
        }
        true
    }
    let color = image.color();
    let (channels, has_alpha) = (usize::from(color.channel_count()), color.has_alpha());
    match image {
        DynamicImage::ImageLuma8(i) => of(i, channels, has_alpha, u8::MAX),
        DynamicImage::ImageLumaA8(i) => of(i, channels, has_alpha, u8::MAX),
        DynamicImage::ImageRgb8(i) => of(i, channels, has_alpha, u8::MAX),
        DynamicImage::ImageRgba8(i) => of(i, channels, has_alpha, u8::MAX),
        DynamicImage::ImageLuma16(i) => of(i, channels, has_alpha, u16::MAX),
        DynamicImage::ImageLumaA16(i) => of(i, channels, has_alpha, u16::MAX),
        DynamicImage::ImageRgb16(i) => of(i, channels, has_alpha, u16::MAX),
        DynamicImage::ImageRgba16(i) => of(i, channels, has_alpha, u16::MAX),
        _ => false,
    }
}
