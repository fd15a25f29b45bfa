//! What the numbers of a decoded picture mean: 8 bits a channel, in the colours of sRGB.

use super::PictureError;
use image::{ColorType, DynamicImage, Rgb, RgbImage, RgbaImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// The largest value of 12 bits.
const TWELVE_BITS: u16 = 4095;

/// The remedy for floats of a TIFF.
pub(super) const SCALE: &str =
    "scale them (by 1/255 if they are meant as 0 to 255), or save the picture with 8 bits a channel";

/// Rounds 16 bits to 8 and takes floats from 0 to 1 as 0 to 255.
///
/// # Errors
/// Values whose scale is not the one of the file's type: floats outside [0, 1], and 16 bits of which only the lower 12
/// are used, which would come out black.
pub(super) fn to_bytes(image: DynamicImage) -> Result<DynamicImage, PictureError> {
    match &image {
        DynamicImage::ImageLuma16(i) => check_bits(i.as_raw(), 1, false)?,
        DynamicImage::ImageLumaA16(i) => check_bits(i.as_raw(), 2, true)?,
        DynamicImage::ImageRgb16(i) => check_bits(i.as_raw(), 3, false)?,
        DynamicImage::ImageRgba16(i) => check_bits(i.as_raw(), 4, true)?,
        DynamicImage::ImageRgb32F(i) => check_floats(i.as_raw(), SCALE)?,
        DynamicImage::ImageRgba32F(i) => check_floats(i.as_raw(), SCALE)?,
        _ => {}
    }
    Ok(match image {
        DynamicImage::ImageLuma16(_) => DynamicImage::ImageLuma8(image.into_luma8()),
        DynamicImage::ImageLumaA16(_) => DynamicImage::ImageLumaA8(image.into_luma_alpha8()),
        DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgb32F(_) => {
            DynamicImage::ImageRgb8(image.into_rgb8())
        }
        DynamicImage::ImageRgba16(_) | DynamicImage::ImageRgba32F(_) => {
            DynamicImage::ImageRgba8(image.into_rgba8())
        }
        bytes => bytes,
    })
}

fn check_bits(values: &[u16], channels: usize, alpha: bool) -> Result<(), PictureError> {
    let colours = channels - usize::from(alpha);
    let most = values.chunks_exact(channels).flat_map(|pixel| &pixel[..colours]).max().copied().unwrap_or(0);
    if most == 0 || most > TWELVE_BITS {
        return Ok(());
    }
    Err(PictureError::Values {
        found: format!("values of 0 to {most} in a file of 16 bits, which is nearly black"),
        expected: "0 to 65535",
        remedy: "if they are 12 bits, scale them by 16 (`magick FILE -evaluate multiply 16 OUT.png`); if the \
                 picture is meant to be so dark, save it with 8 bits a channel",
    })
}

/// Refuses floats outside [0, 1].
pub(super) fn check_floats(values: &[f32], remedy: &'static str) -> Result<(), PictureError> {
    const EXPECTED: &str = "0 to 1";
    if !values.iter().all(|value| value.is_finite()) {
        let found = "values that are not finite (NaN or infinity)".into();
        return Err(PictureError::Values { found, expected: EXPECTED, remedy });
    }
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if values.is_empty() || (low >= 0.0 && high <= 1.0) {
        return Ok(());
    }
    Err(PictureError::Values { found: format!("values from {low} to {high}"), expected: EXPECTED, remedy })
}

/// Linear light in [0, 1] to the curve of sRGB (IEC 61966-2-1).
pub(super) fn to_srgb_curve(linear: f32) -> f32 {
    if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

/// Converts the colours of 8-bit grey or RGB from an ICC profile to sRGB, with perceptual intent.
///
/// A profile that does not parse, or is for other channels than the picture has, is passed over; one that moves no
/// colour by more than 2 is taken to be sRGB, and the values stay as they are.
pub(super) fn apply_profile(image: DynamicImage, profile: &[u8]) -> DynamicImage {
    let Ok(profile) = ColorProfile::new_from_slice(profile) else { return image };
    // Grey comes out as three equal channels.
    let (from, to) = match (profile.color_space, image.color()) {
        (DataColorSpace::Gray, ColorType::L8) => (Layout::Gray, Layout::Rgb),
        (DataColorSpace::Gray, ColorType::La8) => (Layout::GrayAlpha, Layout::Rgba),
        (DataColorSpace::Rgb, ColorType::Rgb8) => (Layout::Rgb, Layout::Rgb),
        (DataColorSpace::Rgb, ColorType::Rgba8) => (Layout::Rgba, Layout::Rgba),
        _ => return image,
    };
    let srgb = ColorProfile::new_srgb();
    let Ok(transform) = profile.create_transform_8bit(from, &srgb, to, TransformOptions::default()) else {
        return image;
    };
    if moves_little(&*transform, from, to) {
        return image;
    }
    let (width, height) = (image.width(), image.height());
    let channels = if to == Layout::Rgba { 4 } else { 3 };
    let mut bytes = vec![0; width as usize * height as usize * channels];
    if transform.transform(image.as_bytes(), &mut bytes).is_err() {
        return image;
    }
    match to {
        Layout::Rgba => RgbaImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgba8),
        _ => RgbImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgb8),
    }
    .unwrap_or(image)
}

/// Whether a transform moves none of some colours of the whole range by more than 2.
fn moves_little(
    transform: &(dyn moxcms::TransformExecutor<u8> + Send + Sync),
    from: Layout,
    to: Layout,
) -> bool {
    const LEVELS: [u8; 6] = [0, 51, 102, 153, 204, 255];
    let colours: Vec<[u8; 3]> = match from {
        Layout::Gray | Layout::GrayAlpha => LEVELS.map(|v| [v; 3]).into(),
        _ => {
            LEVELS.iter().flat_map(|&r| LEVELS.iter().flat_map(move |&g| LEVELS.map(|b| [r, g, b]))).collect()
        }
    };
    let source: Vec<u8> = colours
        .iter()
        .flat_map(|&[r, g, b]| match from {
            Layout::Gray => vec![r],
            Layout::GrayAlpha => vec![r, 255],
            Layout::Rgba => vec![r, g, b, 255],
            _ => vec![r, g, b],
        })
        .collect();
    let channels = if to == Layout::Rgba { 4 } else { 3 };
    let mut found = vec![0; colours.len() * channels];
    transform.transform(&source, &mut found).is_ok()
        && found
            .chunks_exact(channels)
            .zip(&colours)
            .all(|(found, colour)| found.iter().zip(colour).all(|(&a, &b)| a.abs_diff(b) <= 2))
}

/// Lays a picture on white.
pub(super) fn on_white(image: DynamicImage) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let rgba = image.into_rgba8();
    let over = |colour: u8, alpha: u8| {
        let (colour, alpha) = (u32::from(colour), u32::from(alpha));
        // A weighted mean of two bytes is a byte.
        ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    DynamicImage::ImageRgb8(RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        Rgb([over(r, a), over(g, a), over(b, a)])
    }))
}
