use std::io::Cursor;
use std::path::Path;

use ::tiff::encoder::{TiffEncoder, colortype};
use ::tiff::tags::Tag;
use image::ImageFormat::{Bmp, Farbfeld, Gif, Hdr, Jpeg, Png, Pnm, Qoi, Tga, Tiff, WebP};
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, LumaA, Rgb,
    Rgb32FImage, RgbImage, Rgba, RgbaImage,
};

use super::*;
use crate::data::tests::textured;
use crate::rng::{Philox, Stream};

/// Every format that is read; of each, an encoder of it.
const READABLE: [ImageFormat; 11] = [Png, Jpeg, Bmp, Gif, WebP, Pnm, Tiff, Tga, Qoi, Farbfeld, Hdr];

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/pictures/", $name)).as_slice()
    };
}

const JPEGS: [(&str, &[u8]); 8] = [
    ("baseline-420", fixture!("baseline-420.jpg")),
    ("baseline-444", fixture!("baseline-444.jpg")),
    ("baseline-restarts", fixture!("baseline-restarts.jpg")),
    ("progressive-420", fixture!("progressive-420.jpg")),
    ("progressive-444", fixture!("progressive-444.jpg")),
    ("progressive-grey", fixture!("progressive-grey.jpg")),
    ("progressive-restarts", fixture!("progressive-restarts.jpg")),
    ("cmyk", fixture!("cmyk.jpg")),
];

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let image = match (format, image.into()) {
        (Hdr, image) => DynamicImage::ImageRgb32F(image.into_rgb32f()),
        (Farbfeld, image) => DynamicImage::ImageRgba16(image.into_rgba16()),
        (_, image) => image,
    };
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn name(format: ImageFormat) -> String {
    format!("a.{}", format.extensions_str()[0])
}

fn read(
    name: &str,
    bytes: &[u8],
    (width, height): (usize, usize),
    channels: usize,
) -> Result<Vec<u8>, PictureError> {
    load(Path::new(name), bytes, &Options::new((height, width), channels))
}

