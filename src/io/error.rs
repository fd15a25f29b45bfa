//! The one error of the module: which file, what is wrong with it, and what to do about it.
#![expect(missing_docs, reason = "each variant's message says what it means")]

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The longest quotation from a file that a message carries, in characters.
const QUOTED: usize = 200;

/// Whatever lies underneath a [`FileError`].
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a file could not be read or written. Its `Display` is one whole paragraph: it already tells what the
/// `source` says, so a caller that prints the chain of sources would say it twice.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system said no.
    #[error("Cannot {action} {path}: {source}. {remedy}")]
    Io {
        path: PathBuf,
        action: &'static str,
        remedy: &'static str,
        #[source]
        source: io::Error,
    },
    /// The file as a whole is not what its kind demands.
    #[error("{path} is not a usable {kind}: found {found}, expected {expected}. {remedy}")]
    Malformed {
        path: PathBuf,
        kind: &'static str,
        found: String,
        expected: String,
        remedy: &'static str,
        #[source]
        source: Option<Cause>,
    },
    /// One tensor of a file being read or written is at fault.
    #[error("Tensor {tensor} of {path}: found {found}, expected {expected}. {remedy}")]
    Tensor { path: PathBuf, tensor: String, found: String, expected: String, remedy: &'static str },
    /// What was handed over to be written cannot be: its sizes or values do not make a file of that kind.
    #[error("Cannot make {path}: found {found}, expected {expected}. {remedy}")]
    Unwritable {
        path: PathBuf,
        found: String,
        expected: String,
        remedy: &'static str,
        #[source]
        source: Option<Cause>,
    },
}

impl FileError {
    /// For `map_err`: `action` is a verb such as "open".
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError::Io {
            path: path.to_path_buf(),
            action,
            remedy: match source.kind() {
                io::ErrorKind::NotFound => "Check the spelling, and that the folder exists.",
                io::ErrorKind::PermissionDenied => "Check who owns the file and its folder.",
                io::ErrorKind::AlreadyExists => {
                    "A file of this name was there already and was left as it is: move it away, or choose another name."
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "Free some disk space and try again."
                }
                io::ErrorKind::FileTooLarge => {
                    "The file system, or a limit of this process (ulimit -f), allows no file of this size."
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    "Choose a folder that can be written to, or have this one mounted for writing."
                }
                io::ErrorKind::NotADirectory => "A part of the path is a file where a folder is needed.",
                io::ErrorKind::IsADirectory => "Name a file, not a folder.",
                _ => "Check the disk and the path, and try again.",
            },
            source,
        }
    }

    /// A file that is not what its kind demands, with no error underneath.
    pub(crate) fn malformed(
        path: &Path,
        kind: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: &'static str,
    ) -> FileError {
        FileError::Malformed {
            path: path.to_path_buf(),
            kind,
            found: found.into(),
            expected: expected.into(),
            remedy,
            source: None,
        }
    }

    pub(super) fn unwritable(
        path: &Path,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: &'static str,
    ) -> FileError {
        FileError::Unwritable {
            path: path.to_path_buf(),
            found: found.into(),
            expected: expected.into(),
            remedy,
            source: None,
        }
    }

    /// For `map_err`: a drawing or an encoder failed on sizes and values that had passed our own checks.
    pub(super) fn encoding<E: Into<Cause>>(path: &Path) -> impl FnOnce(E) -> FileError {
        move |source| {
            let source = source.into();
            FileError::Unwritable {
                path: path.to_path_buf(),
                found: format!("a failure while encoding ({source})"),
                expected: "none".into(),
                remedy: "This is a fault of the program: please report it.",
                source: Some(source),
            }
        }
    }
}

/// Text from a file, fit to be shown: in quotes, control characters escaped, and cut when long.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// Text cut to a length that fits a message.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}… and {} bytes more", &text[..end], text.len() - end)),
    }
}
