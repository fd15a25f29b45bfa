//! `inkwash train`.

use super::configuration::{of_new_run, of_resumed_run};
use super::progress::{Bar, TrainProgress, describe, describe_batches, describe_fusions};
use super::{DeviceArgs, Failure, in_words, interruption, printable, tell};
use crate::estimate::{self, Estimate, Gpu};
use crate::graph::{Caps, Kernels, Limits};
use crate::nn::Precision;
use crate::train::{
    ByteCount, Fitted, Group, Inherited, RunOptions, RunPlan, TrainConfig, TrainError, TrainEvent, open_data,
    train,
};
use crate::tune::Effort;
use clap::ArgMatches;
use indicatif::HumanBytes;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    config: TrainConfig,
    /// Folder of the run: configuration, log, checkpoints, samples
    #[arg(long, value_name = "DIR", required_unless_present_any = ["resume", "dry_run"])]
    out: Option<PathBuf>,
    /// TOML file with the same fields as the flags; flags on the command line win
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Go on with the run in this folder; flags on the command line win over its configuration
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "file", "init"])]
    resume: Option<PathBuf>,
    /// Go on from the checkpoint of step N and not from the newest; newer ones are set aside, not deleted
    #[arg(long, value_name = "N", requires = "resume")]
    from_step: Option<u32>,
    /// Measure before a new run which algorithm of each operator is the fastest: quick takes five seconds, once for a device and its
    /// driver. Left out: quick on GPUs, off on CPU drivers. A run that goes on keeps what it began with
    #[arg(long, value_enum, value_name = "EFFORT")]
    tune: Option<Effort>,
    /// Print kernels, parameters, FLOPs and memory, and stop; needs no device
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: how long the step would take on this GPU, by a model that is printed with it. H100, "RTX 4090" and others,
    /// which an unknown name lists; or f32 operations and bytes per second, as in 67T,3.35T
    #[arg(long, value_name = "NAME|FLOPS,BANDWIDTH", requires = "dry_run")]
    on: Option<String>,
    /// With --dry-run: print one JSON object (docs/profiling.md)
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Under mpirun: seconds after which a rank that is not heard of ends the job
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    rank_timeout: u64,
    /// Under a launcher of parallel jobs: train alone, not together with the other processes
    #[arg(long)]
    alone: bool,
    /// Print nothing but errors and warnings
    #[arg(long, short)]
    quiet: bool,
}

/// Joins the other ranks, if there are any, and trains. An error of one ends all.
pub fn run(args: &TrainArgs, matches: &ArgMatches, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    let group = if args.alone || args.dry_run {
        Group::alone()
    } else {
        Group::join(Duration::from_secs(args.rank_timeout), tell)?
    };
    let ended = run_in(&group, args, matches, device);
    match &ended {
        Ok(_) => group.finish(),
        Err(e) => group.fail(&printable(&in_words(&**e))),
    }
    ended
}

