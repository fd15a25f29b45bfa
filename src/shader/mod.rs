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

mod reflect;

pub use reflect::{Access, BindingInfo, Interface, ParamField, ParamKind};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

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
    wgsl!("lib/column_sum"),
    wgsl!("lib/estimate"),
    wgsl!("lib/gemm_tile"),
    wgsl!("lib/in1"),
    wgsl!("lib/in4"),
    wgsl!("lib/index"),
    wgsl!("lib/no_bias"),
    wgsl!("lib/normal"),
    wgsl!("lib/out1"),
    wgsl!("lib/out4"),
    wgsl!("lib/philox"),
    wgsl!("lib/pixel_run"),
    wgsl!("lib/reduce"),
    wgsl!("lib/stream_direct"),
    wgsl!("lib/stream_staged"),
    wgsl!("lib/vector1"),
    wgsl!("lib/vector4"),
];

/// Named values put in place of a shader's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    constants: BTreeMap<&'static str, String>,
    links: BTreeMap<&'static str, &'static str>,
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

/// Resolves imports and sets the variant's values.
pub fn expand(source: &'static Source, variant: &Variant) -> Result<Expanded, ShaderError> {
    let mut out = Expanded { text: String::new(), origin: Vec::new() };
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
    Ok(out)
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
    let mut validator = naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::default(),
    );
    let info = validator
        .validate(&module)
        .map_err(|e| invalid(e.as_inner().to_string(), e.location(&expanded.text)))?;
    Ok((module, info))
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
        let expanded = expand(&EXAMPLE, &variant).unwrap();
        assert!(expanded.text.contains("const TILE: u32 = 4u;"));
        assert!(expanded.text.contains("alias Element = u32;"));
        assert!(expanded.text.contains("fn workgroup_index"));
        parse(&EXAMPLE, &variant, &expanded).unwrap();
    }

    #[test]
    fn unknown_names_are_errors() {
        let e = expand(&EXAMPLE, &Variant::base().with("TYLE", "4u")).unwrap_err();
        assert!(e.to_string().contains("TYLE"), "{e}");
        let e = expand(&EXAMPLE, &Variant::base().link("lib/nowhere", "lib/index")).unwrap_err();
        assert!(e.to_string().contains("lib/nowhere"), "{e}");
    }

    #[test]
    fn errors_name_the_file_and_line() {
        static BROKEN: Source = Source { name: "broken", text: "#import lib/index\nfn f() { let x = y; }\n" };
        let expanded = expand(&BROKEN, &Variant::base()).unwrap();
        let e = parse(&BROKEN, &Variant::base(), &expanded).unwrap_err();
        assert!(e.to_string().contains("broken.wgsl:2"), "{e}");
    }
}
