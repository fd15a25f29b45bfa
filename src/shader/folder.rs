//! A user's WGSL files in place of the embedded ones.

use super::expand::{Expanded, expand, expand_from};
use super::{Interface, Kernel, LIBRARY, ShaderError, Source, Target, Variant, interface, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a shader file: a hundred times the largest one.
const LARGEST: u64 = 4 << 20;

/// WGSL files of a folder, which stand in place of the embedded files of the same names.
#[derive(Debug)]
pub struct Folder {
    /// The name in errors and the text of each file, by its name without extension.
    files: BTreeMap<&'static str, (Arc<str>, String)>,
    changed: Vec<&'static str>,
    missing: Vec<&'static str>,
}

/// A folder that cannot stand in place of the embedded shaders.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder or a file cannot be read.
    #[error("{}: {message}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// A WGSL file that has the name of no shader.
    #[error(
        "{}: there is no shader of this name; did you mean {nearest}? `inkwash shaders list` has all names. A file that is \
         for no kernel must go, or lose its ending .wgsl", path.display()
    )]
    UnknownName {
        /// The file.
        path: PathBuf,
        /// The most similar name that there is.
        nearest: String,
    },
    /// A file that does not compile, or does not fit its operator.
    #[error(transparent)]
    Shader(#[from] ShaderError),
}

impl Folder {
    /// Reads the folder, and compiles with naga each of `kernels` that its files change; none of them may ask for what its
    /// operator does not give. The kernels also tell which files there are.
    pub fn open(path: &Path, kernels: &BTreeSet<Kernel>) -> Result<Self, FolderError> {
        let sources: BTreeSet<&'static Source> = kernels.iter().map(|k| k.source).chain(LIBRARY).collect();
        let mut folder = Self { files: BTreeMap::new(), changed: Vec::new(), missing: Vec::new() };
        let found = [wgsl_files(path)?, wgsl_files_of_library(path)?].concat();
        if found.is_empty() {
            let message = "this folder holds no .wgsl file; `inkwash shaders export DIR` writes all of them into a new one";
            return Err(FolderError::Unreadable { path: path.into(), message: message.into() });
        }
        for (name, path) in found {
            folder.add(&sources, &name, &path, read(&path)?)?;
        }
        folder.finish(&sources, kernels)
    }

    /// The same with texts by the names of files without extension.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn of_texts(
        texts: BTreeMap<String, String>,
        kernels: &BTreeSet<Kernel>,
    ) -> Result<Self, FolderError> {
        let sources: BTreeSet<&'static Source> = kernels.iter().map(|k| k.source).chain(LIBRARY).collect();
        let mut folder = Self { files: BTreeMap::new(), changed: Vec::new(), missing: Vec::new() };
        for (name, text) in texts {
            folder.add(&sources, &name, Path::new(&format!("{name}.wgsl")), text)?;
        }
        folder.finish(&sources, kernels)
    }

    /// Takes a file in under its name without extension.
    fn add(
        &mut self,
        sources: &BTreeSet<&'static Source>,
        name: &str,
        path: &Path,
        text: String,
    ) -> Result<(), FolderError> {
        let Some(source) = sources.iter().find(|s| s.name == name) else {
            return Err(FolderError::UnknownName { path: path.into(), nearest: nearest(name, sources) });
        };
        if !text.lines().eq(source.text.lines()) {
            self.changed.push(source.name);
        }
        self.files.insert(source.name, (path.display().to_string().into(), text));
        Ok(())
    }

    /// Checks what the files change, once all are there.
    fn finish(
        mut self,
        sources: &BTreeSet<&'static Source>,
        kernels: &BTreeSet<Kernel>,
    ) -> Result<Self, FolderError> {
        self.changed.sort_unstable();
        let known = sources.iter().map(|s| s.name);
        self.missing = known.filter(|name| !self.files.contains_key(name)).collect();
        self.check(kernels)?;
        Ok(self)
    }

    /// Names of the files that differ from the embedded ones.
    pub fn changed(&self) -> &[&'static str] {
        &self.changed
    }

    /// The CRC-32 of each file that differs from the embedded one, as eight hexadecimal digits, by its name.
    pub fn checksums(&self) -> BTreeMap<String, String> {
        let checksum = |text: &str| format!("{:08x}", crc32fast::hash(text.as_bytes()));
        let changed = self.changed.iter().filter_map(|name| Some((*name, self.files.get(name)?)));
        changed.map(|(name, (_, text))| (name.to_string(), checksum(text))).collect()
    }

    /// Names of the files that the folder lacks: the embedded ones serve.
    pub fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// The file of this name: what errors call it, and its text.
    pub(super) fn file(&self, name: &str) -> Option<(&Arc<str>, &str)> {
        self.files.get(name).map(|(path, text)| (path, text.as_str()))
    }

    /// As [`expand`], with this folder's files.
    pub fn expand(
        &self,
        source: &'static Source,
        variant: &Variant,
        target: Target,
    ) -> Result<Expanded, ShaderError> {
        expand_from(Some(self), source, variant, target)
    }

    /// The module that a kernel is compiled from, where it is another than that of the embedded files.
    fn edited_text(
        &self,
        source: &'static Source,
        variant: &Variant,
    ) -> Result<Option<Expanded>, ShaderError> {
        if self.changed.is_empty() {
            return Ok(None);
        }
        let own = self.expand(source, variant, Target::Native)?;
        let embedded = expand(source, variant, Target::Native)?;
        Ok((own.text != embedded.text).then_some(own))
    }

    /// What a kernel is compiled from and asks for, where its text is another than that of the embedded files. Fails where it
    /// does not compile or cannot be launched as its operator does.
    pub fn edited(
        &self,
        source: &'static Source,
        entry: &'static str,
        variant: &Variant,
    ) -> Result<Option<(Expanded, Interface)>, ShaderError> {
        let Some(expanded) = self.edited_text(source, variant)? else { return Ok(None) };
        let (module, info) = parse(variant, &expanded)?;
        let interface = fitting(source, entry, variant, &expanded, &module, &info)?;
        Ok(Some((expanded, interface)))
    }

    /// [`Folder::edited`] of many kernels, each module parsed once.
    fn check(&self, kernels: &BTreeSet<Kernel>) -> Result<(), ShaderError> {
        let mut modules: BTreeMap<(&'static Source, &Variant), Vec<&'static str>> = BTreeMap::new();
        for Kernel { source, variant, entry } in kernels {
            modules.entry((source, variant)).or_default().push(entry);
        }
        for ((source, variant), entries) in modules {
            let Some(expanded) = self.edited_text(source, variant)? else { continue };
            let (module, info) = parse(variant, &expanded)?;
            for entry in entries {
                fitting(source, entry, variant, &expanded, &module, &info)?;
            }
        }
        Ok(())
    }
}

