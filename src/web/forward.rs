//! The forward process on a picture: noise in one jump, and noise step by step.

use super::{Engine, Failure, Result, parsed};
use crate::diffusion::{NoiseLevel, NoiseSchedule, ScheduleKind};
use crate::gpu::Store;
use crate::ops::{RenoiseLevel, StepWords};
use crate::sample::{Latent, Renoiser};
use crate::tensor::Shape;
use std::sync::Arc;
use wasm_bindgen::prelude::wasm_bindgen;

/// A picture (H, W, C) and the noise that is put onto it.
#[wasm_bindgen]
pub struct Forward {
    store: Arc<Store>,
    latent: Latent,
    noise: Renoiser,
    schedule: NoiseSchedule,
    elements: usize,
}

#[wasm_bindgen]
impl Forward {
    /// For pictures of this shape and a chain of so many steps, whose schedule has this name in diffusers.
    ///
    /// # Errors
    /// A schedule that is no chain, or what the device says.
    pub async fn open(
        engine: &Engine,
        height: usize,
        width: usize,
        channels: usize,
        schedule: &str,
        steps: usize,
    ) -> Result<Forward> {
        let kind: ScheduleKind = parsed("schedule", &format!("{schedule:?}"))?;
        if kind.is_continuous() || steps < 2 {
            return Err(Failure::input(format!("{schedule} in {steps} steps is not a chain of steps")));
        }
        let store = Store::new(&engine.device);
        let latent = Latent::new(&Shape::new([1, height, width, channels]));
        let noise = Renoiser::new(&store, &latent).await?;
        let elements = height * width * channels;
        Ok(Self { store, latent, noise, schedule: NoiseSchedule::new(kind, steps), elements })
    }

    /// ā_t and b̄_t = √(1 - ā_t²) of x_0 to x_T, one pair after another: what x_t has of the picture and of the noise.
    pub fn levels(&self) -> Vec<f64> {
        let pairs = (0..=self.schedule.timesteps()).map(|t| self.schedule.level(t.checked_sub(1)));
        pairs.flat_map(|NoiseLevel { signal, noise }| [signal, noise]).collect()
    }

    /// a_t and b_t of the steps 0 to T - 1, one pair after another: x_{t+1} = a_t x_t + b_t ε_t.
    pub fn steps(&self) -> Vec<f64> {
        let schedule = &self.schedule;
        (0..schedule.timesteps()).flat_map(|t| [schedule.a(t), schedule.b(t)]).collect()
    }

    /// x_t of the picture x_0 in one jump, with the noise of this seed: the same for every t.
    ///
    /// # Errors
    /// A picture of another size, or what the device says.
    pub async fn jump(&self, x_0: &[f32], t: usize, seed: u64) -> Result<Vec<f32>> {
        self.check(x_0)?;
        let NoiseLevel { signal, noise } = self.schedule.level(t.checked_sub(1));
        self.noise.know(x_0, &vec![1.0; self.elements]);
        let level = RenoiseLevel { signal, noise, ..RenoiseLevel::default() };
        // A step that no chain has.
        let words = StepWords { seed, step: u32::MAX, ..StepWords::default() };
        self.noise.run(&words, level).await?;
        Ok(self.store.read(&self.latent.x).await?)
    }

    /// x_{t+1} of x_t by the step t alone, with noise of its own.
    ///
    /// # Errors
    /// A picture of another size, a step beyond the last one, or what the device says.
    pub async fn step(&self, x_t: &[f32], t: usize, seed: u64) -> Result<Vec<f32>> {
        self.check(x_t)?;
        let steps = self.schedule.timesteps();
        let step = u32::try_from(t).ok().filter(|_| t < steps);
        let step = step.ok_or_else(|| Failure::input(format!("there are {steps} steps, and no step {t}")))?;
        self.store.write(&self.latent.x, x_t)?;
        self.noise.know(x_t, &vec![0.0; self.elements]);
        let level =
            RenoiseLevel { kept: self.schedule.a(t), added: self.schedule.b(t), ..RenoiseLevel::default() };
        self.noise.run(&StepWords { seed, step, ..StepWords::default() }, level).await?;
        Ok(self.store.read(&self.latent.x).await?)
    }

    fn check(&self, picture: &[f32]) -> Result<()> {
        if picture.len() == self.elements {
            return Ok(());
        }
        Err(Failure::input(format!("the picture has {} numbers, not {}", picture.len(), self.elements)))
    }
}
