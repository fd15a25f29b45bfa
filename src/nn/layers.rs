//! Layers: parameters with an operator that uses them.

use super::{Init, Layout, ParameterId, Parameters};
use crate::graph::{Graph, GraphError, ValueId};
use crate::ops::{Add, Cast, Conv2d, GroupNorm, Linear as LinearOp, Padding, Scale};
use crate::tensor::DType;

/// A graph under construction and what every layer needs of it.
pub struct Builder<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    /// The [`Parameters::views`] of the network.
    pub parameters: &'a [ValueId],
    /// What each module gave, under its name in files, if anybody asks.
    activations: Option<Vec<(String, ValueId)>>,
}

impl<'a> Builder<'a> {
    /// Appends to a graph in which `parameters` are the [`Parameters::views`].
    pub fn new(graph: &'a mut Graph, parameters: &'a [ValueId]) -> Self {
        Self { graph, parameters, activations: None }
    }

    /// The same, recording activations.
    pub fn recording(graph: &'a mut Graph, parameters: &'a [ValueId]) -> Self {
        Self { graph, parameters, activations: Some(Vec::new()) }
    }

    /// Whether activations are recorded.
    pub fn records(&self) -> bool {
        self.activations.is_some()
    }

    /// What was recorded: the name of each module and its output.
    pub fn activations(self) -> Vec<(String, ValueId)> {
        self.activations.unwrap_or_default()
    }

    /// Appends a module whose nodes carry this name.
    pub fn scoped(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<ValueId, GraphError>,
    ) -> Result<ValueId, GraphError> {
        self.graph.enter(name);
        let result = build(self);
        self.graph.leave();
        result
    }

    /// The same, and the output is recorded.
    pub fn recorded(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<ValueId, GraphError>,
    ) -> Result<ValueId, GraphError> {
        let value = self.scoped(name, build)?;
        self.record(name, value);
        Ok(value)
    }

    /// Records what a module gave, if anybody asks.
    pub fn record(&mut self, name: &str, value: ValueId) {
        if let Some(activations) = &mut self.activations {
            activations.push((name.to_string(), value));
        }
    }

    /// x in this type: itself, if that is what it has.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
        if self.graph.spec(x).dtype == dtype { Ok(x) } else { self.graph.apply(Cast(dtype), &[x]) }
    }

    /// (x + h) / scale.
    pub fn residual(&mut self, x: ValueId, h: ValueId, scale: f32) -> Result<ValueId, GraphError> {
        let y = self.graph.apply(Add, &[x, h])?;
        if scale == 1.0 { Ok(y) } else { self.graph.apply(Scale(1.0 / scale), &[y]) }
    }
}

/// A convolution with a bias.
#[derive(Debug)]
pub struct Conv {
    weight: ParameterId,
    bias: ParameterId,
    op: Conv2d,
}

impl Conv {
    /// From so many channels to so many others.
    pub fn new(p: &mut Parameters, name: &str, input: usize, output: usize, op: Conv2d) -> Self {
        let init = Init::FanIn(input * op.kernel * op.kernel);
        let shape = [output, input, op.kernel, op.kernel];
        let weight = p.add(format!("{name}.weight"), &shape, Layout::Conv, init);
        let bias = p.add(format!("{name}.bias"), &[output], Layout::Same, init);
        Self { weight, bias, op }
    }

    /// 3x3, same size.
    pub fn three(p: &mut Parameters, name: &str, input: usize, output: usize) -> Self {
        Self::new(p, name, input, output, Conv2d { kernel: 3, stride: 1, padding: Padding::Symmetric(1) })
    }

    /// y (N, H', W', output) from x (N, H, W, input).
    pub fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.graph.apply(self.op.clone(), &[x, b.parameters[self.weight], b.parameters[self.bias]])
    }
}

/// y = x w + b.
#[derive(Debug)]
pub struct Linear {
    weight: ParameterId,
    bias: ParameterId,
}

impl Linear {
    /// From so many features to so many others.
    pub fn new(p: &mut Parameters, name: &str, input: usize, output: usize) -> Self {
        let init = Init::FanIn(input);
        let weight = p.add(format!("{name}.weight"), &[output, input], Layout::Linear, init);
        let bias = p.add(format!("{name}.bias"), &[output], Layout::Same, init);
        Self { weight, bias }
    }

    /// Weight and bias.
    pub fn parameters(&self) -> [ParameterId; 2] {
        [self.weight, self.bias]
    }

    /// y (..., output) from x (..., input).
    pub fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.graph.apply(LinearOp, &[x, b.parameters[self.weight], b.parameters[self.bias]])
    }
}

/// A group norm with a scale and a shift for each channel.
#[derive(Debug)]
pub struct Norm {
    weight: ParameterId,
    bias: ParameterId,
    channels: usize,
    groups: usize,
    eps: f32,
}

impl Norm {
    /// Of so many channels in so many groups; `eps` is added to each variance.
    pub fn new(p: &mut Parameters, name: &str, channels: usize, groups: usize, eps: f64) -> Self {
        let weight = p.add(format!("{name}.weight"), &[channels], Layout::Same, Init::Constant(1.0));
        let bias = p.add(format!("{name}.bias"), &[channels], Layout::Same, Init::Constant(0.0));
        Self { weight, bias, channels, groups, eps: eps as f32 }
    }

    /// Channels that it norms.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The norm, with SiLU behind it if asked, and (scale, shift) (N, 2C) between if given.
    pub fn forward(
        &self,
        b: &mut Builder,
        x: ValueId,
        silu: bool,
        scale_shift: Option<ValueId>,
    ) -> Result<ValueId, GraphError> {
        let op = GroupNorm { groups: self.groups, eps: self.eps, silu, scale_shift: scale_shift.is_some() };
        let mut inputs = vec![x, b.parameters[self.weight], b.parameters[self.bias]];
        inputs.extend(scale_shift);
        b.graph.apply(op, &inputs)
    }
}
