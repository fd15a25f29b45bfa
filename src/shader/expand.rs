//! From a file and a variant to complete WGSL, with the place that each line came from.

use super::{Folder, LIBRARY, ShaderError, Source, Target, Variant, declared_name};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// Where each line of an expanded shader came from.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// Complete WGSL.
    pub text: String,
    /// The file that it begins with, as errors name it: `conv2d.wgsl`, or the path in a user's folder.
    pub file: Arc<str>,
    origin: Vec<(Arc<str>, usize)>,
}

impl Expanded {
    /// `file:line` of a line (from 0) of the expanded text.
    pub fn origin(&self, line: usize) -> String {
        self.place(line).map_or_else(|| "?".into(), |(file, line)| format!("{file}:{line}"))
    }

    /// The file of a line (from 0) of the expanded text, and its number there (from 1).
    pub fn place(&self, line: usize) -> Option<(&str, usize)> {
        self.origin.get(line).map(|(file, line)| (&**file, line + 1))
    }
}

/// Resolves imports, sets the variant's values, writes aliases out, and puts the target's directives in front.
pub fn expand(source: &'static Source, variant: &Variant, target: Target) -> Result<Expanded, ShaderError> {
    expand_from(None, source, variant, target)
}

/// The same with a user's files in place of the embedded ones of their names.
pub(super) fn expand_from(
    folder: Option<&Folder>,
    source: &'static Source,
    variant: &Variant,
    target: Target,
) -> Result<Expanded, ShaderError> {
    let (file, _) = read(folder, source);
    let mut out = Expanded { text: String::new(), file: file.clone(), origin: Vec::new() };
    for directive in variant.extensions().filter_map(|e| e.directive(target)) {
        let _ = writeln!(out.text, "{directive}");
        out.origin.push((file.clone(), 0));
    }
    let mut expansion = Expansion {
        folder,
        variant,
        out,
        unset: variant.constants.keys().copied().collect(),
        unlinked: variant.links.keys().copied().collect(),
        done: BTreeSet::new(),
    };
    expansion.append(source)?;
    let Expansion { mut out, unset, unlinked, .. } = expansion;
    let file = file.to_string();
    if let Some(name) = unset.first() {
        return Err(ShaderError::UnknownConstant { file, name });
    }
    if let Some(import) = unlinked.first() {
        return Err(ShaderError::UnknownImport { file, import: (*import).into() });
    }
    out.text = write_aliases_out(&out.text);
    Ok(out)
}

/// The name in errors and the text of a file.
fn read<'a>(folder: Option<&'a Folder>, source: &'static Source) -> (Arc<str>, &'a str) {
    match folder.and_then(|folder| folder.file(source.name)) {
        Some((path, text)) => (path.clone(), text),
        None => (source.file().into(), source.text),
    }
}

/// An expansion on its way.
struct Expansion<'a> {
    folder: Option<&'a Folder>,
    variant: &'a Variant,
    out: Expanded,
    /// Names that the variant sets and no line has declared yet.
    unset: BTreeSet<&'static str>,
    /// Imports that the variant redirects and no line has asked for yet.
    unlinked: BTreeSet<&'static str>,
    /// Library files that are in the text.
    done: BTreeSet<&'static str>,
}

impl Expansion<'_> {
    fn append(&mut self, source: &'static Source) -> Result<(), ShaderError> {
        let (file, text) = read(self.folder, source);
        for (number, line) in text.lines().enumerate() {
            if let Some(import) = line.strip_prefix("#import ") {
                let import = import.trim();
                let target = match self.variant.links.get_key_value(import) {
                    Some((from, to)) => {
                        self.unlinked.remove(from);
                        *to
                    }
                    None => import,
                };
                let imported =
                    LIBRARY.iter().find(|s| s.name == target).ok_or_else(|| ShaderError::UnknownImport {
                        file: format!("{file}:{}", number + 1),
                        import: target.into(),
                    })?;
                if self.done.insert(imported.name) {
                    self.append(imported)?;
                }
                continue;
            }
            let set = declared_name(line).and_then(|name| self.variant.constants.get_key_value(name));
            match (set, line.split_once('=')) {
                (Some((name, value)), Some((declaration, _))) => {
                    self.unset.remove(name);
                    let _ = writeln!(self.out.text, "{declaration}= {value};");
                }
                _ => {
                    self.out.text.push_str(line);
                    self.out.text.push('\n');
                }
            }
            self.out.origin.push((file.clone(), number));
        }
        Ok(())
    }
}

/// Puts each alias's type where its name stands. An alias may use those above it.
fn write_aliases_out(text: &str) -> String {
    let mut aliases: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines() {
        let declaration = line.strip_prefix("alias ").and_then(|rest| rest.split_once('='));
        if let Some((name, value)) = declaration {
            let value = value.split(';').next().unwrap_or_default().trim();
            let value = replace_names(value, &aliases);
            aliases.insert(name.trim(), value);
        }
    }
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let (code, comment) = line.split_at(line.find("//").unwrap_or(line.len()));
        // The line stays, as a comment, so that the lines of errors stay those of the file.
        if code.starts_with("alias ") {
            out.push_str("// ");
            out.push_str(code);
        } else {
            out.push_str(&replace_names(code, &aliases));
        }
        out.push_str(comment);
        out.push('\n');
    }
    out
}

/// Replaces whole identifiers that are not members of something.
fn replace_names(code: &str, names: &BTreeMap<&str, String>) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let word = &rest[start..];
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word.len());
        out.push_str(&rest[..start]);
        let member = out.ends_with('.') || out.ends_with(|c: char| c.is_ascii_digit());
        match names.get(&word[..end]) {
            Some(value) if !member => out.push_str(value),
            _ => out.push_str(&word[..end]),
        }
        rest = &word[end..];
    }
    out.push_str(rest);
    out
}
