//! `inkwash bench`.

use super::{DeviceArgs, Failure};
use crate::bench::{Repeats, bench_step, measure_ceilings, op_speeds};
use crate::diffusion::Preset;
use crate::gpu::Blocking as _;
use crate::graph::Op;
use crate::nn::PictureSize;
use crate::ops::{self, Case};
use crate::tensor::{DType, Spec};
use crate::train::TrainConfig;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

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
        /// Size of the pictures, N or WIDTHxHEIGHT, in place of the network's own
        #[arg(long, value_name = "N|WxH")]
        size: Option<PictureSize>,
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
    /// One operator, with every algorithm that there is for it on this device
    Op {
        /// Operator, as `doctor -v` names it: conv2d, attention_backward, adamw, ...
        op: String,
        /// Test cases of the operator whose name contains this; its largest case if left out
        #[arg(long, value_name = "TEXT", conflicts_with = "shape")]
        case: Option<String>,
        /// An input of your own, forward and (but for group_norm) backward: BxHxWxC for conv2d and group_norm, MxK for
        /// linear, BxTxC for attention
        #[arg(long)]
        shape: Option<String>,
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
        What::Step { preset, size, batch, repeats, profile, json } => {
            let config =
                TrainConfig { preset: *preset, size: *size, batch: *batch, ..TrainConfig::default() };
            config.validate()?;
            let device = device.open()?;
            let (report, trainer) = bench_step(&device, &config, (*repeats).into())?;
            let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
            let mut launches = Vec::new();
            if *profile {
                for (label, op, seconds) in trainer.profile().block_on()? {
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
        What::Op { op, case, shape, out_channels, kernel, stride, heads, groups, repeats, json } => {
            if *kernel == 0 || *stride == 0 || *heads == 0 || *groups == 0 {
                return Err("--kernel, --stride, --heads and --groups must be at least 1".into());
            }
            let cases = match shape {
                Some(shape) => cases_of_shape(op, shape, *out_channels, (*kernel, *stride), *heads, *groups)?,
                None => cases_of_catalogue(op, case.as_deref())?,
            };
            let device = device.open()?;
            let mut table = Map::new();
            for case in cases {
                if !case.suits(&device.caps) {
                    return Err(format!("{}: this device cannot store its tensors", case.title()).into());
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

/// The cases of an operator whose name contains `text`, or the one with the most work.
fn cases_of_catalogue(op: &str, text: Option<&str>) -> Result<Vec<Case>, Failure> {
    let (mut cases, others): (Vec<Case>, Vec<Case>) =
        ops::catalogue().into_iter().partition(|case| case.op.name() == op);
    let list = |names: Vec<&str>| Vec::from_iter(BTreeSet::from_iter(names)).join("; ");
    if cases.is_empty() {
        let names = list(others.iter().map(|case| case.op.name()).collect());
        return Err(format!("there is no operator `{op}`; expected one of {names}").into());
    }
    let Some(text) = text else {
        // Those in f16 last, which not every device stores; traffic decides between those that multiply no matrices.
        let size = |case: &Case| {
            let inputs: Vec<Spec> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
            let outputs = case.op.infer(&inputs).unwrap_or_default();
            let cost = case.op.cost(&inputs, &outputs);
            let f16 = inputs.iter().chain(&outputs).any(|spec| spec.dtype == DType::F16);
            (!f16, cost.matrix_flops, cost.bytes_read + cost.bytes_written)
        };
        return Ok(cases.into_iter().max_by_key(size).into_iter().collect());
    };
    let names = list(cases.iter().map(|case| case.name.as_str()).collect());
    cases.retain(|case| case.name.contains(text));
    if cases.is_empty() {
        return Err(format!("no case of {op} contains `{text}`; its cases are: {names}").into());
    }
    Ok(cases)
}

/// An operator on an input of this shape, and its backward operators.
fn cases_of_shape(
    op: &str,
    shape: &str,
    out_channels: Option<usize>,
    (kernel, stride): (usize, usize),
    heads: usize,
    groups: usize,
) -> Result<Vec<Case>, Failure> {
    let infer = |op: &dyn Op, x: &[Spec]| -> Result<Vec<Spec>, Failure> { Ok(op.infer(x)?) };
    Ok(match op {
        "conv2d" => {
            let axes = parse_shape(shape, 4)?;
            let (c, k) = (axes[3], out_channels.unwrap_or(axes[3]));
            let conv = ops::Conv2d { kernel, stride, padding: ops::Padding::Symmetric(kernel / 2) };
            let (x, w, b) = (Spec::f32(axes.clone()), Spec::f32([kernel, kernel, c, k]), Spec::f32([k]));
            let dy = infer(&conv, &[x.clone(), w.clone(), b.clone()])?.remove(0);
            let input = ops::Conv2dBackwardInput { conv: conv.clone(), height: axes[1], width: axes[2] };
            let weight = ops::Conv2dBackwardWeight { conv: conv.clone() };
            vec![
                Case::new("forward", conv, &[x.clone(), w.clone(), b]),
                Case::new("backward_input", input, &[dy.clone(), w]),
                Case::new("backward_weight", weight, &[x, dy]),
            ]
        }
        "linear" => {
            let axes = parse_shape(shape, 2)?;
            let n = out_channels.unwrap_or(axes[1]);
            let (x, w, b) = (Spec::f32(axes.clone()), Spec::f32([axes[1], n]), Spec::f32([n]));
            let dy = Spec::f32([axes[0], n]);
            vec![
                Case::new("forward", ops::Linear, &[x.clone(), w.clone(), b]),
                Case::new("backward_input", ops::MatmulBackwardInput, &[dy.clone(), w]),
                Case::new("backward_weight", ops::MatmulBackwardWeight, &[x, dy]),
            ]
        }
        "attention" => {
            let x = Spec::f32(parse_shape(shape, 3)?);
            let forward = ops::Attention { heads };
            let y = infer(&forward, &[x.clone(), x.clone(), x.clone()])?;
            let inputs = [x.clone(), x.clone(), x.clone(), y[0].clone(), y[1].clone(), x.clone()];
            vec![
                Case::new("forward", forward, &[x.clone(), x.clone(), x]),
                Case::new("backward", ops::AttentionBackward { heads }, &inputs),
            ]
        }
        "group_norm" => {
            let axes = parse_shape(shape, 4)?;
            let c = Spec::f32([axes[3]]);
            let x = Spec::f32(axes);
            let norm = ops::GroupNorm { groups, eps: 1e-5, silu: true, scale_shift: false };
            infer(&norm, &[x.clone(), c.clone(), c.clone()])?;
            vec![Case::new("forward", norm, &[x, c.clone(), c])]
        }
        _ => {
            return Err(format!(
                "--shape is for conv2d, linear, attention and group_norm; for `{op}` choose one of its cases with --case"
            )
            .into());
        }
    })
}
