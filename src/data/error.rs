//! Everything that can be wrong with a data set, each said once: the file, what was found, what was
//! expected, and the remedy.
#![expect(missing_docs, reason = "each variant's message says what it means")]

use std::io;
use std::path::PathBuf;

use super::picture::PictureError;
use super::{MAX_BYTES, MAX_SIDE, glyphs};

/// Why a data set could not be opened. Each message is one paragraph; the cause, where there is one,
/// is the `source`.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("data options: {found}; expected {expected}; change it in the configuration")]
    Options { found: String, expected: String },

    #[error(
        "builtin:{name}: there is no built-in data set of this name; the only one is `builtin:glyphs`; \
         write that, or the path of a folder or file"
    )]
    UnknownBuiltin { name: String },

    #[error(
        "{path}: there is nothing at this path; expected a folder of pictures, an IDX images file, a \
         CIFAR-10 binary file, or `builtin:glyphs`; check the spelling (a relative path starts at the \
         working directory)",
        path = .path.display()
    )]
    Missing { path: PathBuf, source: io::Error },

    #[error(
        "{path}: cannot be read; check that it is a readable file or folder and that the disk is sound",
        path = .path.display()
    )]
    Read { path: PathBuf, source: io::Error },

    #[error(
        "{path}: found a file that is neither an IDX images file (magic 0x00000803, plain or gzip) nor a \
         CIFAR-10 binary file (NAME.bin); to train on pictures, give the folder that holds them",
        path = .path.display()
    )]
    UnknownFile { path: PathBuf },

    #[error(
        "{path}: the folder holds no file, not even in its subfolders; expected pictures (PNG, JPEG, BMP, \
         GIF, WebP, PNM or TIFF); put some there or give another folder",
        path = .path.display()
    )]
    EmptyFolder { path: PathBuf },

    #[error(
        "{path}: none of the {files} files in the folder is a picture; expected PNG, JPEG, BMP, GIF, WebP, \
         PNM or TIFF, told by content; convert the pictures or give another folder",
        path = .path.display()
    )]
    NoPicture { path: PathBuf, files: usize },

    #[error(
        "{path}: found pictures both in subfolders and beside them (first {stray}); expected either no \
         subfolders (no classes) or every picture in the subfolder of its class; move the stray ones",
        path = .path.display(), stray = .stray.display()
    )]
    MixedFolder { path: PathBuf, stray: PathBuf },

    #[error("{path}: {reason}", path = .path.display())]
    Picture { path: PathBuf, reason: PictureError },

    #[error(
        "{path}: found the IDX magic 0x{found:08x}, expected 0x{expected:08x} (unsigned bytes of rank \
         {rank}); give a file of the MNIST family, plain or gzip",
        path = .path.display(), rank = .expected & 0xFF
    )]
    IdxMagic { path: PathBuf, found: u32, expected: u32 },

    #[error(
        "{path}: the IDX header gives the shape {shape:?}; expected at least one picture, with sides of 1 \
         to {side} pixels; download the file again",
        path = .path.display(), side = MAX_SIDE
    )]
    IdxShape { path: PathBuf, shape: Vec<usize> },

    #[error(
        "{path}: found {found} bytes of IDX data, but the header announces {expected}; the file is cut \
         short, padded or damaged; download it again",
        path = .path.display()
    )]
    IdxLength { path: PathBuf, found: u64, expected: u64 },

    #[error(
        "{path}: the header announces {expected} bytes of IDX data, more than a gzip file of {found} bytes \
         can hold; the file is cut short or damaged; download it again",
        path = .path.display()
    )]
    IdxInflation { path: PathBuf, found: u64, expected: u64 },

    #[error(
        "{labels}: found {found} labels for the {expected} pictures of {images}; the two files do not \
         belong together; download both again, or take the labels away to train without classes",
        labels = .labels.display(), images = .images.display()
    )]
    LabelCount { images: PathBuf, labels: PathBuf, found: usize, expected: usize },

    #[error(
        "{path}: the gzip stream is damaged or cut short; download the file again, or give it inflated",
        path = .path.display()
    )]
    Gzip { path: PathBuf, source: io::Error },

    #[error(
        "{path}: found {bytes} bytes, expected a positive multiple of 3073 (a CIFAR-10 record is a label \
         byte and 3072 colour bytes; CIFAR-100 has other records and is not read); download the binary \
         version again",
        path = .path.display()
    )]
    CifarLength { path: PathBuf, bytes: u64 },

    #[error(
        "{path}: record {record} has the label {label}, expected 0 to 9; this is not a CIFAR-10 binary \
         file, or it is damaged; download the binary version again",
        path = .path.display()
    )]
    CifarLabel { path: PathBuf, record: usize, label: u8 },

    #[error(
        "{path}: found {found} class names, expected 10, one a line; download the file again or remove it \
         to use the published names",
        path = .path.display()
    )]
    CifarNames { path: PathBuf, found: usize },

    #[error(
        "{spec}: {count} pictures of {height} x {width} x {channels} take {bytes} bytes, above the limit of \
         {limit} bytes held in memory; train at a smaller size or on fewer pictures",
        limit = MAX_BYTES
    )]
    TooLarge { spec: String, count: u64, height: usize, width: usize, channels: usize, bytes: u128 },

    #[error(
        "builtin:glyphs: asked for {height} x {width} pixels; glyphs are drawn with sides of {low} to \
         {high}; choose a size in that range",
        low = glyphs::MIN_SIDE, high = glyphs::MAX_SIDE
    )]
    GlyphSize { height: usize, width: usize },
}
