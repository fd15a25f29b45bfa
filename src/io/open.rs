//! Opening a file that somebody else wrote.

use super::FileError;
use std::fs::File;
use std::path::Path;

/// An ordinary file for reading, and its length in bytes. `kind` is for messages.
pub(crate) fn open_file(path: &Path, kind: &'static str) -> Result<(File, u64), FileError> {
    let about = std::fs::metadata(path).map_err(FileError::io("open", path))?;
    if !about.is_file() {
        // Opening a pipe would wait forever, and a device may never end.
        let remedy = "Name the file itself.";
        return Err(FileError::malformed(path, kind, "a folder, pipe or device", "an ordinary file", remedy));
    }
    Ok((File::open(path).map_err(FileError::io("open", path))?, about.len()))
}
