//! The denoising kernel by itself, with every tensor given.

use super::VerifyError;
use crate::gpu::{Blocking as _, Device, Store};
use crate::graph::ValueId;
use crate::ops::{Coefficients, StepWords};
use crate::sample::{Latent, LatentStepper, Thresholding};
use crate::tensor::{Shape, Spec};
use std::sync::Arc;

/// One update of any sampler on pictures (N, H, W, C) and network outputs (N, H, W, F).
pub(super) struct Update {
    stepper: LatentStepper,
    f: ValueId,
    latent: Latent,
    store: Arc<Store>,
}

impl Update {
    pub fn new(
        device: &Arc<Device>,
        shape: &[usize],
        f_channels: usize,
        thresholding: Thresholding,
    ) -> Result<Self, VerifyError> {
        let store = Store::new(device);
        let latent = Latent::new(&Shape::new(shape));
        let mut f_shape = shape.to_vec();
        if let Some(last) = f_shape.last_mut() {
            *last = f_channels;
        }
        let (stepper, f) = LatentStepper::new(&store, &latent, thresholding, |graph, _| {
            let f = graph.input("f", Spec::f32(f_shape));
            Ok((f, f))
        })
        .block_on()?;
        Ok(Self { stepper, f, latent, store })
    }

    pub fn set_history(&self, history: &[f32]) -> Result<(), VerifyError> {
        Ok(self.store.write(&self.latent.history, history)?)
    }

    /// x' from x and the network's output f.
    pub fn run(&self, x: &[f32], f: &[f32], coefficients: &Coefficients) -> Result<Vec<f32>, VerifyError> {
        self.store.write(&self.latent.x, x)?;
        self.stepper.executable.write(self.f, f);
        self.stepper.run(coefficients, &StepWords::default()).block_on()?;
        Ok(self.store.read(&self.latent.x).block_on()?)
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
