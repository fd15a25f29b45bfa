//! The network R that restores a degraded picture: its training, and the walks back that are made of its answers.

use super::chain::{Chain, pictures};
use super::{CLASSES, COUNT, PER_CLASS};
use crate::data::Dataset;
use crate::diffusion::UNet;
use crate::gpu::{Blocking as _, Executable, RunError};
use crate::graph::{Graph, GraphError, Plan, ValueId};
use crate::lab::{Lab, LabError, training};
use crate::nn::{Network, Weights};
use crate::ops::{Add, Degrade, MseLoss, Scale};
use crate::rng::{Philox, Stream};
use crate::tensor::{Array, Spec};
use crate::train::{LossGraph, Task, TrainConfig, Trainer};
use std::sync::Arc;

/// R(x_s, s): x_s and what the network adds to it. Of a slight degradation it has little to learn.
fn restored(
    graph: &mut Graph,
    unet: &UNet,
    parameters: &[ValueId],
    x: ValueId,
    severity: ValueId,
    labels: ValueId,
) -> Result<ValueId, GraphError> {
    let added = unet.forward(graph, parameters, x, severity, Some(labels))?;
    graph.apply(Add, &[x, added])
}

/// To restore: the network learns R(x_s, s) by ‖R(D(x_0, s), s) - x_0‖².
pub(super) struct Restoration {
    unet: UNet,
    matrices: Array,
}

pub(super) struct RestorationInputs {
    pictures: ValueId,
    labels: ValueId,
    severity: ValueId,
}

impl Task for Restoration {
    type Inputs = RestorationInputs;
    /// Pictures, labels, severities.
    type Batch = (Vec<f32>, Vec<u32>, Vec<f32>);

    fn network(&self) -> &dyn Network {
        &self.unet
    }

    fn loss_graph(
        &self,
        weights: &Weights,
        batch: usize,
    ) -> Result<LossGraph<RestorationInputs>, GraphError> {
        let unet = &self.unet;
        let mut graph = Graph::new();
        let x_0 = graph.input("pictures", pictures(batch));
        let labels = graph.input("labels", Spec::u32([batch]));
        let severity = graph.input("severity", Spec::f32([batch]));
        let matrices = graph.constant("matrices", self.matrices.clone());
        let x_s = graph.apply(Degrade, &[x_0, severity, matrices, matrices])?;
        let parameters = unet.parameters.views_of_weights(&mut graph, weights)?;
        let answer = restored(&mut graph, unet, &parameters, x_s, severity, labels)?;
        let weight = graph.constant("weight", Array::new([batch], vec![1.0; batch]));
        let loss = graph.apply(MseLoss, &[answer, x_0, weight])?;
        let inputs = RestorationInputs { pictures: x_0, labels, severity };
        Ok(LossGraph { graph, parameters, step: None, loss, inputs })
    }

    fn upload(&self, executable: &Executable, inputs: &RestorationInputs, batch: &Self::Batch) {
        executable.write(inputs.pictures, &batch.0);
        executable.write_u32(inputs.labels, &batch.1);
        executable.write(inputs.severity, &batch.2);
    }
}

/// Trains a network on a chain, s from 1 to the last alike.
pub(super) fn train(
    lab: &Lab,
    chain: &Chain,
    config: &TrainConfig,
    data: &Arc<Dataset>,
) -> Result<Trainer<Restoration>, LabError> {
    let task = Restoration { unet: UNet::new(&config.unet_config(0))?, matrices: chain.matrices.clone() };
    training::train(lab, chain.name, task, config, data, |given, step| {
        let mut random = Philox::new(config.seed, Stream::Timestep, step);
        let severity = |_| 1.0 + random.below(chain.last()) as f32;
        (given.images, given.labels, (0..config.batch).map(severity).collect())
    })
}

/// How x_{s-1} is made of x_s and R(x_s, s).
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    /// D(R, s-1): algorithm 1.
    Naive,
    /// x_s - D(R, s) + D(R, s-1): algorithm 2.
    Improved,
}

/// One evaluation of R at severity s, and what both algorithms make of it.
pub(super) struct Restorer {
    executable: Executable,
    x: ValueId,
    labels: ValueId,
    severity: ValueId,
    before: ValueId,
    answer: ValueId,
    naive: ValueId,
    improved: ValueId,
}

impl Restorer {
    pub(super) fn new(trainer: &Trainer<Restoration>) -> Result<Self, RunError> {
        let (store, Restoration { unet, matrices }) = (&trainer.store, &trainer.task);
        let mut graph = Graph::new();
        let x = graph.input("x", pictures(COUNT));
        let labels = graph.input("labels", Spec::u32([COUNT]));
        let [severity, before] = ["severity", "before"].map(|name| graph.input(name, Spec::f32([COUNT])));
        let matrices = graph.constant("matrices", matrices.clone());
        let flat = graph.state(&trainer.states.ema);
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let answer = restored(&mut graph, unet, &parameters, x, severity, labels)?;
        let naive = graph.apply(Degrade, &[answer, before, matrices, matrices])?;
        let now = graph.apply(Degrade, &[answer, severity, matrices, matrices])?;
        let minus_now = graph.apply(Scale(-1.0), &[now])?;
        let rest = graph.apply(Add, &[x, minus_now])?;
        let improved = graph.apply(Add, &[rest, naive])?;
        for (name, value) in [("answer", answer), ("naive", naive), ("improved", improved)] {
            graph.output(name, value);
        }
        let executable = Executable::new(store, Plan::new(graph, store.caps())?).block_on()?;
        Ok(Self { executable, x, labels, severity, before, answer, naive, improved })
    }

    fn evaluate(&self, x: &[f32], severity: usize) -> Result<(), RunError> {
        self.executable.write(self.x, x);
        self.executable.write_u32(self.labels, &labels());
        self.executable.write(self.severity, &[severity as f32; COUNT]);
        self.executable.write(self.before, &[(severity - 1) as f32; COUNT]);
        Ok(self.executable.run().block_on()?)
    }

    /// R(x_s, s).
    pub(super) fn directly(&self, x: &[f32], severity: usize) -> Result<Vec<f32>, RunError> {
        self.evaluate(x, severity)?;
        Ok(self.executable.read(self.answer).block_on()?)
    }

    /// x_s, x_{s-1}, …, x_0.
    pub(super) fn walk(
        &self,
        algorithm: Algorithm,
        x: &[f32],
        severity: usize,
    ) -> Result<Vec<Vec<f32>>, RunError> {
        let mut walk = vec![x.to_vec()];
        for s in (1..=severity).rev() {
            self.evaluate(&walk[severity - s], s)?;
            walk.push(
                self.executable
                    .read(match algorithm {
                        Algorithm::Naive => self.naive,
                        Algorithm::Improved => self.improved,
                    })
                    .block_on()?,
            );
        }
        Ok(walk)
    }
}

/// PER_CLASS of each class, class after class.
fn labels() -> Vec<u32> {
    (0..).take(CLASSES).flat_map(|class| [class; PER_CLASS]).collect()
}
