//! Writing a file so that a crash leaves the old one or the new one, never a torn one.

use std::fs::File;
#[cfg(not(target_arch = "wasm32"))]
use std::fs::TryLockError;
use std::io::ErrorKind;
#[cfg(not(target_arch = "wasm32"))]
use std::io::{BufWriter, Write};
use std::path::Path;

use super::FileError;
use super::disk::Output;

#[cfg(target_arch = "wasm32")]
use super::disk;

const PREFIX: &str = ".inkwash-";
const SUFFIX: &str = ".tmp";
/// Letters and digits between the two.
const RANDOM: usize = 12;

/// Writes `path` through a temporary file beside it, which is flushed to the disk and then renamed into place.
/// On any failure the temporary file is removed and whatever was at `path` is untouched. If the process is killed,
/// the temporary file stays until [`remove_abandoned`].
pub(crate) fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut Output<'_>) -> std::io::Result<()>,
) -> Result<(), FileError> {
    write(path, fill, true)
}

/// As [`write_atomic`], but whatever is at `path` stays, and is an error: also what appears there in the meantime.
pub(crate) fn write_new(
    path: &Path,
    fill: impl FnOnce(&mut Output<'_>) -> std::io::Result<()>,
) -> Result<(), FileError> {
    write(path, fill, false)
}

#[cfg(not(target_arch = "wasm32"))]
fn write(
    path: &Path,
    fill: impl FnOnce(&mut Output<'_>) -> std::io::Result<()>,
    replace: bool,
) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .rand_bytes(RANDOM)
        .make_in(folder, create_locked)
        .map_err(FileError::io("create a file beside", path))?;

    let mut writer = BufWriter::new(temporary.as_file());
    fill(&mut writer).and_then(|()| writer.flush()).map_err(FileError::io("write", path))?;
    drop(writer);
    temporary.as_file().sync_all().map_err(FileError::io("flush to disk", path))?;
    let renamed = if replace { temporary.persist(path) } else { temporary.persist_noclobber(path) };
    renamed.map_err(|failed| FileError::io("rename into place", path)(failed.error))?;

    // The rename itself is only durable once the folder is on the disk, which only Unix lets us ask for.
    #[cfg(unix)]
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::io("flush the folder of", path))?;
    Ok(())
}

/// In memory nothing is ever torn.
#[cfg(target_arch = "wasm32")]
fn write(
    path: &Path,
    fill: impl FnOnce(&mut Output<'_>) -> std::io::Result<()>,
    replace: bool,
) -> Result<(), FileError> {
    if !replace && disk::exists(path) {
        return Err(FileError::io("create", path)(ErrorKind::AlreadyExists.into()));
    }
    let mut output = Output::default();
    fill(&mut output).map_err(FileError::io("write", path))?;
    disk::put(path, output.into_inner());
    Ok(())
}

/// A new file, locked for as long as it is open: by the lock others know that its writer is alive. The operating
/// system takes it off a dead one, whatever has become of its process number and wherever it ran.
#[cfg(not(target_arch = "wasm32"))]
fn create_locked(name: &Path) -> std::io::Result<File> {
    // This gives the permissions of an ordinary file; tempfile's own would be for the owner alone.
    let file = File::create_new(name)?;
    match file.try_lock() {
        // It was taken for abandoned before it was locked: try another name.
        Err(TryLockError::WouldBlock) => Err(ErrorKind::AlreadyExists.into()),
        Ok(()) if !name.exists() => Err(ErrorKind::AlreadyExists.into()),
        // Where a file system has no locks, nothing is ever taken for abandoned.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether a file of this name is a temporary one.
pub(crate) fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Removes the temporary files that killed writers have left in `folder`. Those of living ones, of this process or
/// another, stay, and so does every other file. Does nothing where the folder cannot be read.
pub fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(is_temporary);
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        // For writing, which locks of network file systems ask for.
        let opened = File::options().write(true).open(&path);
        if let Ok(file) = opened
            && file.try_lock().is_ok()
        {
            // Left in place if it cannot be removed; the next start tries again.
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in a folder, sorted.
    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A process that is killed while it writes: this same test, started once more.
    #[test]
    fn what_a_killed_writer_leaves_is_removed_later() {
        const FOLDER: &str = "INKWASH_TEST_KILLED_WRITER";
        if let Some(folder) = std::env::var_os(FOLDER) {
            let _ = write_atomic(&Path::new(&folder).join("weights"), |out| {
                out.write_all(b"half of the ne")?;
                out.flush()?;
                std::process::abort();
            });
        }
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("weights"), "old").unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "io::atomic::tests::what_a_killed_writer_leaves_is_removed_later"])
            .env(FOLDER, folder)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success());
        assert_eq!(names(folder).len(), 2, "the killed writer left no file: {:?}", names(folder));
        remove_abandoned(folder);
        assert_eq!(names(folder), ["weights"]);
        assert_eq!(std::fs::read(folder.join("weights")).unwrap(), b"old");
    }

    #[test]
    fn a_living_writers_file_and_a_users_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mine =
            [".inkwash-.tmp", ".inkwash-notes.tmp", ".inkwash-twelve.chars.tmp", "inkwash-abcdefghijkl.tmp"];
        for name in mine {
            std::fs::write(folder.join(name), "mine").unwrap();
        }
        std::fs::create_dir(folder.join(".inkwash-abcdefghijkl.tmp")).unwrap();
        write_atomic(&folder.join("weights"), |out| {
            let before = names(folder);
            remove_abandoned(folder);
            assert_eq!(names(folder), before);
            out.write_all(b"new")
        })
        .unwrap();
        assert_eq!(std::fs::read(folder.join("weights")).unwrap(), b"new");
        assert_eq!(names(folder).len(), mine.len() + 2);
        remove_abandoned(&folder.join("no such folder"));
    }

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
    fn a_new_file_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        let error = write_new(&path, |out| {
            // Another program is faster.
            std::fs::write(&path, "mine")?;
            out.write_all(b"new")
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("picture") && error.contains("left as it is"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert_eq!(names(folder.path()), ["picture"]);
        std::fs::remove_file(&path).unwrap();
        write_new(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomic(&folder.path().join("no/such/file"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("no/such/file") && error.contains("folder exists"), "{error}");
    }
}
