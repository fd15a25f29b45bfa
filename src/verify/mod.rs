//! The same numbers as PyTorch: everything that an oracle file holds, computed by the kernels and compared. The
//! layout of oracle files is in `docs/oracle.md`.

mod network;
mod oracle;
mod samplers;
mod schedules;
mod training;
mod update;

pub use oracle::{Oracle, OracleError};

use crate::gpu::{Device, RunError};
use crate::io::{Tensor, TensorFile};
use crate::model::Model;
use crate::nn::ConfigError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stopped a verification; a number that is off does not.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// An oracle file that cannot be read or used.
    #[error(transparent)]
    Oracle(Box<OracleError>),
    /// A graph or the device.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Two oracle files hold the same tensor, and both were to be dumped.
    #[error("`{0}` is in two of the oracle files, and a dump has one of each name; dump them one by one")]
    Twice(String),
}

impl From<OracleError> for VerifyError {
    fn from(e: OracleError) -> Self {
        Self::Oracle(Box::new(e))
    }
}

impl From<crate::graph::GraphError> for VerifyError {
    fn from(e: crate::graph::GraphError) -> Self {
        Self::Run(e.into())
    }
}

impl From<crate::gpu::GpuError> for VerifyError {
    fn from(e: crate::gpu::GpuError) -> Self {
        Self::Run(e.into())
    }
}

/// How far a tensor may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// ‖ours - theirs‖ / ‖theirs‖.
    Relative(f64),
    /// The largest difference of an element.
    Absolute(f64),
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The oracle's name of the tensor.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Largest difference of an element.
    pub max_abs: f64,
    /// ‖ours - theirs‖ / ‖theirs‖, at its worst step for a trajectory.
    pub relative_l2: f64,
    /// What is allowed.
    pub limit: Limit,
    /// What the limit or the comparison has of its own.
    pub note: String,
}

impl Row {
    /// Whether it is within the limit. NaN is not.
    pub fn passed(&self) -> bool {
        match self.limit {
            Limit::Relative(limit) => self.relative_l2 <= limit,
            Limit::Absolute(limit) => self.max_abs <= limit,
        }
    }
}

/// Largest difference, and the difference's length in the length of `theirs`.
fn distance(ours: &[f64], theirs: &[f64]) -> (f64, f64) {
    if ours.len() != theirs.len() {
        return (f64::INFINITY, f64::INFINITY);
    }
    let (mut max, mut square, mut length) = (0.0f64, 0.0, 0.0);
    for (a, b) in ours.iter().zip(theirs) {
        let d = a - b;
        // `max` would pass over a NaN.
        max = if d.is_nan() { f64::NAN } else { max.max(d.abs()) };
        square += d * d;
        length += b * b;
    }
    let relative = if square == 0.0 { 0.0 } else { (square / length).sqrt() };
    if square.is_nan() { (f64::NAN, f64::NAN) } else { (max, relative) }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// One for each tensor that was compared.
    pub rows: Vec<Row>,
    /// Tensors that nothing was computed for, and why.
    pub left_out: Vec<(String, &'static str)>,
    /// What was computed, under the oracle's names and in its form.
    pub computed: BTreeMap<String, Tensor>,
}

impl Report {
    /// Whether something was compared and all of it is within its limits.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::passed)
    }

    /// What was computed, as a file.
    pub fn dump(self) -> TensorFile {
        TensorFile { tensors: self.computed, metadata: BTreeMap::new() }
    }

    /// Keeps a computed tensor for the dump.
    fn keep(&mut self, name: &str, shape: &[usize], ours: &[f64]) -> Result<(), VerifyError> {
        let tensor = Tensor { shape: shape.to_vec(), data: ours.iter().map(|&v| v as f32).collect() };
        match self.computed.insert(name.to_string(), tensor) {
            None => Ok(()),
            Some(_) => Err(VerifyError::Twice(name.to_string())),
        }
    }

    /// Compares a computed tensor with the oracle's of that name, and keeps it.
    fn compare(
        &mut self,
        oracle: &Oracle,
        name: &str,
        ours: &[f64],
        limit: Limit,
    ) -> Result<(), VerifyError> {
        let Some(theirs) = oracle.tensors.get(name) else { return Ok(()) };
        self.keep(name, &theirs.shape, ours)?;
        let (max_abs, relative_l2) = distance(ours, &wide(&theirs.data));
        self.rows.push(Row {
            name: name.to_string(),
            shape: theirs.shape.clone(),
            max_abs,
            relative_l2,
            limit,
            note: String::new(),
        });
        Ok(())
    }
}

