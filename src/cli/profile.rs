//! `inkwash profile`.

use super::operator::OperatorArgs;
use super::progress::Bar;
use super::{DeviceArgs, Failure};
use crate::diffusion::{Preset, Sampler, Trajectory, UNet};
use crate::gpu::Clock;
use crate::io::atomic::write_atomic;
use crate::nn::{PictureSize, Precision};
use crate::profile::diff::diff;
use crate::profile::lines::{self, Lines};
use crate::profile::table::{By, rows};
use crate::profile::{
    Measure, Options, Profile, operator, page, report, sampling_step, trace, training_step,
    with_made_up_classes,
};
use crate::train::{NetworkKind, TrainConfig, open_model, read_config, tuned};
use crate::tune::Effort;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ProfileArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Network, with its initial weights
    #[arg(long, value_enum, default_value_t = Preset::TinyGray)]
    preset: Preset,
    /// Size of the pictures, N or WIDTHxHEIGHT, in place of the network's own
    #[arg(long, value_name = "N|WxH", conflicts_with_all = ["config", "model"])]
    size: Option<PictureSize>,
    /// Training configuration (TOML), as `train` reads it; pictures are made up
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "model"])]
    config: Option<PathBuf>,
    /// Trained model: a run folder or a diffusers folder
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// Pictures per micro-batch; 16 if neither this nor a configuration says so
    #[arg(long, value_name = "B")]
    batch: Option<usize>,
    /// Type in which activations, their gradients and the weights of products are stored; f32 if neither this nor a configuration
    /// says so
    #[arg(long, value_enum, value_name = "PRECISION")]
    precision: Option<Precision>,
    /// Measure first which algorithm of each operator is the fastest, as train does; for a training step
    #[arg(long, value_enum, default_value_t = Effort::Off, value_name = "EFFORT", conflicts_with_all = ["op", "sample"])]
    tune: Effort,
    /// A step of sampling (DDIM) instead of training
    #[arg(long)]
    sample: bool,
    /// Only this operator, as `doctor -v` names it: conv2d, attention_backward, adamw, ...
    #[arg(long, value_name = "NAME", conflicts_with_all = ["preset", "size", "config", "model", "batch", "precision", "sample"])]
    op: Option<String>,
    /// Profiled steps, in turns with as many undisturbed ones; runs of each form of a kernel for --lines
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Processes that share the runs, one after the other, so that `profile diff` knows what differs between two; 8 with --out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Only this process's part of the runs, written as JSON to this file
    #[arg(long, hide = true, value_name = "FILE")]
    round: Option<PathBuf>,
    /// Steps before the first that counts
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: u32,
    /// How launches are timed; the best that can be trusted if left out
    #[arg(long, value_enum, value_name = "CLOCK")]
    clock: Option<Clock>,
    /// Before measuring, let the debugger that this runs under (RenderDoc, Xcode) capture one step
    #[arg(long)]
    capture: bool,
    /// What the rows of the table sum up; by phase and by operator if left out
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Option<By>,
    /// Rows of a table at the most
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    /// Only launches whose phase, module, operator, kernel or variant contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// What each part and line of one kernel costs, beside its source, found by switching them off: the launch of it that takes
    /// longest, or that --filter chooses
    #[arg(long, value_name = "SHADER:ENTRY", conflicts_with_all = ["by", "top", "markdown", "out", "csv", "html", "trace", "capture"])]
    lines: Option<String>,
    /// Print the profile as JSON (docs/profiling.md) instead of tables
    #[arg(long)]
    json: bool,
    /// Print Markdown instead, for a pull request
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Write the profile as JSON, for `profile diff`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a line of comma-separated values for each launch
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page for a browser: roofline, timeline, shares by module, a table, memory; opens offline
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write one step as a trace, which ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Turn a profile that --out wrote into a page for a browser
    Page {
        /// The profile
        profile: PathBuf,
        /// The page, which opens offline
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
    },
    /// Compare two profiles that --out wrote, kernel by kernel
    #[command(
        after_help = "Exit status: 0 if no kernel is slower, 1 if one is, 2 if the profiles cannot be compared."
    )]
    Diff {
        /// The profile before
        before: PathBuf,
        /// The profile after
        after: PathBuf,
        /// Name no change below this many per cent
        #[arg(long, default_value_t = 3.0, value_name = "PERCENT")]
        threshold: f64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: &ProfileArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    if let Some(What::Diff { before, after, threshold, json }) = &args.what {
        return Ok(compare(before, after, *threshold, *json).unwrap_or_else(|e| {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }));
    }
    if let Some(What::Page { profile, html }) = &args.what {
        let text = page::page(&Profile::read(profile)?)?;
        write_atomic(html, |out| out.write_all(text.as_bytes()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(kernel) = &args.lines {
        let wanted = Lines {
            kernel,
            filter: args.filter.as_deref(),
            runs: args.runs as usize,
            warmup: args.warmup as usize,
            clock: args.clock,
        };
        let found = measure(args, device, &wanted)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            print!("{}", lines::report::report(&found));
        }
        return Ok(ExitCode::SUCCESS);
    }
    // A debugger is attached to this process alone.
    let most = if args.capture { 1 } else { args.runs };
    let rounds = args.rounds.unwrap_or(if args.out.is_some() { ROUNDS } else { 1 }).min(most);
    let options = Options {
        runs: args.runs.div_ceil(rounds) as usize,
        warmup: args.warmup as usize,
        clock: args.clock,
        rounds: rounds as usize,
        capture: args.capture,
    };
    if let Some(file) = &args.round {
        let profile = serde_json::to_string(&measure(args, device, &options)?)?;
        write_atomic(file, |out| out.write_all(profile.as_bytes()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let profile = if rounds == 1 { measure(args, device, &options)? } else { in_rounds(rounds)? };
    let write =
        |path: &Option<PathBuf>, text: &dyn Fn() -> serde_json::Result<String>| -> Result<(), Failure> {
            let Some(path) = path else { return Ok(()) };
            let text = text()?;
            Ok(write_atomic(path, |out| out.write_all(text.as_bytes()))?)
        };
    write(&args.out, &|| serde_json::to_string(&profile))?;
    write(&args.csv, &|| Ok(report::csv(&profile)))?;
    write(&args.html, &|| page::page(&profile))?;
    write(&args.trace, &|| serde_json::to_string(&trace::trace(&profile)))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&profile)?);
    } else if args.markdown {
        print!("{}", report::markdown(&profile, args.by.unwrap_or(By::Op), args.filter.as_deref(), args.top));
    } else {
        print!("{}", report::heading(&profile));
        for by in args.by.map_or(vec![By::Phase, By::Op], |by| vec![by]) {
            let rows = rows(&profile, by, args.filter.as_deref());
            if let (true, Some(text)) = (rows.is_empty(), &args.filter) {
                return Err(format!(
                    "--filter {text}: no launch has this in its phase, module, operator, kernel or variant"
                )
                .into());
            }
            print!("\n{}", report::table(by, &rows, args.top));
        }
        print!("\n{}", report::accounting(&profile));
    }
    Ok(ExitCode::SUCCESS)
}

/// Rounds of a profile that is kept to be compared. Of made-up kernels whose rounds scatter by 7 per cent, a third slower is named in
/// 94 of 100 comparisons with 6 rounds.
const ROUNDS: u32 = 8;

/// Has as many processes as there are rounds measure their part of what this command asks for.
fn in_rounds(rounds: u32) -> Result<Profile, Failure> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("round.json");
    let bar = Bar::new(rounds.into(), "round");
    let mut profiles = Vec::new();
    for round in 1..=rounds {
        let output = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--round")
            .arg(&file)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("error: ");
            return Err(if said.is_empty() {
                format!("round {round}: {}", output.status)
            } else {
                said.into()
            }
            .into());
        }
        profiles.push(Profile::read(&file)?);
        bar.set_position(round.into());
    }
    bar.finish();
    Profile::together(profiles).ok_or_else(|| "the rounds of this profile ran different launches".into())
}

