//! What a TIFF holds, before it is decoded: floats are read here; what has no reading is refused by its name.

use super::{PictureError, alone_if_large, values};
use image::DynamicImage;
use std::io::Cursor;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{SampleFormat, Tag};
use tiff::{ColorType, TiffError};

/// Tag of every DNG (Adobe Digital Negative).
const DNG_VERSION: Tag = Tag::Unknown(50706);
const DEVELOP: &str =
    "develop it with darktable, RawTherapee or `dcraw_emu -T FILE` and save it as 8-bit PNG or JPEG";
const CONVERT: &str = "convert it to 8 bits a channel (`magick FILE -depth 8 OUT.png`)";

/// The picture of a TIFF of floats, as 8 bits a channel; `None` if it holds unsigned integers, which the `image` crate
/// reads.
pub(super) fn floats(encoded: &[u8], limit: u64) -> Result<Option<DynamicImage>, PictureError> {
    let mut decoder = Decoder::new(Cursor::new(encoded)).map_err(error)?;
    let not_read = |what: String, remedy| Err(PictureError::NotRead { what, remedy });
    if decoder.find_tag(DNG_VERSION).map_err(error)?.is_some() {
        return not_read("camera RAW (DNG)".into(), DEVELOP);
    }
    let subfile = decoder.find_tag_unsigned::<u32>(Tag::NewSubfileType).map_err(error)?.unwrap_or(0);
    if subfile & 1 == 1 {
        return not_read("a TIFF whose first picture is a thumbnail (camera RAW)".into(), DEVELOP);
    }
    let colour = decoder.colortype().map_err(error)?;
    let formats =
        decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(error)?.unwrap_or_else(|| vec![1]);
    let format = formats.first().copied().unwrap_or(1);
    let bits = colour.bit_depth();
    if formats.iter().any(|&other| other != format) {
        return not_read("a TIFF whose channels have different types".into(), CONVERT);
    }
    match SampleFormat::from_u16_exhaustive(format) {
        SampleFormat::Uint if bits <= 16 => return Ok(None),
        SampleFormat::Uint => return not_read(format!("a TIFF of {bits}-bit integers"), CONVERT),
        SampleFormat::Int => return not_read(format!("a TIFF of {bits}-bit signed integers"), CONVERT),
        SampleFormat::IEEEFP => {}
        _ => return not_read("a TIFF of complex or undefined numbers".into(), CONVERT),
    }
    let channels = match colour {
        ColorType::Gray(_) => 1,
        ColorType::RGB(_) => 3,
        ColorType::RGBA(_) => 4,
        _ => return not_read(format!("a TIFF of floats as {colour:?}"), CONVERT),
    };
    let (width, height) = decoder.dimensions().map_err(error)?;
    let bytes = u64::from(width) * u64::from(height) * channels * u64::from(bits / 8);
    if bytes > limit {
        return Err(PictureError::TooLarge { width, height, bytes, limit });
    }
    let _alone = alone_if_large(bytes);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = usize::try_from(limit).unwrap_or(usize::MAX);
    limits.intermediate_buffer_size = limits.decoding_buffer_size;
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let mut decoder = decoder.with_limits(limits);
    let mut result = DecodingResult::F32(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(error)?;
    if layout.planes > 1 {
        return not_read("a TIFF of floats in separate planes".into(), CONVERT);
    }
    let floats: Vec<f32> = match result {
        DecodingResult::F16(values) => values.into_iter().map(f32::from).collect(),
        DecodingResult::F32(values) => values,
        DecodingResult::F64(values) => values.into_iter().map(|value| value as f32).collect(),
        _ => return not_read(format!("a TIFF of {bits}-bit floats"), CONVERT),
    };
    values::check_floats(&floats, values::SCALE)?;
    let bytes: Vec<u8> = floats.into_iter().map(|value| (value * 255.0).round() as u8).collect();
    let short = || PictureError::Damaged { format: "TIFF", what: "its pixels end early".into() };
    let mut image = match channels {
        1 => image::GrayImage::from_raw(width, height, bytes).map(DynamicImage::ImageLuma8),
        3 => image::RgbImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgb8),
        _ => image::RgbaImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgba8),
    }
    .ok_or_else(short)?;
    if let Some(orientation) = orientation.and_then(image::metadata::Orientation::from_exif) {
        image.apply_orientation(orientation);
    }
    Ok(Some(image))
}

fn error(error: TiffError) -> PictureError {
    match error {
        TiffError::UnsupportedError(what) => {
            PictureError::NotRead { what: format!("this kind of TIFF ({what})"), remedy: CONVERT }
        }
        other => PictureError::Damaged { format: "TIFF", what: other.to_string() },
    }
}
