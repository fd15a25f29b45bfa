//! The binary layouts of CIFAR-10 and CIFAR-100: records of one or two label bytes and 32 x 32 red, green and blue planes.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::split::{self, Part};
use super::{ClassLabels, DataError, Dataset, Opening, raw, read_head};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// Which of the two a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cifar {
    /// A label, then the colours.
    Ten,
    /// A coarse label, a fine label, then the colours.
    Hundred,
}

impl Cifar {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ten => "CIFAR-10",
            Self::Hundred => "CIFAR-100",
        }
    }

    /// How many values each label byte has.
    fn classes(self) -> &'static [usize] {
        match self {
            Self::Ten => const { &[CLASSES.len()] },
            Self::Hundred => const { &[COARSE.len(), FINE.len()] },
        }
    }

    fn record_bytes(self) -> usize {
        self.classes().len() + 3 * PLANE
    }

    fn fits(self, bytes: u64) -> bool {
        bytes > 0 && bytes.is_multiple_of(self.record_bytes() as u64)
    }

    /// The names file, the published names and the place in a record of the labels that are the classes.
    fn labels(self, asked: ClassLabels) -> (&'static str, &'static [&'static str], usize) {
        match (self, asked) {
            (Self::Ten, _) => ("batches.meta.txt", &CLASSES, 0),
            (Self::Hundred, ClassLabels::Coarse) => ("coarse_label_names.txt", &COARSE, 0),
            (Self::Hundred, ClassLabels::Fine) => ("fine_label_names.txt", &FINE, 1),
        }
    }

    /// Which one the (sorted) `names` of the files in a folder belong to, if to any.
    pub fn in_folder(folder: &Path, names: &[String]) -> Option<Self> {
        let has = |name: &str| names.iter().any(|other| other == name);
        let whole =
            |name: &str| fs::metadata(folder.join(name)).is_ok_and(|data| Self::Hundred.fits(data.len()));
        if names.iter().any(|name| part_of(name).is_some_and(|(cifar, _)| cifar == Self::Ten)) {
            return Some(Self::Ten);
        }
        let named = has("fine_label_names.txt") || has("coarse_label_names.txt");
        ["train.bin", "test.bin"]
            .into_iter()
            .any(|name| has(name) && (named || whole(name)))
            .then_some(Self::Hundred)
    }

    /// Which one a file is: by its length, or where both fit, by its labels and its name.
    pub fn of_file(path: &Path) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Read { path: path.into(), source };
        let bytes = fs::metadata(path).map_err(unreadable)?.len();
        let named = path.file_name().and_then(|name| name.to_str()).and_then(part_of).map(|(cifar, _)| cifar);
        match (Self::Ten.fits(bytes), Self::Hundred.fits(bytes)) {
            (true, false) => Ok(Self::Ten),
            (false, true) => Ok(Self::Hundred),
            // Neither: reading says what is wrong.
            (false, false) => Ok(named.unwrap_or(Self::Ten)),
            (true, true) => {
                let valid = |cifar: Self| each_record(cifar, path, |_| ()).is_ok();
                match (valid(Self::Ten), valid(Self::Hundred)) {
                    (true, false) => Ok(Self::Ten),
                    (false, true) => Ok(Self::Hundred),
                    _ => Ok(named.unwrap_or(Self::Ten)),
                }
            }
        }
    }
}

/// What the name of a file says: `data_batch_3.bin` is of CIFAR-10's training part.
fn part_of(name: &str) -> Option<(Cifar, &'static str)> {
    match name {
        "train.bin" => Some((Cifar::Hundred, "train")),
        "test.bin" => Some((Cifar::Hundred, "test")),
        "test_batch.bin" => Some((Cifar::Ten, "test")),
        _ if name.starts_with("data_batch_") && name.ends_with(".bin") => Some((Cifar::Ten, "train")),
        _ => None,
    }
}

