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

mod expand;
mod folder;
mod parts;
mod reflect;
mod translate;

pub use expand::{Expanded, expand};
pub use folder::{Folder, FolderError};
pub use parts::{Kept, Part, Parts, SWITCH_GROUP, Switched};
pub use reflect::{Access, BindingInfo, Interface, ParamField, ParamKind};
pub use translate::{ShaderModel, to_hlsl, to_msl, to_spirv};

use naga::valid::Capabilities;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// A WGSL file embedded in the program.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// File name without folder and extension: `conv2d`.
    pub name: &'static str,
    /// The text as written.
    pub text: &'static str,
}

impl Source {
    /// `conv2d.wgsl`.
    pub fn file(&self) -> String {
        format!("{}.wgsl", self.name)
    }

    /// The library files that it imports by default, those of its imports before them.
    pub fn imports(&self) -> Vec<&'static Source> {
        let mut found: Vec<&'static Source> = Vec::new();
        for name in self.text.lines().filter_map(|line| line.strip_prefix("#import ")) {
            let Some(file) = LIBRARY.iter().find(|s| s.name == name.trim()) else { continue };
            for file in file.imports().into_iter().chain([file]) {
                if !found.contains(&file) {
                    found.push(file);
                }
            }
        }
        found
    }
}

/// The name that a line declares by `const` or `alias` at its start.
pub fn declared_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("const ").or_else(|| line.strip_prefix("alias "))?;
    rest.split([':', '=', ' ']).next()
}

/// An entry point of a shader in one of its variants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kernel {
    /// The file.
    pub source: &'static Source,
    /// Its values.
    pub variant: Variant,
    /// The entry point.
    pub entry: &'static str,
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
pub static LIBRARY: &[Source] = &[
    wgsl!("lib/a_along_k"),
    wgsl!("lib/a_along_m"),
    wgsl!("lib/activation"),
    wgsl!("lib/added"),
    wgsl!("lib/added_per_image"),
    wgsl!("lib/attention_params"),
    wgsl!("lib/b_along_k"),
    wgsl!("lib/b_along_n"),
    wgsl!("lib/bias"),
    wgsl!("lib/bias_behind_weight"),
    wgsl!("lib/bias_gradient"),
    wgsl!("lib/clipping"),
    wgsl!("lib/column_sum"),
    wgsl!("lib/conv2d_params"),
    wgsl!("lib/element"),
    wgsl!("lib/estimate"),
    wgsl!("lib/gemm_matrix"),
    wgsl!("lib/gemm_places"),
    wgsl!("lib/gemm_tile"),
    wgsl!("lib/gemm_vectors"),
    wgsl!("lib/hyper"),
    wgsl!("lib/in1"),
    wgsl!("lib/in4"),
    wgsl!("lib/index"),
    wgsl!("lib/linear_params"),
    wgsl!("lib/loss_scale"),
    wgsl!("lib/matrix16"),
    wgsl!("lib/matrix8"),
    wgsl!("lib/modulated"),
    wgsl!("lib/no_added"),
    wgsl!("lib/no_bias"),
    wgsl!("lib/no_bias_gradient"),
    wgsl!("lib/no_weight_copy"),
    wgsl!("lib/normal"),
    wgsl!("lib/out1"),
    wgsl!("lib/out4"),
    wgsl!("lib/philox"),
    wgsl!("lib/pixel_run"),
    wgsl!("lib/reduce"),
    wgsl!("lib/reduce_subgroup"),
    wgsl!("lib/scaled_sum"),
    wgsl!("lib/softmax"),
    wgsl!("lib/softmax_gradient"),
    wgsl!("lib/softmax_weight"),
    wgsl!("lib/step"),
    wgsl!("lib/stream"),
    wgsl!("lib/stream_direct"),
    wgsl!("lib/stream_staged"),
    wgsl!("lib/stream_subgroup"),
    wgsl!("lib/unmodulated"),
    wgsl!("lib/update_scale"),
    wgsl!("lib/vector1"),
    wgsl!("lib/vector4"),
    wgsl!("lib/weight_copy"),
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
    /// As WGSL names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Subgroups => "subgroups",
            Self::CooperativeMatrix => "cooperative_matrix",
        }
    }

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

    /// The constants and aliases that are set, with their values.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.constants.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The library files that stand in place of others: (from, to).
    pub fn links(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.links.iter().map(|(from, to)| (*from, *to))
    }

    /// `NAME=value` pairs, for tables and errors; `default` when nothing differs.
    pub fn describe(&self) -> String {
        let constants = self.constants.iter().map(|(k, v)| format!("{k}={v}"));
        let links = self.links.values().map(|to| (*to).trim_start_matches("lib/").to_string());
        let all: Vec<String> = constants.chain(links).collect();
        if all.is_empty() { "default".into() } else { all.join(" ") }
    }
}

