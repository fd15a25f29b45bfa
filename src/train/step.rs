//! Training steps on a device. Every task is trained by the same two graphs ([`super::graphs`]).

use super::graphs::{LossGraph, UpdateInputs, copy_graph, gradient_graph, update_graph};
use super::group::{Group, Round};
use super::{Checkpoint, LogRow, TrainStates};
use crate::gpu::{Device, Executable, GpuError, Pieces, RunError, Store};
use crate::graph::{Caps, Checkpointing, Choices, GraphError, Phase, Plan, State, ValueId};
use crate::nn::{Network, Parameters, Weights};
use crate::ops::{AdamW, Hyper, LOG_COLUMNS, LossScale, StepWords};
use std::sync::Arc;

/// A network, its batches and its loss.
pub trait Task {
    /// See [`LossGraph::inputs`].
    type Inputs;
    /// What one micro-batch is made of.
    type Batch;

    /// What is trained.
    fn network(&self) -> &dyn Network;

    /// The loss of a batch of so many items under these weights.
    fn loss_graph(&self, weights: &Weights, batch: usize) -> Result<LossGraph<Self::Inputs>, GraphError>;

    /// Changes a batch as training alone does, at random by the addresses in `words`.
    fn vary(&self, batch: Self::Batch, _words: &StepWords) -> Self::Batch {
        batch
    }

    /// Uploads a batch to the inputs of its loss graph.
    fn upload(&self, executable: &Executable, inputs: &Self::Inputs, batch: &Self::Batch);

    /// Scores of the classes (B, K), if the task is classification.
    fn logits(&self, _inputs: &Self::Inputs) -> Option<ValueId> {
        None
    }
}

/// The update graph on a device.
pub struct Updater {
    executable: Executable,
    inputs: UpdateInputs,
}

impl Updater {
    /// Plans and compiles [`update_graph`] on the store that holds the states.
    pub async fn new(store: &Store, states: &TrainStates, optimizer: &AdamW) -> Result<Self, RunError> {
        let (graph, inputs) = update_graph(states, optimizer)?;
        let plan = Plan::new(graph, store.caps())?;
        Ok(Self { executable: Executable::new(store, plan).await?, inputs })
    }

    /// Submits an update; waits for no result.
    pub async fn run(&self, hyper: &Hyper, words: &StepWords) -> Result<(), RunError> {
        self.upload(hyper, words);
        Ok(self.executable.run().await?)
    }

    fn upload(&self, hyper: &Hyper, words: &StepWords) {
        self.executable.write_u32(self.inputs.step, &words.words());
        self.executable.write(self.inputs.hyper, &hyper.words());
    }
}

/// What decides a training step beside its task and the [`Hyper`] of each.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Items per micro-batch.
    pub batch: usize,
    /// Micro-batches per step.
    pub accumulate: u32,
    /// Of everything random.
    pub seed: u64,
    /// Rows of the log on the device.
    pub log_every: u32,
    /// The optimizer.
    pub optimizer: AdamW,
    /// Whether plans fuse operators, where the device's capabilities ask for it too.
    pub fusion: bool,
    /// What is computed again in the backward pass.
    pub checkpointing: Checkpointing,
    /// The algorithms of operators that were measured.
    pub choices: Arc<Choices>,
    /// The processes that share the micro-batches of a step.
    pub group: Group,
}

impl StepOptions {
    fn states(&self, parameters: &Parameters) -> TrainStates {
        TrainStates::of(parameters, self.log_every as usize)
    }

    fn caps(&self, of_device: &Caps) -> Caps {
        let fused = of_device.clone().with_fusion(of_device.fusion && self.fusion);
        if self.choices.is_empty() { fused } else { Caps { choices: self.choices.clone(), ..fused } }
    }
}

/// The plans of a training run, before any device: what `--dry-run` prints.
#[derive(Clone, Debug)]
pub struct TrainPlans {
    /// Batch to gradients.
    pub micro: Plan,
    /// Gradients to weights.
    pub update: Plan,
}

impl TrainPlans {
    /// Plans both graphs.
    pub fn new(task: &impl Task, options: &StepOptions, caps: &Caps) -> Result<Self, RunError> {
        let parameters = task.network().parameters();
        let states = options.states(parameters);
        let loss = task.loss_graph(&states.weights(), options.batch)?;
        let StepOptions { accumulate, checkpointing, .. } = *options;
        let shared = options.group.size() > 1;
        let micro = gradient_graph(loss, parameters, &states, accumulate, shared, checkpointing)?.graph;
        let (update, _) = update_graph(&states, &options.optimizer)?;
        let caps = options.caps(caps);
        Ok(Self { micro: Plan::new(micro, &caps)?, update: Plan::new(update, &caps)? })
    }

    /// Device bytes of both plans together.
    pub fn bytes(&self) -> u64 {
        Plan::bytes_together(&[&self.micro, &self.update])
    }

