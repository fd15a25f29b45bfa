//! The three estimators: a batch's loss, its gradient and what they cost, and the statistics of many.

use crate::data::{AugmentOptions, Dataset, Options, batch_at, glyphs};
use crate::diffusion::{NoiseSchedule, UNet};
use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Graph, Plan, State, ValueId};
use crate::lab::LabError;
use crate::lab::statistics::Measured;
use crate::model::Model;
use crate::ops::{
    Add, AddNoise, AddTwoNoises, Coefficients, MseLoss, NoisingRow, SCHEDULE_COLUMNS, STEP_WORDS, StepWords,
    TWO_NOISE_COLUMNS, TwoNoiseRow,
};
use crate::rng::{Philox, Stream};
use crate::sample::{Latent, LatentStepper};
use crate::tensor::{Array, DType, Shape, Spec};
use crate::train::built_in_model;
use std::sync::Arc;
use std::time::Instant;

/// Pictures behind one estimate.
pub(super) const BATCH: usize = 4;
/// Estimates for each estimator and t, each from draws of its own.
pub(super) const ESTIMATES: u32 = 64;
/// Directions that the mean of the gradient is looked at along.
const DIRECTIONS: u32 = 8;

/// How x_t and its target are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Estimator {
    /// ε_0 … ε_{t-1}, each.
    Path,
    /// ε̄_{t-2} and ε_{t-1}.
    Two,
    /// ε̄_{t-1}, the mean over ε_{t-1} taken beforehand.
    One,
}

/// What one run gives.
struct Estimate {
    /// ‖(b/s) g - ε_{t-1}‖² per element, s² = 1 - ā².
    loss: f64,
    /// Its gradient by the weights of `conv_out`.
    gradient: Vec<f64>,
    /// Σ g ε_{t-1} and Σ g ε̄_{t-1}, per element.
    products: [f64; 2],
    /// Spent on the steps before the last, in ms.
    walking: f64,
}

/// From x_0 (or x_{t-1}) in the latent to loss and gradient.
struct Probe {
    executable: Executable,
    table: ValueId,
    step: ValueId,
    labels: Option<ValueId>,
    loss: ValueId,
    gradients: Vec<ValueId>,
    read: [ValueId; 3],
}

impl Probe {
    fn new(
        store: &Store,
        unet: &UNet,
        weights: &State,
        latent: &Latent,
        two: bool,
    ) -> Result<Self, LabError> {
        let mut graph = Graph::new();
        let pictures = graph.state(&latent.x);
        let columns = if two { TWO_NOISE_COLUMNS } else { SCHEDULE_COLUMNS };
        let table = graph.input("table", Spec::f32([1, columns]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([BATCH])));
        let noised = match two {
            true => graph.apply_all(AddTwoNoises { dtype: DType::F32 }, &[pictures, table, step])?,
            false => graph.apply_all(AddNoise { dtype: DType::F32 }, &[pictures, table, step])?,
        };
        let flat = graph.state(weights);
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let answer = unet.forward(&mut graph, &parameters, noised[0], noised[2], labels)?;
        let loss = graph.apply(MseLoss, &[answer, noised[1], noised[3]])?;
        let one = graph.constant("d_loss", Array::new([1], vec![1.0]));
        let last: Vec<ValueId> = unet
            .parameters
            .iter()
            .zip(&parameters)
            .filter(|(p, _)| p.name.starts_with("conv_out."))
            .map(|(_, &value)| value)
            .collect();
        let by_value = graph.backward(Add, &[(loss, one)], &last)?;
        let gradients: Vec<ValueId> = last.iter().map(|p| by_value[p]).collect();
        let read = [noised[0], noised[1], answer];
        for (name, value) in [("loss", loss), ("x_t", read[0]), ("target", read[1]), ("answer", read[2])] {
            graph.output(name, value);
        }
        for &gradient in &gradients {
            graph.output("gradient", gradient);
        }
        let plan = Plan::new(graph, store.caps()).map_err(RunError::from)?;
        let executable = Executable::new(store, plan).block_on()?;
        Ok(Self { executable, table, step, labels, loss, gradients, read })
    }
}

