//! The pictures of a run: opened, split, and compared with those that the run began with.

use super::{NetworkKind, TrainConfig, TrainError};
use crate::data::{self, Dataset, Report};
use crate::io::quoted;

/// Pictures of a configuration, split into training and held-out parts.
pub fn open_data(config: &TrainConfig) -> Result<(Dataset, Dataset), TrainError> {
    open_data_reporting(config, &mut Report::default(), &|_, _| ())
}

/// As [`open_data`], with what was found, as far as it got, in `report`. `progress` is called now and then with the
/// pictures read and those there are.
pub fn open_data_reporting(
    config: &TrainConfig,
    report: &mut Report,
    progress: &data::Progress,
) -> Result<(Dataset, Dataset), TrainError> {
    let all = Dataset::open_reporting(&config.data, &config.data_options(), report, progress)?;
    split_data(config, all)
}

/// The pictures to train on and those held out.
///
/// # Errors
/// None are left to train on, or there are no classes where the run learns them.
pub fn split_data(config: &TrainConfig, all: Dataset) -> Result<(Dataset, Dataset), TrainError> {
    if config.class_conditional && all.class_names.is_empty() {
        return Err(TrainError::Mismatch(format!(
            "--class-conditional needs classes, but {} has none; put the pictures of each class into a subfolder \
             named after it, or leave the flag out",
            config.data
        )));
    }
    if config.network.needs_classes() && all.class_names.len() < 2 {
        return Err(TrainError::Mismatch(format!(
            "--network classifier needs classes, but {} has {}; put the pictures of each class into a subfolder named \
             after it, and give at least two",
            config.data,
            all.class_names.len()
        )));
    }
    let count = all.len();
    let (training, held_out) = all.split(config.held_out, config.seed);
    if training.is_empty() {
        return Err(TrainError::Mismatch(format!(
            "{}: of {count} pictures, held_out = {} leaves none to train on; lower --held-out",
            config.data, config.held_out
        )));
    }
    Ok((training, held_out))
}

/// Refuses a label that the network has no embedding or score for, or only the embedding that stands for none.
pub fn check_labels(config: &TrainConfig, training: &Dataset) -> Result<(), TrainError> {
    let (all, field) = match config.network {
        NetworkKind::Unet if !config.class_conditional => return Ok(()),
        NetworkKind::Unet => {
            (config.unet_config(0).num_class_embeds.unwrap_or(1), "num_class_embeds in [unet]")
        }
        NetworkKind::Classifier => (config.classifier_config(0).num_classes, "num_classes in [classifier]"),
    };
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    let classes = config.null_label().unwrap_or(all);
    let mut labels = (0..training.len()).map(|i| training.label(i));
    match labels.find(|&label| label >= classes) {
        None => Ok(()),
        Some(label) => {
            let none = if classes < all { ", the last of its labels standing for none" } else { "" };
            Err(TrainError::Mismatch(format!(
                "{} has label {label}, but the network has {classes} classes{none}; set {field}",
                config.data
            )))
        }
    }
}

/// What differs between the classes that a run has kept and those of the pictures, in whole sentences; `None` if they are
/// the same in the same order.
pub(super) fn class_difference(kept: &[String], found: &[String]) -> Option<String> {
    let label = (0..kept.len().max(found.len())).find(|&i| kept.get(i) != found.get(i))?;
    let missing: Vec<&String> = kept.iter().filter(|name| !found.contains(name)).collect();
    let new: Vec<&String> = found.iter().filter(|name| !kept.contains(name)).collect();
    let mut words = format!(
        "expected {}; found {}",
        listed(&kept.iter().collect::<Vec<_>>()),
        listed(&found.iter().collect::<Vec<_>>())
    );
    for (what, names) in [("missing", &missing), ("new", &new)] {
        if !names.is_empty() {
            words += &format!("; {what}: {}", listed(names));
        }
    }
    if missing.is_empty() && new.is_empty() {
        words += "; the same names in another order";
    }
    let name = |names: &[String]| names.get(label).map_or_else(|| "none".to_string(), |name| quoted(name));
    Some(format!("{words}. Label {label} was {} and would now be {}", name(kept), name(found)))
}

/// Names that a message lists before it only counts the others.
const LISTED: usize = 12;

fn listed(names: &[&String]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| quoted(name)).collect();
    match names.len().saturating_sub(LISTED) {
        0 if names.is_empty() => "none".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn classes_are_compared_by_name_and_place() {
        let difference = |kept, found| class_difference(&names(kept), &names(found)).unwrap_or_default();
        assert_eq!(difference("cat dog eel", "cat dog eel"), "");
        assert_eq!(
            difference("cat dog eel", "dog eel"),
            "expected \"cat\", \"dog\", \"eel\"; found \"dog\", \"eel\"; missing: \"cat\". Label 0 was \"cat\" and \
             would now be \"dog\""
        );
        let renamed = difference("cat dog", "cat hound");
        assert!(renamed.contains("missing: \"dog\"; new: \"hound\". Label 1 was \"dog\""), "{renamed}");
        let added = difference("cat dog", "cat dog eel");
        assert!(added.contains("new: \"eel\". Label 2 was none and would now be \"eel\""), "{added}");
        let swapped = difference("cat dog", "dog cat");
        assert!(swapped.contains("the same names in another order. Label 0"), "{swapped}");
        // Of many classes the message has a dozen, and always those that differ.
        let many: Vec<String> = (0..100).map(|i| format!("class{i}")).collect();
        let fewer: Vec<String> = many.iter().filter(|name| *name != "class77").cloned().collect();
        let difference = class_difference(&many, &fewer).unwrap();
        assert!(
            difference.contains("and 88 more") && difference.contains("missing: \"class77\"."),
            "{difference}"
        );
    }
}
