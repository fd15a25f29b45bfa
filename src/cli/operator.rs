//! An operator on the command line: its cases in the catalogue, or a shape of one's own.

use super::Failure;
use crate::graph::Op;
use crate::nn::Precision;
use crate::ops::{self, Case};
use crate::tensor::{DType, Spec};
use std::collections::BTreeSet;

/// Which inputs an operator is given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Operator")]
pub struct OperatorArgs {
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
}

impl OperatorArgs {
    /// The cases of an operator that were asked for; inputs of a shape of one's own are stored in this precision, but for biases.
    pub fn cases(&self, op: &str, precision: Precision) -> Result<Vec<Case>, Failure> {
        let Self { kernel, stride, heads, groups, out_channels, .. } = *self;
        if kernel == 0 || stride == 0 || heads == 0 || groups == 0 {
            return Err("--kernel, --stride, --heads and --groups must be at least 1".into());
        }
        match &self.shape {
            Some(shape) => {
                cases_of_shape(op, shape, out_channels, (kernel, stride), heads, groups, precision.dtype())
            }
            None => cases_of_catalogue(op, self.case.as_deref()),
        }
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
    dtype: DType,
) -> Result<Vec<Case>, Failure> {
    let infer = |op: &dyn Op, x: &[Spec]| -> Result<Vec<Spec>, Failure> { Ok(op.infer(x)?) };
    Ok(match op {
        "conv2d" => {
            let axes = parse_shape(shape, 4)?;
            let (c, k) = (axes[3], out_channels.unwrap_or(axes[3]));
            let conv = ops::Conv2d { kernel, stride, padding: ops::Padding::Symmetric(kernel / 2) };
            let x = Spec::new(axes.clone(), dtype);
            let (w, b) = (Spec::new([kernel, kernel, c, k], dtype), Spec::f32([k]));
            let dy = infer(&conv, &[x.clone(), w.clone(), b.clone()])?.remove(0);
            let input = ops::Conv2dBackwardInput { conv: conv.clone(), height: axes[1], width: axes[2] };
            let weight = ops::Conv2dBackwardWeight { conv: conv.clone(), bias: false };
            vec![
                Case::new("forward", conv, &[x.clone(), w.clone(), b]),
                Case::new("backward_input", input, &[dy.clone(), w]),
                Case::new("backward_weight", weight, &[x, dy]),
            ]
        }
        "linear" => {
            let axes = parse_shape(shape, 2)?;
            let n = out_channels.unwrap_or(axes[1]);
            let (x, w, b) = (Spec::new(axes.clone(), dtype), Spec::new([axes[1], n], dtype), Spec::f32([n]));
            let dy = Spec::new([axes[0], n], dtype);
            vec![
                Case::new("forward", ops::Linear, &[x.clone(), w.clone(), b]),
                Case::new("backward_input", ops::MatmulBackwardInput, &[dy.clone(), w]),
                Case::new("backward_weight", ops::MatmulBackwardWeight { bias: false }, &[x, dy]),
            ]
        }
        "attention" => {
            let x = Spec::new(parse_shape(shape, 3)?, dtype);
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
            let x = Spec::new(axes, dtype);
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
