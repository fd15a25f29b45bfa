//! What a file is, by its first bytes, or else by its name.

use image::ImageFormat;
use std::path::Path;

/// What a file is to a data set of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Kind {
    /// A picture that is read, by the name of its format; `damaged` where only the file's name says so.
    Picture(&'static str),
    /// A picture or film that is not read: what it is, and what converts it.
    Unread { kind: &'static str, remedy: &'static str },
    /// Neither: a text, a label file.
    Other,
}

/// Bytes from the start of a file that tell its kind.
pub(in crate::data) const HEAD: u64 = 64;

/// The formats that are read, for messages.
pub(in crate::data) const READ: &str =
    "PNG, JPEG, BMP, GIF, WebP, PNM, TIFF, TGA, QOI, farbfeld or Radiance HDR";

const READ_EXTENSIONS: [&str; 25] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "bmp", "dib", "gif", "webp", "pnm", "pbm", "pgm", "ppm",
    "pam", "tif", "tiff", "tga", "vda", "icb", "vst", "qoi", "ff", "hdr", "rgbe",
];
const TGA_EXTENSIONS: [&str; 4] = ["tga", "vda", "icb", "vst"];

const HEIF: (&str, &str) =
    ("HEIC/HEIF", "convert it with `heif-convert FILE OUT.png` or `magick FILE OUT.png`");
const AVIF: (&str, &str) = ("AVIF", "convert it with `avifdec FILE OUT.png` or `magick FILE OUT.png`");
const JPEG_2000: (&str, &str) =
    ("JPEG 2000", "convert it with `opj_decompress -i FILE -o OUT.png` or `magick FILE OUT.png`");
const JPEG_XL: (&str, &str) = ("JPEG XL", "convert it with `djxl FILE OUT.png` or `magick FILE OUT.png`");
const JPEG_XR: (&str, &str) = ("JPEG XR", "convert it with `JxrDecApp -i FILE -o OUT.tif`");
const CAMERA: (&str, &str) = (
    "camera RAW",
    "develop it with darktable, RawTherapee or `dcraw_emu -T FILE` and save it as 8-bit PNG or JPEG",
);
const PHOTOSHOP: (&str, &str) = ("Photoshop PSD/PSB", "convert it with `magick FILE[0] OUT.png`");
const SVG: (&str, &str) = ("SVG", "draw it at the size you need with `resvg FILE OUT.png` or `inkscape`");
const POSTSCRIPT: (&str, &str) = ("PostScript/EPS", "draw it with `magick -density 300 FILE OUT.png`");
const PDF: (&str, &str) = ("PDF", "draw its pages with `pdftoppm -png FILE OUT`");
const ICON: (&str, &str) = ("icon or cursor", "convert it with `magick FILE OUT.png`");
const DDS: (&str, &str) = ("DDS", "convert it with `magick FILE OUT.png`");
const OPEN_EXR: (&str, &str) =
    ("OpenEXR", "its light has no upper end: tone-map it and save it as 8-bit PNG");
const FLOAT_MAP: (&str, &str) = ("PFM", "its light has no upper end: tone-map it and save it as 8-bit PNG");
const GIMP: (&str, &str) =
    ("GIMP XCF", "export it from GIMP as PNG, or convert it with `magick FILE OUT.png`");
const KRITA: (&str, &str) = ("Krita or OpenRaster", "export it as PNG");
const FILM: (&str, &str) =
    ("film", "take single frames from it with `ffmpeg -i FILE -vf fps=1 OUT-%05d.png`");
const SCIENCE: (&str, &str) =
    ("DICOM, FITS or NIfTI", "choose a range of values and save it as 8-bit PNG with its own software");
const OTHER_PICTURE: (&str, &str) = ("picture of a rare format", "convert it with `magick FILE OUT.png`");

