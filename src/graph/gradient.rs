//! Reverse-mode differentiation: walks the nodes backwards and lets each operator append its gradients.

use super::{Graph, GraphError, Op, Phase, ValueId};
use crate::tensor::{Array, DType, Shape, Spec};
use std::collections::HashMap;
use std::sync::Arc;

/// The gradient of each tensor that has one.
pub type Gradients = HashMap<ValueId, ValueId>;

/// What an operator sees while its gradient is built.
pub struct Backward<'a> {
    graph: &'a mut Graph,
    gradients: &'a mut Gradients,
    needed: &'a [bool],
    sum: &'a Arc<dyn Op>,
    node: usize,
}

impl Backward<'_> {
    /// The i-th input of the operator.
    pub fn input(&self, i: usize) -> ValueId {
        self.graph.nodes[self.node].inputs[i]
    }

    /// The i-th output of the operator.
    pub fn output(&self, i: usize) -> ValueId {
        self.graph.nodes[self.node].outputs[i]
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.graph.nodes[self.node].inputs.len()
    }

    /// Shape and type of a tensor.
    pub fn spec(&self, value: ValueId) -> &Spec {
        self.graph.spec(value)
    }

    /// The shape of a tensor.
    pub fn shape(&self, value: ValueId) -> &Shape {
        self.graph.shape(value)
    }

    /// The gradient of the i-th output. The first output of a node that is visited always has one.
    pub fn gradient(&self, i: usize) -> ValueId {
        self.gradients[&self.output(i)]
    }

    /// Whether anything asks for the gradient of the i-th input.
    pub fn needs(&self, i: usize) -> bool {
        self.needed[self.input(i).0]
    }

    /// Adds a constant of a type.
    pub fn constant(&mut self, name: &str, dtype: DType, value: Array) -> ValueId {
        self.graph.constant_of(name, dtype, value)
    }

    /// Appends an operator and returns its first output.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        self.graph.apply(op, inputs)
    }

    /// Appends an operator and returns all its outputs.
    pub fn apply_all(
        &mut self,
        op: impl Op + 'static,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        self.graph.apply_all(op, inputs)
    }

    /// Adds to the gradient of the i-th input.
    pub fn accumulate(&mut self, i: usize, gradient: ValueId) -> Result<(), GraphError> {
        let input = self.input(i);
        let sum = match self.gradients.get(&input) {
            Some(&before) => self.graph.apply_shared(self.sum.clone(), &[before, gradient])?[0],
            None => gradient,
        };
        self.gradients.insert(input, sum);
        Ok(())
    }

    /// The error of an operator without a gradient.
    pub fn no_gradient(&self) -> GraphError {
        let node = &self.graph.nodes[self.node];
        GraphError::NoGradient { scope: node.scope.clone(), op: node.op.name() }
    }
}

impl Graph {
    /// Appends the nodes that compute the gradient, with respect to each of `wrt`, of the sum over
    /// `seeds` of ⟨value, seed⟩. A seed of ones on a scalar loss gives that loss's gradient. `sum` adds two
    /// tensors where a value has several uses; the graph itself knows no operator.
    pub fn backward(
        &mut self,
        sum: impl Op + 'static,
        seeds: &[(ValueId, ValueId)],
        wrt: &[ValueId],
    ) -> Result<Gradients, GraphError> {
        let sum: Arc<dyn Op> = Arc::new(sum);
        let mut needed = vec![false; self.values.len()];
        for v in wrt {
            needed[v.0] = true;
        }
        for node in &self.nodes {
            if node.inputs.iter().any(|v| needed[v.0]) {
                for v in &node.outputs {
                    needed[v.0] = true;
                }
            }
        }
        let mut gradients: Gradients = seeds.iter().copied().collect();
        let phase = std::mem::replace(&mut self.phase, Phase::Backward);
        for node in (0..self.nodes.len()).rev() {
            let outputs = &self.nodes[node].outputs;
            let wanted = self.nodes[node].inputs.iter().any(|v| needed[v.0]);
            if !wanted || !outputs.iter().any(|v| gradients.contains_key(v)) {
                continue;
            }
            let op = self.nodes[node].op.clone();
            let scope = self.nodes[node].scope.clone();
            let outer = std::mem::replace(&mut self.scope, vec![scope]);
            let result = op.backward(&mut Backward {
                graph: self,
                gradients: &mut gradients,
                needed: &needed,
                sum: &sum,
                node,
            });
            self.scope = outer;
            result?;
        }
        self.phase = phase;
        Ok(gradients)
    }
}
