//! Training pictures: the built-in glyphs, folders of pictures, and the IDX (MNIST), CIFAR and NumPy files of published data
//! sets, all decoded once into memory as u8, channels-last, at one size; and batches of them as f32 in [-1, 1].

mod check;
mod cifar;
mod classes;
mod edm;
mod error;
mod folder;
mod foreign;
pub mod glyphs;
mod idx;
mod layouts;
mod listing;
mod loader;
mod mnist;
mod numpy;
mod parallel;
mod picture;
mod raw;
mod report;
mod split;

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

pub use check::{Duplicates, Findings};
pub use error::DataError;
pub use loader::{AugmentOptions, Batch, Loader, batch_at};
pub use numpy::Problem as NumpyProblem;
pub use picture::PictureError;
pub use report::{ClassCount, DamagedPicture, OtherFiles, PassedOver, Report, Sizes, SourceFile, Unused};

use crate::rng::{Philox, Stream};
use listing::{Disk, Zip, looks_like_zip};
use serde::{Deserialize, Serialize};

/// The most bytes a decoded data set may take in memory: 8 GiB.
pub const MAX_BYTES: u64 = 8 << 30;
/// The longest side that pictures are fitted to, and of the pictures of an IDX file, in pixels.
pub const MAX_SIDE: u32 = 8192;
/// The most bytes one picture may take, encoded or decoded, unless [`Options`] say otherwise: 512 MiB.
pub const MAX_PICTURE_BYTES: u64 = 512 << 20;

/// The step under which the held-out split draws from [`Stream::Shuffle`]; epochs count up from zero
/// and do not reach it.
const SPLIT_STEP: u32 = u32::MAX;

/// Called now and then while pictures are read, with how many are done and how many there are.
pub type Progress<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What becomes of pictures that are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Damaged {
    /// They refuse the data set, all of them named at once.
    Refuse,
    /// They are left out, counted and named.
    Skip,
}

/// Which of CIFAR-100's two labels are the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ClassLabels {
    /// 100 classes.
    Fine,
    /// 20 classes of five fine ones each.
    Coarse,
}

/// What to make of the pictures of a data set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Height and width in pixels. A picture is scaled to cover this and cropped about its centre.
    pub size: (usize, usize),
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Seed of the poses of the built-in glyphs.
    pub seed: u64,
    /// How many glyphs `builtin:glyphs` draws.
    pub glyph_count: usize,
    /// What becomes of damaged pictures.
    pub damaged: Damaged,
    /// Which split, where there are several.
    pub split: Option<String>,
    /// Which labels of CIFAR-100.
    pub class_labels: ClassLabels,
    /// The most bytes one picture may take, encoded or decoded.
    pub max_picture_bytes: u64,
}

impl Options {
    /// Pictures of this height and width, with the defaults of everything else.
    pub fn new(size: (usize, usize), channels: usize) -> Self {
        Self {
            size,
            channels,
            seed: 0,
            glyph_count: 20_000,
            damaged: Damaged::Refuse,
            split: None,
            class_labels: ClassLabels::Fine,
            max_picture_bytes: MAX_PICTURE_BYTES,
        }
    }

    /// Bytes of one decoded picture: height · width · channels.
    fn stride(&self) -> usize {
        self.size.0 * self.size.1 * self.channels
    }

    fn check(&self) -> Result<(), DataError> {
        let (height, width) = self.size;
        let sides = 1..=MAX_SIDE as usize;
        let wrong = |found, expected| Err(DataError::Options { found, expected });
        if !sides.contains(&height) || !sides.contains(&width) {
            return wrong(format!("size {height} x {width}"), format!("sides of 1 to {MAX_SIDE} pixels"));
        }
        if self.channels != 1 && self.channels != 3 {
            return wrong(format!("{} channels", self.channels), "1 (grey) or 3 (RGB)".into());
        }
        Ok(())
    }

    /// Refuses `count` pictures that would not fit in [`MAX_BYTES`].
    fn check_memory(&self, spec: &str, count: u64) -> Result<(), DataError> {
        let bytes = u128::from(count) * self.stride() as u128;
        if bytes <= u128::from(MAX_BYTES) {
            return Ok(());
        }
        let (height, width) = self.size;
        Err(DataError::TooLarge { spec: spec.into(), count, height, width, channels: self.channels, bytes })
    }
}

/// A data set that is being opened: what is asked for, and where what is found goes.
struct Opening<'a> {
    options: &'a Options,
    report: &'a mut Report,
    progress: &'a Progress<'a>,
    /// Whether `options.class_labels` says anything of the data.
    has_coarse_labels: bool,
}

/// Decoded pictures, u8, channels-last, all of one size, held in memory.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// The name of each class, by label; empty if the pictures are unlabelled.
    pub class_names: Vec<String>,
    /// All pictures that were decoded, `[N, H, W, C]`; shared by the parts of a split.
    pixels: Arc<Vec<u8>>,
    /// `[N]`, or empty if unlabelled.
    labels: Arc<Vec<u32>>,
    /// Which of the N pictures belong to this data set.
    rows: Vec<usize>,
}

