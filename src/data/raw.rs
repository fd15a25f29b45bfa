//! Pictures that are stored as raw numbers, all of one size, and labels that are numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::{DataError, Dataset, Opening, picture};

/// Pictures of one size on their way into a data set.
pub(super) struct Collector {
    size: (usize, usize),
    count: usize,
    pushed: usize,
    pixels: Vec<u8>,
}

impl Collector {
    /// For `count` pictures of `size` (height, width). Memory for all of them is taken at once only if they are `certain`
    /// to be there, which is what keeps a header from asking for more than its file holds.
    ///
    /// # Errors
    /// [`DataError::TooLarge`] if they would not fit into memory at the size asked for.
    pub fn new(
        spec: &str,
        count: usize,
        size: (usize, usize),
        certain: bool,
        opening: &Opening,
    ) -> Result<Self, DataError> {
        opening.options.check_memory(spec, count as u64)?;
        let capacity = if certain { count * opening.options.stride() } else { 0 };
        Ok(Self { size, count, pushed: 0, pixels: Vec::with_capacity(capacity) })
    }

    /// Adds a picture: (H, W) or (H, W, 3).
    pub fn push(&mut self, picture: &[u8], opening: &Opening) {
        (opening.progress)(self.pushed, self.count);
        self.pixels.extend(picture::fit_raw(picture, self.size, opening.options));
        self.pushed += 1;
    }

    /// The data set; `labels` is empty or has one index into `names` for each picture.
    pub fn finish(
        self,
        format: &'static str,
        names: Vec<String>,
        labels: Vec<u32>,
        opening: &mut Opening,
    ) -> Dataset {
        *opening.report.formats.entry(format).or_default() += self.pushed;
        let with_picture: BTreeSet<u32> = labels.iter().copied().collect();
        let without: Vec<_> = (0..)
            .zip(&names)
            .filter(|(index, _)| !with_picture.contains(index))
            .map(|(_, name)| name.as_str())
            .collect();
        if !without.is_empty() {
            let (found, all) = (without.len(), names.len());
            opening
                .report
                .notes
                .push(format!("{found} of the {all} classes have no picture: {}", first(&without)));
        }
        Dataset::from_parts(opening.options, names, self.pixels, labels)
    }
}

/// Classes from labels that are numbers: those that occur, in their order, named by the number. Returns the names and
/// for each label the index of its class.
pub(super) fn number_classes(values: &[u64], opening: &mut Opening) -> (Vec<String>, Vec<u32>) {
    let mut classes: BTreeMap<u64, u32> = values.iter().map(|&value| (value, 0)).collect();
    for (index, class) in (0..).zip(classes.values_mut()) {
        *class = index;
    }
    let names: Vec<String> = classes.keys().map(u64::to_string).collect();
    if classes.iter().any(|(&value, &index)| value != u64::from(index)) {
        opening.report.notes.push(format!(
            "the labels do not count from 0 without a gap; the {} that occur are the classes: {}",
            names.len(),
            first(&names.iter().map(String::as_str).collect::<Vec<_>>())
        ));
    }
    (names, values.iter().map(|value| classes[value]).collect())
}

/// The first few of some names, and how many more there are.
pub(super) fn first(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let listed = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => listed,
        more => format!("{listed}, and {more} more"),
    }
}
