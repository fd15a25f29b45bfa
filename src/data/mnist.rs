//! The MNIST family: IDX files of pictures and labels under known names, of which several parts, and for EMNIST several
//! sets, may lie together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::idx::{self, Idx};
use super::split::{self, Part};
use super::{DataError, Dataset, MAX_SIDE, Opening, raw, read_head};

/// Balanced and ByMerge give these small letters a class of their own; the others look like their capitals.
const OWN_SMALL_LETTERS: &str = "abdefghnqrt";

/// What the name of a file of the family says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    part: Part,
    labels: bool,
    emnist: bool,
    gzip: bool,
}

impl Name {
    /// Understands `train-images-idx3-ubyte`, `t10k-labels.idx1-ubyte.gz`, `emnist-letters-test-images-idx3-ubyte`,
    /// `qmnist-train-labels-idx2-int` and the like.
    fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        const SEPARATORS: [char; 3] = ['-', '.', '_'];
        let kinds = [("images", "idx3", false), ("labels", "idx1", true), ("labels", "idx2", true)];
        let (prefix, labels) = kinds.iter().find_map(|(what, rank, labels)| {
            let (prefix, rest) = name.split_once(what)?;
            rest.strip_prefix(SEPARATORS)?.starts_with(rank).then_some((prefix, *labels))
        })?;
        let prefix = prefix.trim_end_matches(SEPARATORS);
        let (set, last) = prefix.rsplit_once(SEPARATORS).unwrap_or(("", prefix));
        let (set, part) = Part::word(last).map_or((prefix, Part::WHOLE), |part| (set, part));
        let short = set.strip_prefix("emnist").map(|set| set.trim_start_matches(SEPARATORS));
        let set = match short.unwrap_or(set) {
            "" => Part::ALONE,
            set => set,
        };
        let part = Part { set: set.into(), part: part.into() };
        Some(Self { part, labels, emnist: short.is_some(), gzip: name.ends_with(".gz") })
    }

    fn of(path: &Path) -> Option<Self> {
        Self::parse(path.file_name()?.to_str()?)
    }
}

/// Whether a file is named as pictures of the family are.
pub(super) fn names_images(name: &str) -> bool {
    Name::parse(name).is_some_and(|name| !name.labels)
}

/// The folder whose files belong together with this one: the one it lies in, or, as Kaggle unpacks, the one above a folder
/// that is itself named as such a file.
pub(super) fn home(file: &Path) -> PathBuf {
    let above = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.into(),
        None => path.into(),
    };
    let folder = above(file);
    if Name::of(&folder).is_some() { above(&folder) } else { folder }
}

/// The files of the family at home in a folder. Of two with the same content, plain comes before gzip, and one in the folder
/// itself before one in a folder of its own.
fn files(home: &Path) -> Result<Vec<(Name, PathBuf)>, DataError> {
    let mut files = Vec::new();
    let mut own_folders = Vec::new();
    list(home, &mut files, &mut own_folders)?;
    for folder in own_folders {
        list(&folder, &mut files, &mut Vec::new())?;
    }
    files.sort_by_cached_key(|(name, path)| {
        (name.part.clone(), name.labels, path.parent() != Some(home), name.gzip, path.clone())
    });
    Ok(files)
}

fn list(
    folder: &Path,
    files: &mut Vec<(Name, PathBuf)>,
    own_folders: &mut Vec<PathBuf>,
) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        match Name::of(&path) {
            Some(name) if path.is_file() => files.push((name, path)),
            Some(_) => own_folders.push(path),
            None => {}
        }
    }
    Ok(())
}

/// Reads the part that is asked for of the files at home in a folder.
pub(super) fn folder(home: &Path, opening: &mut Opening) -> Result<Dataset, DataError> {
    let files = files(home)?;
    let mut images: Vec<&(Name, PathBuf)> = files.iter().filter(|(name, _)| !name.labels).collect();
    images.dedup_by(|a, b| a.0.part == b.0.part);
    let parts: Vec<Part> = images.iter().map(|(name, _)| name.part.clone()).collect();
    let chosen = split::choose(home, &parts, opening.options.split.as_deref())?;
    let paths: Vec<&Path> = images.iter().map(|(_, path)| path.as_path()).collect();
    split::report_others(opening.report, &parts, &paths, chosen);
    read(&images[chosen].1, &files, opening)
}

/// Reads one images file, with the labels that lie with it.
pub(super) fn file(path: &Path, opening: &mut Opening) -> Result<Dataset, DataError> {
    let name = Name::of(path);
    let part = name.as_ref().map_or(Part::of(Part::WHOLE), |name| name.part.clone());
    split::choose(path, &[part], opening.options.split.as_deref())?;
    let files = if name.is_some() { files(&home(path))? } else { Vec::new() };
    read(path, &files, opening)
}

