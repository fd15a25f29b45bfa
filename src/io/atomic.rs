//! Writing a file so that a crash leaves the old one or the new one, never a torn one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::FileError;

/// Writes `path` through a temporary file beside it, which is flushed to the disk and then renamed into place.
/// On any failure the temporary file is removed and whatever was at `path` is untouched.
pub(crate) fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // `File::create_new` gives the permissions of an ordinary file; tempfile's own would be for the owner alone.
    let temporary = tempfile::Builder::new()
        .prefix(".inkwash-")
        .suffix(".tmp")
        .make_in(folder, |name| File::create_new(name))
        .map_err(FileError::io("create a file beside", path))?;

    let mut writer = BufWriter::new(temporary.as_file());
    fill(&mut writer).and_then(|()| writer.flush()).map_err(FileError::io("write", path))?;
    drop(writer);
    temporary.as_file().sync_all().map_err(FileError::io("flush to disk", path))?;
    temporary.persist(path).map_err(|failed| FileError::io("rename into place", path)(failed.error))?;

    // The rename itself is only durable once the folder is on the disk, which only Unix lets us ask for.
    #[cfg(unix)]
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::io("flush the folder of", path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(b"half of the ne")?;
            Err(std::io::Error::other("the plug was pulled"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("the plug was pulled"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomic(&folder.path().join("no/such/file"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("no/such/file") && error.contains("folder exists"), "{error}");
    }
}