impl Dataset {
    /// What tells two sets of pictures apart: how many there are, their size, and a checksum of pixels, labels and order.
    pub fn fingerprint(&self) -> String {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&self.pixels);
        self.labels.iter().for_each(|label| checksum.update(&label.to_le_bytes()));
        self.rows.iter().for_each(|&row| checksum.update(&(row as u64).to_le_bytes()));
        let Self { height, width, channels, .. } = self;
        format!("{} pictures {height}x{width}x{channels}, checksum {:08x}", self.len(), checksum.finalize())
    }

    /// Opens `spec`: `builtin:glyphs`, or the path of
    ///
    /// - a folder or zip file of pictures (told by content), visited recursively in sorted order; where it has
    ///   subfolders, the first level names the classes, sorted as people count, unless these are splits or EDM's
    ///   `dataset.json` has labels;
    /// - an IDX images file (`train-images-idx3-ubyte`, plain or gzip), with its labels file beside it
    ///   if there is one, or a folder that holds such files, as torchvision, Kaggle and EMNIST have them;
    /// - a binary file of CIFAR-10 or CIFAR-100 (`NAME.bin`), or a folder of them;
    /// - a `.npy` or `.npz` file of pictures and labels, or a folder of `.npy` files.
    ///
    /// A folder may also hold one of these layouts up to three levels below; where it holds several parts, `options.split`
    /// chooses, and the training part is the default.
    ///
    /// Pictures are turned upright (EXIF), laid on white where they are transparent, turned to grey
    /// or RGB, cropped about the centre to the aspect ratio of `options.size` and resampled to it.
    ///
    /// # Errors
    ///
    /// [`DataError`] names the file, what is wrong with it and the remedy. Damaged pictures refuse the whole folder,
    /// all of them named at once, so that no data set is silently smaller than it looks; or, if
    /// [`Options::damaged`] says so, they are left out and told of in the report.
    pub fn open(spec: &str, options: &Options) -> Result<Self, DataError> {
        Self::open_reporting(spec, options, &mut Report::default(), &|_, _| ())
    }

    /// As [`Dataset::open`], with what was found, as far as it got, in `report`.
    pub fn open_reporting(
        spec: &str,
        options: &Options,
        report: &mut Report,
        progress: &Progress,
    ) -> Result<Self, DataError> {
        let mut opening = Opening { options, report, progress, has_coarse_labels: false };
        let dataset = Self::read(spec, &mut opening)?;
        if options.class_labels == ClassLabels::Coarse && !opening.has_coarse_labels {
            let note = "coarse class labels are asked for, which only CIFAR-100 has; nothing changes";
            opening.report.notes.push(note.into());
        }
        report.count(&dataset);
        Ok(dataset)
    }

    fn read(spec: &str, opening: &mut Opening) -> Result<Self, DataError> {
        let options = opening.options;
        options.check()?;
        if let Some(name) = spec.strip_prefix("builtin:") {
            if let Some(split) = &options.split {
                return Err(DataError::NoSplits { path: spec.into(), split: split.clone() });
            }
            opening.report.layout = "drawn by the program".into();
            return match name {
                "glyphs" => glyphs::dataset(options),
                _ => Err(DataError::UnknownBuiltin { name: name.into() }),
            };
        }
        let path = Path::new(spec);
        let metadata = fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DataError::Missing { path: path.into(), source },
            _ => DataError::Read { path: path.into(), source },
        })?;
        if metadata.is_dir() {
            let disk = Disk::open(path)?;
            let survey = layouts::Survey::of(&disk);
            return match survey.layout(opening)? {
                Some(layout) => layout.read(opening),
                None => {
                    folder::dataset(&disk, opening).or_else(|error| survey.without_pictures(error, opening))
                }
            };
        }
        if !metadata.is_file() {
            return Err(DataError::UnknownFile { path: path.into() });
        }
        match layouts::Layout::of_file(path)? {
            Some(layout) => layout.read(opening),
            None if looks_like_zip(path)? => {
                let zip = Zip::open(path)?;
                folder::dataset(&zip, opening).map_err(|error| layouts::in_zip(&zip, error))
            }
            None => Err(DataError::UnknownFile { path: path.into() }),
        }
    }

    /// Pictures that somebody else decoded: `pixels` is `[N, H, W, C]` of the size and channels that `options` say, `labels` is
    /// `[N]`, or empty where there are no classes.
    ///
    /// # Errors
    /// A size out of range, pixels that do not make whole pictures, labels that are not one for each picture, or one that no
    /// class has.
    pub fn from_pictures(
        options: &Options,
        class_names: Vec<String>,
        pixels: Vec<u8>,
        mut labels: Vec<u32>,
    ) -> Result<Self, DataError> {
        options.check()?;
        let wrong = |found: String, expected: String| Err(DataError::Options { found, expected });
        let stride = options.stride();
        let count = pixels.len() / stride;
        if count == 0 || !pixels.len().is_multiple_of(stride) {
            return wrong(format!("{} pixels", pixels.len()), format!("pictures of {stride}"));
        }
        if class_names.is_empty() {
            labels.clear();
        } else if labels.len() != count {
            return wrong(format!("{} labels", labels.len()), format!("one for each of {count} pictures"));
        } else if let Some(label) = labels.iter().find(|&&label| label as usize >= class_names.len()) {
            return wrong(format!("label {label}"), format!("labels of {} classes", class_names.len()));
        }
        Ok(Self::from_parts(options, class_names, pixels, labels))
    }

    /// `pixels` is `[N, H, W, C]`; `labels` is `[N]`, or empty if unlabelled.
    fn from_parts(options: &Options, class_names: Vec<String>, pixels: Vec<u8>, labels: Vec<u32>) -> Self {
        let count = pixels.len() / options.stride();
        debug_assert_eq!(pixels.len(), count * options.stride());
        debug_assert!(labels.is_empty() || labels.len() == count);
        Self {
            height: options.size.0,
            width: options.size.1,
            channels: options.channels,
            class_names,
            pixels: Arc::new(pixels),
            labels: Arc::new(labels),
            rows: (0..count).collect(),
        }
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none; only a part of a [`Dataset::split`] can be empty.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Picture `i`: `[H, W, C]`, 0 black to 255 white. `i` must be below [`Dataset::len`].
    pub fn image(&self, i: usize) -> &[u8] {
        let stride = self.height * self.width * self.channels;
        &self.pixels[self.rows[i] * stride..][..stride]
    }

    /// The class of picture `i`, an index into `class_names`; 0 if unlabelled.
    pub fn label(&self, i: usize) -> u32 {
        let row = self.rows[i];
        if self.labels.is_empty() { 0 } else { self.labels[row] }
    }

    /// Splits into (training, held-out) by a shuffle of `seed`. The held-out part gets
    /// `held_out` · len pictures, rounded; `held_out` is clamped to [0, 1]. Both parts keep the order
    /// and share the pixels of the whole.
    pub fn split(self, held_out: f64, seed: u64) -> (Self, Self) {
        let mut rows = self.rows.clone();
        Philox::new(seed, Stream::Shuffle, SPLIT_STEP).shuffle(&mut rows);
        let count = (rows.len() as f64 * held_out.clamp(0.0, 1.0)).round() as usize;
        let mut training = rows.split_off(count);
        rows.sort_unstable();
        training.sort_unstable();
        (Self { rows: training, ..self.clone() }, Self { rows, ..self })
    }
}

