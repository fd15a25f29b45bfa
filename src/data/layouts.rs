//! Finds the layouts in which published data sets come, in a folder or below it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::cifar::{self, Cifar};
use super::listing::{Disk, Listing};
use super::numpy::{self, Container};
use super::report::{OtherFiles, PassedOver, first_few};
use super::{DataError, Dataset, Opening, foreign, idx, mnist, read_head};

/// Pictures and labels in a known layout.
pub(super) enum Layout {
    /// The files of the MNIST family at home in a folder.
    Mnist(PathBuf),
    /// One IDX images file.
    Idx(PathBuf),
    /// Binary files in a folder, by their sorted names.
    Cifar(Cifar, PathBuf, Vec<String>),
    /// One binary file.
    CifarFile(PathBuf),
    /// CIFAR as Python has it, which is not read.
    CifarPickles(Cifar, PathBuf),
    /// Arrays, and which of them are the pictures, if one was given.
    Numpy(Container, Option<String>),
}

impl Layout {
    /// The layout of a file.
    pub fn of_file(path: &Path) -> Result<Option<Self>, DataError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if let Some(error) = foreign::recognise(path)? {
            return Err(error);
        }
        if extension.eq_ignore_ascii_case("npz") {
            return Ok(Some(Self::Numpy(Container::Npz(path.into()), None)));
        }
        if extension == "npy" {
            return Ok(numpy_file(path));
        }
        if extension.eq_ignore_ascii_case("bin") {
            return Ok(Some(Self::CifarFile(path.into())));
        }
        if read_head(path, 6)? == numpy::MAGIC {
            return Err(DataError::NumpyName { path: path.into() });
        }
        let named = path.file_name().and_then(|name| name.to_str()).is_some_and(mnist::names_images);
        Ok((named || idx::looks_like(path)?).then(|| Self::Idx(path.into())))
    }

    pub fn read(&self, opening: &mut Opening) -> Result<Dataset, DataError> {
        match self {
            Self::Mnist(home) => mnist::folder(home, opening),
            Self::Idx(path) => mnist::file(path, opening),
            Self::Cifar(cifar, folder, names) => cifar::folder(*cifar, folder, names, opening),
            Self::CifarFile(path) => cifar::file(path, opening),
            Self::CifarPickles(cifar, folder) => {
                let (layout, archive) = match cifar {
                    Cifar::Ten => {
                        (cifar.name(), "cifar-10-binary.tar.gz, with data_batch_1.bin to data_batch_5.bin")
                    }
                    Cifar::Hundred => (cifar.name(), "cifar-100-binary.tar.gz, with train.bin and test.bin"),
                };
                Err(DataError::CifarPickles { path: folder.clone(), layout, archive })
            }
            Self::Numpy(container, images) => numpy::dataset(container, images.as_deref(), opening),
        }
    }

    /// The path to give for it.
    fn path(&self) -> &Path {
        match self {
            Self::Mnist(path) | Self::Idx(path) | Self::Cifar(_, path, _) => path,
            Self::CifarFile(path) | Self::CifarPickles(_, path) => path,
            Self::Numpy(container, _) => container.path(),
        }
    }

    fn describe(&self) -> String {
        let what = match self {
            Self::Mnist(_) | Self::Idx(_) => "IDX files",
            Self::Cifar(cifar, ..) => cifar.name(),
            Self::CifarFile(_) => "CIFAR",
            Self::CifarPickles(Cifar::Ten, _) => "CIFAR-10 as Python pickles",
            Self::CifarPickles(Cifar::Hundred, _) => "CIFAR-100 as Python pickles",
            Self::Numpy(..) => "NumPy arrays",
        };
        format!("{what} in {}", self.path().display())
    }
}

/// A `.npy` file, with those beside it, among which its labels may be.
fn numpy_file(path: &Path) -> Option<Layout> {
    let folder = match path.parent()? {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let stem = path.file_stem()?.to_str()?.to_owned();
    let beside = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        (path.extension()? == "npy" && path.is_file())
            .then(|| path.file_stem()?.to_str().map(String::from))?
    });
    let mut names: Vec<String> = beside.collect();
    names.sort_unstable();
    Some(Layout::Numpy(Container::Folder(folder.into(), names), Some(stem)))
}