/// The interface of an entry point of an edited module, if it fits the launches of the embedded one.
fn fitting(
    source: &'static Source,
    entry: &'static str,
    variant: &Variant,
    expanded: &Expanded,
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
) -> Result<Interface, ShaderError> {
    let found = Interface::read(entry, expanded, module, info)?;
    found.fits(&*interface(source, entry, variant)?).map_err(|message| ShaderError::Interface {
        file: expanded.file.to_string(),
        entry,
        message,
    })?;
    Ok(found)
}

fn unreadable(path: &Path, e: &std::io::Error) -> FolderError {
    let remedy = match e.kind() {
        std::io::ErrorKind::NotFound => "; check the spelling, or write it with `inkwash shaders export DIR`",
        std::io::ErrorKind::NotADirectory => "; give the folder that holds the files",
        _ => "",
    };
    FolderError::Unreadable { path: path.into(), message: format!("cannot be read: {e}{remedy}") }
}

/// The WGSL files of a folder, sorted: name without extension, and path. Hidden files are passed over, as editors leave them.
fn wgsl_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, FolderError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, &e))? {
        let path = entry.map_err(|e| unreadable(folder, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(name) = name.strip_suffix(".wgsl").filter(|name| !name.starts_with('.')) {
            found.push((name.to_string(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

/// Those of its folder `lib`, if it has one, under the names that `#import` gives them.
fn wgsl_files_of_library(folder: &Path) -> Result<Vec<(String, PathBuf)>, FolderError> {
    let library = folder.join("lib");
    if !library.is_dir() {
        return Ok(Vec::new());
    }
    Ok(wgsl_files(&library)?.into_iter().map(|(name, path)| (format!("lib/{name}"), path)).collect())
}

/// The text of a file, without the mark that some editors put in front of UTF-8.
fn read(path: &Path) -> Result<String, FolderError> {
    let fail = |message: String| FolderError::Unreadable { path: path.into(), message };
    let found = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if !found.is_file() {
        return Err(fail("is not a file; a shader is a text file".into()));
    }
    if found.len() > LARGEST {
        return Err(fail(format!("has {} bytes; a shader has at most {LARGEST}", found.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| fail(format!("is not UTF-8 ({}); save it as UTF-8", e.utf8_error())))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// The file whose name is most like this one, which may stand in the wrong one of the two folders.
fn nearest(name: &str, sources: &BTreeSet<&'static Source>) -> String {
    let base = |name: &str| name.trim_start_matches("lib/").to_lowercase();
    let likeness = |source: &&&'static Source| strsim::jaro_winkler(&base(name), &base(source.name));
    let best = sources.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.map(|source| source.file()).unwrap_or_default()
}
