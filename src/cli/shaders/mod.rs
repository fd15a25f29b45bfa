//! `inkwash shaders`.

mod isa;

use super::{DeviceArgs, Failure};
use crate::diffusion::Preset;
use crate::graph::{Caps, Kernels};
use crate::nn::Precision;
use crate::ops;
use crate::shader::{self, Extension, Kernel, LIBRARY, ShaderModel, Source, Target, Variant, declared_name};
use crate::train::{RunPlan, TrainConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct ShadersArgs {
    #[command(subcommand)]
    command: ShadersCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ShadersCommand {
    /// Every shader file: its entry points, the values that variants give its constants and aliases, the files they link and
    /// the features they need
    List {
        /// Each variant of this file in full, with the entry points that are launched in it
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// A shader as it is compiled: imports and the variant's values put in, or translated to a platform's language
    Show(ShowArgs),
    /// What the driver's compiler makes of kernels: registers, spills, scratch memory, and the instructions of the hottest loop.
    /// `scripts/shader-isa` asks Mesa's driver for AMD's GPUs, which needs no GPU
    Isa(Box<isa::IsaArgs>),
    /// Write all WGSL files into a folder, to edit them and give it to --shaders
    Export {
        /// Folder to write; must be new or empty
        #[arg(value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Shader file, as in `inkwash shaders list`: group_norm, lib/reduce
    name: String,
    /// Entry point; needed where a file has several, except for wgsl, which is the whole file
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// A constant or alias and its value, or a library file to link, in the words of `inkwash shaders list`; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    variant: Vec<String>,
    /// Language
    #[arg(long, value_enum, default_value_t = Language::Wgsl)]
    target: Language,
    /// Write a new file, not the terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Language {
    /// What naga or wgpu is given
    Wgsl,
    /// Vulkan, in binary: `spirv-dis` prints it
    Spirv,
    /// Metal
    Msl,
    /// Direct3D 12
    Hlsl,
}

pub fn run(args: &ShadersArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ShadersCommand::List { name: None } => list()?,
        ShadersCommand::List { name: Some(name) } => list_variants(find(name)?)?,
        ShadersCommand::Show(args) => show(args, device)?,
        ShadersCommand::Isa(args) => isa::run(args, device)?,
        ShadersCommand::Export { out } => export(out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The kernels of the catalogue, and of a run of each preset.
fn used() -> Result<BTreeSet<Kernel>, Failure> {
    let mut kernels = ops::kernels();
    for caps in Caps::webgpu(Kernels::Registers).variants() {
        kernels.extend(of_runs(&Preset::ALL, &[2], &[Precision::F32], |config| {
            Ok(RunPlan::new(config, &caps)?)
        })?);
    }
    Ok(kernels)
}

/// The kernels of training, held-out loss and sampling of each preset at each batch.
fn of_runs(
    presets: &[Preset],
    batches: &[usize],
    precisions: &[Precision],
    plan: impl Fn(&TrainConfig) -> Result<RunPlan, Failure>,
) -> Result<BTreeSet<Kernel>, Failure> {
    let mut kernels = BTreeSet::new();
    for &preset in presets {
        for &batch in batches {
            for &precision in precisions {
                let plan = plan(&TrainConfig { preset, batch, precision, ..TrainConfig::default() })?;
                kernels.extend(plan.launches().map(|launch| launch.dispatch.kernel()));
            }
        }
    }
    Ok(kernels)
}

/// The embedded files: those with entry points, then the library.
fn sources() -> Vec<&'static Source> {
    let kernels: BTreeSet<&'static Source> = ops::kernels().iter().map(|kernel| kernel.source).collect();
    kernels.into_iter().chain(LIBRARY).collect()
}

/// The embedded file of this name.
fn find(name: &str) -> Result<&'static Source, Failure> {
    let name = name.strip_suffix(".wgsl").unwrap_or(name);
    let sources = sources();
    sources.iter().copied().find(|source| source.name == name).ok_or_else(|| {
        let names: Vec<&str> = sources.iter().map(|source| source.name).collect();
        format!("there is no shader `{name}`; there are: {}", names.join(", ")).into()
    })
}

fn list() -> Result<(), Failure> {
    let mut files: BTreeMap<&'static Source, Vec<Kernel>> = BTreeMap::new();
    for kernel in used()? {
        files.entry(kernel.source).or_default().push(kernel);
    }
    let row = |label: &str, words: BTreeSet<&str>| {
        if !words.is_empty() {
            println!("  {label:<16} {}", words.into_iter().collect::<Vec<_>>().join(", "));
        }
    };
    let mut importers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (source, kernels) in &files {
        println!("{}", source.file());
        row("entry points", kernels.iter().map(|k| k.entry).collect());
        let variants: BTreeSet<&Variant> = kernels.iter().map(|k| &k.variant).collect();
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, value) in variants.iter().flat_map(|variant| variant.values()) {
            values.entry(name).or_default().insert(value);
        }
        for (name, mut values) in values {
            let files = source.imports().into_iter().chain([*source]);
            let mut lines = files.flat_map(|file| file.text.lines());
            let line = lines.find(|line| declared_name(line) == Some(name)).unwrap_or_default();
            values.extend(line.split(['=', ';']).nth(1).map(str::trim));
            row(name, values);
        }
        row("links", variants.iter().flat_map(|v| v.links()).map(|(_, to)| to).collect());
        row("features", variants.iter().flat_map(|v| v.extensions()).map(Extension::name).collect());
        let linked = variants.iter().flat_map(|v| v.links()).map(|(_, to)| to);
        for library in source.imports().into_iter().map(|s| s.name).chain(linked) {
            importers.entry(library).or_default().insert(source.name);
        }
    }
    println!("\nlib/, and the files that import each");
    for library in LIBRARY {
        row(library.name.trim_start_matches("lib/"), importers.remove(library.name).unwrap_or_default());
    }
    println!(
        "\n`inkwash shaders list NAME` has each variant of a file, `inkwash shaders show NAME` its text."
    );
    Ok(())
}

fn list_variants(source: &'static Source) -> Result<(), Failure> {
    let mut variants: BTreeMap<Variant, Vec<&'static str>> = BTreeMap::new();
    for kernel in used()?.into_iter().filter(|kernel| kernel.source == source) {
        variants.entry(kernel.variant).or_default().push(kernel.entry);
    }
    if variants.is_empty() {
        return Err(format!("{} has no entry point: other files import it", source.file()).into());
    }
    for (variant, entries) in variants {
        let features: Vec<&str> = variant.extensions().map(Extension::name).collect();
        println!("{:<56} {:<4} {}", variant.describe(), features.join(" "), entries.join(", "));
    }
    Ok(())
}

fn show(args: &ShowArgs, device: &DeviceArgs) -> Result<(), Failure> {
    // 1. The file in its variant.
    let source = find(&args.name)?;
    let variant = variant(source, &args.variant)?;
    let embedded = shader::expand(source, &variant, Target::Native)?;
    let expanded = match &device.folder {
        Some(folder) => folder.expand(source, &variant, Target::Native)?,
        None => embedded.clone(),
    };

    // 2. Its entry point.
    let library = LIBRARY.contains(source);
    if args.target == Language::Wgsl && args.entry.is_none() {
        return write(args, expanded.text.as_bytes());
    }
    if library {
        return Err(format!("{} has no entry point: show it as wgsl, without --entry", source.file()).into());
    }
    let (module, info) = shader::parse(&variant, &expanded)?;
    let entries: Vec<&str> = module.entry_points.iter().map(|point| point.name.as_str()).collect();
    let entry = match (&args.entry, entries.as_slice()) {
        (Some(entry), _) if entries.contains(&entry.as_str()) => entry,
        (None, [entry]) => *entry,
        (given, _) => {
            let given =
                given.as_ref().map_or("give --entry NAME".into(), |e| format!("--entry {e} is none of them"));
            return Err(
                format!("{} has the entry points {}: {given}", expanded.file, entries.join(", ")).into()
            );
        }
    };

    // 3. Its translation. What a folder changes is compiled with checks, as on a device.
    let checked = expanded.text != embedded.text;
    match args.target {
        Language::Wgsl => write(args, expanded.text.as_bytes()),
        Language::Msl => write(args, shader::to_msl(&module, &info, entry, checked)?.as_bytes()),
        Language::Hlsl => {
            let f16 = variant.extensions().any(|extension| extension == Extension::F16);
            let model = if f16 { ShaderModel::V6_2 } else { ShaderModel::V6_0 };
            write(args, shader::to_hlsl(&module, &info, entry, model, checked)?.0.as_bytes())
        }
        Language::Spirv => {
            if args.out.is_none() && std::io::stdout().is_terminal() {
                let remedy = "give --out FILE, or pipe it: inkwash shaders show … | spirv-dis";
                return Err(format!("SPIR-V is binary and not for a terminal: {remedy}").into());
            }
            let words = shader::to_spirv(&module, &info, entry, checked)?;
            write(args, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
        }
    }
}

/// The variant that words such as `PIXELS=4u`, `vector1` and `lib/vector4=lib/vector1` ask for.
fn variant(source: &'static Source, words: &[String]) -> Result<Variant, Failure> {
    let words: Vec<&str> = words.iter().flat_map(|words| words.split_whitespace()).collect();
    let library = |name: &str| {
        let name = name.trim_start_matches("lib/");
        LIBRARY.iter().map(|file| file.name).find(|file| file.trim_start_matches("lib/") == name)
    };
    let mut variant = Variant::base();
    let mut values = Vec::new();
    // Files that are linked first: they declare names of their own.
    for word in words {
        let link = match word.split_once('=') {
            Some((from, to)) => library(from).zip(library(to)),
            None if word == Variant::base().describe() => continue,
            None => {
                let kernels = ops::kernels();
                let mut links =
                    kernels.iter().filter(|k| k.source == source).flat_map(|kernel| kernel.variant.links());
                Some(links.find(|&(_, to)| Some(to) == library(word)).ok_or_else(|| {
                    format!("--variant {word}: no variant of {} links such a file", source.file())
                })?)
            }
        };
        match (link, word.split_once('=')) {
            (Some((from, to)), _) => variant = variant.link(from, to),
            (None, value) => values.extend(value),
        }
    }
    let linked: Vec<&str> = variant.links().map(|(_, to)| to).collect();
    let files = LIBRARY.iter().filter(|file| linked.contains(&file.name));
    let files: BTreeSet<&'static Source> = files
        .flat_map(|file| file.imports().into_iter().chain([file]))
        .chain(source.imports())
        .chain([source])
        .collect();
    let names: BTreeSet<&'static str> =
        files.iter().flat_map(|file| file.text.lines()).filter_map(declared_name).collect();
    for (name, value) in values {
        let Some(name) = names.get(name) else {
            let names: Vec<&str> = names.into_iter().collect();
            let message = format!(
                "{} declares no const or alias `{name}`; it has: {}",
                source.file(),
                names.join(", ")
            );
            return Err(format!("--variant {name}={value}: {message}").into());
        };
        variant = variant.with(name, value);
        if value == "f16" {
            variant = variant.enable(Extension::F16);
        }
    }
    // What the file cannot do without, whatever its values.
    let kernels: Vec<Kernel> = ops::kernels().into_iter().filter(|kernel| kernel.source == source).collect();
    let needed =
        |extension: &Extension| kernels.iter().all(|k| k.variant.extensions().any(|e| e == *extension));
    let extensions = kernels.first().into_iter().flat_map(|kernel| kernel.variant.extensions());
    Ok(extensions.filter(needed).fold(variant, Variant::enable))
}

/// To the terminal, or into a file that is not there yet.
fn write(args: &ShowArgs, bytes: &[u8]) -> Result<(), Failure> {
    match &args.out {
        None => Ok(std::io::stdout().write_all(bytes)?),
        Some(path) => {
            create(path, bytes)?;
            println!("{}   {} bytes", path.display(), bytes.len());
            Ok(())
        }
    }
}

fn create(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|e| {
        let taken = e.kind() == std::io::ErrorKind::AlreadyExists;
        let remedy = if taken { "; give a name that is not taken" } else { "" };
        format!("{} cannot be written: {e}{remedy}", path.display()).into()
    })
}

fn export(out: &Path) -> Result<(), Failure> {
    let fail = |action: &str, e: std::io::Error| format!("{} cannot be {action}: {e}", out.display());
    if out.exists() && std::fs::read_dir(out).map_err(|e| fail("read", e))?.next().is_some() {
        return Err(
            format!("{} already holds files; give a folder that is new or empty", out.display()).into()
        );
    }
    std::fs::create_dir_all(out.join("lib")).map_err(|e| fail("made", e))?;
    let sources = sources();
    for source in &sources {
        create(&out.join(source.file()), source.text.as_bytes())?;
    }
    println!("{}   {} shader files", out.display(), sources.len());
    println!(
        "\nChange a line and see what comes of it: inkwash doctor --case group_norm --shaders {}",
        out.display()
    );
    Ok(())
}
