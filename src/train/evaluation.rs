//! The loss of the averaged weights on the held-out pictures, and the accuracy of a classifier.

use super::{LossGraph, Task};
use super::{PictureBatch, TrainStates, Trainer};
use crate::data::{AugmentOptions, Dataset, batch_at};
use crate::gpu::{Blocking as _, Executable, RunError, Store};
use crate::graph::{Caps, Graph, GraphError, Plan, ValueId};
use crate::nn::Weights;
use crate::ops::StepWords;
use std::sync::Arc;

/// A fixed set of pictures under fixed noise.
pub(super) struct Evaluation<T: Task> {
    /// For whole batches, and for what is left over.
    parts: [Option<Part<T::Inputs>>; 2],
    pictures: Arc<Dataset>,
    /// Pictures that are looked at.
    count: usize,
}

/// The loss of a batch.
struct Part<I> {
    executable: Executable,
    inputs: I,
    step: Option<ValueId>,
    loss: ValueId,
    logits: Option<ValueId>,
}

/// Held-out pictures that are looked at, at most: the standard error of the mean over 512 pictures with one
/// t each is some 3 % of the loss.
const HELD_OUT_PICTURES: usize = 512;

/// Pictures → loss of the averaged weights, without gradients, with the loss and the scores of classes as outputs.
fn evaluation_graph<T: Task>(
    task: &T,
    states: &TrainStates,
    batch: usize,
) -> Result<LossGraph<T::Inputs>, GraphError> {
    let mut loss = task.loss_graph(&Weights::from(&states.ema), batch)?;
    loss.graph.output("held_out_loss", loss.loss);
    if let Some(logits) = task.logits(&loss.inputs) {
        loss.graph.output("logits", logits);
    }
    Ok(loss)
}

/// The plan of a whole batch.
pub(super) fn evaluation_plan<T: Task>(
    task: &T,
    states: &TrainStates,
    batch: usize,
    caps: &Caps,
) -> Result<Plan, RunError> {
    let graph: Graph = evaluation_graph(task, states, batch)?.graph;
    Ok(Plan::new(graph, caps)?)
}

/// What was measured on the held-out pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeldOut {
    /// The mean of the loss, in which every picture counts once.
    pub loss: f64,
    /// The share of pictures whose class has the highest score, if the task is classification.
    pub accuracy: Option<f64>,
}

impl<T: Task<Batch = PictureBatch>> Evaluation<T> {
    pub(super) fn new(trainer: &Trainer<T>, pictures: Dataset) -> Result<Option<Self>, RunError> {
        if pictures.is_empty() {
            return Ok(None);
        }
        let count = pictures.len().min(HELD_OUT_PICTURES);
        let batch = trainer.options.batch;
        let part = |size: usize| {
            (size > 0).then(|| Part::new(&trainer.store, &trainer.task, &trainer.states, size)).transpose()
        };
        let whole = if count >= batch { batch } else { 0 };
        let parts = [part(whole)?, part(count % batch)?];
        Ok(Some(Self { parts, pictures: Arc::new(pictures), count }))
    }

    /// Measures. The noise is that of a seed of its own, the same at every call.
    pub(super) fn measure(&self, trainer: &Trainer<T>) -> Result<HeldOut, RunError> {
        let (batch, seed) = (trainer.options.batch, trainer.options.seed);
        let group = &trainer.options.group;
        // Losses and hits by batch; each rank measures some, and the others' are zero until they are summed.
        let batches = self.count.div_ceil(batch);
        let mut measured = vec![0.0; 2 * batches];
        let ours = (0..batches).skip(group.rank()).step_by(group.size());
        for k in ours {
            let first = k * batch;
            let size = batch.min(self.count - first);
            let [whole, rest] = &self.parts;
            let Some(part) = (if size == batch { whole } else { rest }) else { continue };
            let all = batch_at(&self.pictures, batch, seed, AugmentOptions::default(), k as u64);
            let (mut images, mut labels) = (all.images, all.labels);
            images.truncate(images.len() / batch * size);
            labels.truncate(size);
            let items = (images, labels);
            trainer.task.upload(&part.executable, &part.inputs, &items);
            if let Some(step) = part.step {
                let first_item = u32::try_from(first).unwrap_or(u32::MAX);
                let words = StepWords { seed: !seed, first_item, ..StepWords::default() };
                part.executable.write_u32(step, &words.words());
            }
            part.executable.run().block_on()?;
            measured[k] = part.executable.read(part.loss).block_on()?[0];
            if let Some(logits) = part.logits {
                let scores = part.executable.read(logits).block_on()?;
                let rows = scores.chunks_exact(scores.len() / size);
                let hits = rows.zip(&items.1).filter(|(row, label)| best(row) == **label as usize).count();
                measured[batches + k] = hits as f32;
            }
        }
        group.sum(&mut measured);
        let (losses, hits) = measured.split_at(batches);
        let sizes = (0..batches).map(|k| batch.min(self.count - k * batch));
        // In batches, not in pictures: of whole batches this is their mean to the last bit.
        let sum: f64 = losses
            .iter()
            .zip(sizes)
            .map(|(&loss, size)| f64::from(loss) * (size as f64 / batch as f64))
            .sum();
        let scores_classes = self.parts.iter().flatten().any(|part| part.logits.is_some());
        let right: f64 = hits.iter().copied().map(f64::from).sum();
        let accuracy = scores_classes.then(|| right / self.count as f64);
        Ok(HeldOut { loss: sum / (self.count as f64 / batch as f64), accuracy })
    }

    /// Device bytes of its plans, without the states.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().flatten().map(|part| part.executable.bytes()).sum()
    }
}

/// The first of the highest scores.
fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, k| if row[k] > row[best] { k } else { best })
}

impl<I> Part<I> {
    fn new<T: Task<Inputs = I>>(
        store: &Store,
        task: &T,
        states: &TrainStates,
        size: usize,
    ) -> Result<Self, RunError> {
        let LossGraph { graph, step, loss, inputs, .. } = evaluation_graph(task, states, size)?;
        let logits = task.logits(&inputs);
        let executable = Executable::new(store, Plan::new(graph, store.caps())?).block_on()?;
        Ok(Self { executable, inputs, step, loss, logits })
    }
}