/// The three estimators on a device, and what they estimate from.
pub(super) struct Estimators {
    store: Arc<Store>,
    schedule: NoiseSchedule,
    pictures: Dataset,
    seed: u64,
    unet: UNet,
    weights: State,
    one: Probe,
    two: Probe,
    latent: Latent,
    /// One step of the chain in place, x ← a x + b ε: the kernel of the samplers.
    walk: LatentStepper,
}

/// Glyphs that the model has not seen.
pub(super) fn new_pictures(unet: &UNet, seed: u64, count: usize) -> Result<Dataset, LabError> {
    let size = unet.config.sample_size.get();
    let options = Options::new(size, unet.config.in_channels);
    Ok(glyphs::dataset(&Options { seed: !seed, glyph_count: count, ..options })?)
}

impl Estimators {
    /// The estimators of the built-in model's loss on new pictures.
    pub(super) fn new(device: &Arc<Device>, seed: u64) -> Result<Self, LabError> {
        let Model { unet, weights, scheduler, .. } = built_in_model()?;
        let (height, width) = unet.config.sample_size.get();
        let channels = unet.config.in_channels;
        let pictures = new_pictures(&unet, seed, 2000)?;
        let latent = Latent::new(&Shape::new([BATCH, height, width, channels]));
        let state = unet.parameters.state("weights");
        let store = Store::new(device);
        store.write(&state, &weights)?;
        let (walk, ()) =
            LatentStepper::new(&store, &latent, None, |graph, _| Ok((latent.no_answer(graph), ())))
                .block_on()?;
        Ok(Self {
            schedule: NoiseSchedule::of(&scheduler),
            pictures,
            seed,
            one: Probe::new(&store, &unet, &state, &latent, false)?,
            two: Probe::new(&store, &unet, &state, &latent, true)?,
            unet,
            weights: state,
            latent,
            walk,
            store,
        })
    }

    /// Sets the weights to their initial values, which have learned nothing.
    pub(super) fn reset_weights(&self) -> Result<(), LabError> {
        Ok(self.store.write(&self.weights, &self.unet.parameters.initial(self.seed))?)
    }

    /// b / √(1 - ā²) at the article's t: the last noise in units of all noise.
    pub(super) fn last_noise_share(&self, t: usize) -> f64 {
        self.schedule.last_noise_share(t - 1)
    }

    /// Number `k` of the estimates of the loss at the article's t.
    fn estimate(&self, estimator: Estimator, t: usize, k: u32) -> Result<Estimate, LabError> {
        let last = t - 1;
        let alpha_bar = self.schedule.alpha_bar(Some(last));
        let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let share = self.schedule.last_noise_share(last);
        // The network f = (b/s) g under the loss ‖f - ε_{t-1}‖² is g under (b/s)² ‖g - (s/b) ε_{t-1}‖².
        let target = [0.0, 1.0 / share, share * share];

        // 1. Draws of their own for each estimator, t and k.
        let seed = self.seed.wrapping_add((estimator as u64 + 1) << 32);
        let mut words =
            StepWords { seed, step: last as u32, first_item: k * BATCH as u32, ..StepWords::default() };
        let batch = batch_at(&self.pictures, BATCH, seed, AugmentOptions::default(), k.into());
        self.store.write(&self.latent.x, &batch.images)?;
        let start = Instant::now();
        let row = self.schedule.two_noise_row(last, target);
        let (probe, table) = match estimator {
            Estimator::One => {
                let TwoNoiseRow { weight, time, .. } = row;
                let row =
                    NoisingRow { signal, sigma: noise, target_noise: 1.0, target_data: 0.0, weight, time };
                (&self.one, row.words().to_vec())
            }
            Estimator::Two => (&self.two, row.words().to_vec()),
            Estimator::Path => {
                for i in 0..last {
                    let step = self.schedule.step(i, i.checked_sub(1));
                    let forwards = Coefficients {
                        range: 1.0,
                        c_x: step.alpha.sqrt(),
                        c_z: step.beta.sqrt(),
                        ..Coefficients::default()
                    };
                    words.step = i as u32;
                    self.walk.run(&forwards, &words).block_on()?;
                }
                words.step = last as u32;
                self.store.device().idle().block_on()?;
                // What was walked to is x_{t-1}.
                let row = TwoNoiseRow { signal_prev: 1.0, sigma_prev: 0.0, ..row };
                (&self.two, row.words().to_vec())
            }
        };

        let walking = 1e3 * start.elapsed().as_secs_f64();

        // 2. Loss and gradient.
        let run = &probe.executable;
        run.write(probe.table, &table);
        run.write_u32(probe.step, &words.words());
        if let Some(labels) = probe.labels {
            run.write_u32(labels, &batch.labels);
        }
        run.run().block_on()?;
        let mut gradient = Vec::new();
        for &value in &probe.gradients {
            gradient.extend(run.read(value).block_on()?.into_iter().map(f64::from));
        }
        let [x_t, target, answer] = [
            run.read(probe.read[0]).block_on()?,
            run.read(probe.read[1]).block_on()?,
            run.read(probe.read[2]).block_on()?,
        ];
        let mut products = [0.0; 2];
        for (i, (&x, &g)) in x_t.iter().zip(&answer).enumerate() {
            let merged = (f64::from(x) - signal * f64::from(batch.images[i])) / noise;
            // The table's target is (s/b) ε_{t-1}; of a single noise it is ε̄ itself.
            products[0] += f64::from(g) * share * f64::from(target[i]) / x_t.len() as f64;
            products[1] += f64::from(g) * merged / x_t.len() as f64;
        }
        Ok(Estimate { loss: run.read(probe.loss).block_on()?[0].into(), gradient, products, walking })
    }
}

