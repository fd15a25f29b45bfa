//! A folder of pictures, decoded by several threads in a fixed order.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::picture::{self, Kind, PictureError};
use super::{DataError, Dataset, Opening, Options, Progress, Unused, read_head};

/// Reads every picture below `root`, in the order of their paths.
pub(super) fn dataset(root: &Path, opening: &mut Opening) -> Result<Dataset, DataError> {
    let options = opening.options;
    opening.report.layout = "folder of pictures".into();
    let mut files = Vec::new();
    walk(root, &mut Vec::new(), &mut files)?;
    if files.is_empty() {
        return Err(DataError::EmptyFolder { path: root.into() });
    }
    files.sort_unstable();
    let mut pictures = Vec::new();
    for file in &files {
        match picture::kind(file, &read_head(file, picture::HEAD)?) {
            Kind::Picture(format) => {
                *opening.report.formats.entry(format).or_default() += 1;
                pictures.push(file.clone());
            }
            Kind::Unread { kind, remedy } => {
                opening.report.unused.push(Unused { path: file.clone(), kind, remedy });
            }
            Kind::Other => {}
        }
    }
    if pictures.is_empty() {
        return Err(DataError::NoPicture { path: root.into(), files: files.len() });
    }
    let (class_names, labels) = classes(root, &pictures)?;
    options.check_memory(&root.display().to_string(), pictures.len() as u64)?;
    Ok(Dataset::from_parts(options, class_names, decode_all(&pictures, options, opening.progress)?, labels))
}

/// Collects the files below `folder`, following links, except hidden ones (`.DS_Store`, `._a.jpg`).
/// `above` holds the real paths of the folders above, where a link must not lead back to.
fn walk(folder: &Path, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: folder.into(), source };
    let real = folder.canonicalize().map_err(unreadable)?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let metadata =
            fs::metadata(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        if metadata.is_dir() {
            walk(&path, above, files)?;
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    above.pop();
    Ok(())
}

/// The class names and the label of each picture, by the first folder below `root`; both empty if all
/// pictures lie in `root` itself. `pictures` is sorted, so a class is a run of neighbours.
fn classes(root: &Path, pictures: &[PathBuf]) -> Result<(Vec<String>, Vec<u32>), DataError> {
    let class = |picture: &Path| {
        let mut parts = picture.strip_prefix(root).ok()?.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let (mut names, mut labels, mut label) = (Vec::new(), Vec::new(), 0);
    let mut stray = None;
    for picture in pictures {
        let Some(name) = class(picture) else {
            stray = Some(picture);
            continue;
        };
        if names.last().is_some_and(|last| *last != name) {
            label += 1;
        }
        if names.last() != Some(&name) {
            names.push(name);
        }
        labels.push(label);
    }
    match stray {
        Some(stray) if !names.is_empty() => {
            Err(DataError::MixedFolder { path: root.into(), stray: stray.clone() })
        }
        _ => Ok((names, labels)),
    }
}

/// Decodes every picture into its row of `[N, H, W, C]`. If several fail, the first in order is
/// reported, whatever the threads do: work is taken in order, so all before it were taken too.
fn decode_all(pictures: &[PathBuf], options: &Options, progress: &Progress) -> Result<Vec<u8>, DataError> {
    let mut pixels = vec![0; pictures.len() * options.stride()];
    let work = Mutex::new(pictures.iter().zip(pixels.chunks_exact_mut(options.stride())).enumerate());
    let failures = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let decode = || {
        while !stop.load(Ordering::Relaxed) {
            let Some((i, (path, row))) = lock(&work).next() else { break };
            progress(i, pictures.len());
            match read_file(path, options).and_then(|bytes| {
                picture::load(path, &bytes, options)
                    .map_err(|reason| DataError::Picture { path: path.clone(), reason })
            }) {
                Ok(decoded) => row.copy_from_slice(&decoded),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    lock(&failures).push((i, error));
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pictures.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(decode);
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|poison| poison.into_inner());
    match failures.into_iter().min_by_key(|(i, _)| *i) {
        Some((_, error)) => Err(error),
        None => Ok(pixels),
    }
}

/// Locks whether or not another thread panicked; the panic itself ends the scope.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The bytes of a file that may be a picture.
pub(super) fn read_file(path: &Path, options: &Options) -> Result<Vec<u8>, DataError> {
    let unreadable = |source| DataError::Read { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > options.max_picture_bytes {
        let reason = PictureError::FileTooLarge { bytes, limit: options.max_picture_bytes };
        return Err(DataError::Picture { path: path.into(), reason });
    }
    fs::read(path).map_err(unreadable)
}
