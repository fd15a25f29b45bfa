//! The graph executor without a device: operators as lists of facts, graphs of them, their gradients,
//! the plan that a device follows, and the f64 interpreter.

mod caps;
mod choices;
mod gradient;
mod interpret;
mod launch_cost;
mod memory;
mod op;
mod plan;
mod recompute;
pub mod rewrite;
mod slots;
mod verify;
mod working_memory;

pub use caps::{Caps, CooperativeShape, Features, Kernels, Limits};
pub use choices::Choices;
pub use gradient::{Backward, Gradients};
pub use interpret::interpret;
pub use op::{
    Aliasing, Candidate, Cost, Dispatch, Joined, LinearPart, MAX_GROUPS, Op, Operand, Program, Scalar,
    ShapeError,
};
pub use plan::{Binding, Home, Launch, Placement, Plan, PlanError, PlannedBuffer};
pub use recompute::Checkpointing;
pub(crate) use slots::SlotPool;
pub use working_memory::WorkingTensor;

use crate::tensor::{Array, DType, Spec};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A graph that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// An operator refused its operands.
    #[error("in `{scope}`: {source}")]
    Shape {
        /// The module being built, as in `down_blocks.0.resnets.0`.
        scope: String,
        /// The operator's complaint.
        #[source]
        source: ShapeError,
    },
    /// The gradient of an operator that has none was asked for.
    #[error("in `{scope}`: {op} has no gradient, but the loss depends on a parameter through it")]
    NoGradient {
        /// The module.
        scope: String,
        /// The operator.
        op: &'static str,
    },
}

/// A tensor in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// A tensor that lives across runs: made once, and handed to every graph that reads or writes it and to whoever fills or
/// reads it from the host. Two states of one store must differ in name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its name in plans and errors.
    pub name: String,
    /// Shape and type.
    pub spec: Spec,
}

impl State {
    /// A state that nothing holds yet.
    pub fn new(name: impl Into<String>, spec: Spec) -> Self {
        Self { name: name.into(), spec }
    }
}

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Uploaded before a run.
    Input,
    /// Lives across runs and is shared by name among the plans of a device.
    State,
    /// Fixed when the graph is built.
    Constant(Array),
    /// Output `.1` of node `.0`.
    Node(usize, usize),
    /// Nothing any more: its node was taken out by a rewrite.
    Removed,
}

/// The part of a step that a node belongs to, as profiles sum it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Pictures and labels made ready and uploaded, by the host: no node is of it.
    Data,
    /// Timesteps drawn and noise added.
    Noise,
    /// The network.
    #[default]
    Forward,
    /// The loss.
    Loss,
    /// What of the network is computed again for the gradients ([`Checkpointing`]).
    Recompute,
    /// Gradients.
    Backward,
    /// The optimizer, the moving average and the log.
    Update,
    /// A sampler's step around the network.
    Sample,
}

impl Phase {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Noise => "noise",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Recompute => "recompute",
            Self::Backward => "backward",
            Self::Update => "update",
            Self::Sample => "sample",
        }
    }
}

/// A tensor's facts.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name: given for inputs, states and constants; `scope/op` otherwise.
    pub name: String,
    /// Shape and type.
    pub spec: Spec,
    /// Where its numbers come from.
    pub origin: Origin,
}

/// An operator applied to tensors.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operator.
    pub op: Arc<dyn Op>,
    /// Its operands.
    pub inputs: Vec<ValueId>,
    /// Its results.
    pub outputs: Vec<ValueId>,
    /// The module it belongs to, as in `mid_block.attentions.0`.
    pub scope: String,
    /// The part of the step it belongs to.
    pub phase: Phase,
}