/// By extension, what is not read.
const UNREAD: &[((&str, &str), &[&str])] = &[
    (HEIF, &["heic", "heif", "heics", "heifs", "hif"]),
    (AVIF, &["avif", "avifs"]),
    (JPEG_2000, &["jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jpm", "jph", "jhc", "mj2"]),
    (JPEG_XL, &["jxl"]),
    (JPEG_XR, &["jxr", "wdp", "hdp"]),
    (CAMERA, CAMERA_EXTENSIONS),
    (PHOTOSHOP, &["psd", "psb"]),
    (SVG, &["svg", "svgz"]),
    (POSTSCRIPT, &["eps", "epsf", "ps", "ai"]),
    (PDF, &["pdf"]),
    (ICON, &["ico", "cur", "icns"]),
    (DDS, &["dds"]),
    (OPEN_EXR, &["exr"]),
    (FLOAT_MAP, &["pfm"]),
    (GIMP, &["xcf"]),
    (KRITA, &["kra", "ora"]),
    (
        FILM,
        &[
            "mp4", "m4v", "mov", "qt", "avi", "mkv", "webm", "mpg", "mpeg", "m2v", "wmv", "flv", "mts",
            "m2ts", "3gp", "ogv", "mng", "y4m",
        ],
    ),
    (SCIENCE, &["dcm", "dicom", "fits", "fit", "fts", "nii"]),
    (
        OTHER_PICTURE,
        &[
            "pcx", "sgi", "rgb", "ras", "pict", "pct", "xpm", "xbm", "wmf", "emf", "djvu", "bpg", "flif",
            "jng", "jls",
        ],
    ),
];

/// Most of these are TIFF inside, and hold a small JPEG or TIFF picture to look at, which is not the picture.
const CAMERA_EXTENSIONS: &[&str] = &[
    "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "rw2", "raw", "rwl", "raf", "pef",
    "srw", "3fr", "fff", "iiq", "kdc", "dcr", "k25", "mos", "mef", "mrw", "erf", "x3f", "gpr",
];

/// What begins the file of a format that is not read, and the offset it stands at.
const MAGICS: &[((&str, &str), usize, &[u8])] = &[
    (JPEG_2000, 0, b"\0\0\0\x0CjP  \r\n\x87\n"),
    (JPEG_2000, 0, b"\xFF\x4F\xFF\x51"),
    (JPEG_XL, 0, b"\0\0\0\x0CJXL \r\n\x87\n"),
    (JPEG_XL, 0, b"\xFF\x0A"),
    (JPEG_XR, 0, b"II\xBC\x01"),
    (JPEG_XR, 0, b"II\xBC\x00"),
    (CAMERA, 8, b"CR\x02\0"),
    (CAMERA, 0, b"IIRO"),
    (CAMERA, 0, b"IIRS"),
    (CAMERA, 0, b"MMOR"),
    (CAMERA, 0, b"IIU\0"),
    (CAMERA, 0, b"FUJIFILMCCD-RAW"),
    (CAMERA, 0, b"FOVb"),
    (CAMERA, 0, b"\0MRM"),
    (CAMERA, 6, b"HEAPCCDR"),
    (PHOTOSHOP, 0, b"8BPS\0\x01"),
    (PHOTOSHOP, 0, b"8BPS\0\x02"),
    (SVG, 0, b"<svg"),
    (SVG, 0, b"\xEF\xBB\xBF<svg"),
    (POSTSCRIPT, 0, b"%!PS-Adobe"),
    (POSTSCRIPT, 0, b"\xC5\xD0\xD3\xC6"),
    (PDF, 0, b"%PDF-"),
    (DDS, 0, b"DDS \x7C\0\0\0"),
    (OPEN_EXR, 0, b"\x76\x2F\x31\x01"),
    (FLOAT_MAP, 0, b"PF\n"),
    (FLOAT_MAP, 0, b"Pf\n"),
    (GIMP, 0, b"gimp xcf "),
    (KRITA, 38, b"application/x-krita"),
    (KRITA, 38, b"image/openraster"),
    (FILM, 0, b"\x1A\x45\xDF\xA3"),
    (FILM, 0, b"\0\0\x01\xBA"),
    (FILM, 0, b"\0\0\x01\xB3"),
    (FILM, 0, b"\x30\x26\xB2\x75\x8E\x66\xCF\x11"),
    (FILM, 0, b"FLV\x01"),
    (FILM, 0, b"\x8AMNG\r\n\x1A\n"),
    (FILM, 0, b"YUV4MPEG2 "),
    (SCIENCE, 0, b"SIMPLE  ="),
    // JPEG-LS.
    (OTHER_PICTURE, 0, b"\xFF\xD8\xFF\xF7"),
    (OTHER_PICTURE, 0, b"\x8BJNG\r\n\x1A\n"),
    (OTHER_PICTURE, 0, b"\x59\xA6\x6A\x95"),
    (OTHER_PICTURE, 0, b"BPG\xFB"),
    (OTHER_PICTURE, 0, b"FLIF"),
    (OTHER_PICTURE, 0, b"AT&TFORM"),
];

