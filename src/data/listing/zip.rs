//! A zip file, read in place. Nothing in it is believed: names are labels and lead to no file on disk, and no more
//! bytes of an entry are inflated than are asked for.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::{Listing, Tree, is_hidden};
use crate::data::parallel::lock;
use crate::data::{DataError, read_head};

/// What a zip file begins with: an entry, or the end of one that is empty.
const MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// Whether a file is meant as a zip file: its name or its content says so.
pub(in crate::data) fn looks_like_zip(path: &Path) -> Result<bool, DataError> {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
    let head = read_head(path, 4)?;
    Ok(named || MAGICS.contains(&head.as_slice()))
}

/// The files of a zip file, without the folder that holds all of them, if there is one.
pub(in crate::data) struct Zip {
    root: PathBuf,
    tree: Tree,
    /// The entry of each file of the tree.
    entries: Vec<usize>,
    /// Inflates one entry at a time.
    archive: Mutex<ZipArchive<BufReader<File>>>,
}

impl Zip {
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let file = File::open(root).map_err(|source| DataError::Read { path: root.into(), source })?;
        let damaged = |source: ZipError| DataError::Zip { path: root.into(), source };
        let archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        let mut tree = Tree::default();
        let mut files = Vec::new();
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).map_err(damaged)?;
            let name = String::from_utf8_lossy(entry.name_raw());
            let name = entry.name().unwrap_or(name);
            let path = label(&name);
            if path.iter().any(|part| is_hidden(part.as_encoded_bytes())) {
                tree.hidden += 1;
            } else if entry.is_dir() || name.ends_with(['/', '\\']) {
                tree.folders.insert(path);
            } else if !path.as_os_str().is_empty() {
                files.push((path, index));
            }
        }
        for (path, _) in &files {
            tree.folders.extend(path.ancestors().skip(1).map(Path::to_path_buf));
        }
        strip_common_folder(&mut files, &mut tree);
        tree.folders.remove(Path::new(""));
        files.sort_unstable();
        let (paths, entries) = files.into_iter().unzip();
        tree.files = paths;
        Ok(Self { root: root.into(), tree, entries, archive: Mutex::new(archive) })
    }
}

/// Takes off the first folder where everything lies in it, as in the zip file of a folder.
fn strip_common_folder(files: &mut [(PathBuf, usize)], tree: &mut Tree) {
    let Some((first, _)) = files.first() else { return };
    let Some(top) = first.iter().next().map(PathBuf::from) else { return };
    let inside = |path: &Path| path.starts_with(&top) && path != top;
    let folders_inside =
        tree.folders.iter().all(|path| path.starts_with(&top) || path.as_os_str().is_empty());
    if !folders_inside || !files.iter().all(|(path, _)| inside(path)) {
        return;
    }
    let strip = |path: &Path| path.strip_prefix(&top).unwrap_or(path).to_path_buf();
    for (path, _) in files {
        *path = strip(path);
    }
    tree.folders = tree.folders.iter().map(|path| strip(path)).collect();
}

/// The name of an entry as a relative path. Folders are parted by `/`, by older programs of Windows by `\`; a leading
/// one and `..` lead nowhere.
pub(in crate::data) fn label(name: &str) -> PathBuf {
    name.split(['/', '\\']).filter(|part| !matches!(*part, "" | "." | "..")).collect()
}

impl Listing for Zip {
    fn what(&self) -> &'static str {
        "zip file"
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn size(&self, file: usize) -> Result<u64, DataError> {
        let archive = lock(&self.archive);
        let entry = archive.by_index_data(self.entries[file]);
        entry.map(|entry| entry.size()).map_err(|error| self.refusal(file, error))
    }

    fn read(&self, file: usize, limit: u64) -> Result<Vec<u8>, DataError> {
        let mut archive = lock(&self.archive);
        let method = archive.by_index_data(self.entries[file]).map(|entry| entry.compression());
        if let Ok(method) = method
            && !matches!(method, CompressionMethod::Stored | CompressionMethod::Deflated)
        {
            return Err(self.refusal(file, ZipError::CompressionMethodNotSupported(0)));
        }
        let entry = archive.by_index(self.entries[file]).map_err(|error| self.refusal(file, error))?;
        let mut bytes = Vec::new();
        match entry.take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.refusal(file, ZipError::Io(error))),
        }
    }
}

impl Zip {
    /// Why an entry cannot be read.
    fn refusal(&self, file: usize, error: ZipError) -> DataError {
        let (found, remedy) = match error {
            ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
                ("is encrypted".into(), "unpack the zip file with its password, and give the folder")
            }
            ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => (
                "is not stored or deflated, but compressed in a way that is not read".into(),
                "unpack the zip file, and give the folder",
            ),
            error => (format!("does not inflate ({error})"), "copy or download the zip file again"),
        };
        DataError::ZipEntry { path: self.path(file), found, remedy }
    }
}
