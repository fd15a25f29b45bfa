//! The page's files: a folder that was dropped, a run that is downloaded, and zip files of them.

use super::{Failure, Result};
use crate::io::disk;
use std::io::{Cursor, Read as _, Write as _};
use std::path::Path;
use wasm_bindgen::prelude::wasm_bindgen;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Bytes of a zip file's contents, at most: as many as a page may sensibly hold.
const MOST_BYTES: u64 = 1 << 30;

/// Puts a file at a path, in the place of whatever is there.
#[wasm_bindgen]
pub fn mount(path: &str, bytes: Vec<u8>) {
    disk::put(Path::new(path), bytes);
}

/// Removes a folder with all that it holds.
#[wasm_bindgen]
pub fn unmount(folder: &str) {
    disk::remove_folder(Path::new(folder));
}

/// Puts the files of a zip file into a folder, those of its only folder if it has but one.
///
/// # Errors
/// A file that is no zip file, or holds more than a page may.
#[wasm_bindgen]
pub fn mount_zip(folder: &str, bytes: &[u8]) -> Result<()> {
    let mut zip = ZipArchive::new(Cursor::new(bytes))
        .map_err(|e| Failure::input(format!("this is not a zip file that can be opened: {e}")))?;
    let mut files = Vec::new();
    let mut room = MOST_BYTES;
    for number in 0..zip.len() {
        let file = zip.by_index(number)?;
        let Some(path) = file.enclosed_name().filter(|_| file.is_file()) else { continue };
        let mut content = Vec::new();
        file.take(room + 1).read_to_end(&mut content)?;
        room = room.checked_sub(content.len() as u64).ok_or_else(|| {
            Failure::input(format!("the zip file holds more than {} MiB", MOST_BYTES >> 20))
        })?;
        files.push((path, content));
    }
    let mut first = files.iter().map(|(path, _)| path.components().next());
    let top = first.next().flatten().map(|top| top.as_os_str().to_owned());
    let only =
        top.filter(|top| files.iter().all(|(path, _)| path != Path::new(top) && path.starts_with(top)));
    for (path, content) in files {
        let path = only.as_ref().and_then(|top| path.strip_prefix(top).ok()).unwrap_or(&path);
        disk::put(&Path::new(folder).join(path), content);
    }
    Ok(())
}

/// The files of a folder as a zip file, below a folder of this name.
///
/// # Errors
/// More than a zip file holds.
#[wasm_bindgen]
pub fn zipped(folder: &str, name: &str) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // Weights hardly shrink: 8 % for ten times the time.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (path, bytes) in disk::below(Path::new(folder)) {
        zip.start_file(format!("{name}/{}", path.display()), options)?;
        zip.write_all(&bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}
