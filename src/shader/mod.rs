//! WGSL sources, their variants, and what naga says of them.
//!
//! A shader file is WGSL plus two kinds of line that the loader understands:
//!
//! - `#import lib/NAME` at the start of a line is replaced by `shaders/lib/NAME.wgsl`, once per module.
//! - `const NAME: TYPE = DEFAULT;` and `alias NAME = DEFAULT;` may be given another value by a [`Variant`];
//!   a variant may also redirect an import to another library file with the same functions.
//!
//! `override` would serve for numbers, but it cannot size a function-local array (a register tile) and it
//! cannot change a type, so variants are substituted before compilation.
//!
//! Aliases are written out: naga keeps `alias Vector = f32` as a type of its own beside f32, and its HLSL then defines the
//! same helper for both, which DXC refuses.

mod reflect;

pub use reflect::{Access, BindingInfo, Interface, ParamField, ParamKind};

use naga::valid::Capabilities;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// A WGSL file embedded in the program.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// File name without folder and extension: `conv2d`.
    pub name: &'static str,
    /// The text as written.
    pub text: &'static str,
}

/// Embeds `shaders/NAME.wgsl`.
#[macro_export]
macro_rules! wgsl {
    ($name:literal) => {
        $crate::shader::Source {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")),
        }
    };
}

/// The library files that `#import` can name.
const LIBRARY: &[Source] = &[
    wgsl!("lib/activation"),
    wgsl!("lib/bias"),
    wgsl!("lib/clipping"),
    wgsl!("lib/column_sum"),
    wgsl!("lib/element"),
    wgsl!("lib/estimate"),
    wgsl!("lib/gemm_tile"),
    wgsl!("lib/hyper"),
    wgsl!("lib/in1"),
    wgsl!("lib/in4"),
    wgsl!("lib/index"),
    wgsl!("lib/modulated"),
    wgsl!("lib/no_bias"),
    wgsl!("lib/normal"),
    wgsl!("lib/out1"),
    wgsl!("lib/out4"),
    wgsl!("lib/philox"),
    wgsl!("lib/pixel_run"),
    wgsl!("lib/reduce"),
    wgsl!("lib/step"),
    wgsl!("lib/stream"),
    wgsl!("lib/stream_direct"),
    wgsl!("lib/stream_staged"),
    wgsl!("lib/unmodulated"),
    wgsl!("lib/update_scale"),
    wgsl!("lib/vector1"),
    wgsl!("lib/vector4"),
];

/// A part of WGSL beyond its core, which a device must offer and a module must switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extension {
    /// The type f16.
    F16,
    /// Operations among the invocations of a subgroup.
    Subgroups,
    /// Products of matrices by matrix units. No browser has them.
    CooperativeMatrix,
}

impl Extension {
    /// The directive that switches it on. naga has subgroup operations without one and refuses it; browsers demand it.
    fn directive(self, target: Target) -> Option<&'static str> {
        match (self, target) {
            (Self::F16, _) => Some("enable f16;"),
            (Self::Subgroups, Target::Native) => None,
            (Self::Subgroups, Target::Browser) => Some("enable subgroups;"),
            (Self::CooperativeMatrix, _) => Some("enable wgpu_cooperative_matrix;"),
        }
    }

    fn capability(self) -> Capabilities {
        match self {
            Self::F16 => Capabilities::SHADER_FLOAT16,
            Self::Subgroups => Capabilities::SUBGROUP,
            Self::CooperativeMatrix => Capabilities::COOPERATIVE_MATRIX,
        }
    }
}

/// Who compiles a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// naga, in this program.
    Native,
    /// The browser's own compiler.
    Browser,
}

/// Named values put in place of a shader's defaults, and the extensions that these need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    constants: BTreeMap<&'static str, String>,
    links: BTreeMap<&'static str, &'static str>,
    extensions: BTreeSet<Extension>,
}

impl Variant {
    /// The shader as written.
    pub fn base() -> Self {
        Self::default()
    }

    /// Sets `const name` (with the suffix its WGSL type needs, as in `8u`) or `alias name`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.constants.insert(name, value.to_string());
        self
    }

    /// Imports library file `to` wherever the shader imports `from`.
    #[must_use]
    pub fn link(mut self, from: &'static str, to: &'static str) -> Self {
        self.links.insert(from, to);
        self
    }

    /// Switches an extension on.
    #[must_use]
    pub fn enable(mut self, extension: Extension) -> Self {
        self.extensions.insert(extension);
        self
    }

    /// The extensions that are switched on.
    pub fn extensions(&self) -> impl Iterator<Item = Extension> {
        self.extensions.iter().copied()
    }

    /// `NAME=value` pairs, for tables and errors; `default` when nothing differs.
    pub fn describe(&self) -> String {
        let constants = self.constants.iter().map(|(k, v)| format!("{k}={v}"));
        let links = self.links.values().map(|to| (*to).trim_start_matches("lib/").to_string());
        let all: Vec<String> = constants.chain(links).collect();
        if all.is_empty() { "default".into() } else { all.join(" ") }
    }
}