    /// Floating-point operations of the model per picture, forward and backward, as convolutions and
    /// matrix products are counted; what is computed again does not count.
    pub fn model_flops_per_picture(&self, batch: usize) -> u64 {
        let graph = &self.micro.graph;
        (graph.cost().matrix_flops - graph.cost_of(Phase::Recompute).matrix_flops) / batch.max(1) as u64
    }

    /// Floating-point operations that are done again, as a share of those of the model.
    pub fn recomputed_share(&self) -> f64 {
        let graph = &self.micro.graph;
        let (all, again) = (graph.cost().flops(), graph.cost_of(Phase::Recompute).flops());
        again as f64 / (all - again).max(1) as f64
    }
}

/// A training run on a device.
pub struct Trainer<T: Task> {
    /// The network and its loss.
    pub task: T,
    /// What decides a step.
    pub options: StepOptions,
    /// States on the device.
    pub store: Arc<Store>,
    /// Their handles.
    pub states: TrainStates,
    micro: Executable,
    /// Of the gradients, where a group sums them.
    pieces: Option<Pieces>,
    inputs: T::Inputs,
    step_words: Option<ValueId>,
    updater: Updater,
    /// Makes the copy of the weights, where there is one.
    copy: Option<Executable>,
    /// Whether it must be made before the next step.
    copy_is_old: bool,
    /// Of a run in f32 that went on from one in f16: the scale as it was left there.
    unused_loss_scale: Option<LossScale>,
    next_step: u32,
    unread: u32,
}

impl<T: Task> Trainer<T> {
    /// Allocates and compiles everything. States are zero until [`Trainer::set_parameters`].
    pub async fn new(device: &Arc<Device>, task: T, options: StepOptions) -> Result<Self, RunError> {
        let store = Store::with_caps(device, options.caps(&device.caps));
        let parameters = task.network().parameters();
        let states = options.states(parameters);
        let loss = task.loss_graph(&states.weights(), options.batch)?;
        let shared = options.group.size() > 1;
        let LossGraph { graph, step, inputs, .. } =
            gradient_graph(loss, parameters, &states, options.accumulate, shared, options.checkpointing)?;
        let micro = Executable::new(&store, Plan::new(graph, store.caps())?).await?;
        let pieces = shared
            .then(|| micro.pieces(&states.gradients, Group::bucket(parameters.flat_elements())))
            .transpose()?;
        let updater = Updater::new(&store, &states, &options.optimizer).await?;
        let copy = match &states.copy {
            None => None,
            Some(copy) => {
                let plan = Plan::new(copy_graph(&states.parameters, copy)?, store.caps())?;
                Some(Executable::new(&store, plan).await?)
            }
        };
        Ok(Self {
            task,
            options,
            store,
            states,
            micro,
            pieces,
            inputs,
            step_words: step,
            updater,
            copy,
            copy_is_old: true,
            unused_loss_scale: None,
            next_step: 0,
            unread: 0,
        })
    }

    /// Device bytes allocated: states, working memory, inputs, launch parameters.
    pub fn allocated_bytes(&self) -> u64 {
        let copy = self.copy.as_ref().map_or(0, Executable::bytes);
        self.store.bytes() + self.micro.bytes() + self.updater.executable.bytes() + copy
    }

    /// The states that a checkpoint keeps, in its order.
    fn kept(&self) -> [&State; 4] {
        let s = &self.states;
        [&s.parameters, &s.first_moment, &s.second_moment, &s.ema]
    }

    /// Sets the weights, and their average to the same, as at the beginning of a run.
    pub fn set_parameters(&mut self, flat: &[f32]) -> Result<(), RunError> {
        let zeros = vec![0.0; flat.len()];
        self.set_states(0, 0, None, [flat, &zeros, &zeros, flat])
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), RunError> {
        let Checkpoint { next_step, steps_taken, loss_scale, states, .. } = checkpoint;
        self.set_states(*next_step, *steps_taken, *loss_scale, states.each_ref().map(Vec::as_slice))
    }

    fn set_states(
        &mut self,
        next_step: u32,
        steps_taken: u32,
        loss_scale: Option<LossScale>,
        states: [&[f32]; 4],
    ) -> Result<(), RunError> {
        for (state, data) in self.kept().into_iter().zip(states) {
            self.store.write(state, data)?;
        }
        self.store.write_u32(&self.states.steps_taken, &[steps_taken])?;
        match &self.states.loss_scale {
            Some(state) => self.store.write(state, &loss_scale.unwrap_or(LossScale::INITIAL).words())?,
            None => self.unused_loss_scale = loss_scale,
        }
        self.copy_is_old = true;
        self.next_step = next_step;
        self.unread = 0;
        Ok(())
    }

