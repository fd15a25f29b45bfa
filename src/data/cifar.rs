//! The CIFAR-10 binary layout: records of a label byte and 32 x 32 red, green and blue planes.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DataError, Dataset, Opening, Options, picture, read_head};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const NAMES_FILE: &str = "batches.meta.txt";

/// The training files among the (sorted) `names` of a folder.
pub(super) fn find_batches(folder: &Path, names: &[String]) -> Vec<PathBuf> {
    let is_batch = |name: &&String| name.starts_with("data_batch_") && name.ends_with(".bin");
    names.iter().filter(is_batch).map(|name| folder.join(name)).collect()
}

/// Reads binary files one after another; class names are those of `batches.meta.txt` beside the first,
/// or the published ones if there is none.
pub(super) fn dataset(files: &[PathBuf], opening: &mut Opening) -> Result<Dataset, DataError> {
    let options = opening.options;
    opening.report.layout = "CIFAR-10".into();
    let mut records = 0;
    for path in files {
        let bytes =
            fs::metadata(path).map_err(|source| DataError::Read { path: path.clone(), source })?.len();
        check_length(path, bytes)?;
        records += bytes / RECORD as u64;
    }
    let spec = files.first().map(|path| path.display().to_string()).unwrap_or_default();
    let raw = Options { size: (SIDE, SIDE), channels: 3, ..options.clone() };
    raw.check_memory(&spec, records)?;
    options.check_memory(&spec, records)?;

    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        check_length(path, bytes.len() as u64)?;
        for (record, row) in bytes.chunks_exact(RECORD).enumerate() {
            let (label, planes) = (row[0], &row[1..]);
            if usize::from(label) >= CLASSES.len() {
                return Err(DataError::CifarLabel { path: path.clone(), record, label });
            }
            let rgb = |i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]];
            let rgb: Vec<u8> = (0..PLANE).flat_map(rgb).collect();
            pixels.extend(picture::fit_raw(&rgb, (SIDE, SIDE), options));
            labels.push(u32::from(label));
        }
    }
    let names = files.first().map_or(Ok(CLASSES.map(String::from).into()), |path| class_names(path))?;
    Ok(Dataset::from_parts(options, names, pixels, labels))
}

fn check_length(path: &Path, bytes: u64) -> Result<(), DataError> {
    if bytes == 0 || !bytes.is_multiple_of(RECORD as u64) {
        return Err(DataError::CifarLength { path: path.into(), bytes });
    }
    Ok(())
}

fn class_names(batch: &Path) -> Result<Vec<String>, DataError> {
    let path = batch.with_file_name(NAMES_FILE);
    if !path.is_file() {
        return Ok(CLASSES.map(String::from).into());
    }
    let text = String::from_utf8_lossy(&read_head(&path, 1 << 16)?).into_owned();
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
    match names.len() {
        10 => Ok(names),
        found => Err(DataError::CifarNames { path, found }),
    }
}