/// Where each line of an expanded shader came from.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// Complete WGSL.
    pub text: String,
    origin: Vec<(&'static str, usize)>,
}

impl Expanded {
    /// `file:line` of a line (from 0) of the expanded text.
    pub fn origin(&self, line: usize) -> String {
        self.origin.get(line).map_or_else(|| "?".into(), |(file, line)| format!("{file}.wgsl:{}", line + 1))
    }
}

/// A shader that could not be expanded or compiled.
#[derive(Debug, thiserror::Error)]
pub enum ShaderError {
    /// A variant names a constant that the shader does not have.
    #[error("shader {shader}: no `const {name}` or `alias {name}` to set; the variant and the file disagree")]
    UnknownConstant {
        /// The shader file.
        shader: &'static str,
        /// The name that was not found.
        name: &'static str,
    },
    /// An `#import` of a file that is not in the library, or a link from a file that is not imported.
    #[error("shader {shader}: `{import}` is not an import that can be resolved; see shaders/lib")]
    UnknownImport {
        /// The shader file.
        shader: &'static str,
        /// The import as written.
        import: String,
    },
    /// naga refused the text.
    #[error("shader {shader} ({variant}) does not compile at {origin}: {message}\n{listing}")]
    Invalid {
        /// The shader file.
        shader: &'static str,
        /// Its variant.
        variant: String,
        /// File and line of the first error.
        origin: String,
        /// naga's words.
        message: String,
        /// The expanded lines around the error.
        listing: String,
    },
    /// The host and the shader disagree about a binding or a parameter.
    #[error("shader {shader}, entry {entry}: {message}")]
    Interface {
        /// The shader file.
        shader: &'static str,
        /// The entry point.
        entry: &'static str,
        /// What differs.
        message: String,
    },
}

/// Resolves imports, sets the variant's values, writes aliases out, and puts the target's directives in front.
pub fn expand(source: &'static Source, variant: &Variant, target: Target) -> Result<Expanded, ShaderError> {
    let mut out = Expanded { text: String::new(), origin: Vec::new() };
    for directive in variant.extensions().filter_map(|e| e.directive(target)) {
        let _ = writeln!(out.text, "{directive}");
        out.origin.push((source.name, 0));
    }
    let mut unset: BTreeSet<&'static str> = variant.constants.keys().copied().collect();
    let mut unlinked: BTreeSet<&'static str> = variant.links.keys().copied().collect();
    let mut done = BTreeSet::new();
    append(source, source.name, variant, &mut out, &mut unset, &mut unlinked, &mut done)?;
    if let Some(name) = unset.first() {
        return Err(ShaderError::UnknownConstant { shader: source.name, name });
    }
    if let Some(import) = unlinked.first() {
        return Err(ShaderError::UnknownImport { shader: source.name, import: (*import).into() });
    }
    out.text = write_aliases_out(&out.text);
    Ok(out)
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

fn append(
    source: &'static Source,
    root: &'static str,
    variant: &Variant,
    out: &mut Expanded,
    unset: &mut BTreeSet<&'static str>,
    unlinked: &mut BTreeSet<&'static str>,
    done: &mut BTreeSet<&'static str>,
) -> Result<(), ShaderError> {
    for (number, line) in source.text.lines().enumerate() {
        if let Some(import) = line.strip_prefix("#import ") {
            let import = import.trim();
            let target = match variant.links.get_key_value(import) {
                Some((from, to)) => {
                    unlinked.remove(from);
                    *to
                }
                None => import,
            };
            let file = LIBRARY
                .iter()
                .find(|s| s.name == target)
                .ok_or_else(|| ShaderError::UnknownImport { shader: root, import: target.into() })?;
            if done.insert(file.name) {
                append(file, root, variant, out, unset, unlinked, done)?;
            }
            continue;
        }
        let set = declared_name(line).and_then(|name| variant.constants.get_key_value(name));
        match (set, line.split_once('=')) {
            (Some((name, value)), Some((declaration, _))) => {
                unset.remove(name);
                let _ = writeln!(out.text, "{declaration}= {value};");
            }
            _ => {
                out.text.push_str(line);
                out.text.push('\n');
            }
        }
        out.origin.push((source.name, number));
    }
    Ok(())
}

/// The name declared by a module-scope `const` or `alias` line.
fn declared_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("const ").or_else(|| line.strip_prefix("alias "))?;
    rest.split([':', '=', ' ']).next()
}