/// The pixels of a picture of one row, as they are.
#[track_caller]
fn row(name: &str, bytes: &[u8], width: usize, channels: usize) -> Vec<u8> {
    read(name, bytes, (width, 1), channels).unwrap()
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], words: &[&str]) {
    let message = read(name, bytes, (8, 8), 3).expect_err("should be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    assert!(!message.contains('\n') && !message.contains("  "), "{message:?} is not one paragraph");
}

#[test]
fn kinds_are_told_by_content_and_then_by_name() {
    let unread = |name: &str, head: &[u8]| match kind(Path::new(name), head) {
        Kind::Unread { kind, .. } => kind,
        other => panic!("{name}: {other:?}"),
    };
    let tiff = encode(textured(4, 4), Tiff);
    for (name, head, expected) in [
        ("a", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice(), "HEIC/HEIF"),
        ("a.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC/HEIF"),
        ("a", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        ("a.heic", b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", "AVIF"),
        ("a", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "camera RAW"),
        ("a", b"\0\0\0\x18ftypisom\0\0\x02\0isommp41", "film"),
        ("a", b"\0\0\0\x14ftypqt  \0\0\x02\0qt  ", "film"),
        ("a", b"RIFF\0\0\0\0AVI LIST", "film"),
        ("a", b"\x1aE\xdf\xa3\x01\0\0\0", "film"),
        ("a", b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        ("a", b"\xff\x4f\xff\x51\0", "JPEG 2000"),
        ("a", b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
        ("a", b"\xff\x0a\0", "JPEG XL"),
        ("a", b"II\xbc\x01\x08\0", "JPEG XR"),
        ("a", b"8BPS\0\x02\0\0", "Photoshop PSD/PSB"),
        ("a", b"<svg xmlns=", "SVG"),
        ("a.svg", b"<?xml version=", "SVG"),
        ("a", b"%!PS-Adobe-3.0 EPSF", "PostScript/EPS"),
        ("a", b"\x76\x2f\x31\x01\x02\0\0\0", "OpenEXR"),
        ("a", b"gimp xcf v011\0", "GIMP XCF"),
        ("a", b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0", "icon or cursor"),
        // TIFF inside: the name decides.
        ("a.NEF", &tiff, "camera RAW"),
        ("a.dng", &tiff, "camera RAW"),
        ("a.CR2", &[&tiff[..8], b"CR\x02\0"].concat(), "camera RAW"),
        ("a.tif", &[&tiff[..8], b"CR\x02\0"].concat(), "camera RAW"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201", "camera RAW"),
        // Damaged, and known by name alone.
        ("a.heic", b"", "HEIC/HEIF"),
        ("a.mov", b"\0\0\0\0moov", "film"),
    ] {
        assert_eq!(unread(name, head), expected, "{name} {}", head.escape_ascii());
        refused(name, head, &[expected, "is not read"]);
    }
    for format in READABLE {
        let bytes = encode(textured(4, 4), format);
        assert_eq!(kind(Path::new(&self::name(format)), &bytes), Kind::Picture(kind::name(format)));
        assert_eq!(kind(Path::new(&self::name(format)), b"junk"), Kind::Picture("damaged"), "{format:?}");
        // All but TGA have a magic.
        let unnamed = if format == Tga { Kind::Other } else { Kind::Picture(kind::name(format)) };
        assert_eq!(kind(Path::new("a"), &bytes), unnamed);
    }
    // The preview of a camera under a picture's name is the picture.
    assert_eq!(kind(Path::new("a.nef"), JPEGS[0].1), Kind::Picture("JPEG"));
    for text in
        [b"BMX is no bitmap".as_slice(), b"P3rhaps not a picture", b"IIn short", b"Pf that", b"<html>", b""]
    {
        assert_eq!(kind(Path::new("notes.txt"), text), Kind::Other);
    }
}

#[test]
fn every_format_keeps_its_values() {
    for format in READABLE {
        let found = read(&name(format), &encode(textured(21, 13), format), (21, 13), 3).unwrap();
        let error = found.iter().zip(textured(21, 13).into_raw()).map(|(a, b)| usize::from(a.abs_diff(b)));
        let bound = match format {
            // Four tables of colour for each block, a palette of 256; a shared exponent of three mantissas of 8 bits.
            Jpeg | Gif => 25,
            Hdr => continue,
            _ => 0,
        };
        assert!(error.sum::<usize>() <= bound * 21 * 13 * 3, "{format:?}");
    }
}

#[test]
fn a_cut_picture_is_refused() {
    for format in READABLE {
        let bytes = encode(textured(40, 40), format);
        for part in 0..16 {
            let cut = &bytes[..bytes.len() * part / 16];
            let result = read(&name(format), cut, (40, 40), 3);
            assert!(result.is_err(), "{format:?} cut to {part} sixteenths is accepted");
        }
    }
    let lossy = fixture!("lossy.webp");
    for part in 0..16 {
        refused("a.webp", &lossy[..lossy.len() * part / 16], &[]);
    }
    // Past the pixels: the checksum of the last chunk of them, and the end.
    let png = encode(textured(40, 40), Png);
    for left in 1..20 {
        refused("a.png", &png[..png.len() - left], &["PNG is damaged", "IEND"]);
    }
}

#[test]
fn a_png_with_a_hole_is_refused() {
    let png = encode(textured(40, 40), Png);
    for part in 1..15 {
        let mut hole = png.clone();
        hole[png.len() * part / 16..png.len() * (part + 1) / 16].fill(0);
        refused("a.png", &hole, &["PNG is damaged"]);
    }
    // What decoding can do without may be damaged.
    let mut noted = png[..33].to_vec();
    noted.extend(b"\0\0\0\x02tEXtab\0\0\0\0");
    noted.extend(&png[33..]);
    assert!(read("a.png", &noted, (40, 40), 3).is_ok());
}

/// Where the entropy-coded data of the first scan begin.
fn data_start(jpeg: &[u8]) -> usize {
    let header = jpeg.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
    header + 2 + usize::from(jpeg[header + 3])
}

#[test]
fn sound_jpegs_are_accepted() {
    for (name, jpeg) in JPEGS {
        assert!(read("a.jpg", jpeg, (45, 37), 3).is_ok(), "{name}");
        let trailing = [jpeg, b"trailing"].concat();
        // Fill bytes before the end marker, and padding that cameras leave there.
        let filled = [&jpeg[..jpeg.len() - 2], &[0xFF; 5], &[0xFF, 0xD9]].concat();
        let padded = [&jpeg[..jpeg.len() - 2], &[0; 8], &[0xFF, 0xD9]].concat();
        // An APP1 segment that holds a whole JPEG, as cameras write.
        let mut thumbnail = vec![0xFF, 0xE1];
        thumbnail.extend(u16::try_from(jpeg.len() + 2).unwrap().to_be_bytes());
        let thumbnailed = [&jpeg[..2], &thumbnail, jpeg, &jpeg[2..]].concat();
        for sound in [&trailing, &filled, &padded, &thumbnailed] {
            assert!(read("a.jpg", sound, (45, 37), 3).is_ok(), "{name}");
        }
        refused("a.jpg", &thumbnailed[..thumbnailed.len() - 40], &["JPEG is damaged"]);
    }
    for (width, height) in [(1, 1), (7, 9), (8, 8), (17, 16), (33, 1), (100, 60)] {
        let jpeg = encode(textured(width, height), Jpeg);
        assert!(read("a.jpg", &jpeg, (8, 8), 1).is_ok(), "{width} x {height}");
    }
}

#[test]
fn jpegs_with_a_hole_are_refused() {
    for (name, jpeg) in JPEGS
        .map(|(name, jpeg)| (name, jpeg.to_vec()))
        .into_iter()
        .chain([("detailed", encode(textured(120, 90), Jpeg))])
    {
        let start = data_start(&jpeg);
        let length = jpeg.len() - 2 - start;
        let end = jpeg.len() - 2;
        let check = |what: &str, bytes: &[u8]| {
            let message = read("a.jpg", bytes, (8, 8), 3).expect_err(&format!("{name}: {what}")).to_string();
            assert!(message.contains("JPEG is damaged"), "{message}");
        };
        for part in 0..16 {
            let at = start + length * part / 16;
            check("cut", &jpeg[..at]);
            check("cut, with an end marker", &[&jpeg[..at], &[0xFF, 0xD9]].concat());
        }
        for (from, upto) in [(2, 4), (1, 3), (1, 2)] {
            let mut hole = jpeg.clone();
            hole[start + length * from / 4..start + length * upto / 4].fill(0);
            check("zeroed", &hole);
        }
        let mut rng = Philox::new(1, Stream::Cases, 0);
        let mut noise = jpeg.clone();
        noise[start + length / 3..start + length * 2 / 3].fill_with(|| rng.bits().to_le_bytes()[0]);
        check("noise in the middle", &noise);
        check("a quarter missing", &[&jpeg[..start + length / 4], &jpeg[start + length / 2..]].concat());
        // All scans but the first.
        if name.starts_with("progressive") {
            let scans: Vec<usize> =
                (start..end).filter(|&i| jpeg[i] == 0xFF && [0xC4, 0xDA].contains(&jpeg[i + 1])).collect();
            for &scan in &scans {
                check("scans missing", &[&jpeg[..scan], &[0xFF, 0xD9]].concat());
            }
        }
    }
}

#[test]
fn other_codings_of_jpeg_are_not_called_damaged() {
    let jpeg = JPEGS[0].1;
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let with = |at: usize, byte: u8| {
        let mut other = jpeg.to_vec();
        other[frame + at] = byte;
        other
    };
    refused("a.jpg", &with(1, 0xC9), &["arithmetic coding", "is not read", "PNG"]);
    refused("a.jpg", &with(1, 0xC3), &["lossless coding", "is not read"]);
    refused("a.jpg", &with(1, 0xC5), &["hierarchical coding", "is not read"]);
    refused("a.jpg", &with(4, 12), &["more than 8 bits", "is not read"]);
    // Each table is a segment of its own.
    let mut frame = jpeg.to_vec();
    while let Some(table) = frame.windows(2).position(|w| w == [0xFF, 0xC4]) {
        let length = usize::from(u16::from_be_bytes([frame[table + 2], frame[table + 3]]));
        frame.drain(table..table + 2 + length);
    }
    refused("a.jpg", &frame, &["without Huffman tables", "is not read"]);
}

/// A TIFF of one row, all in one strip; the tags are (number, value).
fn tiff<C: colortype::ColorType>(values: &[C::Inner], width: u32, tags: &[(u16, u16)]) -> Vec<u8>
where
    [C::Inner]: ::tiff::encoder::TiffValue,
{
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
    let mut picture = encoder.new_image::<C>(width, 1).unwrap();
    for &(tag, value) in tags {
        picture.encoder().write_tag(Tag::from_u16_exhaustive(tag), value).unwrap();
    }
    picture.write_data(values).unwrap();
    bytes.into_inner()
}

#[test]
fn floats_are_taken_from_0_to_1_and_refused_outside() {
    use colortype::{Gray32Float, Gray64Float, RGB32Float};
    let ramp = [0.0, 0.2, 0.5, 1.0];
    assert_eq!(row("a.tif", &tiff::<Gray32Float>(&ramp, 4, &[]), 4, 1), [0, 51, 128, 255]);
    assert_eq!(row("a.tif", &tiff::<Gray64Float>(&ramp.map(f64::from), 4, &[]), 4, 1), [0, 51, 128, 255]);
    assert_eq!(row("a.tif", &tiff::<RGB32Float>(&[0.0, 0.4, 1.0], 1, &[]), 1, 3), [0, 102, 255]);
    let scaled = ramp.map(|v| v * 255.0);
    refused(
        "a.tif",
        &tiff::<Gray32Float>(&scaled, 4, &[]),
        &["values from 0 to 255", "expected 0 to 1", "1/255"],
    );
    refused("a.tif", &tiff::<RGB32Float>(&[0.0, 0.5, 1.5], 1, &[]), &["values from 0 to 1.5"]);
    refused("a.tif", &tiff::<Gray32Float>(&[-0.5, 0.5], 2, &[]), &["values from -0.5 to 0.5"]);
    refused("a.tif", &tiff::<Gray32Float>(&[f32::NAN, 0.5], 2, &[]), &["not finite"]);
    refused("a.tif", &tiff::<RGB32Float>(&[f32::INFINITY, 0.5, 0.5], 1, &[]), &["not finite"]);
}

#[test]
fn integers_of_other_kinds_are_refused_by_name() {
    use colortype::{Gray8, Gray32, GrayI8, GrayI16};
    refused("a.tif", &tiff::<GrayI16>(&[-5, 9], 2, &[]), &["16-bit signed integers", "is not read"]);
    refused("a.tif", &tiff::<GrayI8>(&[-5, 9], 2, &[]), &["8-bit signed integers", "is not read"]);
    refused("a.tif", &tiff::<Gray32>(&[5, 9], 2, &[]), &["32-bit integers", "is not read"]);
    refused("a.tif", &tiff::<Gray8>(&[5, 9], 2, &[(50706, 260)]), &["camera RAW (DNG)"]);
    refused("a.tif", &tiff::<Gray8>(&[5, 9], 2, &[(254, 1)]), &["thumbnail"]);
    // A palette.
    let mut palette = tiff::<Gray8>(&[5, 9], 2, &[]);
    let tag = palette.windows(4).position(|w| w == [6, 1, 3, 0]).unwrap();
    palette[tag + 8] = 3;
    refused("a.tif", &palette, &["TIFF", "is not read"]);
    // White is zero.
    palette[tag + 8] = 0;
    assert_eq!(row("a.tif", &palette, 2, 1), [250, 246]);
    assert_eq!(
        row("a.tif", &tiff::<colortype::CMYK8>(&[255, 0, 51, 0, 0, 0, 0, 102], 2, &[]), 2, 3),
        [0, 255, 204, 153, 153, 153]
    );
}

#[test]
fn sixteen_bits_are_rounded_and_twelve_in_sixteen_refused() {
    let deep = |values: [u16; 4]| ImageBuffer::<Luma<u16>, _>::from_raw(4, 1, values.to_vec()).unwrap();
    let values = [0, 128, 129, 65535];
    for format in [Png, Tiff, Pnm] {
        assert_eq!(row(&name(format), &encode(deep(values), format), 4, 1), [0, 0, 1, 255]);
        let twelve = encode(deep([0, 17, 2048, 4095]), format);
        refused(&name(format), &twelve, &["0 to 4095", "16 bits", "multiply 16"]);
        // Black is black.
        assert_eq!(row(&name(format), &encode(deep([0; 4]), format), 4, 1), [0; 4]);
    }
    // Alpha is no brightness.
    let veiled = ImageBuffer::<LumaA<u16>, _>::from_raw(1, 1, vec![4000, 65535]).unwrap();
    refused("a.png", &encode(veiled, Png), &["0 to 4000"]);
    // A PNM says what its largest value is.
    assert_eq!(row("a.pgm", b"P5 3 1 4095\n\0\0\x08\0\x0f\xff", 3, 1), [0, 128, 255]);
    assert_eq!(row("a.pgm", b"P5 3 1 15\n\0\x03\x0f", 3, 1), [0, 51, 255]);
    assert_eq!(row("a.pgm", b"P2 3 1 4 0 2 4\n", 3, 1), [0, 128, 255]);
    assert_eq!(row("a.pbm", b"P4 3 1\n\xA0", 3, 1), [0, 255, 0]);
    refused("a.pgm", b"P5 3 1 100\n\0\x03\xff", &["value of 255", "gives 100"]);
}

/// Small numbers of bits, and palettes, as the PNG crate of `image` writes none.
fn png(bits: u8, colour: u8, chunks: &[(&[u8; 4], &[u8])], row: &[u8], width: u8) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(&[kind, data].concat());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend([kind, data, &crc.sum().to_be_bytes()].concat());
    };
    chunk(b"IHDR", &[0, 0, 0, width, 0, 0, 0, 1, bits, colour, 0, 0, 0]);
    for (kind, data) in chunks {
        chunk(*kind, data);
    }
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zlib, &[&[0], row].concat()).unwrap();
    chunk(b"IDAT", &zlib.finish().unwrap());
    chunk(b"IEND", b"");
    bytes
}

#[test]
fn few_bits_palettes_and_transparent_colours_have_their_values() {
    assert_eq!(row("a.png", &png(1, 0, &[], &[0b1010_0000], 3), 3, 1), [255, 0, 255]);
    assert_eq!(row("a.png", &png(2, 0, &[], &[0b0001_1011], 4), 4, 1), [0, 85, 170, 255]);
    let palette: (&[u8; 4], &[u8]) = (b"PLTE", &[1, 2, 3, 9, 8, 7]);
    assert_eq!(row("a.png", &png(8, 3, &[palette], &[1, 0], 2), 2, 3), [9, 8, 7, 1, 2, 3]);
    // The second colour of the palette is clear: white shows.
    assert_eq!(
        row("a.png", &png(8, 3, &[palette, (b"tRNS", &[255, 0])], &[1, 0], 2), 2, 3),
        [255, 255, 255, 1, 2, 3]
    );
    // Gamma is not applied, as in most programs.
    assert_eq!(row("a.png", &png(8, 0, &[(b"gAMA", &[0, 1, 134, 160])], &[100], 1), 1, 1), [100]);
}

#[test]
fn grey_is_the_luminance_of_bt_709_and_what_is_clear_is_white() {
    let colours = RgbImage::from_raw(4, 1, vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30]).unwrap();
    // 0.2126 R + 0.7152 G + 0.0722 B.
    assert_eq!(row("a.png", &encode(colours, Png), 4, 1), [54, 182, 18, 19]);
    // (colour · alpha + 255 · (255 - alpha)) / 255
    let veils = RgbaImage::from_raw(3, 1, vec![9, 9, 9, 0, 0, 100, 200, 51, 1, 2, 3, 255]).unwrap();
    assert_eq!(row("a.png", &encode(veils, Png), 3, 3), [255, 255, 255, 204, 224, 244, 1, 2, 3]);
    let veil = GrayAlphaImage::from_pixel(1, 1, LumaA([0, 102]));
    assert_eq!(row("a.png", &encode(veil, Png), 1, 1), [153]);
}

#[test]
fn of_an_animation_the_first_frame_counts() {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for shade in [10, 200] {
        encoder
            .encode_frame(image::Frame::new(RgbaImage::from_pixel(4, 4, Rgba([shade, shade, shade, 255]))))
            .unwrap();
    }
    drop(encoder);
    assert_eq!(read("a.gif", &bytes, (4, 4), 1).unwrap(), [10; 16]);
}

#[test]
fn jpegs_have_the_values_of_their_picture() {
    // See tests/python/make_pictures.py.
    for (name, jpeg) in JPEGS {
        let found = read("a.jpg", jpeg, (45, 37), 3).unwrap();
        for ((x, y), shade) in [((12, 10), 200_u8), ((32, 25), 40)] {
            for channel in &found[(y * 45 + x) * 3..][..3] {
                assert!(channel.abs_diff(shade) <= 4, "{name}: {channel} at {x}, {y}");
            }
        }
    }
}

#[test]
fn light_of_hdr_is_given_the_curve_of_srgb() {
    let light = |value: f32| encode(Rgb32FImage::from_pixel(1, 1, Rgb([value, value / 2.0, 0.0])), Hdr);
    assert_eq!(row("a.hdr", &light(0.5), 1, 3), [188, 137, 0]);
    refused("a.hdr", &light(4.0), &["values from 0 to 4", "expected 0 to 1", "tone-map"]);
}

#[test]
fn colour_profiles_are_converted_to_srgb() {
    let encoded = |profile: &moxcms::ColorProfile| {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.set_icc_profile(profile.encode().unwrap()).unwrap();
        encoder.write_image(&[200, 100, 50, 128, 128, 128], 2, 1, image::ExtendedColorType::Rgb8).unwrap();
        bytes
    };
    let srgb = row("a.png", &encoded(&moxcms::ColorProfile::new_srgb()), 2, 3);
    assert_eq!(srgb, [200, 100, 50, 128, 128, 128]);
    // By the matrices and the curve of the two standards: 214.9, 92.6, 31.0; grey stays.
    let p3 = row("a.png", &encoded(&moxcms::ColorProfile::new_display_p3()), 2, 3);
    for (found, expected) in p3.iter().zip([215_u8, 93, 31, 128, 128, 128]) {
        assert!(found.abs_diff(expected) <= 1, "{p3:?}");
    }
    // A profile that is none is passed over.
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.set_icc_profile(b"no profile".to_vec()).unwrap();
    encoder.write_image(&[200, 100, 50], 1, 1, image::ExtendedColorType::Rgb8).unwrap();
    assert_eq!(row("a.png", &bytes, 1, 3), [200, 100, 50]);
}

#[test]
fn the_limit_is_on_bytes() {
    let wide = encode(GrayImage::new(20_000, 1), Png);
    assert!(read("a.png", &wide, (8, 8), 1).is_ok());
    let tight = Options { max_picture_bytes: 19_999, ..Options::new((8, 8), 1) };
    let message = load(Path::new("a.png"), &wide, &tight).unwrap_err().to_string();
    assert!(message.contains("20000 x 1") && message.contains("--max-picture-mib"), "{message}");
    // A header that promises 20000 x 20000 RGB.
    let mut bomb = encode(RgbImage::new(1, 1), Png);
    bomb[16..24].copy_from_slice(&[20_000_u32.to_be_bytes(), 20_000_u32.to_be_bytes()].concat());
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    refused("bomb.png", &bomb, &["20000 x 20000", "1145 MiB", "512 MiB", "--max-picture-mib"]);
    // The same of a float TIFF: the width is the value of tag 256.
    let mut bomb = tiff::<colortype::Gray32Float>(&[0.0, 1.0], 2, &[]);
    let tag = bomb.windows(4).position(|w| w == [0, 1, 4, 0] || w == [0, 1, 3, 0]).unwrap();
    bomb[tag + 8..tag + 12].copy_from_slice(&2_000_000_000_u32.to_le_bytes());
    assert!(read("a.tif", &bomb, (8, 8), 1).is_err());
}

fn mask(image: impl Into<DynamicImage>, format: ImageFormat) -> crate::data::Mask {
    let image = image.into();
    let size = (image.height() as usize, image.width() as usize);
    load_mask(Path::new(&name(format)), &encode(image, format), &Options::new(size, 3)).unwrap()
}

#[test]
fn a_mask_is_luminance_times_alpha() {
    let strokes = RgbaImage::from_raw(
        4,
        1,
        vec![255, 255, 255, 0, 255, 255, 255, 255, 0, 0, 0, 255, 255, 255, 255, 51],
    );
    let found = mask(strokes.unwrap(), Png);
    assert_eq!(found.values, [0.0, 1.0, 0.0, 0.2]);
    assert!(found.notes.is_empty());
    // One number a pixel, of a coloured mask too.
    let coloured = RgbImage::from_raw(2, 1, vec![255, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(mask(coloured, Png).values, [54.0 / 255.0, 0.0]);
}

#[test]
fn a_mask_of_0_and_1_is_black_and_white() {
    let flags = vec![0, 1, 1, 0];
    let grey = mask(GrayImage::from_raw(4, 1, flags.clone()).unwrap(), Png);
    assert_eq!(grey.values, [0.0, 1.0, 1.0, 0.0]);
    assert!(grey.notes[0].contains("0 and 1"), "{:?}", grey.notes);
    let deep =
        ImageBuffer::<Luma<u16>, _>::from_raw(4, 1, flags.iter().map(|&v| u16::from(v)).collect::<Vec<_>>());
    assert_eq!(mask(deep.unwrap(), Png).values, [0.0, 1.0, 1.0, 0.0]);
    let rgba = RgbaImage::from_raw(2, 1, vec![1, 1, 1, 255, 0, 0, 0, 255]).unwrap();
    assert_eq!(mask(rgba, Png).values, [1.0, 0.0]);
    // One bit a pixel needs no rule.
    let bits =
        load_mask(Path::new("a.png"), &png(1, 0, &[], &[0b0110_0000], 4), &Options::new((1, 4), 1)).unwrap();
    assert_eq!((bits.values, bits.notes.len()), (vec![0.0, 1.0, 1.0, 0.0], 0));
    // Deep masks have their scale.
    let deep = ImageBuffer::<Luma<u16>, _>::from_raw(2, 1, vec![0_u16, 65535]).unwrap();
    assert_eq!(mask(deep, Png).values, [0.0, 1.0]);
}

#[test]
fn a_mask_of_all_or_nothing_is_warned_of() {
    let note = |image: GrayImage| mask(image, Png).notes.join(" ");
    assert!(note(GrayImage::new(4, 4)).contains("nothing is drawn anew"));
    assert!(note(GrayImage::from_pixel(4, 4, Luma([255]))).contains("nothing of the picture is kept"));
    assert_eq!(note(GrayImage::from_fn(4, 4, |x, _| Luma([if x < 2 { 0 } else { 255 }]))), "");
    // What is clear is black, whatever its colour.
    let clear = RgbaImage::from_pixel(4, 4, Rgba([255, 255, 255, 0]));
    assert!(mask(clear, Png).notes[0].contains("nothing is drawn anew"));
    // The noise that compression leaves of black is no mask of 0 and 1.
    let noisy = mask(GrayImage::from_fn(16, 16, |x, _| Luma([u8::from(x == 3)])), Jpeg);
    assert!(noisy.values.iter().all(|&v| v < 0.02) && noisy.notes[0].contains("nothing is drawn anew"));
}

#[test]
fn damaged_pictures_never_panic() {
    let mut pictures: Vec<(String, Vec<u8>)> =
        READABLE.map(|format| (name(format), encode(textured(16, 16), format))).into();
    pictures.extend(JPEGS.map(|(_, jpeg)| ("a.jpg".to_string(), jpeg.to_vec())));
    pictures.push(("a.webp".into(), fixture!("lossy.webp").into()));
    pictures.push(("a.tif".into(), tiff::<colortype::Gray32Float>(&[0.5; 64], 64, &[])));
    for (step, (name, good)) in (0..).zip(pictures) {
        let mut rng = Philox::new(2, Stream::Cases, step);
        for _ in 0..150 {
            let mut bytes = good.clone();
            for _ in 0..=rng.below(4) {
                match rng.below(8) {
                    0 => bytes.truncate(1 + rng.below(bytes.len())),
                    1 => {
                        let at = rng.below(bytes.len());
                        let upto = bytes.len().min(at + rng.below(40));
                        bytes.drain(at..upto);
                    }
                    _ => {
                        let at = rng.below(bytes.len().max(1));
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = rng.bits().to_le_bytes()[0];
                        }
                    }
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            let small = Options { max_picture_bytes: 1 << 20, ..Options::new((8, 8), 3) };
            let _ = load(Path::new(&name), &bytes, &small);
            let _ = load_mask(Path::new(&name), &bytes, &small);
        }
    }
}
