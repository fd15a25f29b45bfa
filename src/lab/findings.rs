//! What an experiment finds: numbers, verdicts on them, and pictures.

use crate::data::DataError;
use crate::gpu::{GpuError, RunError};
use crate::graph::GraphError;
use crate::io::{Chart, FileError};
use crate::nn::ConfigError;
use crate::train::{FolderError, TrainError};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What stopped an experiment.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file.
    #[error(transparent)]
    File(Box<FileError>),
    /// A graph or the device.
    #[error(transparent)]
    Run(Box<RunError>),
    /// A number out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The built-in model.
    #[error(transparent)]
    Folder(Box<FolderError>),
    /// The built-in pictures.
    #[error(transparent)]
    Data(Box<DataError>),
    /// A training run.
    #[error(transparent)]
    Train(Box<TrainError>),
    /// Pictures of the user's, too few to say anything.
    #[error(
        "{spec} has {found} pictures; this experiment needs {needed} or more: name a larger data set, or leave --data out"
    )]
    FewPictures {
        /// What was named.
        spec: String,
        /// How many there are.
        found: usize,
        /// How many it takes.
        needed: usize,
    },
}

/// A cause that is boxed, since some are large and a `Result` is as large as its largest error.
macro_rules! boxed {
    ($($kind:ident: $error:ty),*) => {
        $(impl From<$error> for LabError {
            fn from(e: $error) -> Self {
                Self::$kind(Box::new(e))
            }
        })*
    };
}

boxed!(File: FileError, Run: RunError, Folder: FolderError, Data: DataError, Train: TrainError);

impl From<GraphError> for LabError {
    fn from(e: GraphError) -> Self {
        RunError::from(e).into()
    }
}

impl From<GpuError> for LabError {
    fn from(e: GpuError) -> Self {
        RunError::from(e).into()
    }
}

/// What a value is expected to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// This number, give or take the other.
    About(f64, f64),
}

impl Expected {
    /// Whether a value is as expected. NaN is not.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::About(centre, tolerance) => (value - centre).abs() <= tolerance,
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "at most {limit:.4}"),
            Self::AtLeast(limit) => write!(f, "at least {limit:.4}"),
            Self::About(centre, tolerance) => write!(f, "{centre:.4} ± {tolerance:.4}"),
        }
    }
}

/// A claim and whether what ran bears it out.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The claim, in words.
    pub claim: String,
    /// What was measured.
    pub value: f64,
    /// What was expected.
    pub expected: String,
    /// Whether it was so.
    pub pass: bool,
}

/// A table, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What each column has.
    pub columns: Vec<String>,
    /// As many cells as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// What an experiment has found so far.
#[derive(Debug)]
pub struct Findings {
    folder: PathBuf,
    /// Numbers by name.
    pub numbers: Map<String, Value>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Claims.
    pub verdicts: Vec<Verdict>,
    /// Files written, by name within the folder.
    pub files: Vec<String>,
}

impl Findings {
    /// For an experiment whose files go to `folder`, which exists.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            numbers: Map::new(),
            tables: Vec::new(),
            verdicts: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Notes a number, or a list or table of them.
    pub fn number(&mut self, name: &str, value: impl Serialize) {
        // Numbers and lists of them always have a form in JSON; one that is not finite becomes null.
        self.numbers.insert(name.into(), serde_json::to_value(value).unwrap_or(Value::Null));
    }

    /// Keeps a table.
    pub fn table(&mut self, name: &str, columns: &[&str], rows: Vec<Vec<String>>) {
        let columns = columns.iter().map(|&column| column.into()).collect();
        self.tables.push(Table { name: name.into(), columns, rows });
    }

    /// Holds a claim against a value.
    pub fn verdict(&mut self, claim: impl Into<String>, value: f64, expected: Expected) {
        let (claim, pass) = (claim.into(), expected.holds(value));
        self.verdicts.push(Verdict { claim, value, expected: expected.to_string(), pass });
    }

    /// The path of a file to write.
    pub fn file(&mut self, name: &str) -> PathBuf {
        self.files.push(name.into());
        self.folder.join(name)
    }

    /// Draws a chart as NAME.png and NAME.svg.
    pub fn chart(&mut self, name: &str, chart: &Chart) -> Result<(), LabError> {
        chart.save_png(&self.file(&format!("{name}.png")))?;
        Ok(chart.save_svg(&self.file(&format!("{name}.svg")))?)
    }

    /// Whether something was claimed and all of it held.
    pub fn passed(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|v| v.pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_hold_or_not_and_nan_never() {
        assert!(Expected::About(1.0, 0.1).holds(1.05) && !Expected::About(1.0, 0.1).holds(1.2));
        assert!(Expected::AtMost(2.0).holds(2.0) && !Expected::AtLeast(2.0).holds(1.9));
        for expected in [Expected::AtMost(1.0), Expected::AtLeast(1.0), Expected::About(1.0, 1.0)] {
            assert!(!expected.holds(f64::NAN));
        }
    }

    #[test]
    fn nothing_claimed_is_nothing_shown() {
        let mut findings = Findings::new(Path::new("."));
        assert!(!findings.passed());
        findings.verdict("one is one", 1.0, Expected::About(1.0, 0.0));
        assert!(findings.passed());
        findings.verdict("one is two", 1.0, Expected::About(2.0, 0.5));
        assert!(!findings.passed());
    }
}
