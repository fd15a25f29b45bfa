//! `inkwash bench`.

use super::{DeviceArgs, Failure};
use crate::bench::{OpSpeed, Repeats, bench_step, measure_ceilings, op_speed};
use crate::diffusion::Preset;
use crate::graph::Op;
use crate::ops;
use crate::tensor::Spec;
use crate::train::TrainConfig;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A training step and a DDIM step
    Step {
        /// Network
        #[arg(long, value_enum, default_value_t = Preset::TinyGray)]
        preset: Preset,
        /// Pictures per step
        #[arg(long, default_value_t = 16)]
        batch: usize,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Also print the time of every kind of kernel
        #[arg(long)]
        profile: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// One operator: forward, and for all but group_norm backward
    Op {
        /// Operator
        #[arg(value_enum)]
        op: OpName,
        /// Input: BxHxWxC for conv2d and group_norm, MxK for linear, BxTxC for attention
        #[arg(long)]
        shape: String,
        /// Output channels of conv2d and linear; as many as go in if left out
        #[arg(long)]
        out_channels: Option<usize>,
        /// Kernel size of conv2d
        #[arg(long, default_value_t = 3)]
        kernel: usize,
        /// Stride of conv2d
        #[arg(long, default_value_t = 1)]
        stride: usize,
        /// Heads of attention
        #[arg(long, default_value_t = 1)]
        heads: usize,
        /// Groups of group_norm
        #[arg(long, default_value_t = 8)]
        groups: usize,
        #[command(flatten)]
        repeats: RepeatArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// What fused multiply-adds and copies reach on this device
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

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum OpName {
    Conv2d,
    Linear,
    Attention,
    GroupNorm,
}

fn parse_shape(text: &str, rank: usize) -> Result<Vec<usize>, Failure> {
    let axes: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match axes {
        Ok(axes) if axes.len() == rank && axes.iter().all(|&a| a > 0 && a < 1 << 24) => Ok(axes),
        _ => {
            Err(format!("--shape {text}: expected {rank} positive sizes joined by x, as in 8x32x32x64")
                .into())
        }
    }
}

pub fn run(args: &BenchArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    match &args.what {
        What::Step { preset, batch, repeats, profile, json } => {
            let config = TrainConfig { preset: *preset, batch: *batch, ..TrainConfig::default() };
            config.validate()?;
            let device = device.open()?;
            let (report, trainer) = bench_step(&device, &config, (*repeats).into())?;
            let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
            let mut launches = Vec::new();
            if *profile {
                for (label, op, seconds) in trainer.profile()? {
                    let kind = kinds.entry(op).or_default();
                    *kind = (kind.0 + 1, kind.1 + seconds);
                    launches.push((label, seconds));
                }
            }
            if *json {
                let mut value = serde_json::to_value(&report)?;
                if *profile {
                    let table: Map<String, Value> = kinds
                        .iter()
                        .map(|(op, (count, s))| {
                            ((*op).to_string(), json!({ "launches": count, "seconds": s }))
                        })
                        .collect();
                    value["profile"] = table.into();
                }
                println!("{}", serde_json::to_string_pretty(&value)?);
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
                let mut sorted: Vec<_> = kinds.iter().collect();
                sorted.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
                for (op, (count, seconds)) in sorted {
                    println!("  {op:<32} {count:>5} launches {:>10.3} ms", seconds * 1e3);
                }
                launches.sort_by(|a, b| b.1.total_cmp(&a.1));
                for (label, seconds) in launches.iter().take(20) {
                    println!("  {label:<64} {:>10.3} ms", seconds * 1e3);
                }
            }
        }
        What::Op { op, shape, out_channels, kernel, stride, heads, groups, repeats, json } => {
            if *kernel == 0 || *stride == 0 || *heads == 0 || *groups == 0 {
                return Err("--kernel, --stride, --heads and --groups must be at least 1".into());
            }
            let (names, list) = op_list(*op, shape, *out_channels, (*kernel, *stride), *heads, *groups)?;
            let device = device.open()?;
            let mut table = Map::new();
            for (name, (op, inputs)) in names.iter().zip(list) {
                let speed: OpSpeed = op_speed(&device, op, &inputs, repeats.warmup, repeats.runs)?;
                if !json {
                    println!(
                        "{name:<16} {:>9.3} ms {:>9.2} GFLOP/s {:>8.2} GB/s",
                        speed.median_s * 1e3,
                        speed.gflops,
                        speed.gbps
                    );
                }
                table.insert((*name).into(), serde_json::to_value(speed)?);
            }
            if *json {
                table.insert("device".into(), device.info.name.clone().into());
                table.insert("driver".into(), device.info.driver.clone().into());
                println!("{}", serde_json::to_string_pretty(&table)?);
            }
        }
        What::Device { json } => {
            let device = device.open()?;
            let c = measure_ceilings(&device)?;
            if *json {
                let value = json!({
                    "device": device.info.name, "backend": device.info.backend, "driver": device.info.driver,
                    "flops_per_s": c.flops_per_s, "bytes_per_s": c.bytes_per_s,
                });
                println!("{}", serde_json::to_string_pretty(&value)?);
            } else {
                println!("{} ({}, {})", device.info.name, device.info.backend, device.info.driver);
                println!(
                    "f32 multiply-adds {:.1} GFLOP/s, copy {:.2} GB/s (read plus written)",
                    c.flops_per_s * 1e-9,
                    c.bytes_per_s * 1e-9
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

type OpAndInputs = (Arc<dyn Op>, Vec<Spec>);

/// The operator and its backward operators with their inputs.
fn op_list(
    op: OpName,
    shape: &str,
    out_channels: Option<usize>,
    (kernel, stride): (usize, usize),
    heads: usize,
    groups: usize,
) -> Result<(Vec<&'static str>, Vec<OpAndInputs>), Failure> {
    let infer = |op: &dyn Op, x: &[Spec]| -> Result<Vec<Spec>, Failure> { Ok(op.infer(x)?) };
    Ok(match op {
        OpName::Conv2d => {
            let axes = parse_shape(shape, 4)?;
            let (c, k) = (axes[3], out_channels.unwrap_or(axes[3]));
            let conv = ops::Conv2d { kernel, stride, padding: ops::Padding::Symmetric(kernel / 2) };
            let (x, w, b) = (Spec::f32(axes.clone()), Spec::f32([kernel, kernel, c, k]), Spec::f32([k]));
            let dy = infer(&conv, &[x.clone(), w.clone(), b.clone()])?.remove(0);
            let input = ops::Conv2dBackwardInput { conv: conv.clone(), height: axes[1], width: axes[2] };
            let weight = ops::Conv2dBackwardWeight { conv: conv.clone() };
            (
                vec!["forward", "backward_input", "backward_weight"],
                vec![
                    (Arc::new(conv), vec![x.clone(), w.clone(), b]),
                    (Arc::new(input), vec![dy.clone(), w]),
                    (Arc::new(weight), vec![x, dy]),
                ],
            )
        }
        OpName::Linear => {
            let axes = parse_shape(shape, 2)?;
            let n = out_channels.unwrap_or(axes[1]);
            let (x, w, b) = (Spec::f32(axes.clone()), Spec::f32([axes[1], n]), Spec::f32([n]));
            let dy = Spec::f32([axes[0], n]);
            (
                vec!["forward", "backward_input", "backward_weight"],
                vec![
                    (Arc::new(ops::Linear), vec![x.clone(), w.clone(), b]),
                    (Arc::new(ops::MatmulBackwardInput), vec![dy.clone(), w]),
                    (Arc::new(ops::MatmulBackwardWeight), vec![x, dy]),
                ],
            )
        }
        OpName::Attention => {
            let x = Spec::f32(parse_shape(shape, 3)?);
            let forward = ops::Attention { heads };
            let outputs = infer(&forward, &[x.clone(), x.clone(), x.clone()])?;
            let backward = ops::AttentionBackward { heads };
            (
                vec!["forward", "backward"],
                vec![
                    (Arc::new(forward), vec![x.clone(); 3]),
                    (
                        Arc::new(backward),
                        vec![x.clone(), x.clone(), x.clone(), outputs[0].clone(), outputs[1].clone(), x],
                    ),
                ],
            )
        }
        OpName::GroupNorm => {
            let axes = parse_shape(shape, 4)?;
            let c = Spec::f32([axes[3]]);
            let x = Spec::f32(axes);
            let norm = ops::GroupNorm { groups, eps: 1e-5, silu: true, scale_shift: false };
            infer(&norm, &[x.clone(), c.clone(), c.clone()])?;
            (vec!["forward"], vec![(Arc::new(norm), vec![x, c.clone(), c])])
        }
    })
}
