//! `inkwash bench`.

use super::operator::OperatorArgs;
use super::{DeviceArgs, Failure, scale};
use crate::bench::{Repeats, Start, Traffic, bench_step, memory_speeds, op_speeds, start};
use crate::diffusion::Preset;
use crate::io::atomic::write_atomic;
use crate::nn::{PictureSize, Precision};
use crate::profile::Roofs;
use crate::train::{CheckpointingMode, TrainConfig};
use crate::tune::Effort;
use serde_json::{Map, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A training step and a DDIM step; `inkwash profile` tells where their time goes
    Step {
        #[command(flatten)]
        step: StepArgs,
        /// Measure first which algorithm of each operator is the fastest, as train does
        #[arg(long, value_enum, default_value_t = Effort::Off, value_name = "EFFORT")]
        tune: Effort,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// How long it takes to the end of the first training step: with nothing compiled before, and again
    Start {
        #[command(flatten)]
        step: StepArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Start once and write the times to this file
        #[arg(long, value_name = "FILE", hide = true)]
        once: Option<PathBuf>,
    },
    /// One operator, with every algorithm that there is for it on this device
    Op {
        /// Operator, as `doctor -v` names it: conv2d, attention_backward, adamw, ...
        op: String,
        /// Type in which the inputs of --shape are stored, but for biases
        #[arg(long, value_enum, default_value_t = Precision::F32, requires = "shape")]
        precision: Precision,
        /// Only algorithms whose name contains this
        #[arg(long, default_value = "", value_name = "TEXT")]
        algorithm: String,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Operators that memory bounds, each in turns with a copy: bytes per second, and the share of the copy's
    Memory {
        /// Only operators whose name contains this
        #[arg(default_value = "")]
        op: String,
        /// MiB of an activation, and of what is copied; past the caches of the device
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
        mebibytes: u16,
        /// Type in which activations are stored
        #[arg(long, value_enum, default_value_t = Precision::F32)]
        precision: Precision,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// A training step over the ranks that mpirun has started, and by a model over up to 1024 (docs/scale.md)
    Scale {
        #[command(flatten)]
        step: StepArgs,
        /// Steps that are timed
        #[arg(long, default_value_t = 10)]
        runs: usize,
        /// Microseconds that a message takes on the modelled networks, however short it is
        #[arg(long, default_value_t = 5.0, value_name = "US")]
        latency: f64,
    },
    /// What multiply-adds, copies, workgroup memory, subgroups and matrix units reach on this device
    Device {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Which step.
#[derive(Clone, Debug, clap::Args)]
struct StepArgs {
    /// Network
    #[arg(long, value_enum, default_value_t = Preset::TinyGray)]
    preset: Preset,
    /// Size of the pictures, N or WIDTHxHEIGHT, in place of the network's own
    #[arg(long, value_name = "N|WxH")]
    size: Option<PictureSize>,
    /// Pictures per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Type in which activations, their gradients and the weights of products are stored
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// What is computed again in the backward pass; auto is none
    #[arg(long, value_enum, default_value_t = CheckpointingMode::Auto)]
    checkpointing: CheckpointingMode,
}

impl StepArgs {
    fn config(&self) -> Result<TrainConfig, Failure> {
        let Self { preset, size, batch, precision, checkpointing } = *self;
        let config = TrainConfig { preset, size, batch, precision, checkpointing, ..TrainConfig::default() };
        config.validate()?;
        Ok(config)
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct RepeatArgs {
    /// Runs before the clock starts
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Runs that are timed
    #[arg(long, default_value_t = 10)]
    runs: usize,
}

impl From<RepeatArgs> for Repeats {
    fn from(r: RepeatArgs) -> Self {
        Self { warmup: r.warmup, runs: r.runs }
    }
}

/// Two processes that do what this command asks for, with a folder for compiled kernels that the first one finds empty.
fn starts() -> Result<[Start; 2], Failure> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("times.json");
    let start = || -> Result<Start, Failure> {
        let output = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--once")
            .arg(&file)
            .arg("--cache")
            .arg(folder.path().join("inkwash"))
            // The drivers' own caches, where they let themselves be told.
            .env("MESA_SHADER_CACHE_DIR", folder.path().join("mesa"))
            .env("__GL_SHADER_DISK_CACHE_PATH", folder.path())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(said.trim().trim_start_matches("error: ").into());
        }
        Ok(serde_json::from_slice(&std::fs::read(&file)?)?)
    };
    Ok([start()?, start()?])
}

fn print_traffic(row: &Traffic) {
    println!(
        "{:<32} {:>7.1} MB {:>9.3} ms {:>8.2} GB/s {:>5.0} % of a copy   {}",
        row.operator,
        row.bytes as f64 * 1e-6,
        row.median_s * 1e3,
        row.bytes_per_s * 1e-9,
        row.share_of_copy * 100.0,
        row.inputs
    );
}

pub fn run(args: &BenchArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    match &args.what {
        What::Step { step, tune, repeats, json } => {
            let config = step.config()?;
            let device = device.open()?;
            let report = bench_step(&device, &config, *tune, (*repeats).into())?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                println!("{} ({}, {})", report.device, report.backend, report.driver);
                let [measured, changed] = report.tuned;
                if measured > 0 {
                    println!(
                        "{measured} operators measured, {changed} with another algorithm than the rule's"
                    );
                }
                for (name, s) in [("training step", &report.train), ("DDIM step", &report.ddim_step)] {
                    println!(
                        "{name:<14} {:.4} s median ({:.4} to {:.4}), {:.1} images/s, {:.2} GFLOP/s",
                        s.median_s,
                        s.min_s,
                        s.max_s,
                        s.images_per_s,
                        s.achieved_flops_per_s * 1e-9
                    );
                }
            }
        }
        What::Start { step, once: Some(file), .. } => {
            let times = serde_json::to_string(&start(|| device.open(), &step.config()?)?)?;
            write_atomic(file, |out| out.write_all(times.as_bytes()))?;
        }
        What::Start { step, json, once: None } => {
            step.config()?;
            let [cold, warm] = starts()?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&json!({ "cold": cold, "warm": warm }))?);
            } else {
                println!("        to the end of the first step    device  kernels  first step  second step");
                for (name, s) in [("cold", cold), ("warm", warm)] {
                    println!(
                        "{name:<8}{:>26.3} s {:>8.3} s {:>6.3} s {:>9.3} s {:>10.3} s",
                        s.total_s(),
                        s.open_s,
                        s.prepare_s,
                        s.first_step_s,
                        s.second_step_s
                    );
                }
            }
        }
        What::Op { op, precision, algorithm, operator, repeats, json } => {
            let cases = operator.cases(op, *precision)?;
            let device = device.open()?;
            let mut table = Map::new();
            for case in cases {
                if !case.suits(&device.caps) {
                    return Err(format!(
                        "{}: this device cannot store its tensors, or no algorithm suits it",
                        case.title()
                    )
                    .into());
                }
                let speeds = op_speeds(&device, &case, algorithm, (*repeats).into())?;
                if speeds.is_empty() {
                    return Err(format!(
                        "--algorithm {algorithm}: no algorithm for {} has this in its name; without the flag all are listed",
                        case.title()
                    )
                    .into());
                }
                for (number, speed) in speeds {
                    let (name, algorithm) = (&case.name, speed.algorithm);
                    if !json {
                        println!(
                            "{name:<24} {algorithm:<12} {:>9.3} ms {:>9.2} GFLOP/s {:>8.2} GB/s",
                            speed.median_s * 1e3,
                            speed.gflops,
                            speed.gbps
                        );
                    }
                    // The rule's choice has the case's name alone.
                    let key = if number == 0 { name.clone() } else { format!("{name}, {algorithm}") };
                    table.insert(key, serde_json::to_value(speed)?);
                }
            }
            if *json {
                table.insert("device".into(), device.info.name.clone().into());
                table.insert("driver".into(), device.info.driver.clone().into());
                println!("{}", serde_json::to_string_pretty(&table)?);
            }
        }
        What::Memory { op, mebibytes, precision, repeats, json } => {
            let device = device.open()?;
            let dtype = precision.dtype();
            if !device.caps.stores(dtype) {
                return Err("this device cannot store f16: leave out --precision f16".into());
            }
            let mut rows = Vec::new();
            let mut tell = |row: Traffic| {
                if !json {
                    print_traffic(&row);
                }
                rows.push(row);
            };
            memory_speeds(&device, ((*mebibytes).into(), dtype), op, (*repeats).into(), &mut tell)?;
            if rows.is_empty() {
                return Err(format!("no operator that memory bounds has `{op}` in its name").into());
            }
            if *json {
                let value = json!({
                    "device": device.info.name, "backend": device.info.backend, "driver": device.info.driver,
                    "operators": rows,
                });
                println!("{}", serde_json::to_string_pretty(&value)?);
            }
        }
        What::Scale { step, runs, latency } => scale::run(&step.config()?, *runs, *latency, device)?,
        What::Device { json } => {
            let device = device.open()?;
            let c = Roofs::best(&device)?;
            if *json {
                let value = json!({
                    "device": device.info.name, "backend": device.info.backend, "driver": device.info.driver,
                    "flops_per_s": c.flops_per_s, "bytes_per_s": c.bytes_per_s,
                    "f16_flops_per_s": c.f16_flops_per_s, "matrix_flops_per_s": c.matrix_flops_per_s,
                    "workgroup_bytes_per_s": c.workgroup_bytes_per_s,
                    "subgroup_shuffles_per_s": c.subgroup_shuffles_per_s,
                });
                println!("{}", serde_json::to_string_pretty(&value)?);
            } else {
                println!("{} ({}, {})", device.info.name, device.info.backend, device.info.driver);
                println!(
                    "f32 multiply-adds {:.1} GFLOP/s, copy {:.2} GB/s (read plus written)",
                    c.flops_per_s * 1e-9,
                    c.bytes_per_s * 1e-9
                );
                c.others().iter().for_each(|other| println!("{other}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
