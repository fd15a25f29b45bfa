//! What a person should know of the pictures themselves before training on them.

use super::{Dataset, Report};
use serde::Serialize;
use std::collections::HashMap;

/// Pictures that teach little: those that are there more than once, and those of one colour. All as the network is given
/// them: turned, cropped, scaled and in its colours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Groups of pictures that are the same, pixel by pixel, in the order of the data set.
    pub duplicates: Vec<Duplicates>,
    /// Pictures of which all pixels are the same, by name.
    pub constant: Vec<String>,
}

/// Pictures that are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// At least two, by name.
    pub pictures: Vec<String>,
    /// Whether the files are the same too; if not, they differ in what scaling has taken away, or in how they are stored.
    pub same_files: bool,
    /// Whether they are in more than one class.
    pub across_classes: bool,
}

impl Findings {
    /// Of all pictures of a data set that was opened with this report.
    pub fn new(data: &Dataset, report: &Report) -> Self {
        let name = |i: usize| match report.files.get(i) {
            Some(file) => file.path.display().to_string(),
            None => format!("picture {i}"),
        };
        let is_constant = |i: &usize| {
            let mut pixels = data.image(*i).chunks_exact(data.channels);
            pixels.next().is_some_and(|first| pixels.all(|pixel| pixel == first))
        };
        let mut same = HashMap::<&[u8], Vec<usize>>::with_capacity(data.len());
        for i in 0..data.len() {
            same.entry(data.image(i)).or_default().push(i);
        }
        let mut groups: Vec<Vec<usize>> = same.into_values().filter(|group| group.len() > 1).collect();
        groups.sort_unstable();
        let duplicates = groups.into_iter().map(|group| {
            let all_alike = |key: &dyn Fn(usize) -> u64| group.iter().all(|&i| key(i) == key(group[0]));
            Duplicates {
                same_files: group.iter().all(|&i| i < report.files.len())
                    && all_alike(&|i| report.files[i].digest),
                across_classes: !all_alike(&|i| data.label(i).into()),
                pictures: group.iter().map(|&i| name(i)).collect(),
            }
        });
        Self {
            duplicates: duplicates.collect(),
            constant: (0..data.len()).filter(is_constant).map(name).collect(),
        }
    }
}
