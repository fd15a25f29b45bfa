//! Files by path: those of the file system, or in a browser, which has none, those that the page holds in memory.

#[cfg(not(target_arch = "wasm32"))]
mod system {
    pub(crate) use std::fs::File;
    use std::io::{BufWriter, Result};
    use std::path::{Path, PathBuf};

    /// What [`crate::io::atomic::write_atomic`] writes into.
    pub(crate) type Output<'a> = BufWriter<&'a File>;

    pub(crate) fn exists(path: &Path) -> bool {
        path.exists()
    }

    pub(crate) fn is_file(path: &Path) -> bool {
        path.is_file()
    }

    pub(crate) fn is_folder(path: &Path) -> bool {
        path.is_dir()
    }

    /// The paths in a folder, in no order.
    pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
        Ok(std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect())
    }

    pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
        std::fs::read(path)
    }

    pub(crate) fn remove(path: &Path) -> Result<()> {
        std::fs::remove_file(path)
    }
}

#[cfg(target_arch = "wasm32")]
mod memory {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::{Cursor, Error, ErrorKind, Result};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    /// What [`crate::io::atomic::write_atomic`] writes into.
    pub(crate) type Output<'a> = Cursor<Vec<u8>>;

    /// An open file.
    pub(crate) type File = Cursor<Arc<[u8]>>;

    type Files = BTreeMap<PathBuf, Arc<[u8]>>;

    fn files() -> MutexGuard<'static, Files> {
        static FILES: Mutex<Files> = Mutex::new(BTreeMap::new());
        FILES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn exists(path: &Path) -> bool {
        is_file(path) || is_folder(path)
    }

    pub(crate) fn is_file(path: &Path) -> bool {
        files().contains_key(path)
    }

    pub(crate) fn is_folder(path: &Path) -> bool {
        files().keys().any(|file| file != path && file.starts_with(path))
    }

    /// The paths in a folder, in their order.
    pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
        let within = |file: &PathBuf| Some(folder.join(file.strip_prefix(folder).ok()?.components().next()?));
        let found: BTreeSet<PathBuf> = files().keys().filter_map(within).collect();
        if found.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(found.into_iter().collect()) }
    }

    pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
        Ok(open(path)?.0.into_inner().to_vec())
    }

    pub(crate) fn remove(path: &Path) -> Result<()> {
        files().remove(path).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// A file for reading, and its length in bytes.
    pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
        let bytes = files().get(path).cloned().ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        let length = bytes.len() as u64;
        Ok((Cursor::new(bytes), length))
    }

    /// Puts a file in the place of whatever is there.
    pub(crate) fn put(path: &Path, bytes: Vec<u8>) {
        files().insert(path.into(), bytes.into());
    }

    /// Every file below a folder, by its path in there.
    #[cfg(feature = "web")]
    pub(crate) fn below(folder: &Path) -> Vec<(PathBuf, Arc<[u8]>)> {
        let within = |(file, bytes): (&PathBuf, &Arc<[u8]>)| {
            Some((file.strip_prefix(folder).ok()?.to_path_buf(), bytes.clone()))
        };
        files().iter().filter_map(within).collect()
    }

    /// Removes a folder with all that it holds.
    #[cfg(feature = "web")]
    pub(crate) fn remove_folder(folder: &Path) {
        files().retain(|file, _| !file.starts_with(folder));
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use memory::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use system::*;
