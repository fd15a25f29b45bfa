//! The denoising kernel by itself, with every tensor given.

use super::VerifyError;
use crate::gpu::{Blocking as _, Device, Executable, Store};
use crate::graph::{Graph, Plan, ValueId};
use crate::ops::{COEFFICIENTS, Coefficients, Denoise, DynamicThreshold, STEP_WORDS};
use crate::tensor::{Array, Spec};
use std::sync::Arc;

const PICTURE: &str = "x";
const HISTORY: &str = "history";

/// One update of any sampler on pictures (N, H, W, C) and network outputs (N, H, W, F).
pub(super) struct Update {
    executable: Executable,
    f: ValueId,
    coefficients: ValueId,
    store: Arc<Store>,
}

impl Update {
    pub fn new(
        device: &Arc<Device>,
        shape: &[usize],
        f_channels: usize,
        thresholding: Option<(f64, f64)>,
    ) -> Result<Self, VerifyError> {
        let store = Store::new(device);
        let batch = shape[0];
        let mut graph = Graph::new();
        let x = graph.state(PICTURE, Spec::f32(shape.to_vec()));
        let history = graph.state(HISTORY, Spec::f32(shape.to_vec()));
        let mut f_shape = shape.to_vec();
        if let Some(last) = f_shape.last_mut() {
            *last = f_channels;
        }
        let f = graph.input("f", Spec::f32(f_shape));
        let coefficients = graph.input("coefficients", Spec::f32([COEFFICIENTS]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let threshold = match thresholding {
            Some((ratio, max)) => {
                graph.apply(DynamicThreshold { ratio, max: max as f32 }, &[x, f, coefficients])?
            }
            None => graph.constant("threshold", Array::new([batch], vec![1.0; batch])),
        };
        graph.apply_all(Denoise, &[x, f, history, threshold, coefficients, step])?;
        let executable =
            Executable::new(&store, Plan::new(graph, &device.caps).map_err(crate::gpu::RunError::from)?)
                .block_on()?;
        executable.write_u32(step, &[0; STEP_WORDS]);
        Ok(Self { executable, f, coefficients, store })
    }

    pub fn set_history(&self, history: &[f32]) -> Result<(), VerifyError> {
        Ok(self.store.write(HISTORY, history)?)
    }

    /// x' from x and the network's output f.
    pub fn run(&self, x: &[f32], f: &[f32], coefficients: &Coefficients) -> Result<Vec<f32>, VerifyError> {
        self.store.write(PICTURE, x)?;
        self.executable.write(self.f, f);
        self.executable.write(self.coefficients, &coefficients.words());
        self.executable.run().block_on()?;
        Ok(self.store.read(PICTURE).block_on()?.unwrap_or_default())
    }

    /// signal x_0 + noise ε: the same kernel forwards.
    pub fn add_noise(&self, x_0: &[f32], noise: &[f32], alpha_bar: f64) -> Result<Vec<f32>, VerifyError> {
        let forwards = Coefficients {
            range: 1e30,
            c_x: alpha_bar.sqrt(),
            c_f: (1.0 - alpha_bar).sqrt(),
            ..Coefficients::default()
        };
        self.run(x_0, noise, &forwards)
    }
}