/// 0 if no kernel is slower, 1 if one is.
fn compare(before: &Path, after: &Path, threshold: f64, json: bool) -> Result<ExitCode, Failure> {
    if !threshold.is_finite() || threshold < 0.0 {
        return Err(format!("--threshold {threshold}: expected per cent, at least 0").into());
    }
    let found = diff(&Profile::read(before)?, &Profile::read(after)?, threshold / 100.0);
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print!("{}", report::diff(&found));
    }
    Ok(ExitCode::from(u8::from(found.is_slower())))
}

/// Measures what was asked for.
fn measure<M: Measure>(args: &ProfileArgs, device: &DeviceArgs, how: M) -> Result<M::Found, Failure> {
    let cache = device.cache();
    if let Some(op) = &args.op {
        let cases = args.operator.cases(op, args.precision.unwrap_or_default())?;
        let device = device.open()?;
        if let Some(case) = cases.iter().find(|case| !case.suits(&device.caps)) {
            return Err(format!(
                "{}: this device cannot store its tensors, or no algorithm suits it",
                case.title()
            )
            .into());
        }
        return Ok(operator(&device, &cases, how)?);
    }
    let (mut config, model) = match (&args.config, &args.model) {
        (Some(file), _) => (read_config(file)?, None),
        (None, Some(folder)) => {
            let model = open_model(folder)?.in_precision(args.precision.unwrap_or_default());
            (TrainConfig { unet: Some(model.unet.config.clone()), ..TrainConfig::default() }, Some(model))
        }
        (None, None) => {
            (TrainConfig { preset: args.preset, size: args.size, ..TrainConfig::default() }, None)
        }
    };
    config.batch = args.batch.unwrap_or(config.batch);
    config.precision = args.precision.unwrap_or(config.precision);
    config.validate()?;
    if !args.sample {
        let device = device.open()?;
        let weights = model.as_ref().map(|model| model.weights.as_slice());
        let tuning =
            tuned(&device, &with_made_up_classes(&config), args.tune, cache.as_deref(), &mut |operators| {
                eprintln!("{operators} operators are measured for the fastest algorithm");
            })?;
        return Ok(training_step(&device, &config, weights, tuning.choices, how)?);
    }
    if config.network == NetworkKind::Classifier {
        return Err(
            "--sample: a classifier draws no pictures; leave it out to profile a training step".into()
        );
    }
    let (unet, weights, scheduler) = match model {
        Some(model) => (model.unet, model.weights, model.scheduler),
        None => {
            let unet = UNet::new(&config.unet_config(1))?.in_precision(config.precision);
            let weights = unet.parameters.initial(config.seed);
            (unet, weights, config.scheduler(Sampler::Ddim))
        }
    };
    let trajectory = Trajectory::new(&scheduler, scheduler.num_train_timesteps.min(50), 0.0)?;
    let device = device.open()?;
    Ok(sampling_step(&device, &unet, &weights, config.batch, trajectory, how)?)
}
