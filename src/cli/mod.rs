//! The commands, one file each.

mod bench;
mod configuration;
mod data;
mod demo;
mod doctor;
mod export;
mod lab;
mod operator;
mod profile;
mod progress;
mod sample;
mod scale;
mod shaders;
mod train;
mod verify;

use crate::gpu::{Blocking as _, Choice, Device, GpuError};
use crate::graph::Kernels;
use crate::ops;
use crate::shader::{Folder, FolderError};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use etcetera::BaseStrategy as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train and sample diffusion models on any GPU; every operation is a WGSL shader you can read.
#[derive(Debug, Parser)]
#[command(name = "inkwash", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on pictures
    Train(Box<train::TrainArgs>),
    /// Look at pictures before training on them
    Data(data::DataArgs),
    /// Draw pictures from a trained model
    Sample(Box<sample::SampleArgs>),
    /// Write a trained model as a folder that Hugging Face diffusers opens
    Export(export::ExportArgs),
    /// List adapters, and prove every kernel on the chosen device against its f64 reference
    Doctor(doctor::DoctorArgs),
    /// Prove that this device computes what PyTorch computes: network, gradients, training steps, samplers
    Verify(verify::VerifyArgs),
    /// Run the article's experiments: each measures its claims and draws what it finds
    Lab(lab::LabArgs),
    /// Tell where the time of a step goes: every launch, by module, operator and kernel
    Profile(Box<profile::ProfileArgs>),
    /// Measure a training step, an operator, or the device's own ceilings
    Bench(bench::BenchArgs),
    /// List, show and export the shaders, which --shaders reads back
    Shaders(shaders::ShadersArgs),
    /// Train the built-in glyphs for a few minutes and show what came of it
    Demo(demo::DemoArgs),
}

/// Which device runs the kernels.
#[derive(Clone, Debug, Args)]
struct DeviceArgs {
    /// Adapter, by part of its name or by its number in `inkwash doctor`; ranks of one machine (`mpirun`) take the next ones, or
    /// those of a list as in 0,2
    #[arg(long, global = true, env = "INKWASH_DEVICE", value_name = "NAME|INDEX", help_heading = "Device")]
    device: Option<String>,
    /// Graphics interface: vulkan, metal, dx12 or gl
    #[arg(long, global = true, env = "INKWASH_BACKEND", value_name = "BACKEND", help_heading = "Device")]
    backend: Option<String>,
    /// Algorithms: registers (CPU drivers) or workgroup (GPUs); chosen by the device if left out
    #[arg(long, global = true, env = "INKWASH_KERNELS", value_enum, help_heading = "Device")]
    kernels: Option<KernelsArg>,
    /// Leave every operator a launch of its own: slower, to compare and to find faults. A training run keeps to what it began with
    #[arg(long, global = true, help_heading = "Device")]
    no_fusion: bool,
    /// WGSL files to use in place of the embedded ones of the same names (`inkwash shaders export`)
    #[arg(long, global = true, value_name = "DIR", help_heading = "Device")]
    shaders: Option<PathBuf>,
    /// Folder that keeps compiled kernels from run to run, or `none`; left out, the system's folder for caches
    #[arg(
        long,
        global = true,
        env = "INKWASH_CACHE",
        value_name = "DIR|none",
        overrides_with = "cache",
        help_heading = "Device"
    )]
    cache: Option<PathBuf>,
    /// What `shaders` holds, once it is read.
    #[arg(skip)]
    folder: Option<Arc<Folder>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KernelsArg {
    Registers,
    Workgroup,
}

impl DeviceArgs {
    /// The algorithms that were asked for.
    fn kernels(&self) -> Option<Kernels> {
        self.kernels.map(|k| match k {
            KernelsArg::Registers => Kernels::Registers,
            KernelsArg::Workgroup => Kernels::Workgroup,
        })
    }

    fn open(&self) -> Result<Arc<Device>, GpuError> {
        self.open_for(0)
    }

    /// The device of a process among those that share this machine.
    fn open_for(&self, local_rank: usize) -> Result<Arc<Device>, GpuError> {
        Device::open(&Choice {
            device: self.device.clone(),
            local_rank,
            backend: self.backend.clone(),
            kernels: self.kernels(),
            no_fusion: self.no_fusion,
            default_limits: false,
            shaders: self.folder.clone(),
            cache: self.cache(),
        })
        .block_on()
    }