/// Reads the part that is asked for of the files in a folder, of which `names` are the sorted names.
pub(super) fn folder(
    cifar: Cifar,
    folder: &Path,
    names: &[String],
    opening: &mut Opening,
) -> Result<Dataset, DataError> {
    let (mut parts, mut files): (Vec<Part>, Vec<Vec<PathBuf>>) = (Vec::new(), Vec::new());
    for name in names {
        let Some((of, part)) = part_of(name) else { continue };
        let part = Part::of(part);
        match parts.iter().position(|other| *other == part) {
            _ if of != cifar => {}
            Some(at) => files[at].push(folder.join(name)),
            None => {
                parts.push(part);
                files.push(vec![folder.join(name)]);
            }
        }
    }
    let chosen = split::choose(folder, &parts, opening.options.split.as_deref())?;
    let firsts: Vec<&Path> = files.iter().map(|files| files[0].as_path()).collect();
    split::report_others(opening.report, &parts, &firsts, chosen);
    if cifar == Cifar::Ten && parts[chosen].part == "train" {
        let batches = (1..=5).map(|i| format!("data_batch_{i}.bin"));
        let missing: Vec<_> = batches.filter(|batch| !names.contains(batch)).collect();
        if !missing.is_empty() {
            opening
                .report
                .notes
                .push(format!("of the five published batches, {} is not here", missing.join(", ")));
        }
    }
    read(cifar, &files[chosen], opening)
}

/// Reads one binary file.
pub(super) fn file(path: &Path, opening: &mut Opening) -> Result<Dataset, DataError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let part = name.and_then(part_of).map_or(Part::WHOLE, |(_, part)| part);
    split::choose(path, &[Part::of(part)], opening.options.split.as_deref())?;
    read(Cifar::of_file(path)?, &[path.into()], opening)
}

/// Reads binary files one after another.
fn read(cifar: Cifar, files: &[PathBuf], opening: &mut Opening) -> Result<Dataset, DataError> {
    let first = files[0].display().to_string();
    opening.report.layout = match files.len() {
        1 => format!("{} binary file {first}", cifar.name()),
        count => format!("{count} {} binary files, the first {first}", cifar.name()),
    };
    let mut records = 0;
    for path in files {
        records += length(cifar, path)? / cifar.record_bytes();
    }
    opening.has_coarse_labels = cifar == Cifar::Hundred;
    let (names_file, published, place) = cifar.labels(opening.options.class_labels);
    let mut pictures = raw::Collector::new(&first, records, (SIDE, SIDE), true, opening)?;
    let mut labels = Vec::new();
    for path in files {
        each_record(cifar, path, |record| {
            labels.push(u32::from(record[place]));
            let planes = &record[cifar.classes().len()..];
            let rgb = |i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]];
            let rgb: Vec<u8> = (0..PLANE).flat_map(rgb).collect();
            pictures.push(&rgb, opening);
        })?;
    }
    let names = class_names(&files[0].with_file_name(names_file), published, &labels, opening)?;
    Ok(pictures.finish("CIFAR", names, labels, opening))
}

/// Bytes of a file of whole records.
fn length(cifar: Cifar, path: &Path) -> Result<usize, DataError> {
    let bytes = fs::metadata(path).map_err(|source| DataError::Read { path: path.into(), source })?.len();
    match usize::try_from(bytes) {
        Ok(whole) if cifar.fits(bytes) => Ok(whole),
        _ => Err(DataError::CifarLength { path: path.into(), bytes }),
    }
}

/// Gives each record of a file after a check of its labels.
fn each_record(cifar: Cifar, path: &Path, mut take: impl FnMut(&[u8])) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: path.into(), source };
    let records = length(cifar, path)? / cifar.record_bytes();
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut row = vec![0; cifar.record_bytes()];
    for record in 0..records {
        reader.read_exact(&mut row).map_err(unreadable)?;
        for (&label, &classes) in row.iter().zip(cifar.classes()) {
            if usize::from(label) >= classes {
                let (path, last, layout) = (path.into(), classes - 1, cifar.name());
                return Err(DataError::CifarLabel { path, record, label, last, layout });
            }
        }
        take(&row);
    }
    Ok(())
}

/// The names in a file, one a line, if there is one for each label that occurs; else the published ones.
fn class_names(
    path: &Path,
    published: &[&str],
    labels: &[u32],
    opening: &mut Opening,
) -> Result<Vec<String>, DataError> {
    let published = || published.iter().copied().map(String::from).collect();
    if !path.is_file() {
        return Ok(published());
    }
    let text = String::from_utf8_lossy(&read_head(path, 1 << 16)?).into_owned();
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(raw::printable).collect();
    let needed = labels.iter().max().map_or(0, |last| *last as usize + 1);
    if names.len() >= needed {
        return Ok(names);
    }
    opening.report.notes.push(format!(
        "{} holds fewer class names ({}) than the labels ask for ({needed}); the published names are used",
        path.display(),
        names.len()
    ));
    Ok(published())
}

const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const COARSE: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];

#[rustfmt::skip]
const FINE: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];