/// A list of operators in an order in which they can run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Every tensor.
    pub values: Vec<Value>,
    /// Every operator, in order.
    pub nodes: Vec<Node>,
    /// Tensors to keep readable after a run.
    pub outputs: Vec<ValueId>,
    /// Computed tensors that other plans read, by the name of the state they are kept in.
    pub persistent: std::collections::BTreeMap<ValueId, String>,
    /// The nodes with which the blocks of the forward pass begin.
    block_starts: Vec<usize>,
    scope: Vec<String>,
    phase: Phase,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, name: String, spec: Spec, origin: Origin) -> ValueId {
        self.values.push(Value { name, spec, origin });
        ValueId(self.values.len() - 1)
    }

    /// A tensor that is uploaded before each run.
    pub fn input(&mut self, name: &str, spec: Spec) -> ValueId {
        self.push(name.into(), spec, Origin::Input)
    }

    /// A tensor that lives across runs.
    pub fn state(&mut self, state: &State) -> ValueId {
        self.push(state.name.clone(), state.spec.clone(), Origin::State)
    }

    /// A fixed f32 tensor.
    pub fn constant(&mut self, name: &str, value: Array) -> ValueId {
        self.constant_of(name, DType::F32, value)
    }

    /// A fixed tensor of any type.
    pub fn constant_of(&mut self, name: &str, dtype: DType, value: Array) -> ValueId {
        self.push(name.into(), Spec::new(value.shape.axes(), dtype), Origin::Constant(value))
    }

    /// Applies an operator and returns all its outputs.
    pub fn apply_all(
        &mut self,
        op: impl Op + 'static,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        self.apply_shared(Arc::new(op), inputs)
    }

    /// Applies an operator and returns its first output.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        Ok(self.apply_all(op, inputs)?[0])
    }

    /// Applies an operator that is already shared.
    pub fn apply_shared(&mut self, op: Arc<dyn Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let specs: Vec<Spec> = inputs.iter().map(|&v| self.spec(v).clone()).collect();
        let scope = self.scope.join(".");
        let outputs =
            op.infer(&specs).map_err(|source| GraphError::Shape { scope: scope.clone(), source })?;
        let node = self.nodes.len();
        let mut made = Node { op, inputs: inputs.to_vec(), outputs: Vec::new(), scope, phase: self.phase };
        let label = self.label(&made);
        made.outputs = outputs
            .into_iter()
            .enumerate()
            .map(|(i, spec)| self.push(label.clone(), spec, Origin::Node(node, i)))
            .collect();
        let outputs = made.outputs.clone();
        self.nodes.push(made);
        Ok(outputs)
    }

    /// Nodes appended from now on belong to this part of a step.
    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Enters a named module: nodes appended until [`Graph::leave`] carry its name.
    pub fn enter(&mut self, name: &str) {
        self.scope.push(name.into());
    }

    /// Leaves the module entered last.
    pub fn leave(&mut self) {
        self.scope.pop();
    }

    /// Nodes appended from now on are a block: what lies between its inputs and its outputs can be computed again
    /// ([`Graph::recomputed`]).
    pub fn begin_block(&mut self) {
        if self.block_starts.last() != Some(&self.nodes.len()) {
            self.block_starts.push(self.nodes.len());
        }
    }

    /// Keeps a tensor readable after a run, under a name.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.values[value.0].name = name.into();
        self.outputs.push(value);
    }

    /// Keeps a computed tensor in a state of its shape and type, for other plans to read.
    pub fn persist(&mut self, state: &State, value: ValueId) {
        assert_eq!(*self.spec(value), state.spec, "`{}` is kept as another tensor", state.name);
        self.persistent.insert(value, state.name.clone());
    }

    /// Shape and type of a tensor.
    pub fn spec(&self, value: ValueId) -> &Spec {
        &self.values[value.0].spec
    }

    /// The shape of a tensor.
    pub fn shape(&self, value: ValueId) -> &crate::tensor::Shape {
        &self.spec(value).shape
    }

    /// The specs of a node's inputs and outputs.
    pub fn node_specs(&self, node: &Node) -> (Vec<Spec>, Vec<Spec>) {
        let of = |v: &[ValueId]| v.iter().map(|&v| self.spec(v).clone()).collect();
        (of(&node.inputs), of(&node.outputs))
    }

    /// `scope/op` of a node, as profiles and errors name it.
    pub fn label(&self, node: &Node) -> String {
        if node.scope.is_empty() {
            node.op.name().into()
        } else {
            format!("{}/{}", node.scope, node.op.name())
        }
    }

    /// The cost of all nodes together.
    pub fn cost(&self) -> Cost {
        self.cost_where(|_| true)
    }

    /// The cost of all nodes of a phase.
    pub fn cost_of(&self, phase: Phase) -> Cost {
        self.cost_where(|node| node.phase == phase)
    }

    fn cost_where(&self, condition: impl Fn(&Node) -> bool) -> Cost {
        let mut total = Cost::default();
        for node in self.nodes.iter().filter(|node| condition(node)) {
            let (x, y) = self.node_specs(node);
            total += node.op.cost(&x, &y);
        }
        total
    }
}