/// What lies in a folder and below it, by the names of the files.
pub(super) struct Survey {
    root: PathBuf,
    /// Layouts that their names tell, in the order of their folders.
    layouts: Vec<Layout>,
    /// NumPy files, which make a data set only where there are no pictures.
    numpy: Vec<PathBuf>,
    /// The first picture, by its name.
    picture: Option<PathBuf>,
    /// Some of the other files.
    others: Vec<PathBuf>,
}

impl Survey {
    /// Of what lies in a folder on disk.
    pub fn of(disk: &Disk) -> Self {
        /// Enough to tell what a folder holds that holds no picture.
        const OTHERS: usize = 100;
        let mut survey = Self {
            root: disk.root().into(),
            layouts: Vec::new(),
            numpy: Vec::new(),
            picture: None,
            others: Vec::new(),
        };
        let (mut folders, mut homes) = (BTreeMap::<PathBuf, Vec<String>>::new(), BTreeSet::new());
        for (file, below) in disk.tree().files.iter().enumerate() {
            let Some(name) = below.file_name().and_then(|name| name.to_str()) else { continue };
            let path = disk.path(file);
            if ImageFormat::from_path(below).is_ok() {
                survey.picture.get_or_insert(path);
                continue;
            }
            // Not `parent` of the whole path, which is another than the root's where that is empty or ends in `..`.
            let folder = below.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.map_or(survey.root.clone(), |folder| survey.root.join(folder));
            folders.entry(folder).or_default().push(name.into());
            match below.extension().and_then(|extension| extension.to_str()) {
                _ if mnist::names_images(name) => {
                    let home = mnist::home(&path);
                    match home.starts_with(&survey.root) {
                        true => drop(homes.insert(home)),
                        false => survey.layouts.push(Layout::Idx(path)),
                    }
                }
                Some("npy" | "npz") => survey.numpy.push(path),
                _ if survey.others.len() < OTHERS => survey.others.push(path),
                _ => {}
            }
        }
        for (folder, names) in folders {
            if let Some(cifar) = Cifar::in_folder(&folder, &names) {
                survey.layouts.push(Layout::Cifar(cifar, folder, names));
            } else if let Some(cifar) = cifar_pickles(&folder, &names) {
                survey.layouts.push(Layout::CifarPickles(cifar, folder));
            }
        }
        // The pictures of `inkwash sample --format npz`, beside the grid that is drawn of them.
        let here = |name: &str| disk.tree().files.iter().any(|file| file == Path::new(name));
        if here("samples.json") && here("samples.npz") {
            survey.layouts.push(Layout::Numpy(Container::Npz(survey.root.join("samples.npz")), None));
        }
        survey.layouts.extend(homes.into_iter().map(Layout::Mnist));
        survey.layouts.sort_by(|a, b| a.path().cmp(b.path()));
        survey
    }

    /// The layout that the folder is of, unless it is a folder of pictures.
    ///
    /// # Errors
    /// Several layouts, or one below the folder with pictures beside it: each with its folder.
    pub fn layout(&self, opening: &mut Opening) -> Result<Option<&Layout>, DataError> {
        // Given a folder of Kaggle's that holds one file, that file alone is meant.
        let direct = |layout: &&Layout| {
            layout.path() == self.root || matches!(layout, Layout::Idx(_) | Layout::Numpy(..))
        };
        let here: Vec<&Layout> = self.layouts.iter().filter(direct).collect();
        let chosen = match (&here[..], &self.layouts[..]) {
            ([], []) => {
                self.report_numpy(opening);
                return Ok(None);
            }
            ([here], _) => *here,
            ([], [below]) if self.picture.is_none() => below,
            _ => {
                let pictures =
                    self.picture.iter().map(|picture| format!("pictures such as {}", picture.display()));
                return Err(self.several(self.layouts.iter().map(Layout::describe).chain(pictures).collect()));
            }
        };
        for other in self.layouts.iter().filter(|other| other.path() != chosen.path()) {
            let reason = format!("{}, apart from those of the folder given", other.describe());
            opening.report.passed_over.push(PassedOver { path: other.path().into(), reason });
        }
        if let Some(picture) = &self.picture {
            let reason = format!("a picture beside {}", chosen.describe());
            opening.report.passed_over.push(PassedOver { path: picture.clone(), reason });
        }
        Ok(Some(chosen))
    }

