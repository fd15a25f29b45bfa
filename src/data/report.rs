//! What was found where a data set was looked for, whether or not it was used.

use super::Dataset;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a data set consists of, and what lies beside it. Filled while the data set is opened, so that it tells of what
/// was found even where opening fails.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How the pictures are stored, in words.
    pub layout: String,
    /// Pictures by format.
    pub formats: BTreeMap<&'static str, usize>,
    /// Classes in the order of their labels; empty if there are none.
    pub classes: Vec<ClassCount>,
    /// Pictures and films that are not read.
    pub unused: Vec<Unused>,
    /// Pictures that do not decode.
    pub damaged: Vec<DamagedPicture>,
    /// Folders that are not looked into.
    pub passed_over: Vec<PassedOver>,
    /// What else a person should know before training on this, one sentence each.
    pub notes: Vec<String>,
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
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

/// A folder that is not looked into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The folder.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Report {
    /// Counts the pictures of each class.
    pub(super) fn count_classes(&mut self, dataset: &Dataset) {
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
    }
}