/// Reads an images file, and its labels if they are among `files`.
fn read(path: &Path, files: &[(Name, PathBuf)], opening: &mut Opening) -> Result<Dataset, DataError> {
    let name = Name::of(path);
    let belongs = |other: &Name| name.as_ref().is_some_and(|name| other.part == name.part);
    let labels_file = files.iter().find(|(other, _)| other.labels && belongs(other)).map(|(_, path)| path);
    let emnist = name.as_ref().filter(|name| name.emnist);
    opening.report.layout = match emnist {
        Some(name) => format!("IDX file {} of EMNIST {}", path.display(), name.part.set),
        None => format!("IDX file {}", path.display()),
    };
    let images = Idx::open(path, &[idx::IMAGES], |shape| {
        let sides = 1..=MAX_SIDE as usize;
        if shape[0] == 0 || !sides.contains(&shape[1]) || !sides.contains(&shape[2]) {
            return Err(DataError::IdxShape { path: path.into(), shape: shape.into() });
        }
        opening.options.check_memory(&path.display().to_string(), shape[0] as u64)
    })?;
    let (count, height, width) = (images.shape[0], images.shape[1], images.shape[2]);
    let (class_names, labels) = match labels_file {
        None => {
            opening
                .report
                .notes
                .push(format!("no labels lie beside {}: there are no classes", path.display()));
            (Vec::new(), Vec::new())
        }
        Some(file) => {
            let labels = read_labels(file, path, count)?;
            match emnist.map(|name| emnist_classes(&name.part.set, file)).transpose()?.flatten() {
                Some(classes) => named_classes(&labels, &classes, file)?,
                None => raw::number_classes(&labels, opening),
            }
        }
    };
    if emnist.is_some() {
        opening.report.notes.push("EMNIST stores its pictures transposed; they are turned upright".into());
    }
    let (rows, columns) = if emnist.is_some() { (width, height) } else { (height, width) };
    let spec = path.display().to_string();
    let mut pictures = raw::Collector::new(&spec, count, (rows, columns), images.certain, opening)?;
    images.each(|picture| {
        match emnist {
            None => pictures.push(picture, opening),
            Some(_) => {
                let upright: Vec<u8> =
                    (0..rows * columns).map(|at| picture[at % columns * rows + at / columns]).collect();
                pictures.push(&upright, opening);
            }
        }
        Ok(())
    })?;
    Ok(pictures.finish("IDX", class_names, labels, opening))
}

/// The class numbers of `count` pictures.
fn read_labels(path: &Path, images: &Path, count: usize) -> Result<Vec<u64>, DataError> {
    let idx = Idx::open(path, &[idx::LABELS, idx::WIDE_LABELS], |shape| {
        if shape.get(1) == Some(&0) {
            return Err(DataError::IdxShape { path: path.into(), shape: shape.into() });
        }
        match shape[0] == count {
            true => Ok(()),
            false => Err(DataError::LabelCount {
                images: images.into(),
                labels: path.into(),
                found: shape[0],
                expected: count,
            }),
        }
    })?;
    let mut labels = Vec::new();
    idx.each(|item| {
        labels.push(match item.first_chunk::<4>() {
            Some(first) => u64::from(u32::from_be_bytes(*first)),
            None => u64::from(item[0]),
        });
        Ok(())
    })?;
    Ok(labels)
}

/// The classes of an EMNIST set by their labels: those of the mapping file beside the labels, or else the published ones.
fn emnist_classes(set: &str, labels: &Path) -> Result<Option<BTreeMap<u64, String>>, DataError> {
    let characters: String = match set {
        "letters" => ('A'..='Z').collect(),
        "digits" | "mnist" => ('0'..='9').collect(),
        "balanced" | "bymerge" => ('0'..='9').chain('A'..='Z').chain(OWN_SMALL_LETTERS.chars()).collect(),
        "byclass" => ('0'..='9').chain('A'..='Z').chain('a'..='z').collect(),
        _ => String::new(),
    };
    let first = if set == "letters" { 1 } else { 0 };
    let published: BTreeMap<u64, String> = (first..).zip(characters.chars().map(String::from)).collect();
    let path = home(labels).join(format!("emnist-{set}-mapping.txt"));
    if !path.is_file() {
        return Ok(Some(published).filter(|classes| !classes.is_empty()));
    }
    // A line is a label and the codes of the characters that are this class, capital first.
    let text = String::from_utf8_lossy(&read_head(&path, 1 << 16)?).into_owned();
    let entry = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (label, code) = (numbers.next()??, numbers.next()??);
        let character = char::from_u32(code).filter(|c| !c.is_control())?;
        Some((u64::from(label), character.to_string()))
    };
    let mut classes = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match entry(line) {
            Some((label, name)) if !classes.contains_key(&label) => drop(classes.insert(label, name)),
            _ => return Err(DataError::EmnistMapping { path, line: raw::printable(line) }),
        }
    }
    Ok(Some(classes))
}

/// The names of `classes` and, for each label, the index of its class.
fn named_classes(
    labels: &[u64],
    classes: &BTreeMap<u64, String>,
    path: &Path,
) -> Result<(Vec<String>, Vec<u32>), DataError> {
    let indices: BTreeMap<u64, u32> = classes.keys().copied().zip(0..).collect();
    let index = |label: &u64| {
        let known = || classes.keys().next().zip(classes.keys().next_back());
        indices.get(label).copied().ok_or_else(|| DataError::EmnistLabel {
            path: path.into(),
            label: *label,
            expected: known().map_or("none".into(), |(first, last)| format!("{first} to {last}")),
        })
    };
    Ok((classes.values().cloned().collect(), labels.iter().map(index).collect::<Result<_, _>>()?))
}