    /// Waits for the device, and reads all that is needed to go on from here.
    pub async fn checkpoint(&self) -> Result<Checkpoint, RunError> {
        let mut states: [Vec<f32>; 4] = Default::default();
        for (slot, state) in states.iter_mut().zip(self.kept()) {
            *slot = self.store.read(state).await?;
        }
        let steps_taken = self.store.read_u32(&self.states.steps_taken).await?[0];
        let loss_scale = match &self.states.loss_scale {
            None => self.unused_loss_scale,
            Some(state) => Some(LossScale::from_words(&self.store.read(state).await?)),
        };
        Ok(Checkpoint { next_step: self.next_step, steps_taken, loss_scale, pictures: None, states })
    }

    /// The step that comes next.
    pub fn next_step(&self) -> u32 {
        self.next_step
    }

    /// Runs one optimizer step; `next_batch` is called for each micro-batch of this process. Waits for no result, only for a device that is
    /// more than a few steps behind.
    pub async fn step(
        &mut self,
        hyper: &Hyper,
        next_batch: impl FnMut() -> T::Batch,
    ) -> Result<(), RunError> {
        self.step_by(hyper, next_batch, Executable::run).await
    }

    /// The same with `run` in the place of [`Executable::run`], for each micro-batch and then for the update: for profiles.
    pub async fn step_by(
        &mut self,
        hyper: &Hyper,
        mut next_batch: impl FnMut() -> T::Batch,
        mut run: impl AsyncFnMut(&Executable) -> Result<(), GpuError>,
    ) -> Result<(), RunError> {
        if let Some(copy) = self.copy.as_ref().filter(|_| self.copy_is_old) {
            copy.run().await?;
        }
        self.copy_is_old = false;
        let mut words = StepWords::default();
        let ranks = self.options.group.size() as u32;
        let rounds = self.options.accumulate / ranks;
        for round in 0..rounds {
            let micro = round * ranks + self.options.group.rank() as u32;
            words = self.upload(self.next_step, micro, next_batch());
            match &self.pieces {
                None => run(&self.micro).await?,
                Some(pieces) => {
                    let round = Round { first: round == 0, last: round + 1 == rounds };
                    self.run_and_sum(pieces, round).await?;
                }
            }
        }
        self.updater.upload(hyper, &words);
        run(&self.updater.executable).await?;
        self.next_step += 1;
        self.unread += 1;
        Ok(())
    }

    /// Runs a micro-batch, and sums its gradients over the group while it still runs, and then its loss; puts the sums of the
    /// last round in their places.
    async fn run_and_sum(&self, pieces: &Pieces, round: Round) -> Result<(), RunError> {
        let TrainStates { gradients, loss, .. } = &self.states;
        let mut sums = self.options.group.sums(round);
        self.micro.run_in_pieces(pieces, |elements, values| sums.begin(elements, values)).await?;
        let group = &self.options.group;
        let end = gradients.spec.shape.elements();
        let mut last = self.store.read(loss).await?;
        last.push(group.asks());
        sums.begin(end..end + last.len(), last);
        let mut written = Ok(());
        sums.finish(|elements, sum| {
            let (state, first, sum) = if elements.start < end {
                (gradients, elements.start, sum)
            } else {
                group.learn(sum[1]);
                (loss, 0, &sum[..1])
            };
            if written.is_ok() {
                written = self.store.write_at(state, first, sum);
            }
        });
        Ok(written?)
    }

    /// The order in which the gradients are summed, which the ranks of a group must have alike.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn order_of_sums(&self) -> String {
        let pieces = self.pieces.iter().flat_map(Pieces::elements);
        pieces.map(|elements| format!("{elements:?}")).collect::<Vec<_>>().join(" ")
    }

    /// Uploads a micro-batch of a step, changed as training does, and returns the addresses of its random numbers.
    pub(super) fn upload(&self, step: u32, micro: u32, items: T::Batch) -> StepWords {
        let StepOptions { batch, seed, log_every, .. } = self.options;
        let first_item = micro * batch as u32;
        let words = StepWords { seed, step, row: step % log_every, micro, first_item };
        let items = self.task.vary(items, &words);
        self.task.upload(&self.micro, &self.inputs, &items);
        if let Some(value) = self.step_words {
            self.micro.write_u32(value, &words.words());
        }
        words
    }

    /// From a micro-batch to gradients.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn micro(&self) -> &Executable {
        &self.micro
    }

    /// Whether the log is full and must be read before the next step.
    pub fn log_is_full(&self) -> bool {
        self.unread >= self.options.log_every
    }

    /// Waits for the device and reads the rows of the steps since the last call (at most `log_every`).
    pub async fn read_log(&mut self) -> Result<Vec<LogRow>, RunError> {
        let rows = self.store.read(&self.states.log).await?;
        let log_every = self.options.log_every;
        let first = self.next_step - self.unread.min(log_every);
        self.unread = 0;
        Ok((first..self.next_step)
            .map(|step| {
                let row = &rows[(step % log_every) as usize * LOG_COLUMNS..][..LOG_COLUMNS];
                let loss_scale = self.states.loss_scale.as_ref().map(|_| row[4]);
                LogRow { step, loss: row[0], gradient_norm: row[1], finite: row[3] != 0.0, loss_scale }
            })
            .collect())
    }
}
