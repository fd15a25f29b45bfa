//! The files below a root: of a folder on disk, or of a zip file that is read in place.

mod disk;
mod zip;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) use disk::Disk;
pub(super) use zip::{Zip, label, looks_like_zip};

use super::{DataError, PictureError};

/// What lies below a root, by paths relative to it. Hidden files and what lies in hidden folders is left out.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Sorted.
    pub files: Vec<PathBuf>,
    /// All folders, empty ones too.
    pub folders: BTreeSet<PathBuf>,
    /// How many hidden files and folders were met.
    pub hidden: usize,
}

/// The files below a root. A file is named by its index in the tree.
pub(super) trait Listing: Sync {
    /// What kind of thing the root is, in words.
    fn what(&self) -> &'static str;

    /// The root, for messages.
    fn root(&self) -> &Path;

    fn tree(&self) -> &Tree;

    /// How long a file says to be, in bytes.
    fn size(&self, file: usize) -> Result<u64, DataError>;

    /// Up to `limit` bytes from the start of a file.
    fn read(&self, file: usize, limit: u64) -> Result<Vec<u8>, DataError>;

    /// Where a file lies, for messages.
    fn path(&self, file: usize) -> PathBuf {
        self.root().join(&self.tree().files[file])
    }

    /// All bytes of a file that has at most `limit`.
    fn read_whole(&self, file: usize, limit: u64) -> Result<Vec<u8>, DataError> {
        let too_large = |bytes| DataError::Picture {
            path: self.path(file),
            reason: PictureError::FileTooLarge { bytes, limit },
        };
        let bytes = self.size(file)?;
        if bytes > limit {
            return Err(too_large(bytes));
        }
        // A zip file may say less than there is, and a file on disk may grow.
        let bytes = self.read(file, limit.saturating_add(1))?;
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64));
        }
        Ok(bytes)
    }
}

/// Whether a file or folder of this name is not for people to see: `.DS_Store`, `._a.jpg`, what the zip files of macOS
/// have beside the pictures, and the thumbnails that network disks of Synology keep.
fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".") || name == b"__MACOSX" || name == b"@eaDir"
}
