//! The graphs of a training step, which share their states: from a batch to gradients, once per micro-batch, and from gradients to
//! new weights.

use super::TrainStates;
use crate::graph::{Checkpointing, Graph, GraphError, Phase, State, ValueId};
use crate::nn::Parameters;
use crate::ops::{
    Accumulate, AdamW, Add, AdjustLossScale, BiasCorrection, Cast, GradientNorm, HYPER, LossScale, Record,
    STEP_WORDS, Scale, View,
};
use crate::tensor::{Array, DType, Shape, Spec};

/// From a batch to the loss.
#[derive(Clone, Debug)]
pub struct LossGraph<I> {
    /// The graph.
    pub graph: Graph,
    /// The [`Parameters::views`] that the loss depends on.
    pub parameters: Vec<ValueId>,
    /// [`StepWords`](crate::ops::StepWords), u32 (8), if anything in the graph is drawn at random.
    pub step: Option<ValueId>,
    /// The loss, (1): a mean over the batch.
    pub loss: ValueId,
    /// What a batch is uploaded to, and whatever else the task wants to know of the graph.
    pub inputs: I,
}

/// Continues a loss to gradients, in the state `gradients`, with the loss in the state `loss`, both averaged over the
/// micro-batches; the gradients are those of the scaled loss, where there is a scale. Where the micro-batches are `shared` by a
/// group, which sums them, the states hold one micro-batch's part of the average.
/// Checkpointing changes no bit of the gradients.
pub fn gradient_graph<I>(
    loss: LossGraph<I>,
    parameters: &Parameters,
    states: &TrainStates,
    accumulate: u32,
    shared: bool,
    checkpointing: Checkpointing,
) -> Result<LossGraph<I>, GraphError> {
    let mut g = loss;
    let graph = &mut g.graph;
    let forward = graph.nodes.len();
    let share = 1.0 / f64::from(accumulate);
    let seed = match &states.loss_scale {
        None => graph.constant("d_loss", Array::new([1], vec![share])),
        Some(state) => {
            let scale = graph.state(state);
            let scale = graph.apply(View { offset: 0, shape: Shape::new([1]) }, &[scale])?;
            if accumulate == 1 { scale } else { graph.apply(Scale(share as f32), &[scale])? }
        }
    };
    let gradients = graph.backward(Add, &[(g.loss, seed)], &g.parameters)?;
    graph.set_phase(Phase::Backward);
    graph.enter("gradients");
    let gradients: Vec<ValueId> = g.parameters.iter().map(|p| gradients[p]).collect();
    let packed = parameters.pack(graph, &gradients)?;
    if accumulate == 1 {
        graph.persist(&states.gradients, packed);
        graph.persist(&states.loss, g.loss);
    } else if shared {
        graph.persist(&states.gradients, packed);
        let scaled = graph.apply(Scale(share as f32), &[g.loss])?;
        graph.persist(&states.loss, scaled);
    } else {
        // A state, which begins as zeros: in a slot, the gaps between parameters would hold what other tensors
        // left there, and the norm of the sum would count it.
        graph.persist(&states.micro_gradients, packed);
        let step = *g.step.get_or_insert_with(|| graph.input("step", Spec::u32([STEP_WORDS])));
        let sum = graph.state(&states.gradients);
        graph.apply(Accumulate, &[sum, packed, step])?;
        let scaled = graph.apply(Scale(share as f32), &[g.loss])?;
        let sum = graph.state(&states.loss);
        graph.apply(Accumulate, &[sum, scaled, step])?;
    }
    graph.leave();
    Ok(LossGraph { graph: g.graph.recomputed(forward, checkpointing), ..g })
}

/// Inputs of the update graph.
#[derive(Clone, Copy, Debug)]
pub struct UpdateInputs {
    /// [`StepWords`](crate::ops::StepWords), u32 (8).
    pub step: ValueId,
    /// [`Hyper`](crate::ops::Hyper), f32 (8).
    pub hyper: ValueId,
}

/// Gradients → clipped AdamW step, moving average, and a row of the log.
pub fn update_graph(states: &TrainStates, optimizer: &AdamW) -> Result<(Graph, UpdateInputs), GraphError> {
    let mut graph = Graph::new();
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let hyper = graph.input("hyper", Spec::f32([HYPER]));
    let [p, g, m, v, ema] =
        [&states.parameters, &states.gradients, &states.first_moment, &states.second_moment, &states.ema]
            .map(|state| graph.state(state));
    let taken = graph.state(&states.steps_taken);
    let loss = graph.state(&states.loss);
    let log = graph.state(&states.log);
    let loss_scale = match &states.loss_scale {
        Some(state) => graph.state(state),
        None => {
            let none = LossScale::NONE.values().to_vec();
            graph.constant("loss_scale", Array::new([LossScale::WORDS], none))
        }
    };
    graph.set_phase(Phase::Update);
    graph.enter("update");
    let norm = graph.apply(GradientNorm, &[g, hyper, loss_scale])?;
    let correction = BiasCorrection::of(optimizer);
    let powers = graph.constant("bias_powers", correction.powers());
    let counted = graph.apply_all(correction, &[taken, norm, powers])?;
    let optimizer = AdamW { copy: states.copy.is_some(), ..optimizer.clone() };
    let updated = graph.apply_all(optimizer, &[p, g, m, v, ema, counted[1], hyper])?;
    if let Some(copy) = &states.copy {
        graph.persist(copy, updated[4]);
    }
    graph.apply(Record, &[log, loss, norm, step, loss_scale])?;
    if states.loss_scale.is_some() {
        graph.apply(AdjustLossScale, &[loss_scale, norm])?;
    }
    graph.leave();
    Ok((graph, UpdateInputs { step, hyper }))
}

/// The copy of the weights that products read, from the weights: what [`AdamW`] keeps up to date from then on.
pub(super) fn copy_graph(parameters: &State, copy: &State) -> Result<Graph, GraphError> {
    let mut graph = Graph::new();
    graph.set_phase(Phase::Update);
    let flat = graph.state(parameters);
    let made = graph.apply(Cast(DType::F16), &[flat])?;
    graph.persist(copy, made);
    Ok(graph)
}
