//! What was found where a data set was looked for, whether or not it was used.

use super::{DataError, Dataset};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a data set consists of, and what lies beside it. Filled while the data set is opened, so that it tells of what
/// was found even where opening fails.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How the pictures are stored, in words.
    pub layout: String,
    /// Pictures by format, damaged ones too.
    pub formats: BTreeMap<&'static str, usize>,
    /// Pictures by size; none where opening failed.
    pub sizes: Sizes,
    /// Classes in the order of their labels; empty if there are none.
    pub classes: Vec<ClassCount>,
    /// Pictures and films that are not read.
    pub unused: Vec<Unused>,
    /// Pictures that do not decode.
    pub damaged: Vec<DamagedPicture>,
    /// Folders that are not looked into, and parts of the data that are left out.
    pub passed_over: Vec<PassedOver>,
    /// Files that are neither: texts, tables.
    pub other: OtherFiles,
    /// What else a person should know before training on this, one sentence each.
    pub notes: Vec<String>,
    /// The file of each picture of the data set, by row; empty where one file holds many.
    #[serde(skip)]
    pub files: Vec<SourceFile>,
}

/// The file of a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Width and height in pixels, where the file tells them.
    pub size: Option<(u32, u32)>,
    /// The same for the same bytes.
    pub digest: u64,
}

/// How large pictures are, before they are scaled. Sizes are (width, height) in pixels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// By area.
    pub smallest: Option<(u32, u32)>,
    /// By area.
    pub median: Option<(u32, u32)>,
    /// By area.
    pub largest: Option<(u32, u32)>,
    /// How many different sizes there are.
    pub different: usize,
    /// How many pictures are narrower or lower than what the network is given.
    pub enlarged: usize,
}

impl Sizes {
    /// Of pictures that are scaled to `target`, which is (height, width).
    pub(super) fn new(mut sizes: Vec<(u32, u32)>, target: (usize, usize)) -> Self {
        sizes.sort_unstable_by_key(|&(width, height)| (u64::from(width) * u64::from(height), width));
        let is_smaller =
            |&&(width, height): &&(u32, u32)| (height as usize) < target.0 || (width as usize) < target.1;
        let mut different = sizes.clone();
        different.dedup();
        Self {
            smallest: sizes.first().copied(),
            median: sizes.get(sizes.len() / 2).copied(),
            largest: sizes.last().copied(),
            different: different.len(),
            enlarged: sizes.iter().filter(is_smaller).count(),
        }
    }
}

/// A class and its pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub name: String,
    /// How many pictures it has.
    pub pictures: usize,
}

/// A file that looks like a picture and is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What it is: HEIC, AVIF, ...
    pub kind: &'static str,
    /// What converts it.
    pub remedy: &'static str,
}

/// A picture that does not decode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedPicture {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

impl DamagedPicture {
    /// The message is the error's with its causes, without the path.
    pub(super) fn new(path: PathBuf, error: &DataError) -> Self {
        let mut message = error.to_string();
        if let Some(rest) = message.strip_prefix(&format!("{}: ", path.display())) {
            message = rest.to_owned();
        }
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self { path, message }
    }
}

/// A folder that is not looked into, or a part of the data that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The folder, or the first file of the part.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Files that are no pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OtherFiles {
    /// How many there are.
    pub files: usize,
    /// The first few, relative to the data.
    pub first: Vec<String>,
}

impl OtherFiles {
    pub(super) fn count(&mut self, path: &Path) {
        if self.first.len() < 3 {
            self.first.push(path.display().to_string());
        }
        self.files += 1;
    }
}

/// A path as text, whatever its bytes are.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl Report {
    /// Counts the pictures of each class and of each size, and tells of what is remarkable in it.
    pub(super) fn count(&mut self, dataset: &Dataset) {
        let mut counts = vec![0; dataset.class_names.len()];
        for i in 0..dataset.len() {
            if let Some(count) = counts.get_mut(dataset.label(i) as usize) {
                *count += 1;
            }
        }
        self.classes = dataset
            .class_names
            .iter()
            .zip(counts)
            .map(|(name, pictures)| ClassCount { name: name.clone(), pictures })
            .collect();
        let empty: Vec<&str> = self
            .classes
            .iter()
            .filter(|class| class.pictures == 0)
            .map(|class| class.name.as_str())
            .collect();
        if !empty.is_empty() {
            self.notes.push(format!(
                "{} of {} classes have no pictures, so that nothing is learned of them: {}",
                empty.len(),
                self.classes.len(),
                first_few(&empty)
            ));
        }
        if !self.files.is_empty() {
            let sizes = self.files.iter().filter_map(|file| file.size).collect();
            self.sizes = Sizes::new(sizes, (dataset.height, dataset.width));
        }
        if self.sizes.enlarged > 0 {
            let (height, width) = (dataset.height, dataset.width);
            self.notes.push(format!(
                "{} of {} pictures are smaller than {width} x {height} and are enlarged",
                self.sizes.enlarged,
                dataset.len()
            ));
        }
    }

    /// The kinds of what is not used: how many, the first of them, and the remedy.
    pub fn unused_by_kind(&self) -> Vec<(&'static str, Vec<&Unused>)> {
        let mut kinds = BTreeMap::<_, Vec<_>>::new();
        for unused in &self.unused {
            kinds.entry(unused.kind).or_default().push(unused);
        }
        kinds.into_iter().collect()
    }

    /// As `; 3 HEIC (a.heic, ...; convert them)`, or nothing.
    pub(super) fn unused_in_words(&self) -> String {
        let kind = |(kind, files): &(&str, Vec<&Unused>)| {
            format!("{} {kind} (first {}: {})", files.len(), files[0].path.display(), files[0].remedy)
        };
        let kinds: Vec<String> = self.unused_by_kind().iter().map(kind).collect();
        if kinds.is_empty() { String::new() } else { format!("; found {}", kinds.join(", ")) }
    }
}

/// The first names, and how many more there are.
pub(super) fn first_few(names: &[&str]) -> String {
    const FEW: usize = 10;
    match names.len().checked_sub(FEW) {
        Some(more @ 1..) => format!("{} and {more} more", names[..FEW].join(", ")),
        _ => names.join(", "),
    }
}
