//! What the device's table says of a step.

use crate::ops::LossScale;

/// One row of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogRow {
    /// Optimizer step, from 0.
    pub step: u32,
    /// Training loss of that step.
    pub loss: f32,
    /// Norm of its gradient before clipping.
    pub gradient_norm: f32,
    /// Whether the gradient was finite; the step was skipped if not.
    pub finite: bool,
    /// What the loss was scaled by, where gradients are stored in f16.
    pub loss_scale: Option<f32>,
}

impl LogRow {
    /// Whether the step was skipped because the loss was scaled by too much, which the next ones make good: no fault of the run.
    pub fn is_skipped_by_scale(&self) -> bool {
        !self.finite && self.loss_scale.is_some_and(|scale| f64::from(scale) > LossScale::LEAST)
    }
}
