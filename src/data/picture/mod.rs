//! One picture file to one row of pixels: what kind of file it is, whether it is whole, what its numbers mean.

mod error;
mod fit;
mod jpeg;
mod kind;
mod mask;
mod png;
mod pnm;
mod tiff;
mod values;

pub use error::PictureError;
pub(super) use fit::fit_raw;
pub(super) use kind::{HEAD, Kind, READ, kind};
pub(super) use mask::load as load_mask;

use super::Options;
use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Checks and decodes a picture and fits it to `options`: `[H, W, C]`. `path` tells the formats that its content does
/// not.
pub(super) fn load(path: &Path, encoded: &[u8], options: &Options) -> Result<Vec<u8>, PictureError> {
    decode(path, encoded, options, |picture| Ok(fit::fit(picture.into_srgb()?, options)))
}

/// A picture as its file has it, upright.
struct Picture {
    image: DynamicImage,
    format: ImageFormat,
    profile: Option<Vec<u8>>,
}

impl Picture {
    /// 8 bits a channel, in the colours of sRGB.
    fn into_srgb(self) -> Result<DynamicImage, PictureError> {
        let image = values::to_bytes(self.image)?;
        Ok(match self.profile {
            Some(profile) => values::apply_profile(image, &profile),
            None => image,
        })
    }
}

/// Bytes of a decoded picture above which only one is held at a time, whatever the number of threads.
const LARGE: u64 = 64 << 20;
static LARGE_PICTURE: Mutex<()> = Mutex::new(());

fn alone_if_large(bytes: u64) -> Option<MutexGuard<'static, ()>> {
    (bytes > LARGE).then(|| LARGE_PICTURE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Decodes a picture and gives it to `then`.
fn decode<T>(
    path: &Path,
    encoded: &[u8],
    options: &Options,
    then: impl FnOnce(Picture) -> Result<T, PictureError>,
) -> Result<T, PictureError> {
    let kind = kind(path, encoded.get(..HEAD as usize).unwrap_or(encoded));
    let format = match (kind, kind::format(path, encoded)) {
        (Kind::Unread { kind, remedy }, _) => {
            return Err(PictureError::NotRead { what: kind.into(), remedy });
        }
        (_, Some(format)) => format,
        (_, None) => return Err(PictureError::not_a_picture(encoded)),
    };
    // Decoders fill what is missing, or stop reading where they have enough.
    match format {
        ImageFormat::Jpeg => jpeg::check(encoded)?,
        ImageFormat::Png => png::check(encoded)?,
        ImageFormat::Pnm => pnm::check(encoded)?,
        _ => {}
    }
    let limit = options.max_picture_bytes;
    if format == ImageFormat::Tiff
        && let Some(image) = tiff::floats(encoded, limit)?
    {
        return then(Picture { image, format, profile: None });
    }
    let failed = |error| explain(error, format, limit);
    let mut limits = Limits::no_limits();
    // For what decoders hold besides the output, which is checked below: an encoded bomb in a colour profile, planes.
    limits.max_alloc = Some(limit.saturating_mul(2).saturating_add(16 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let bytes = decoder.total_bytes();
    if bytes > limit {
        return Err(PictureError::TooLarge { width, height, bytes, limit });
    }
    let _alone = alone_if_large(bytes);
    // Damaged metadata of a sound picture is no reason to refuse it.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let profile = decoder.icc_profile().ok().flatten();
    let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    image.apply_orientation(orientation);
    if let (ImageFormat::Hdr, DynamicImage::ImageRgb32F(light)) = (format, &mut image) {
        values::check_floats(light, "its light has no upper end: tone-map it and save it as 8-bit PNG")?;
        light.iter_mut().for_each(|value| *value = values::to_srgb_curve(*value));
    }
    then(Picture { image, format, profile })
}

/// What a decoder's error means: a feature that it does not have is no damage.
fn explain(error: ImageError, format: ImageFormat, limit: u64) -> PictureError {
    let format = kind::name(format);
    match error {
        ImageError::Unsupported(what) => PictureError::NotRead {
            what: format!("this kind of {format} ({what})"),
            remedy: "convert it to 8-bit PNG (`magick FILE OUT.png`)",
        },
        ImageError::Limits(_) => PictureError::NotRead {
            what: format!("a {format} that takes more than {} MiB to decode", limit.div_ceil(1 << 20)),
            remedy: "shrink it or raise --max-picture-mib",
        },
        error => PictureError::Damaged { format, what: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