/// Computes on `device` what the files hold, with the network of `model` where they need one.
///
/// # Errors
/// What makes a file useless or stops the device. A difference is not an error but a row that did not pass.
pub fn verify(
    device: &Arc<Device>,
    model: Option<&Model>,
    oracles: &[Oracle],
    mut progress: impl FnMut(&str),
) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    for oracle in oracles {
        let mut known = false;
        let mut part = |what: &str| {
            known = true;
            progress(&format!("{}: {what}", oracle.path.display()));
        };
        if oracle.has("sample") {
            part("network");
            network::check(device, oracle.model(model)?, oracle, &mut report)?;
        }
        if oracle.has("batch.x0") {
            part("training");
            // The gradients of the first batch may be stored in another of the files.
            let stored = oracles.iter().find(|o| o.has_prefix("grad."));
            training::check(device, oracle.model(model)?, oracle, stored, &mut report)?;
        }
        if oracle.has_prefix("sampler.") {
            part("samplers");
            samplers::check(device, model, oracle, &mut report)?;
        }
        if oracle.has_prefix("timesteps.") || oracle.has_suffix(".alphas_cumprod") {
            part("schedules");
            schedules::check(device, oracle, &mut report)?;
        }
        if oracle.has("p0") {
            part("optimizer");
            training::check_optimizer(device, oracle, &mut report)?;
        }
        if !known {
            return Err(oracle.unknown().into());
        }
    }
    Ok(report)
}

fn wide(data: &[f32]) -> Vec<f64> {
    data.iter().map(|&v| v.into()).collect()
}

/// (N, C, H, W) to (N, H, W, C); other ranks stay.
fn channels_last(tensor: &Tensor) -> Vec<f32> {
    let &[n, c, h, w] = tensor.shape.as_slice() else { return tensor.data.clone() };
    let area = h * w;
    let index = |i: usize| (i / (area * c) * c + i % c) * area + i / c % area;
    (0..n * c * area).map(|i| tensor.data[index(i)]).collect()
}

/// (N, H, W, C) to (N, C, H, W), given the latter shape; other ranks stay.
fn channels_first(data: &[f32], shape: &[usize]) -> Vec<f64> {
    let &[n, c, h, w] = shape else { return wide(data) };
    let area = h * w;
    let index = |i: usize| i / (area * c) * area * c + i % area * c + i / area % c;
    (0..n * c * area).map(|i| f64::from(data[index(i)])).collect()
}

impl From<ConfigError> for VerifyError {
    fn from(e: ConfigError) -> Self {
        OracleError::Config(e).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_inverse() {
        let shape = vec![2, 3, 4, 5];
        let tensor = Tensor { shape: shape.clone(), data: (0..120).map(|i| i as f32).collect() };
        let last = channels_last(&tensor);
        // Item 0, pixel 1, channel 2.
        assert_eq!(last[5], 2.0 * 20.0 + 1.0);
        assert_eq!(channels_first(&last, &shape), wide(&tensor.data));
    }

    #[test]
    fn a_nan_or_a_wrong_length_never_passes() {
        let row = |ours: &[f64]| {
            let (max_abs, relative_l2) = distance(ours, &[1.0, 2.0]);
            let limit = Limit::Relative(1e30);
            Row { name: String::new(), shape: vec![2], max_abs, relative_l2, limit, note: String::new() }
        };
        assert!(row(&[1.0, 3.0]).passed());
        assert!(!row(&[f64::NAN, 2.0]).passed());
        assert!(!row(&[1.0]).passed());
        let absolute = Row { limit: Limit::Absolute(1e30), ..row(&[f64::NAN, 2.0]) };
        assert!(!absolute.passed());
        assert_eq!(distance(&[0.0, 2.0], &[0.0, 1.0]), (1.0, 1.0));
        assert_eq!(distance(&[0.0], &[0.0]), (0.0, 0.0));
    }

    #[test]
    fn an_empty_report_does_not_pass() {
        assert!(!Report::default().passed());
    }
}