    /// The folder that keeps compiled kernels, if there is to be one.
    fn cache(&self) -> Option<PathBuf> {
        match &self.cache {
            Some(none) if none.as_os_str() == "none" => None,
            Some(folder) => Some(folder.clone()),
            None => Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("inkwash")),
        }
    }

    /// Reads and checks the folder of shaders, if one is given, and says what it changes.
    fn read_shaders(&mut self) -> Result<(), FolderError> {
        let Some(path) = &self.shaders else { return Ok(()) };
        let folder = Folder::open(path, &ops::kernels())?;
        let names = |names: &[&str]| names.iter().map(|n| format!("{n}.wgsl")).collect::<Vec<_>>().join(", ");
        let path = printable(&path.display().to_string());
        eprintln!(
            "{}",
            match folder.changed() {
                [] => format!("note: the shaders in {path} are the embedded ones, unchanged"),
                changed => format!(
                    "note: {path} changes {}; its kernels are compiled with checks of bounds and loops, which cost time",
                    names(changed)
                ),
            }
        );
        match folder.missing() {
            [] => {}
            missing if missing.len() <= 5 => {
                eprintln!("note: {path} lacks {}: the embedded ones are used", names(missing));
            }
            missing => {
                eprintln!("note: {path} lacks {} other shaders: the embedded ones are used", missing.len())
            }
        }
        self.folder = Some(Arc::new(folder));
        Ok(())
    }
}

/// Whatever a command may fail with: printed as one paragraph.
type Failure = Box<dyn std::error::Error>;

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    // `inkwash doctor | head` ends quietly instead of panicking at the closed pipe.
    sigpipe::reset();
    let matches = Cli::command().mut_subcommand("data", data::hide_flags).get_matches();
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    let result = cli.device.read_shaders().map_err(Failure::from).and_then(|()| run(&cli, &matches));
    result.unwrap_or_else(|e| {
        eprintln!("error: {}", printable(&in_words(&*e)));
        ExitCode::FAILURE
    })
}

fn run(cli: &Cli, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    match (&cli.command, matches.subcommand()) {
        (Command::Train(args), Some((_, matches))) => train::run(args, matches, &cli.device),
        (Command::Data(args), Some((_, matches))) => data::run(args, matches, &cli.device),
        (Command::Sample(args), _) => sample::run(args, &cli.device),
        (Command::Export(args), _) => export::run(args),
        (Command::Doctor(args), _) => doctor::run(args, &cli.device),
        (Command::Lab(args), _) => lab::run(args, &cli.device),
        (Command::Verify(args), _) => verify::run(args, &cli.device),
        (Command::Profile(args), _) => profile::run(args, &cli.device),
        (Command::Bench(args), _) => bench::run(args, &cli.device),
        (Command::Demo(args), _) => demo::run(args, &cli.device),
        (Command::Shaders(args), _) => shaders::run(args, &cli.device),
        (Command::Train(_) | Command::Data(_), None) => Ok(ExitCode::FAILURE),
    }
}

/// An error with its causes. Some errors carry their cause in their own words; the others are followed by it.
fn in_words(e: &dyn std::error::Error) -> String {
    let mut message = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let words = e.to_string();
        if !message.contains(&words) {
            message = format!("{message}: {words}");
        }
        cause = e.source();
    }
    message
}

/// Prints what ranks say of each other.
fn tell(line: &str) {
    eprintln!("{}", printable(line));
}

/// A message that may quote names of files, with whatever would steer a terminal escaped.
fn printable(message: &str) -> String {
    let escaped =
        |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.into() };
    message.chars().map(escaped).collect()
}

/// Set by the first Ctrl-C, which asks for an early end; the second one ends at once. `then` says what the first one
/// leads to.
fn interruption(then: &'static str) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let handler = ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\ninterrupted: {then} (press again to stop at once)");
    });
    if let Err(e) = handler {
        eprintln!("warning: Ctrl-C will stop at once, and not end by {then}: {e}");
    }
    flag
}
