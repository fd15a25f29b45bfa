//! `dataset.json`, in which the tools of EDM and StyleGAN keep the labels of the pictures beside it:
//! `{"labels": [["00000/img00000000.png", 6], ...]}`, or null for pictures without labels.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::classes::Labels;
use super::listing::{Listing, label};
use super::{DataError, Opening};

/// The file's name, at the root.
pub(super) const FILE: &str = "dataset.json";
/// The most classes: a larger label is a mistake, and is not to decide how much memory is taken.
const MAX_CLASSES: u64 = 1 << 16;

#[derive(Deserialize)]
struct File {
    /// Absent, null or a list.
    #[serde(default, deserialize_with = "present")]
    labels: Option<Nullable>,
}

type Nullable = Option<Vec<(String, Value)>>;

fn present<'de, D: Deserializer<'de>>(labels: D) -> Result<Option<Nullable>, D::Error> {
    Deserialize::deserialize(labels).map(Some)
}

/// The labels of a listing that has EDM's file: by path, or none at all.
pub(super) struct Edm {
    path: PathBuf,
    labels: Option<HashMap<PathBuf, u32>>,
}

impl Edm {
    /// Reads file number `file`. None if it is a JSON file of another purpose.
    pub fn read(
        listing: &dyn Listing,
        file: usize,
        opening: &mut Opening,
    ) -> Result<Option<Self>, DataError> {
        let path = listing.path(file);
        let bytes = listing.read_whole(file, opening.options.max_picture_bytes)?;
        let wrong = |found: String| DataError::Edm { path: path.clone(), found };
        let File { labels } = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let Some(labels) = labels else {
            opening.report.notes.push(format!("{} has no `labels` and is not used", path.display()));
            return Ok(None);
        };
        let Some(labels) = labels else { return Ok(Some(Self { path, labels: None })) };
        let mut by_path = HashMap::with_capacity(labels.len());
        for (name, value) in labels {
            let number = value.as_u64().filter(|&number| number < MAX_CLASSES);
            let Some(number) = number.and_then(|number| u32::try_from(number).ok()) else {
                let value: String = value.to_string().chars().take(80).collect();
                return Err(wrong(format!("`{name}` has the label {value}")));
            };
            if by_path.insert(label(&name), number).is_some_and(|other| other != number) {
                return Err(wrong(format!("`{name}` has two labels")));
            }
        }
        Ok(Some(Self { path, labels: Some(by_path) }))
    }

    /// The classes by number, and the label of each picture.
    pub fn labels(
        &self,
        listing: &dyn Listing,
        pictures: &[usize],
        opening: &mut Opening,
    ) -> Result<Labels, DataError> {
        let Some(labels) = &self.labels else { return Ok((Vec::new(), Vec::new())) };
        let files = &listing.tree().files;
        let path = |&picture: &usize| -> &Path { &files[picture] };
        let mut without = pictures.iter().map(path).filter(|path| !labels.contains_key(*path));
        if let Some(first) = without.next() {
            let found = format!(
                "{} of {} pictures have no label (first {})",
                1 + without.count(),
                pictures.len(),
                first.display()
            );
            return Err(DataError::Edm { path: self.path.clone(), found });
        }
        let classes = labels.values().max().map_or(0, |&last| last + 1);
        let unused = labels.len().saturating_sub(pictures.len());
        if unused > 0 {
            opening
                .report
                .notes
                .push(format!("{FILE} has labels for {unused} more files, which are not pictures here"));
        }
        let labels = pictures.iter().filter_map(|picture| labels.get(path(picture)).copied()).collect();
        Ok(((0..classes).map(|class| class.to_string()).collect(), labels))
    }
}
