//! Pictures in a folder or zip file: which files are pictures, what their folders mean, and all of them decoded by
//! several threads in a fixed order.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{ImageFormat, ImageReader};

use super::edm::{self, Edm};
use super::listing::Listing;
use super::parallel::{for_each, lock};
use super::picture::{self, Kind};
use super::report::{DamagedPicture, PassedOver, SourceFile, Unused};
use super::{Damaged, DataError, Dataset, Opening, classes};

/// Reads every picture of a listing, in the order of their paths.
pub(super) fn dataset(listing: &dyn Listing, opening: &mut Opening) -> Result<Dataset, DataError> {
    let root = || listing.root().to_path_buf();
    opening.report.layout = format!("{} of pictures", listing.what());
    let outputs = outputs(listing, opening)?;
    let left_out = |path: &Path| !outputs.is_empty() && path.ancestors().any(|above| outputs.contains(above));
    let paths = &listing.tree().files;
    let mut files: Vec<usize> = (0..paths.len()).filter(|&file| !left_out(&paths[file])).collect();
    let edm = match files.iter().position(|&file| paths[file] == Path::new(edm::FILE)) {
        Some(position) => Edm::read(listing, files.remove(position), opening)?,
        None => None,
    };
    if files.is_empty() {
        return Err(DataError::EmptyFolder { path: root(), hidden: listing.tree().hidden });
    }
    let kinds = kinds(listing, &files, opening);
    let pictures = |files: &[usize], kinds: &[Kind]| -> Vec<usize> {
        let is_picture = |kind: &Kind| matches!(kind, Kind::Picture(_));
        files.iter().zip(kinds).filter(|(_, kind)| is_picture(kind)).map(|(&file, _)| file).collect()
    };
    let found = pictures(&files, &kinds);
    let base = match (&edm, &opening.options.split) {
        (None, _) => classes::choose_split(listing, &found, opening)?,
        (Some(_), Some(split)) => return Err(DataError::NoSplits { path: root(), split: split.clone() }),
        (Some(_), None) => PathBuf::new(),
    };
    let found: Vec<usize> = found.into_iter().filter(|&file| paths[file].starts_with(&base)).collect();
    let files: Vec<_> =
        files.into_iter().zip(kinds).filter(|(file, _)| paths[*file].starts_with(&base)).collect();
    count_kinds(listing, &files, opening);
    if found.is_empty() {
        return Err(DataError::NoPicture {
            path: root(),
            files: files.len(),
            unused: opening.report.unused_in_words(),
        });
    }
    let (class_names, labels) = match edm {
        Some(edm) => edm.labels(listing, &found, opening)?,
        None => classes::by_folder(listing, &base, &found, left_out, opening)?,
    };
    opening.options.check_memory(&root().display().to_string(), found.len() as u64)?;
    let (pixels, kept) = decode(listing, &found, opening)?;
    let labels = labels.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(label, _)| label).collect();
    Ok(Dataset::from_parts(opening.options, class_names, pixels, labels))
}

/// The folders that inkwash wrote: what it drew is not to be learned by mistake.
fn outputs(listing: &dyn Listing, opening: &mut Opening) -> Result<BTreeSet<PathBuf>, DataError> {
    let tree = listing.tree();
    let mut outputs = BTreeSet::new();
    for file in &tree.files {
        let (Some(name), Some(folder)) = (file.file_name(), file.parent()) else { continue };
        let is_root = folder.as_os_str().is_empty();
        let reason = if name == "config.toml" && tree.folders.contains(&folder.join("checkpoints")) {
            if is_root {
                return Err(DataError::RunFolder { path: listing.root().into() });
            }
            "a run folder of `inkwash train`"
        } else if name == "samples.json" && !is_root {
            "pictures of `inkwash sample`"
        } else {
            continue;
        };
        if outputs.insert(folder.to_path_buf()) {
            let path = listing.root().join(folder);
            opening.report.passed_over.push(PassedOver { path, reason: reason.into() });
        }
    }
    Ok(outputs)
}

