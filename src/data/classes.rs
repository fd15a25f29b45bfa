//! What the folders of a data set mean: splits, classes, or nothing.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::listing::Listing;
use super::report::PassedOver;
use super::split::Part;
use super::{DataError, Opening};

/// The class names, and the label of each picture; both are empty where there are no classes.
pub(super) type Labels = (Vec<String>, Vec<u32>);

/// Names as people sort them: 2 before 10, capitals beside small letters; the same for the same names, in any order.
fn natural(a: &str, b: &str) -> Ordering {
    alphanumeric_sort::compare_str(a.to_lowercase(), b.to_lowercase()).then_with(|| a.cmp(b))
}

/// The split that a folder's name stands for.
fn split_of(name: &OsStr) -> Option<&'static str> {
    Part::word(&name.to_str()?.to_ascii_lowercase())
}

fn pictures_in_words(count: usize) -> String {
    if count == 1 { "1 picture".into() } else { format!("{count} pictures") }
}

/// The first folder of a relative path, if the file lies in one.
fn first_folder(path: &Path) -> Option<&OsStr> {
    let mut parts = path.iter();
    let first = parts.next()?;
    parts.next().map(|_| first)
}

/// The folder of the split that is asked for, or else of the training split, where the folders at the root are splits;
/// the root, an empty path, where they are not. `pictures` are indices into the listing.
pub(super) fn choose_split(
    listing: &dyn Listing,
    pictures: &[usize],
    opening: &mut Opening,
) -> Result<PathBuf, DataError> {
    // That there is no picture at all is told of by the caller.
    if pictures.is_empty() {
        return Ok(PathBuf::new());
    }
    let mut counts = BTreeMap::<&OsStr, usize>::new();
    let mut beside = false;
    for &picture in pictures {
        match first_folder(&listing.tree().files[picture]) {
            Some(folder) => *counts.entry(folder).or_default() += 1,
            None => beside = true,
        }
    }
    let asked = opening.options.split.as_deref();
    // A folder `train` alone may be a class; not so where a split is asked for.
    let enough = if asked.is_some() { 1 } else { 2 };
    let path = listing.root().to_path_buf();
    if beside || counts.len() < enough || counts.keys().any(|folder| split_of(folder).is_none()) {
        return match asked {
            Some(split) => Err(DataError::NoSplits { path, split: split.into() }),
            None => Ok(PathBuf::new()),
        };
    }
    let is = |folder: &OsStr, wanted: &str| folder.eq_ignore_ascii_case(wanted);
    let alike = |folder: &OsStr, wanted: &str| split_of(folder) == split_of(OsStr::new(wanted));
    let only = |test: &dyn Fn(&OsStr) -> bool| {
        let mut found = counts.keys().filter(|folder| test(folder));
        found.next().filter(|_| found.next().is_none())
    };
    let wanted = asked.unwrap_or("train");
    let chosen = only(&|folder| is(folder, wanted))
        .or_else(|| only(&|folder| split_of(folder).is_some() && alike(folder, wanted)));
    let found =
        counts.iter().map(|(folder, count)| format!("{} ({})", folder.display(), pictures_in_words(*count)));
    let found = found.collect::<Vec<_>>().join(", ");
    let Some(&chosen) = chosen else {
        return Err(match asked {
            Some(split) => DataError::UnknownSplit { path, split: split.into(), found },
            None => DataError::SplitWanted { path, found },
        });
    };
    if asked.is_none() {
        let chosen = chosen.display();
        opening
            .report
            .notes
            .push(format!("the folders are splits: {found}; `{chosen}` is taken, and --split takes another"));
    }
    for (&folder, count) in counts.iter().filter(|&(&folder, _)| folder != chosen) {
        opening.report.passed_over.push(PassedOver {
            path: listing.root().join(folder),
            reason: format!("another split, {}", pictures_in_words(*count)),
        });
    }
    Ok(chosen.into())
}

/// The classes by the first folder below `base`, empty ones too, and the label of each picture. There are none where
/// all pictures lie in `base` itself. `is_left_out` tells of folders that are not looked into.
pub(super) fn by_folder(
    listing: &dyn Listing,
    base: &Path,
    pictures: &[usize],
    is_left_out: impl Fn(&Path) -> bool,
    opening: &mut Opening,
) -> Result<Labels, DataError> {
    let tree = listing.tree();
    let below = |path: &'_ Path| path.strip_prefix(base).ok().map(Path::to_path_buf);
    let class = |&picture: &usize| {
        below(&tree.files[picture]).and_then(|path| first_folder(&path).map(OsStr::to_os_string))
    };
    let classes: Vec<Option<OsString>> = pictures.iter().map(class).collect();
    let (in_folders, beside): (Vec<usize>, Vec<usize>) =
        (0..pictures.len()).partition(|&i| classes[i].is_some());
    match (in_folders.first(), beside.first()) {
        (None, _) => return Ok((Vec::new(), Vec::new())),
        (Some(&inside), Some(&stray)) => {
            return Err(DataError::MixedFolder {
                // `join` with nothing would leave a slash at the end.
                path: listing.root().join(base).components().collect(),
                strays: beside.len(),
                stray: tree.files[pictures[stray]].clone(),
                inside: in_folders.len(),
                example: tree.files[pictures[inside]].clone(),
            });
        }
        (Some(_), None) => {}
    }
    let mut folders: Vec<OsString> = tree
        .folders
        .iter()
        .filter(|folder| !is_left_out(folder))
        .filter_map(|folder| {
            let below = below(folder)?;
            let mut parts = below.iter();
            let name = parts.next()?.to_os_string();
            parts.next().is_none().then_some(name)
        })
        .collect();
    folders.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()).then_with(|| a.cmp(b)));
    let label: HashMap<&OsStr, u32> = folders.iter().map(OsString::as_os_str).zip(0..).collect();
    let is_deep = |&picture: &usize| tree.files[picture].iter().count() > base.iter().count() + 2;
    if let [only] = &folders[..]
        && pictures.iter().any(is_deep)
    {
        opening.report.notes.push(format!(
            "`{}` is the one class; if the folders in it are the classes, give it as the data",
            only.display()
        ));
    }
    // Every picture's folder is among the folders of the tree.
    let labels = classes.iter().flatten().filter_map(|class| label.get(class.as_os_str()).copied()).collect();
    Ok((folders.iter().map(|name| name.to_string_lossy().into_owned()).collect(), labels))
}
