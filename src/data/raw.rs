//! Pictures that are stored as raw numbers, all of one size, and labels that are numbers.

use std::collections::BTreeMap;

use super::report::{Sizes, first_few};
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
        self.pixels.extend(picture::fit_raw(picture, self.size, opening.options));
        self.pushed += 1;
        (opening.progress)(self.pushed, self.count);
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
        if let (Ok(height), Ok(width)) = (u32::try_from(self.size.0), u32::try_from(self.size.1)) {
            opening.report.sizes = Sizes::new(vec![(width, height); self.pushed], opening.options.size);
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
            listed(names.iter().map(String::as_str))
        ));
    }
    (names, values.iter().map(|value| classes[value]).collect())
}

/// The first few of some names in a file, and how many more there are.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(printable).collect();
    first_few(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The start of a text of a file, as a message can show it.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
