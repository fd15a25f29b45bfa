//! `inkwash bench`.

use super::operator::OperatorArgs;
use super::{DeviceArgs, Failure};
use crate::bench::{Repeats, bench_step, op_speeds};
use crate::diffusion::Preset;
use crate::nn::PictureSize;
use crate::profile::Roofs;
use crate::train::TrainConfig;
use serde_json::{Map, json};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A training step and a DDIM step; `inkwash profile` tells where their time goes
    Step {
        /// Network
        #[arg(long, value_enum, default_value_t = Preset::TinyGray)]
        preset: Preset,
        /// Size of the pictures, N or WIDTHxHEIGHT, in place of the network's own
        #[arg(long, value_name = "N|WxH")]
        size: Option<PictureSize>,
        /// Pictures per step
        #[arg(long, default_value_t = 16)]
        batch: usize,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// One operator, with every algorithm that there is for it on this device
    Op {
        /// Operator, as `doctor -v` names it: conv2d, attention_backward, adamw, ...
        op: String,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// What multiply-adds, copies, workgroup memory, subgroups and matrix units reach on this device
    Device {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
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

pub fn run(args: &BenchArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    match &args.what {
        What::Step { preset, size, batch, repeats, json } => {
            let config =
                TrainConfig { preset: *preset, size: *size, batch: *batch, ..TrainConfig::default() };
            config.validate()?;
            let device = device.open()?;
            let report = bench_step(&device, &config, (*repeats).into())?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                println!("{} ({}, {})", report.device, report.backend, report.driver);
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
        What::Op { op, operator, repeats, json } => {
            let cases = operator.cases(op)?;
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
                for (i, speed) in op_speeds(&device, &case, (*repeats).into())?.into_iter().enumerate() {
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
                    let key = if i == 0 { name.clone() } else { format!("{name}, {algorithm}") };
                    table.insert(key, serde_json::to_value(speed)?);
                }
            }
            if *json {
                table.insert("device".into(), device.info.name.clone().into());
                table.insert("driver".into(), device.info.driver.clone().into());
                println!("{}", serde_json::to_string_pretty(&table)?);
            }
        }
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
