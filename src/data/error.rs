//! Everything that can be wrong with a data set, each said once: the file, what was found, what was
//! expected, and the remedy.
#![expect(missing_docs, reason = "each variant's message says what it means")]

use std::io;
use std::path::{Path, PathBuf};

use super::numpy::Problem;
use super::picture::{PictureError, READ};
use super::report::{DamagedPicture, Report};
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
         CIFAR binary file, a NumPy file, or `builtin:glyphs`; check the spelling (a relative path starts at the \
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
         CIFAR binary file (NAME.bin) nor a NumPy file (.npy, .npz); to train on pictures, give the folder that holds \
         them",
        path = .path.display()
    )]
    UnknownFile { path: PathBuf },

    #[error(
        "{path}: it holds no file, not even in its subfolders{but}; expected pictures; put some there or give another \
         folder",
        path = .path.display(), but = match .hidden {
            0 => String::new(),
            hidden => format!(", but {hidden} hidden ones (whose names begin with a dot)"),
        }
    )]
    EmptyFolder { path: PathBuf, hidden: usize },

    #[error(
        "{path}: none of the {files} files in it is a picture that is read{unused}; expected {READ}, told \
         by content; convert the pictures or give another folder",
        path = .path.display()
    )]
    NoPicture { path: PathBuf, files: usize, unused: String },

    #[error(
        "{path}: found pictures in subfolders ({inside}, first {example}) and beside them ({strays}, first {stray}); \
         expected either no pictures in subfolders (no classes) or every picture in the subfolder of its class; move \
         the stray ones",
        path = .path.display(), stray = .stray.display(), example = .example.display()
    )]
    MixedFolder { path: PathBuf, strays: usize, stray: PathBuf, inside: usize, example: PathBuf },

    #[error(
        "{path}: this is a run folder of `inkwash train`, with the pictures that the run drew; give the folder that \
         holds the pictures to learn",
        path = .path.display()
    )]
    RunFolder { path: PathBuf },

    #[error(
        "{path}: the folders are splits: {found}; none or several of them are for training; choose one with --split \
         NAME",
        path = .path.display()
    )]
    SplitWanted { path: PathBuf, found: String },

    #[error("{path}: there is no split `{split}`; found {found}; give one of these to --split", path = .path.display())]
    UnknownSplit { path: PathBuf, split: String, found: String },

    #[error(
        "{path}: --split {split}: there are no splits here; expected folders such as train, val and test, beside which \
         no other pictures lie; leave --split out, or give the folder of the split",
        path = .path.display()
    )]
    NoSplits { path: PathBuf, split: String },

    #[error("{message}")]
    Damaged { message: String },

    #[error(
        "{path}: {found}; expected EDM's {{\"labels\": [[\"00000/a.png\", 6], ...]}} with a whole number from 0 to 65535 for \
         every picture, or null for no labels; mend the file, or give it another name if it is not EDM's",
        path = .path.display()
    )]
    Edm { path: PathBuf, found: String },

    #[error(
        "{path}: the zip file is damaged or cut short, or is none; copy or download it again",
        path = .path.display()
    )]
    Zip { path: PathBuf, source: zip::result::ZipError },

    #[error("{path}: the entry of the zip file {found}; {remedy}", path = .path.display())]
    ZipEntry { path: PathBuf, found: String, remedy: &'static str },

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
        "{path}: found {bytes} bytes, expected a positive multiple of 3073 (CIFAR-10: a label byte and 3072 colour bytes) or \
         of 3074 (CIFAR-100: two label bytes); download the binary version again",
        path = .path.display()
    )]
    CifarLength { path: PathBuf, bytes: u64 },

    #[error(
        "{path}: record {record} has the label {label}, expected 0 to {last}; this is not a {layout} binary file, or it is \
         damaged; download the binary version again",
        path = .path.display()
    )]
    CifarLabel { path: PathBuf, record: usize, label: u8, last: usize, layout: &'static str },

    #[error(
        "{path}: found {layout} as Python pickles, which can run any program when they are opened and are not read; download \
         the binary version ({archive}) from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it and give its folder",
        path = .path.display()
    )]
    CifarPickles { path: PathBuf, layout: &'static str, archive: &'static str },

    #[error(
        "{labels}: found the label {label}, which is no class of this EMNIST set; expected {expected}; download pictures, \
         labels and mapping again",
        labels = .path.display()
    )]
    EmnistLabel { path: PathBuf, label: u64, expected: String },

    #[error(
        "{path}: found the line `{line}`, expected a label that no other line has and the code of its character, such as \
         `10 65`; download the file again, or remove it to use the published classes",
        path = .path.display()
    )]
    EmnistMapping { path: PathBuf, line: String },

    #[error(
        "{path}: found several parts of a data set: {found}; choose one with --split NAME",
        path = .path.display()
    )]
    SeveralParts { path: PathBuf, found: String },

    #[error(
        "{path}: found more than one data set: {found}; give the path of one of them",
        path = .path.display()
    )]
    SeveralLayouts { path: PathBuf, found: String },

    #[error("{path}: found {what}, which is not read; {remedy}", path = .path.display())]
    Foreign { path: PathBuf, what: &'static str, remedy: &'static str },

    #[error("{place}: {problem}")]
    Numpy { place: String, problem: Problem },

    #[error(
        "{path}: found a NumPy array in a file of another name; rename it so that it ends in .npy",
        path = .path.display()
    )]
    NumpyName { path: PathBuf },

    #[error(
        "{path}: the archive is damaged, or is no .npz file; write it again with numpy.savez",
        path = .path.display()
    )]
    Npz { path: PathBuf, source: zip::result::ZipError },

    #[error(
        "{path}: found {what}: {found}; expected one array of pictures and at most one of labels for each part, such as \
         images and labels, x_train and y_train, or arr_0 and arr_1; rename the arrays, or stack pictures that lie in \
         files of their own into one array, numpy.stack(list(x))",
        path = .path.display()
    )]
    Arrays { path: PathBuf, what: &'static str, found: String },

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

impl DataError {
    /// All damaged pictures of a report at once, the first ones by name. `left` is the number of sound ones.
    pub fn damaged(root: &Path, report: &Report, left: usize) -> Self {
        const NAMED: usize = 10;
        let skip = if left > 0 { ", or leave out what cannot be used with --damaged skip" } else { "" };
        if let [one] = &report.damaged[..] {
            return Self::Damaged { message: format!("{}: {}{skip}", one.path.display(), one.message) };
        }
        // Of each message, what is wrong; not what was expected and the remedy, which follow a semicolon.
        let name = |one: &DamagedPicture| {
            let path = one.path.strip_prefix(root).unwrap_or(&one.path);
            format!("{} ({})", path.display(), one.message.split("; ").next().unwrap_or_default())
        };
        let damaged = report.damaged.len();
        let named: Vec<String> = report.damaged.iter().take(NAMED).map(name).collect();
        let more = match damaged.checked_sub(NAMED) {
            Some(more @ 1..) => format!(", and {more} more, which `inkwash data check` lists"),
            _ => String::new(),
        };
        Self::Damaged {
            message: format!(
                "{}: {damaged} of {} pictures cannot be used: {}{more}; replace them or take them out{skip}",
                root.display(),
                damaged + left,
                named.join(", ")
            ),
        }
    }
}