/// What a file is, by its first [`HEAD`] bytes, or else by its name: a damaged `a.png` is a picture, so that it is
/// reported; notes and label files are not.
pub(in crate::data) fn kind(path: &Path, head: &[u8]) -> Kind {
    let extension = extension(path);
    let named = |extensions: &[&str]| extensions.contains(&extension.as_str());
    let by_name = UNREAD.iter().find(|(_, extensions)| named(extensions)).map(|&(kind, _)| kind);
    let unread = |(kind, remedy)| Kind::Unread { kind, remedy };
    if let Some(kind) = magic(head) {
        return unread(kind);
    }
    match format(path, head) {
        // Inside, the pictures of many cameras are TIFF.
        Some(ImageFormat::Tiff) if named(CAMERA_EXTENSIONS) => unread(CAMERA),
        Some(format) => Kind::Picture(name(format)),
        None if by_name.is_some() => by_name.map_or(Kind::Other, unread),
        None if named(&READ_EXTENSIONS) => Kind::Picture("damaged"),
        None => Kind::Other,
    }
}

fn magic(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let begins = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if let Some(&(kind, ..)) = MAGICS.iter().find(|&&(_, at, magic)| begins(at, magic)) {
        return Some(kind);
    }
    if begins(4, b"ftyp") {
        // The brand, and the brands it is compatible with, up to the end of the box.
        let length = head.first_chunk().map_or(0, |&length| u32::from_be_bytes(length) as usize);
        let brands = head[8..].get(..length.saturating_sub(8)).unwrap_or(&head[8..]);
        let has =
            |names: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| names.iter().any(|name| brand == *name));
        return Some(match () {
            () if has(&[b"avif", b"avis"]) => AVIF,
            () if has(&[b"crx "]) => CAMERA,
            () if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) => HEIF,
            () if has(&[b"jp2 ", b"jpx ", b"mjp2"]) => JPEG_2000,
            () => FILM,
        });
    }
    if begins(0, b"RIFF") && begins(8, b"AVI ") {
        return Some(FILM);
    }
    // Type, number of pictures, and a reserved byte of the first, which is zero.
    let icon = matches!(head, [0, 0, 1 | 2, 0, 1..=64, 0, _, _, _, 0, ..]);
    icon.then_some(ICON)
}

/// The picture format of a file, if it is one that is read.
pub(super) fn format(path: &Path, head: &[u8]) -> Option<ImageFormat> {
    if matches!(head, [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..]) {
        // The magic of a BigTIFF.
        return Some(ImageFormat::Tiff);
    }
    match image::guess_format(head) {
        // These magics of two letters are also the start of ordinary texts, so more is asked of them.
        Ok(ImageFormat::Bmp) => (head.get(6..10) == Some(&[0; 4])).then_some(ImageFormat::Bmp),
        Ok(ImageFormat::Pnm) => head.get(2)?.is_ascii_whitespace().then_some(ImageFormat::Pnm),
        Ok(format) => format.reading_enabled().then_some(format),
        // TGA has no magic.
        Err(_) => {
            (TGA_EXTENSIONS.contains(&extension(path).as_str()) && is_tga(head)).then_some(ImageFormat::Tga)
        }
    }
}

/// Whether this could be the header of a TGA: colour map, type of picture, size and bits a pixel are possible.
fn is_tga(head: &[u8]) -> bool {
    let Some(&[_, 0 | 1, 1 | 2 | 3 | 9 | 10 | 11, _, _, _, _, _, _, _, _, _, w0, w1, h0, h1, bits, _]) =
        head.first_chunk::<18>()
    else {
        return false;
    };
    [w0, w1] != [0, 0] && [h0, h1] != [0, 0] && [8, 15, 16, 24, 32].contains(&bits)
}

fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// What people call a format that is read.
pub(super) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Pnm => "PNM",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Tga => "TGA",
        ImageFormat::Qoi => "QOI",
        ImageFormat::Farbfeld => "farbfeld",
        ImageFormat::Hdr => "Radiance HDR",
        _ => "picture",
    }
}