    /// Says of arrays beside pictures that they are not read.
    fn report_numpy(&self, opening: &mut Opening) {
        if let (Some(first), Some(_)) = (self.numpy.first(), &self.picture) {
            let reason = match self.numpy.len() {
                1 => "a NumPy file beside pictures; give the file itself to learn it".into(),
                count => format!(
                    "the first of {count} NumPy files beside pictures; give a file itself to learn it"
                ),
            };
            opening.report.passed_over.push(PassedOver { path: first.clone(), reason });
        }
    }

    /// What to make of a folder in which no picture was found, as `error` says.
    pub fn without_pictures(&self, error: DataError, opening: &mut Opening) -> Result<Dataset, DataError> {
        if !matches!(error, DataError::NoPicture { .. }) {
            return Err(error);
        }
        let folders = self.numpy_layouts();
        match &folders[..] {
            [] => {}
            [layout] => {
                // What was no picture is the data.
                opening.report.other = OtherFiles::default();
                return layout.read(opening);
            }
            several => {
                return Err(self.several(several.iter().map(Layout::describe).collect()));
            }
        }
        for path in &self.others {
            if let Some(error) = foreign::recognise(path)? {
                return Err(error);
            }
        }
        Err(error)
    }

    /// Each archive, and each folder of `.npy` files.
    fn numpy_layouts(&self) -> Vec<Layout> {
        let mut layouts = Vec::new();
        let mut folders: BTreeMap<&Path, Vec<String>> = BTreeMap::new();
        for path in &self.numpy {
            match (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) {
                (Some(folder), Some(stem))
                    if path.extension().is_some_and(|extension| extension == "npy") =>
                {
                    folders.entry(folder).or_default().push(stem.into());
                }
                _ => layouts.push(Layout::Numpy(Container::Npz(path.clone()), None)),
            }
        }
        let folders = folders.into_iter().map(|(folder, names)| Container::Folder(folder.into(), names));
        layouts.extend(folders.map(|container| Layout::Numpy(container, None)));
        layouts
    }

    fn several(&self, found: Vec<String>) -> DataError {
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        DataError::SeveralLayouts { path: self.root.clone(), found: first_few(&found) }
    }
}

/// Why a zip file has no pictures: it may hold another layout, which is not read in place.
pub(super) fn in_zip(zip: &dyn Listing, error: DataError) -> DataError {
    let other = |file: &PathBuf| {
        let array =
            file.extension().is_some_and(|extension| ["npy", "npz", "bin"].iter().any(|e| extension == *e));
        array || file.file_name().and_then(|name| name.to_str()).is_some_and(mnist::names_images)
    };
    match error {
        DataError::NoPicture { .. } if zip.tree().files.iter().any(other) => DataError::Foreign {
            path: zip.root().into(),
            what: "a zip file of IDX, CIFAR or NumPy files",
            remedy: "unpack it and give the folder",
        },
        error => error,
    }
}

/// Which CIFAR a folder holds as Python has it: `data_batch_1` without an ending, or `train`, `test` and `meta`.
fn cifar_pickles(folder: &Path, names: &[String]) -> Option<Cifar> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let pickle =
        |name: &str| read_head(&folder.join(name), 2).is_ok_and(|head| matches!(head[..], [0x80, 2..=5]));
    if has("batches.meta") || (1..=5).any(|i| has(&format!("data_batch_{i}"))) || has("test_batch") {
        return Some(Cifar::Ten);
    }
    (has("meta") && ["train", "test"].into_iter().any(|name| has(name) && pickle(name)))
        .then_some(Cifar::Hundred)
}