fn run_in(
    group: &Group,
    args: &TrainArgs,
    matches: &ArgMatches,
    device: &DeviceArgs,
) -> Result<ExitCode, Failure> {
    let quiet = args.quiet || !group.is_first();
    let (config, inherited) = match &args.resume {
        Some(folder) => {
            // The first rank's, for the others may not see the folder.
            group.agree("set of flags", &toml::to_string(&args.config)?)?;
            let config = group.share(|| of_resumed_run(folder, &args.config, matches))?;
            (config, Inherited::default())
        }
        None => of_new_run(args.file.as_deref(), &args.config, matches)?,
    };
    for warning in inherited.warnings.iter().filter(|_| group.is_first()) {
        eprintln!("warning: {warning}");
    }
    if !quiet && !args.json {
        inherited.notes.iter().for_each(|note| println!("note            {note}"));
    }
    let config = TrainConfig { fusion: config.fusion && !device.no_fusion, ..config };
    config.validate()?;
    if args.dry_run {
        return dry_run(&config, args, device);
    }
    let (out, resume) = match (&args.resume, &args.out) {
        (Some(folder), _) => (folder.clone(), true),
        (None, Some(out)) => (out.clone(), false),
        (None, None) => return Err("give --out DIR or --resume DIR".into()),
    };
    let interrupted = interruption("writing a checkpoint");
    let mut progress = TrainProgress::new(quiet);
    let mut nothing_to_do = false;
    let pictures = if quiet { Bar::hidden() } else { Bar::new(0, "picture") };
    let data_progress = |done: usize, all: usize| {
        pictures.set_length(all as u64);
        pictures.set_position(done as u64);
    };
    let options = RunOptions {
        resume,
        from_step: args.from_step,
        data_progress: &data_progress,
        tune: args.tune,
        cache: device.cache(),
        group: group.clone(),
        ..RunOptions::new(&out)
    };
    train(
        || device.open_for(group.local_rank()),
        &config,
        &options,
        &interrupted,
        |event| {
            match event {
                TrainEvent::DataOpened { .. } => pictures.finish(),
                TrainEvent::NothingToDo { .. } => nothing_to_do = true,
                _ => {}
            }
            progress.show(event);
        },
    )?;
    if nothing_to_do {
        if !quiet {
            println!("to go on        inkwash train --resume {} --steps N", out.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", progress.skipped());
    if group.stops() || group.size() == 1 && interrupted.load(Ordering::Relaxed) {
        if !group.is_first() {
            return Ok(ExitCode::from(130));
        }
        eprintln!("stopped early; go on with: inkwash train --resume {}", out.display());
        return Ok(ExitCode::from(130));
    }
    if !quiet {
        println!("run             {}", out.display());
        if config.network.draws_pictures() {
            println!("samples         {}", out.join("samples").display());
        }
        println!("loss curve      {}", out.join("loss.png").display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan and what it costs, without a device.
fn dry_run(config: &TrainConfig, args: &TrainArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    let gpu = args.on.as_deref().map(Gpu::parse).transpose().map_err(|e| format!("--on {e}"))?;
    // Only the number of classes depends on the pictures.
    let class_names = if config.learns_classes() { open_data(config)?.0.class_names } else { Vec::new() };
    let config = config.with_network(&class_names);
    let planned = |config: &TrainConfig| plan(config, gpu.as_ref(), device);
    let asked = config;
    let caps = match gpu {
        Some(gpu) => gpu.caps(kernels(device)),
        None => default_limits(&asked, device),
    };
    let (config, plan, notes) = match asked.fitted(&caps) {
        Ok(Fitted { config, notes, .. }) => {
            let plan = planned(&config)?;
            (config, plan, notes)
        }
        // What exceeds the default limits with one picture is planned without them.
        Err(TrainError::Step(_)) if gpu.is_none() => (asked.clone(), planned(&asked)?, Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let estimate = Estimate::new(&config, &plan, gpu)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&estimate)?);
        return Ok(ExitCode::SUCCESS);
    }
    if gpu.is_none() {
        println!("{}{}", plan.plans.micro, plan.plans.update);
    }
    print!("{}{}", estimate::report::text(&estimate), describe(&config, &plan));
    notes.iter().for_each(|note| println!("note            {note}"));
    // A dozen plans, which are made where there is something to fit into.
    if gpu.is_some() || asked.memory_budget.is_some() {
        let on = gpu.map_or("WebGPU's default limits", |gpu| gpu.name);
        let most = asked.memory_budget.or(gpu.and_then(|gpu| gpu.memory_bytes()).map(ByteCount));
        print!("{}", describe_batches(&asked.bytes_by_batch(&caps)?, most, on));
    }
    if config.precision == Precision::F16 {
        let single = planned(&TrainConfig { precision: Precision::F32, ..config.clone() })?.bytes;
        let share = plan.bytes as f64 / single.max(1) as f64;
        println!("in f32          {} planned, of which f16 needs {:.0} %", HumanBytes(single), 100.0 * share);
    }
    if config.fusion {
        let unfused = planned(&TrainConfig { fusion: false, ..config })?;
        print!("{}", describe_fusions(&plan, &unfused));
    }
    Ok(ExitCode::SUCCESS)
}

/// The kernels that were asked for, or those of GPUs.
fn kernels(device: &DeviceArgs) -> Kernels {
    device.kernels().unwrap_or(Kernels::Workgroup)
}

/// A plan that fits WebGPU's default limits fits everywhere; real devices usually allow more.
fn default_limits(config: &TrainConfig, device: &DeviceArgs) -> Caps {
    let base = Caps::webgpu(kernels(device));
    if config.precision == Precision::F16 { base.with_f16() } else { base }
}

/// The plan of a run, with the network in full: on a GPU that is named, or for a device of WebGPU's default limits.
pub(super) fn plan(config: &TrainConfig, gpu: Option<&Gpu>, device: &DeviceArgs) -> Result<RunPlan, Failure> {
    if let Some(gpu) = gpu {
        return Ok(estimate::plan(config, gpu, kernels(device))?);
    }
    let base = default_limits(config, device);
    let limits = Limits { binding_bytes: u64::MAX, buffer_bytes: u64::MAX, ..base.limits };
    Ok(match RunPlan::new(config, &base) {
        Ok(plan) => plan,
        Err(_) => RunPlan::new(config, &Caps { limits, ..base })?,
    })
}
