//! The states of a training run on the device.

use crate::graph::State;
use crate::nn::{Parameters, Precision, Weights};
use crate::ops::{LOG_COLUMNS, LossScale};
use crate::tensor::{DType, Spec};

/// Everything that outlives a step. Flat vectors have the layout of [`crate::nn::Parameters`].
#[derive(Clone, Debug)]
pub struct TrainStates {
    /// The weights.
    pub parameters: State,
    /// Their copy in f16, from which products read them in that precision.
    pub copy: Option<State>,
    /// Gradients of the effective batch.
    pub gradients: State,
    /// Gradients of one micro-batch, where there are several.
    pub micro_gradients: State,
    /// AdamW's first moment.
    pub first_moment: State,
    /// AdamW's second moment.
    pub second_moment: State,
    /// The moving average of the weights.
    pub ema: State,
    /// The loss of the effective batch, (1).
    pub loss: State,
    /// Steps whose gradient was finite, u32 (1).
    pub steps_taken: State,
    /// [`LossScale`], where gradients are stored in f16.
    pub loss_scale: Option<State>,
    /// Rows of [`crate::ops::Record`], (rows, 4).
    pub log: State,
}

impl TrainStates {
    /// For a network with these parameters and a log of so many rows.
    pub fn of(parameters: &Parameters, log_rows: usize) -> Self {
        let elements = parameters.flat_elements();
        let states = Self::new(elements, log_rows);
        match parameters.precision() {
            Precision::F32 => states,
            Precision::F16 => Self {
                copy: Some(State::new("parameters_f16", Spec::new([elements], DType::F16))),
                loss_scale: Some(State::new("loss_scale", Spec::f32([LossScale::WORDS]))),
                ..states
            },
        }
    }

    /// The weights that are trained.
    pub fn weights(&self) -> Weights {
        Weights { flat: self.parameters.clone(), copy: self.copy.clone() }
    }

    /// For a flat vector of so many elements in f32 and a log of so many rows.
    pub fn new(flat_elements: usize, log_rows: usize) -> Self {
        let flat = |name| State::new(name, Spec::f32([flat_elements]));
        Self {
            parameters: flat("parameters"),
            copy: None,
            gradients: flat("gradients"),
            micro_gradients: flat("micro_gradients"),
            first_moment: flat("first_moment"),
            second_moment: flat("second_moment"),
            ema: flat("ema"),
            loss: State::new("loss", Spec::f32([1])),
            steps_taken: State::new("steps_taken", Spec::u32([1])),
            loss_scale: None,
            log: State::new("log", Spec::f32([log_rows, LOG_COLUMNS])),
        }
    }
}
