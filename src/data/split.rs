//! The parts of a data set that comes in several: train and test, or the splits of EMNIST.

use std::path::Path;

use super::DataError;
use super::report::{PassedOver, Report};

/// The part that is taken where nothing else is asked for.
const DEFAULT: &str = "train";

/// A part of a data set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// Which of the sets that lie together, such as `letters` of EMNIST; [`Part::ALONE`] where there is one without a name.
    pub set: String,
    /// `train`, `test` or `val`; [`Part::WHOLE`] where the name of the file says none of them.
    pub part: String,
}

impl Part {
    pub const ALONE: &str = "plain";
    pub const WHOLE: &str = "all";

    /// The part that a word in a name stands for, if it is one.
    pub fn word(word: &str) -> Option<&'static str> {
        match word {
            "train" | "training" => Some("train"),
            "test" | "testing" | "t10k" => Some("test"),
            "val" | "valid" | "validation" => Some("val"),
            _ => None,
        }
    }

    /// A part of the only set.
    pub fn of(part: &str) -> Self {
        Self { set: Self::ALONE.into(), part: part.into() }
    }
}

/// What `--split` calls each of `parts`: `test`, or where there are several sets `letters` (its training part) and
/// `letters/test`.
fn names(parts: &[Part]) -> Vec<String> {
    let several = parts.iter().any(|part| part.set != parts[0].set);
    let name = |Part { set, part }: &Part| match (several, part.as_str()) {
        (false, _) => part.clone(),
        (true, DEFAULT) => set.clone(),
        (true, _) => format!("{set}/{part}"),
    };
    parts.iter().map(name).collect()
}

/// The index of the part that is meant: the one that `wanted` names, else the only one, else the only set's `train`.
///
/// # Errors
/// [`DataError::UnknownSplit`] or [`DataError::SeveralParts`], with the names of all parts.
pub(super) fn choose(path: &Path, parts: &[Part], wanted: Option<&str>) -> Result<usize, DataError> {
    let names = names(parts);
    let only = |mut matching: Vec<usize>| match matching.len() {
        1 => matching.pop(),
        _ => None,
    };
    let indices = |test: &dyn Fn(usize) -> bool| (0..parts.len()).filter(|&i| test(i)).collect::<Vec<_>>();
    let chosen = match wanted {
        None => {
            let one_set = parts.iter().all(|part| part.set == parts[0].set);
            only(indices(&|_| true)).or_else(|| only(indices(&|i| one_set && parts[i].part == DEFAULT)))
        }
        Some(wanted) => {
            let wanted = wanted.to_ascii_lowercase();
            let part = Part::word(&wanted).unwrap_or(&wanted);
            only(indices(&|i| names[i] == part))
                .or_else(|| only(indices(&|i| parts[i].set == wanted)))
                .or_else(|| only(indices(&|i| parts[i].set == wanted && parts[i].part == DEFAULT)))
                .or_else(|| only(indices(&|i| format!("{}/{}", parts[i].set, parts[i].part) == wanted)))
        }
    };
    chosen.ok_or_else(|| {
        let (path, found) = (path.into(), names.join(", "));
        match wanted {
            Some(split) => DataError::UnknownSplit { path, split: split.into(), found },
            None => DataError::SeveralParts { path, found },
        }
    })
}

/// Reports the parts that were not chosen, each with the file that it begins with.
pub(super) fn report_others(report: &mut Report, parts: &[Part], files: &[&Path], chosen: usize) {
    for (i, (name, file)) in names(parts).iter().zip(files).enumerate() {
        if i != chosen {
            let reason = format!("another part of the data; --split {name} takes it");
            report.passed_over.push(PassedOver { path: file.to_path_buf(), reason });
        }
    }
    let Part { set, part } = &parts[chosen];
    if parts.len() == 1 && Part::word(part).is_some() && part != DEFAULT {
        let set = if set == Part::ALONE { String::new() } else { format!(" of {set}") };
        report.notes.push(format!("only the {part} part{set} is here, and it is what is learned"));
    }
}