/// What the estimates of one estimator at one t say.
pub(super) struct Summary {
    pub(super) loss: Measured,
    pub(super) loss_variance: Measured,
    pub(super) gradient_variance: Measured,
    /// Mean of the gradient along fixed directions.
    pub(super) projections: Vec<Measured>,
    pub(super) products: Vec<[f64; 2]>,
    /// Of one estimate, and of that for the steps before the last.
    pub(super) milliseconds: [f64; 2],
}

impl Estimators {
    /// [`ESTIMATES`] estimates of the loss at the article's t.
    pub(super) fn summarise(&self, estimator: Estimator, t: usize) -> Result<Summary, LabError> {
        // What is compiled at the first run is not the estimator's.
        self.estimate(estimator, t, 0)?;
        let start = Instant::now();
        let estimates =
            (0..ESTIMATES).map(|k| self.estimate(estimator, t, k)).collect::<Result<Vec<Estimate>, _>>()?;
        let milliseconds = 1e3 * start.elapsed().as_secs_f64() / f64::from(ESTIMATES);
        let walking = estimates.iter().map(|e| e.walking).sum::<f64>() / f64::from(ESTIMATES);
        let losses: Vec<Vec<f64>> = estimates.iter().map(|e| vec![e.loss]).collect();
        let gradients: Vec<Vec<f64>> = estimates.iter().map(|e| e.gradient.clone()).collect();
        let length = gradients[0].len();
        let project = |direction: u32| {
            let mut signs = Philox::new(self.seed, Stream::Cases, direction);
            let signs: Vec<f64> =
                (0..length).map(|_| if signs.bits() & 1 == 0 { 1.0 } else { -1.0 }).collect();
            let along = |g: &Vec<f64>| g.iter().zip(&signs).map(|(g, s)| g * s).sum::<f64>();
            Measured::mean(gradients.iter().map(along).collect::<Vec<f64>>().into_iter())
        };
        Ok(Summary {
            loss: Measured::mean(estimates.iter().map(|e| e.loss)),
            loss_variance: Measured::variance(&losses),
            gradient_variance: Measured::variance(&gradients),
            projections: (0..DIRECTIONS).map(project).collect(),
            products: estimates.iter().map(|e| e.products).collect(),
            milliseconds: [milliseconds, walking],
        })
    }
}

impl Summary {
    /// The largest deviation of two mean gradients from each other, in standard errors.
    pub(super) fn gradient_deviation(&self, other: &Self) -> f64 {
        let pairs = self.projections.iter().zip(&other.projections);
        pairs.map(|(a, b)| a.minus(*b).deviation(0.0)).fold(0.0, f64::max)
    }

    /// The largest deviation of the mean gradient from zero, in standard errors.
    pub(super) fn gradient_significance(&self) -> f64 {
        self.projections.iter().map(|p| p.deviation(0.0)).fold(0.0, f64::max)
    }
}
