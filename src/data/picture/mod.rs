//! One picture file to one row of pixels.

mod error;

use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

pub use error::PictureError;

use super::{MAX_SIDE, Options};

/// The formats that are read, for messages.
const READ: &str = "PNG, JPEG, BMP, GIF, WebP, PNM or TIFF";

const EXTENSIONS: [&str; 15] = [
    "png", "jpg", "jpeg", "jfif", "bmp", "dib", "gif", "webp", "pnm", "pbm", "pgm", "ppm", "pam", "tif",
    "tiff",
];

/// What a file is to a data set of pictures.
pub(super) enum Kind {
    /// A picture that is read, by the name of its format.
    Picture(&'static str),
    /// A picture or film that is not read: what it is, and what converts it.
    Unread { kind: &'static str, remedy: &'static str },
    /// Neither: a text, a label file.
    Other,
}

/// Bytes from the start of a file that tell its kind.
pub(super) const HEAD: u64 = 64;

/// What a file is, by its first [`HEAD`] bytes, or else by its name: a damaged `a.png` is a picture, so that it is
/// reported; notes and label files are not.
pub(super) fn kind(path: &Path, head: &[u8]) -> Kind {
    let named = path
        .extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()));
    match format(head) {
        Some(format) => Kind::Picture(format.extensions_str().first().copied().unwrap_or("picture")),
        None if named => Kind::Picture("damaged"),
        None if head.get(4..8) == Some(b"ftyp") => {
            Kind::Unread { kind: "HEIC, AVIF or film", remedy: "convert it to JPEG or PNG" }
        }
        None => Kind::Other,
    }
}

/// The picture format of a file's first bytes, if it is one that is read. The two-letter magics of BMP
/// and PNM are also the start of ordinary texts, so more is asked of these.
fn format(head: &[u8]) -> Option<ImageFormat> {
    match image::guess_format(head).ok()? {
        ImageFormat::Bmp => (head.get(6..10) == Some(&[0; 4])).then_some(ImageFormat::Bmp),
        ImageFormat::Pnm => head.get(2)?.is_ascii_whitespace().then_some(ImageFormat::Pnm),
        format => format.reading_enabled().then_some(format),
    }
}

/// Checks and decodes a picture and fits it to `options`: `[H, W, C]`. `path` is for messages.
pub(super) fn load(_path: &Path, encoded: &[u8], options: &Options) -> Result<Vec<u8>, PictureError> {
    let Some(format) = format(encoded) else {
        return Err(PictureError::NotAPicture { bytes: encoded.len() as u64 });
    };
    // The JPEG decoder fills what is missing with grey and reports success.
    if format == ImageFormat::Jpeg && !jpeg_has_end(encoded) {
        let what = format!("its {} bytes have no end-of-image marker (FF D9)", encoded.len());
        return Err(PictureError::Damaged { format: "JPEG", what });
    }
    Ok(fit(decode(encoded, format, options)?, options))
}

/// Whether the marker segments and the entropy-coded data of a JPEG lead to an end-of-image marker.
/// Segments are stepped over, so the end of an embedded thumbnail does not count.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&[first, second]) = bytes.get(at..at + 2) {
        at += match (first, second) {
            (0xFF, 0xD9) => return true,
            (0xFF, 0xFF) => 1,
            // Stuffed zeros, TEM, restart markers and the start of the image carry no length.
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => 2,
            (0xFF, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            _ => 1,
        };
    }
    false
}

/// Decodes within the limits and turns the picture upright.
fn decode(encoded: &[u8], format: ImageFormat, options: &Options) -> Result<DynamicImage, PictureError> {
    let undecodable =
        |source: image::ImageError| PictureError::Damaged { format: "picture", what: source.to_string() };
    let mut limits = Limits::default();
    limits.max_alloc = Some(options.max_picture_bytes);
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    // Checked here because no decoder counts the output buffer, and to say which limit it is.
    let (width, height) = decoder.dimensions();
    let decoded = decoder.total_bytes();
    let limit = options.max_picture_bytes;
    if width.max(height) > MAX_SIDE || decoded > limit {
        return Err(PictureError::TooLarge { width, height, bytes: decoded, limit });
    }
    // Damaged metadata of a sound picture is no reason to refuse it.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Lays a picture on white, turns it to grey or RGB, crops it about the centre to the aspect ratio of
/// `options.size` and resamples it to that size: `[H, W, C]`.
///
/// Cropping first shows the same part as scaling to cover and cropping then, and never makes a large
/// intermediate of a long thin picture.
fn fit(image: DynamicImage, options: &Options) -> Vec<u8> {
    let image = if image.color().has_alpha() { on_white(&image) } else { image };
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

fn on_white(image: &DynamicImage) -> DynamicImage {
    let rgba = image.to_rgba8();
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

/// Fits raw channels-last bytes, grey or RGB by their number, of `height` x `width` pixels, both within
/// [`MAX_SIDE`].
pub(super) fn fit_raw(bytes: &[u8], (height, width): (usize, usize), options: &Options) -> Vec<u8> {
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