/// Parses and validates expanded WGSL, with the place and the lines of an error.
pub fn parse(
    source: &'static Source,
    variant: &Variant,
    expanded: &Expanded,
) -> Result<(naga::Module, naga::valid::ModuleInfo), ShaderError> {
    let invalid = |message: String, location: Option<naga::SourceLocation>| {
        let line = location.map_or(0, |l| (l.line_number as usize).saturating_sub(1));
        let listing = expanded.text.lines().enumerate().skip(line.saturating_sub(2)).take(5).fold(
            String::new(),
            |mut s, (i, text)| {
                let _ = writeln!(s, "{:>28} | {text}", expanded.origin(i));
                s
            },
        );
        ShaderError::Invalid {
            shader: source.name,
            variant: variant.describe(),
            origin: expanded.origin(line),
            message,
            listing,
        }
    };
    let module = naga::front::wgsl::parse_str(&expanded.text)
        .map_err(|e| invalid(e.message().into(), e.location(&expanded.text)))?;
    let capabilities =
        variant.extensions().fold(Capabilities::default(), |all, extension| all | extension.capability());
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    let info = validator
        .validate(&module)
        .map_err(|e| invalid(e.as_inner().to_string(), e.location(&expanded.text)))?;
    Ok((module, info))
}

/// An entry point of a module.
type Key = (&'static str, &'static str, Variant);

/// What an entry point asks of its caller, read from the module that naga compiles. Each is read once.
pub fn interface(
    source: &'static Source,
    entry: &'static str,
    variant: &Variant,
) -> Result<Arc<Interface>, ShaderError> {
    static KNOWN: LazyLock<Mutex<HashMap<Key, Arc<Interface>>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (source.name, entry, variant.clone());
    if let Some(found) = known().get(&key) {
        return Ok(found.clone());
    }
    let expanded = expand(source, variant, Target::Native)?;
    let read = Arc::new(Interface::of(source, entry, variant, &expanded)?);
    known().insert(key, read.clone());
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    static EXAMPLE: Source = Source {
        name: "example",
        text: "const TILE: u32 = 8u; // rows\nalias Element = f32;\n#import lib/index\n@compute @workgroup_size(TILE)\nfn f(@builtin(workgroup_id) g: vec3<u32>) { let x: Element = Element(g.x); }\n",
    };

    #[test]
    fn variants_replace_constants_and_types() {
        let variant = Variant::base().with("TILE", "4u").with("Element", "u32");
        let expanded = expand(&EXAMPLE, &variant, Target::Native).unwrap();
        assert!(expanded.text.contains("const TILE: u32 = 4u;"));
        assert!(expanded.text.contains("let x: u32 = u32(g.x);"));
        assert!(expanded.text.contains("fn workgroup_index"));
        parse(&EXAMPLE, &variant, &expanded).unwrap();
    }

    #[test]
    fn unknown_names_are_errors() {
        let e = expand(&EXAMPLE, &Variant::base().with("TYLE", "4u"), Target::Native).unwrap_err();
        assert!(e.to_string().contains("TYLE"), "{e}");
        let e =
            expand(&EXAMPLE, &Variant::base().link("lib/nowhere", "lib/index"), Target::Native).unwrap_err();
        assert!(e.to_string().contains("lib/nowhere"), "{e}");
    }

    #[test]
    fn errors_name_the_file_and_line() {
        static BROKEN: Source = Source { name: "broken", text: "#import lib/index\nfn f() { let x = y; }\n" };
        let expanded = expand(&BROKEN, &Variant::base(), Target::Native).unwrap();
        let e = parse(&BROKEN, &Variant::base(), &expanded).unwrap_err();
        assert!(e.to_string().contains("broken.wgsl:2"), "{e}");
    }

    #[test]
    fn directives_are_those_of_the_target() {
        static HALF: Source = Source {
            name: "half",
            text: "alias Element = f32;\nalias Pair = vec2<Element>;\n@group(0) @binding(0) var<storage, read_write> y: array<Pair>;\n@compute @workgroup_size(1)\nfn f() { y[0] = Pair(y[1].x, Element(1.5)); }\n",
        };
        let variant = Variant::base().with("Element", "f16").enable(Extension::F16);
        let expanded = expand(&HALF, &variant, Target::Native).unwrap();
        assert!(expanded.text.starts_with("enable f16;\n"), "{}", expanded.text);
        assert!(expanded.text.contains("y[0] = vec2<f16>(y[1].x, f16(1.5));"), "{}", expanded.text);
        assert_eq!(expanded.origin(1), "half.wgsl:1");
        parse(&HALF, &variant, &expanded).unwrap();
        // Without the extension naga must refuse the type.
        let bare = Variant::base().with("Element", "f16");
        assert!(parse(&HALF, &bare, &expand(&HALF, &bare, Target::Native).unwrap()).is_err());
        let subgroups = Variant::base().enable(Extension::Subgroups);
        assert!(expand(&HALF, &subgroups, Target::Browser).unwrap().text.starts_with("enable subgroups;\n"));
        assert!(!expand(&HALF, &subgroups, Target::Native).unwrap().text.contains("enable"));
    }
}