/// What each of the files is. One that cannot be read is taken for a picture, so that it is told of as damaged.
fn kinds(listing: &dyn Listing, files: &[usize], opening: &Opening) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = files.iter().map(|_| Kind::Other).collect();
    for_each(files.iter().zip(&mut kinds), |(&file, kind)| {
        *kind = match listing.read(file, picture::HEAD) {
            Ok(head) => picture::kind(&listing.tree().files[file], &head),
            Err(_) => Kind::Picture("unreadable"),
        };
        // None is decoded yet.
        (opening.progress)(0, files.len());
    });
    kinds
}

/// Tells of the files by kind.
fn count_kinds(listing: &dyn Listing, files: &[(usize, Kind)], opening: &mut Opening) {
    let report = &mut *opening.report;
    for (file, kind) in files {
        match *kind {
            Kind::Picture(format) => *report.formats.entry(format).or_default() += 1,
            Kind::Unread { kind, remedy } => {
                report.unused.push(Unused { path: listing.path(*file), kind, remedy });
            }
            Kind::Other => report.other.count(&listing.tree().files[*file]),
        }
    }
}

/// Decodes every picture into its row of `[N, H, W, C]`, of which the rows of damaged pictures are left out, and tells
/// which are kept.
fn decode(
    listing: &dyn Listing,
    pictures: &[usize],
    opening: &mut Opening,
) -> Result<(Vec<u8>, Vec<bool>), DataError> {
    let options = opening.options;
    let stride = options.stride();
    let mut pixels = vec![0; pictures.len() * stride];
    let mut sources: Vec<SourceFile> = pictures.iter().map(|_| SourceFile::default()).collect();
    let damaged = Mutex::new(Vec::new());
    let done = AtomicUsize::new(0);
    let rows = pictures.iter().zip(pixels.chunks_exact_mut(stride)).zip(&mut sources).enumerate();
    for_each(rows, |(i, ((&file, row), source))| {
        let path = listing.path(file);
        let decoded = listing.read_whole(file, options.max_picture_bytes).and_then(|encoded| {
            match picture::load(&path, &encoded, options) {
                Ok(pixels) => Ok((pixels, encoded)),
                Err(reason) => Err(DataError::Picture { path: path.clone(), reason }),
            }
        });
        match decoded {
            Ok((pixels, encoded)) => {
                row.copy_from_slice(&pixels);
                *source = SourceFile { size: size(&path, &encoded), path, digest: digest(&encoded) };
            }
            Err(error) => lock(&damaged).push((i, DamagedPicture::new(path, &error))),
        }
        (opening.progress)(1 + done.fetch_add(1, Ordering::Relaxed), pictures.len());
    });
    let mut damaged = damaged.into_inner().unwrap_or_else(|poison| poison.into_inner());
    damaged.sort_unstable_by_key(|(i, _)| *i);
    let mut kept = vec![true; pictures.len()];
    for (i, picture) in damaged {
        kept[i] = false;
        opening.report.damaged.push(picture);
    }
    let report = &mut *opening.report;
    let left = pictures.len() - report.damaged.len();
    if !report.damaged.is_empty() && (options.damaged == Damaged::Refuse || left == 0) {
        return Err(DataError::damaged(listing.root(), report, left));
    }
    if left < pictures.len() {
        let rows = (0..pictures.len()).filter(|&i| kept[i]);
        for (to, from) in rows.enumerate() {
            pixels.copy_within(from * stride..(from + 1) * stride, to * stride);
        }
        pixels.truncate(left * stride);
    }
    report.files = sources.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(file, _)| file).collect();
    Ok((pixels, kept))
}

/// Width and height as the file says.
fn size(path: &Path, encoded: &[u8]) -> Option<(u32, u32)> {
    let mut reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format().ok()?;
    // TGA has no magic.
    if reader.format().is_none() {
        reader.set_format(ImageFormat::from_path(path).ok()?);
    }
    reader.into_dimensions().ok()
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
