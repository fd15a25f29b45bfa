//! A folder on disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Listing, Tree, is_hidden};
use crate::data::DataError;

/// The files below a folder, found by following links.
pub(in crate::data) struct Disk {
    root: PathBuf,
    tree: Tree,
}

impl Disk {
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let mut tree = Tree::default();
        walk(root, Path::new(""), &mut Vec::new(), &mut tree)?;
        tree.files.sort_unstable();
        Ok(Self { root: root.into(), tree })
    }
}

impl Listing for Disk {
    fn what(&self) -> &'static str {
        "folder"
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn size(&self, file: usize) -> Result<u64, DataError> {
        let path = self.path(file);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(DataError::Read { path, source }),
        }
    }

    fn read(&self, file: usize, limit: u64) -> Result<Vec<u8>, DataError> {
        let path = self.path(file);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(DataError::Read { path, source }),
        }
    }
}

/// Collects what lies in `root`/`below`. `above` holds the real paths of the folders above, where a link must not lead
/// back to.
fn walk(root: &Path, below: &Path, above: &mut Vec<PathBuf>, tree: &mut Tree) -> Result<(), DataError> {
    let folder = root.join(below);
    let unreadable = |source| DataError::Read { path: folder.clone(), source };
    let real = folder.canonicalize().map_err(unreadable)?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    if !below.as_os_str().is_empty() {
        tree.folders.insert(below.into());
    }
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if is_hidden(name.as_encoded_bytes()) {
            tree.hidden += 1;
            continue;
        }
        let path = below.join(name);
        match fs::metadata(root.join(&path)) {
            Ok(metadata) if metadata.is_dir() => walk(root, &path, above, tree)?,
            // A link to nothing is a file too: that it cannot be read is told of where it is read.
            Err(_) => tree.files.push(path),
            Ok(metadata) if metadata.is_file() => tree.files.push(path),
            Ok(_) => {}
        }
    }
    above.pop();
    Ok(())
}
