//! Where arrays lie, each under a name: in a `.npz` archive, or as `.npy` files in a folder.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::super::raw::printable;
use super::{DataError, Problem};

const EXTENSION: &str = ".npy";

/// Arrays by name.
#[derive(Clone, Debug)]
pub(in crate::data) enum Container {
    Npz(PathBuf),
    /// A folder, and the names of its `.npy` files without their extension, in order.
    Folder(PathBuf, Vec<String>),
}

impl Container {
    pub fn path(&self) -> &Path {
        match self {
            Self::Npz(path) | Self::Folder(path, _) => path,
        }
    }

    /// What messages call an array.
    pub fn place(&self, name: &str) -> String {
        match self {
            Self::Npz(path) => format!("{}, array `{}`", path.display(), printable(name)),
            Self::Folder(folder, _) => folder.join(format!("{name}{EXTENSION}")).display().to_string(),
        }
    }

    /// The names of the arrays, in order.
    pub fn names(&self) -> Result<Vec<String>, DataError> {
        match self {
            Self::Folder(_, names) => Ok(names.clone()),
            Self::Npz(path) => {
                let archive = open(path)?;
                let names = archive.file_names().filter_map(Result::ok);
                let mut names: Vec<String> =
                    names.map(|name| name.strip_suffix(EXTENSION).unwrap_or(&name).to_owned()).collect();
                names.sort_unstable();
                Ok(names)
            }
        }
    }

    /// Calls `read` with the bytes of an array and, where it is known, how many there are.
    pub fn with<T>(
        &self,
        name: &str,
        read: impl FnOnce(&mut dyn Read, Option<u64>) -> Result<T, Problem>,
    ) -> Result<T, DataError> {
        let read = |stream: &mut dyn Read, bytes| {
            read(stream, bytes).map_err(|problem| DataError::Numpy { place: self.place(name), problem })
        };
        match self {
            Self::Folder(folder, _) => {
                let path = folder.join(format!("{name}{EXTENSION}"));
                let unreadable = |source| DataError::Read { path: path.clone(), source };
                let file = File::open(&path).map_err(unreadable)?;
                let bytes = file.metadata().map_err(unreadable)?.len();
                read(&mut BufReader::new(file), Some(bytes))
            }
            Self::Npz(path) => {
                let mut archive = open(path)?;
                let member = format!("{name}{EXTENSION}");
                let member = if archive.index_for_name(&member).is_some() { &member } else { name };
                let mut file = archive
                    .by_name(member)
                    .map_err(|source| DataError::Npz { path: path.clone(), source })?;
                read(&mut file, None)
            }
        }
    }
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.into(), source })?;
    ZipArchive::new(BufReader::new(file)).map_err(|source| DataError::Npz { path: path.into(), source })
}