/// A shader that could not be expanded or compiled.
#[derive(Debug, thiserror::Error)]
pub enum ShaderError {
    /// A variant names a constant that the shader does not have.
    #[error(
        "shader {file}: no `const {name}` or `alias {name}` at the start of a line, which a variant sets to a value of its own"
    )]
    UnknownConstant {
        /// The shader file.
        file: String,
        /// The name that was not found.
        name: &'static str,
    },
    /// An `#import` of a file that is not in the library, or a link from a file that is not imported.
    #[error(
        "shader {file}: `{import}` is not an import that can be resolved; `inkwash shaders list` has the files of lib"
    )]
    UnknownImport {
        /// The shader file, and the line of the import.
        file: String,
        /// The file that is asked for.
        import: String,
    },
    /// naga refused the text.
    #[error("shader {file} ({variant}) does not compile at {origin}: {message}\n{listing}")]
    Invalid {
        /// The shader file.
        file: String,
        /// Its variant.
        variant: String,
        /// File and line of the first error.
        origin: String,
        /// naga's words.
        message: String,
        /// The expanded lines around the error, which is underlined.
        listing: String,
    },
    /// The host and the shader disagree about a binding or a parameter.
    #[error("shader {file}, entry {entry}: {message}")]
    Interface {
        /// The shader file.
        file: String,
        /// The entry point.
        entry: &'static str,
        /// What differs.
        message: String,
    },
}

/// Parses and validates expanded WGSL, with the place and the lines of an error.
pub fn parse(
    variant: &Variant,
    expanded: &Expanded,
) -> Result<(naga::Module, naga::valid::ModuleInfo), ShaderError> {
    let module = naga::front::wgsl::parse_str(&expanded.text)
        .map_err(|e| invalid(variant, expanded, e.message().into(), e.location(&expanded.text)))?;
    let info = validate(variant, expanded, &module)?;
    Ok((module, info))
}

/// Validates a module made from expanded WGSL, with the variant's extensions and no others.
fn validate(
    variant: &Variant,
    expanded: &Expanded,
    module: &naga::Module,
) -> Result<naga::valid::ModuleInfo, ShaderError> {
    let capabilities =
        variant.extensions().fold(Capabilities::default(), |all, extension| all | extension.capability());
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    validator.validate(module).map_err(|e| {
        let mut message = e.as_inner().to_string();
        let mut cause = std::error::Error::source(e.as_inner());
        while let Some(inner) = cause {
            let _ = write!(message, ": {inner}");
            cause = inner.source();
        }
        invalid(variant, expanded, message, e.location(&expanded.text))
    })
}

fn invalid(
    variant: &Variant,
    expanded: &Expanded,
    message: String,
    location: Option<naga::SourceLocation>,
) -> ShaderError {
    let line = location.map_or(0, |l| (l.line_number as usize).saturating_sub(1));
    ShaderError::Invalid {
        file: expanded.file.to_string(),
        variant: variant.describe(),
        origin: expanded.origin(line),
        message,
        listing: listing(expanded, line, location),
    }
}

/// The lines around an error, with where each came from, and the words in question underlined.
fn listing(expanded: &Expanded, line: usize, location: Option<naga::SourceLocation>) -> String {
    let lines = || expanded.text.lines().enumerate().skip(line.saturating_sub(2)).take(5);
    let width = lines().map(|(i, _)| expanded.origin(i).chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (i, text) in lines() {
        let _ = writeln!(out, "{:>width$} | {text}", expanded.origin(i));
        let Some(place) = location.filter(|_| i == line) else { continue };
        // naga counts bytes, and a place may span lines.
        let start = text.floor_char_boundary((place.line_position as usize).saturating_sub(1));
        let end = text.floor_char_boundary(start.saturating_add(place.length as usize));
        let indent: String = text[..start].chars().map(|c| if c == '\t' { c } else { ' ' }).collect();
        let _ =
            writeln!(out, "{:width$} | {indent}{}", "", "^".repeat(text[start..end].chars().count().max(1)));
    }
    out
}

/// An entry point of a module.
type Key = (&'static str, &'static str, Variant);

/// What an entry point of an embedded file asks of its caller, read from the module that naga compiles. Each is read once.
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
    let read = Arc::new(Interface::of(entry, variant, &expanded)?);
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
        parse(&variant, &expanded).unwrap();
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
        let e = parse(&Variant::base(), &expanded).unwrap_err();
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
        parse(&variant, &expanded).unwrap();
        // Without the extension naga must refuse the type.
        let bare = Variant::base().with("Element", "f16");
        assert!(parse(&bare, &expand(&HALF, &bare, Target::Native).unwrap()).is_err());
        let subgroups = Variant::base().enable(Extension::Subgroups);
        assert!(expand(&HALF, &subgroups, Target::Browser).unwrap().text.starts_with("enable subgroups;\n"));
        assert!(!expand(&HALF, &subgroups, Target::Native).unwrap().text.contains("enable"));
    }
}