/// Reads one picture file, scaled to cover the size asked for and cropped about its centre: (H, W, C).
///
/// # Errors
/// A size out of range, or whatever is wrong with the file.
pub fn read_picture(path: &Path, options: &Options) -> Result<Vec<u8>, DataError> {
    options.check()?;
    picture::load(path, &read_file(path, options)?, options)
        .map_err(|reason| DataError::Picture { path: path.into(), reason })
}

/// The bytes of a file that may be a picture.
fn read_file(path: &Path, options: &Options) -> Result<Vec<u8>, DataError> {
    let unreadable = |source| DataError::Read { path: path.into(), source };
    let about = fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        // Reading from a pipe would wait for ever, and a device may never end.
        return Err(unreadable(std::io::Error::other("it is a folder, pipe or device")));
    }
    let (bytes, limit) = (about.len(), options.max_picture_bytes);
    if bytes > limit {
        return Err(DataError::Picture {
            path: path.into(),
            reason: PictureError::FileTooLarge { bytes, limit },
        });
    }
    fs::read(path).map_err(unreadable)
}

/// Which pixels are drawn anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// (H, W): 1 where a pixel is drawn anew, 0 where it is kept.
    pub values: Vec<f32>,
    /// What a person should know of it, one sentence each.
    pub notes: Vec<String>,
}

/// Reads a mask, cropped and resampled as [`read_picture`] does: the luminance of each pixel times its alpha, so that what is
/// transparent is kept. Of a file whose largest number is 1, 1 is white.
///
/// # Errors
/// As [`read_picture`].
pub fn read_mask(path: &Path, options: &Options) -> Result<Mask, DataError> {
    options.check()?;
    picture::load_mask(path, &read_file(path, options)?, options)
        .map_err(|reason| DataError::Picture { path: path.into(), reason })
}

/// A colour byte 0..=255 as a network input in [-1, 1].
pub fn to_unit(byte: u8) -> f32 {
    f32::from(byte) / 127.5 - 1.0
}

/// The inverse of [`to_unit`]: rounds to the nearest byte and clamps; NaN gives 0.
pub fn from_unit(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round() as u8
}

/// Up to `count` bytes from the start of a file.
fn read_head(path: &Path, count: u64) -> Result<Vec<u8>, DataError> {
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(count).read_to_end(&mut head))
        .map_err(|source| DataError::Read { path: path.into(), source })?;
    Ok(head)
}

#[cfg(test)]
mod tests;
