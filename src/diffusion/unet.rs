//! The U-Net with the semantics and parameter names of diffusers' `UNet2DModel`.
//!
//! [`UNet::new`] lays out the parameters, as a module tree; [`UNet::forward`] appends the operators to a
//! graph. All parameters lie in one flat vector, each from a multiple of 64 elements on.

use super::config::{ConfigError, DownBlock, TimeScaleShift, UNetConfig, UpBlock};
use crate::graph::{Graph, GraphError, ValueId};
use crate::ops::{
    ALIGNMENT, Add, AddChannels, Attention, Concat, Conv2d, Embedding, GroupNorm, Linear as LinearOp, Pack,
    Padding, Scale, Silu, TimeEmbedding, UpsampleNearest, View,
};
use crate::rng::{Philox, Stream};
use crate::tensor::Shape;

/// How a parameter is laid out in files and on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Files and device agree: vectors and embedding tables.
    Same,
    /// Files have (out, in), the device (in, out).
    Linear,
    /// Files have (out, in, ky, kx), the device (ky, kx, in, out).
    Conv,
}

impl Layout {
    /// For each element in device order, its index in file order. `shape` is the file's.
    fn file_index(self, shape: &[usize], i: usize) -> usize {
        match (self, shape) {
            (Self::Linear, &[out, input]) => (i % out) * input + i / out,
            (Self::Conv, &[out, input, ky, kx]) => {
                let (o, rest) = (i % out, i / out);
                let (c, tap) = (rest % input, rest / input);
                (o * input + c) * ky * kx + tap
            }
            _ => i,
        }
    }
}

/// PyTorch's default initialisation of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Init {
    /// Uniform in ±1/√fan_in: weights and biases of convolutions and linear layers (He et al., arXiv
    /// 1502.01852, with PyTorch's a = √5).
    FanIn(usize),
    /// A fixed number: norms.
    Constant(f32),
    /// Standard normal: embedding tables.
    Normal,
}

/// A parameter of the network.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// diffusers' name, as `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// The shape in files.
    pub shape: Vec<usize>,
    /// How files and device differ.
    pub layout: Layout,
    /// First element in the flat vector.
    pub offset: usize,
    init: Init,
}

impl Parameter {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape on the device.
    pub fn device_shape(&self) -> Shape {
        match (self.layout, self.shape.as_slice()) {
            (Layout::Linear, &[out, input]) => Shape::new([input, out]),
            (Layout::Conv, &[out, input, ky, kx]) => Shape::new([ky, kx, input, out]),
            (_, shape) => Shape::new(shape),
        }
    }

    /// Elements in device order from file order.
    pub fn to_device(&self, file: &[f32]) -> Vec<f32> {
        (0..file.len()).map(|i| file[self.layout.file_index(&self.shape, i)]).collect()
    }

    /// Elements in file order from device order.
    pub fn to_file(&self, device: &[f32]) -> Vec<f32> {
        let mut file = vec![0.0; device.len()];
        for (i, &v) in device.iter().enumerate() {
            file[self.layout.file_index(&self.shape, i)] = v;
        }
        file
    }
}

/// Index of a parameter in [`UNet::parameters`].
type ParameterId = usize;

#[derive(Debug, Default)]
struct Parameters {
    list: Vec<Parameter>,
    elements: usize,
}

impl Parameters {
    fn add(&mut self, name: String, shape: &[usize], layout: Layout, init: Init) -> ParameterId {
        let parameter = Parameter { name, shape: shape.to_vec(), layout, offset: self.elements, init };
        self.elements += parameter.elements().next_multiple_of(ALIGNMENT);
        self.list.push(parameter);
        self.list.len() - 1
    }
}

#[derive(Debug)]
struct Conv {
    weight: ParameterId,
    bias: ParameterId,
    op: Conv2d,
}

impl Conv {
    fn new(p: &mut Parameters, name: &str, input: usize, output: usize, op: Conv2d) -> Self {
        let init = Init::FanIn(input * op.kernel * op.kernel);
        let shape = [output, input, op.kernel, op.kernel];
        let weight = p.add(format!("{name}.weight"), &shape, Layout::Conv, init);
        let bias = p.add(format!("{name}.bias"), &[output], Layout::Same, init);
        Self { weight, bias, op }
    }

    /// 3x3, same size.
    fn three(p: &mut Parameters, name: &str, input: usize, output: usize) -> Self {
        Self::new(p, name, input, output, Conv2d { kernel: 3, stride: 1, padding: Padding::Symmetric(1) })
    }

    fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.graph.apply(self.op.clone(), &[x, b.parameters[self.weight], b.parameters[self.bias]])
    }
}

#[derive(Debug)]
struct Linear {
    weight: ParameterId,
    bias: ParameterId,
}

impl Linear {
    fn new(p: &mut Parameters, name: &str, input: usize, output: usize) -> Self {
        let init = Init::FanIn(input);
        let weight = p.add(format!("{name}.weight"), &[output, input], Layout::Linear, init);
        let bias = p.add(format!("{name}.bias"), &[output], Layout::Same, init);
        Self { weight, bias }
    }

    fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.graph.apply(LinearOp, &[x, b.parameters[self.weight], b.parameters[self.bias]])
    }
}

#[derive(Debug)]
struct Norm {
    weight: ParameterId,
    bias: ParameterId,
    groups: usize,
    eps: f32,
}

impl Norm {
    fn new(p: &mut Parameters, name: &str, channels: usize, groups: usize, eps: f64) -> Self {
        let weight = p.add(format!("{name}.weight"), &[channels], Layout::Same, Init::Constant(1.0));
        let bias = p.add(format!("{name}.bias"), &[channels], Layout::Same, Init::Constant(0.0));
        Self { weight, bias, groups, eps: eps as f32 }
    }

    /// The norm, with SiLU behind it if asked, and (scale, shift) (N, 2C) between if given.
    fn forward(
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

#[derive(Debug)]
struct Resnet {
    name: String,
    norm1: Norm,
    conv1: Conv,
    time_emb_proj: Linear,
    norm2: Norm,
    conv2: Conv,
    conv_shortcut: Option<Conv>,
    scale_shift: bool,
    output_scale: f32,
}

impl Resnet {
    fn new(
        p: &mut Parameters,
        config: &UNetConfig,
        name: String,
        (input, output): (usize, usize),
        output_scale: f32,
    ) -> Self {
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let scale_shift = config.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        let time_width = config.time_width();
        let time_output = if scale_shift { 2 * output } else { output };
        let point = Conv2d { kernel: 1, stride: 1, padding: Padding::Symmetric(0) };
        Self {
            norm1: Norm::new(p, &format!("{name}.norm1"), input, groups, eps),
            conv1: Conv::three(p, &format!("{name}.conv1"), input, output),
            time_emb_proj: Linear::new(p, &format!("{name}.time_emb_proj"), time_width, time_output),
            norm2: Norm::new(p, &format!("{name}.norm2"), output, groups, eps),
            conv2: Conv::three(p, &format!("{name}.conv2"), output, output),
            conv_shortcut: (input != output)
                .then(|| Conv::new(p, &format!("{name}.conv_shortcut"), input, output, point)),
            name,
            scale_shift,
            output_scale,
        }
    }

    /// h = conv2(silu(norm2(conv1(silu(norm1(x))) + e))) with e the projected time embedding; x + h.
    fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.recorded(&self.name, |b| {
            let h = self.norm1.forward(b, x, true, None)?;
            let h = self.conv1.forward(b, h)?;
            let e = self.time_emb_proj.forward(b, b.time)?;
            let h = if self.scale_shift {
                self.norm2.forward(b, h, true, Some(e))?
            } else {
                let h = b.graph.apply(AddChannels, &[h, e])?;
                self.norm2.forward(b, h, true, None)?
            };
            let h = self.conv2.forward(b, h)?;
            let x = match &self.conv_shortcut {
                Some(conv) => conv.forward(b, x)?,
                None => x,
            };
            b.residual(x, h, self.output_scale)
        })
    }
}

#[derive(Debug)]
struct SelfAttention {
    name: String,
    group_norm: Option<Norm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    output_scale: f32,
}

impl SelfAttention {
    fn new(
        p: &mut Parameters,
        config: &UNetConfig,
        name: String,
        channels: usize,
        groups: Option<usize>,
        output_scale: f32,
    ) -> Self {
        let head_dim = config.attention_head_dim.unwrap_or(channels);
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        Self {
            group_norm: groups
                .map(|g| Norm::new(p, &format!("{name}.group_norm"), channels, g, config.norm_eps)),
            to_q: Linear::new(p, &format!("{name}.to_q"), channels, inner),
            to_k: Linear::new(p, &format!("{name}.to_k"), channels, inner),
            to_v: Linear::new(p, &format!("{name}.to_v"), channels, inner),
            to_out: Linear::new(p, &format!("{name}.to_out.0"), inner, channels),
            name,
            heads,
            output_scale,
        }
    }

    /// x + to_out(attention(norm(x))) over the pixels as tokens.
    fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.recorded(&self.name, |b| {
            let shape = b.graph.shape(x).clone();
            let h = match &self.group_norm {
                Some(norm) => norm.forward(b, x, false, None)?,
                None => x,
            };
            let tokens = Shape::new([shape[0], shape[1] * shape[2], shape[3]]);
            let h = b.graph.apply(View { offset: 0, shape: tokens }, &[h])?;
            let q = self.to_q.forward(b, h)?;
            let k = self.to_k.forward(b, h)?;
            let v = self.to_v.forward(b, h)?;
            let o = b.graph.apply(Attention { heads: self.heads }, &[q, k, v])?;
            let o = self.to_out.forward(b, o)?;
            let o = b.graph.apply(View { offset: 0, shape }, &[o])?;
            b.residual(x, o, self.output_scale)
        })
    }
}

#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    attentions: Vec<SelfAttention>,
    resample: Option<Conv>,
    name: String,
}

impl Level {
    /// The i-th residual block and its attention.
    fn block(&self, i: usize, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        let x = self.resnets[i].forward(b, x)?;
        match self.attentions.get(i) {
            Some(attention) => attention.forward(b, x),
            None => Ok(x),
        }
    }
}

/// The network: its configuration, parameters and module tree.
#[derive(Debug)]
pub struct UNet {
    /// What it was built from.
    pub config: UNetConfig,
    /// Every parameter, in the order of the flat vector.
    pub parameters: Vec<Parameter>,
    /// Elements of the flat vector, gaps included.
    pub flat_elements: usize,
    conv_in: Conv,
    time_linear_1: Linear,
    time_linear_2: Linear,
    class_embedding: Option<ParameterId>,
    down: Vec<Level>,
    mid: Level,
    up: Vec<Level>,
    conv_norm_out: Norm,
    conv_out: Conv,
}

/// A graph under construction and what every block needs of it.
struct Builder<'a> {
    graph: &'a mut Graph,
    parameters: Vec<ValueId>,
    /// silu(time embedding), (N, time_width).
    time: ValueId,
    /// What each module gave, under its name in diffusers, if anybody asks.
    activations: Option<Vec<(String, ValueId)>>,
}

impl Builder<'_> {
    fn scoped(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<ValueId, GraphError>,
    ) -> Result<ValueId, GraphError> {
        self.graph.enter(name);
        let result = build(self);
        self.graph.leave();
        result
    }

    /// The same for a module whose output is an activation of [`UNet::forward_recorded`].
    fn recorded(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<ValueId, GraphError>,
    ) -> Result<ValueId, GraphError> {
        let value = self.scoped(name, build)?;
        self.record(name, value);
        Ok(value)
    }

    fn record(&mut self, name: &str, value: ValueId) {
        if let Some(activations) = &mut self.activations {
            activations.push((name.to_string(), value));
        }
    }

    /// (x + h) / scale.
    fn residual(&mut self, x: ValueId, h: ValueId, scale: f32) -> Result<ValueId, GraphError> {
        let y = self.graph.apply(Add, &[x, h])?;
        if scale == 1.0 { Ok(y) } else { self.graph.apply(Scale(1.0 / scale), &[y]) }
    }
}

impl UNet {
    /// Lays out the parameters of a valid configuration.
    pub fn new(config: &UNetConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut parameters = Parameters::default();
        let p = &mut parameters;
        let widths = &config.block_out_channels;
        let levels = widths.len();
        let groups = config.norm_num_groups;
        let time_width = config.time_width();

        // 1. Input and conditioning.
        let conv_in = Conv::three(p, "conv_in", config.in_channels, widths[0]);
        let time_linear_1 = Linear::new(p, "time_embedding.linear_1", widths[0], time_width);
        let time_linear_2 = Linear::new(p, "time_embedding.linear_2", time_width, time_width);
        let class_embedding = config.num_class_embeds.map(|classes| {
            p.add("class_embedding.weight".into(), &[classes, time_width], Layout::Same, Init::Normal)
        });

        // 2. Down: each level ends with a stride-2 convolution, except the last.
        let padding =
            if config.downsample_padding == 0 { Padding::BottomRight } else { Padding::Symmetric(1) };
        let mut down = Vec::with_capacity(levels);
        for (i, kind) in config.down_block_types.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            let (input, output) = (widths[i.saturating_sub(1)], widths[i]);
            let attention = *kind == DownBlock::AttnDownBlock2D;
            let mut level = Level { resnets: vec![], attentions: vec![], resample: None, name: name.clone() };
            for k in 0..config.layers_per_block {
                let from = if k == 0 { input } else { output };
                level.resnets.push(Resnet::new(
                    p,
                    config,
                    format!("{name}.resnets.{k}"),
                    (from, output),
                    1.0,
                ));
                if attention {
                    let name = format!("{name}.attentions.{k}");
                    level.attentions.push(SelfAttention::new(p, config, name, output, Some(groups), 1.0));
                }
            }
            if i + 1 < levels {
                let op = Conv2d { kernel: 3, stride: 2, padding };
                let name = format!("{name}.downsamplers.0.conv");
                level.resample = Some(Conv::new(p, &name, output, output, op));
            }
            down.push(level);
        }

        // 3. Mid: with scale_shift, its attention has no norm unless attn_norm_num_groups gives one.
        let coarsest = widths[levels - 1];
        let scale = config.mid_block_scale_factor as f32;
        let inherited = (config.resnet_time_scale_shift == TimeScaleShift::Default).then_some(groups);
        let mut mid = Level { resnets: vec![], attentions: vec![], resample: None, name: "mid_block".into() };
        for k in 0..2 {
            let name = format!("mid_block.resnets.{k}");
            mid.resnets.push(Resnet::new(p, config, name, (coarsest, coarsest), scale));
            if k == 0 && config.add_attention {
                let norm = config.attn_norm_num_groups.or(inherited);
                let name = "mid_block.attentions.0".to_string();
                mid.attentions.push(SelfAttention::new(p, config, name, coarsest, norm, scale));
            }
        }

        // 4. Up: one more residual block, each fed with a skip; the last one's skip has the next level's width.
        let reversed: Vec<usize> = widths.iter().rev().copied().collect();
        let mut up = Vec::with_capacity(levels);
        for (i, kind) in config.up_block_types.iter().enumerate() {
            let name = format!("up_blocks.{i}");
            let (previous, output) = (reversed[i.saturating_sub(1)], reversed[i]);
            let next = reversed[(i + 1).min(levels - 1)];
            let attention = *kind == UpBlock::AttnUpBlock2D;
            let mut level = Level { resnets: vec![], attentions: vec![], resample: None, name: name.clone() };
            let count = config.layers_per_block + 1;
            for k in 0..count {
                let from = if k == 0 { previous } else { output };
                let skip = if k + 1 == count { next } else { output };
                let widths = (from + skip, output);
                level.resnets.push(Resnet::new(p, config, format!("{name}.resnets.{k}"), widths, 1.0));
                if attention {
                    let name = format!("{name}.attentions.{k}");
                    level.attentions.push(SelfAttention::new(p, config, name, output, Some(groups), 1.0));
                }
            }
            if i + 1 < levels {
                level.resample = Some(Conv::three(p, &format!("{name}.upsamplers.0.conv"), output, output));
            }
            up.push(level);
        }

        // 5. Output.
        let conv_norm_out = Norm::new(p, "conv_norm_out", widths[0], groups, config.norm_eps);
        let conv_out = Conv::three(p, "conv_out", widths[0], config.out_channels);
        for level in &up {
            for resnet in &level.resnets {
                let channels = parameters.list[resnet.norm1.weight].shape[0];
                if channels % groups != 0 {
                    return Err(ConfigError {
                        field: "norm_num_groups",
                        message: format!(
                            "{groups} groups do not divide the {channels} channels of {}, an input joined with its skip",
                            resnet.name
                        ),
                    });
                }
            }
        }
        Ok(Self {
            config: config.clone(),
            flat_elements: parameters.elements,
            parameters: parameters.list,
            conv_in,
            time_linear_1,
            time_linear_2,
            class_embedding,
            down,
            mid,
            up,
            conv_norm_out,
            conv_out,
        })
    }

    /// The number of parameters, gaps not counted.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Parameter::elements).sum()
    }

    /// PyTorch's default initialisation as a flat vector in device order. Each parameter has a Philox
    /// sequence of its own, so its numbers do not depend on the others.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.flat_elements];
        for (parameter, sequence) in self.parameters.iter().zip(0u32..) {
            let mut rng = Philox::new(seed, Stream::Parameters, sequence);
            let values: Vec<f32> = (0..parameter.elements())
                .map(|_| match parameter.init {
                    Init::FanIn(fan_in) => {
                        let bound = 1.0 / (fan_in as f64).sqrt();
                        rng.uniform(-bound, bound) as f32
                    }
                    Init::Constant(c) => c,
                    Init::Normal => rng.normal() as f32,
                })
                .collect();
            let end = parameter.offset + values.len();
            flat[parameter.offset..end].copy_from_slice(&parameter.to_device(&values));
        }
        flat
    }

    /// Views of the flat vector, one for each parameter.
    pub fn views(&self, graph: &mut Graph, flat: ValueId) -> Result<Vec<ValueId>, GraphError> {
        self.parameters
            .iter()
            .map(|p| graph.apply(View { offset: p.offset, shape: p.device_shape() }, &[flat]))
            .collect()
    }

    /// Lays the gradients of the parameters into one flat vector like theirs.
    pub fn pack(&self, graph: &mut Graph, gradients: &[ValueId]) -> Result<ValueId, GraphError> {
        let offsets = self.parameters.iter().map(|p| p.offset).collect();
        graph.apply(Pack { offsets, total: self.flat_elements }, gradients)
    }

    /// Appends the network: x (N, H, W, in_channels), t (N), labels u32 (N) if it is class-conditional, and
    /// the [`UNet::views`]. Returns the prediction (N, H, W, out_channels).
    pub fn forward(
        &self,
        graph: &mut Graph,
        parameters: &[ValueId],
        x: ValueId,
        t: ValueId,
        labels: Option<ValueId>,
    ) -> Result<ValueId, GraphError> {
        let mut b = Builder { graph, parameters: parameters.to_vec(), time: t, activations: None };
        self.build(&mut b, x, t, labels)
    }

    /// The same, and what each module gives, under its name in diffusers: `down_blocks.0.resnets.1`,
    /// `conv_norm_out`, …
    pub fn forward_recorded(
        &self,
        graph: &mut Graph,
        parameters: &[ValueId],
        x: ValueId,
        t: ValueId,
        labels: Option<ValueId>,
    ) -> Result<(ValueId, Vec<(String, ValueId)>), GraphError> {
        let activations = Some(Vec::new());
        let mut b = Builder { graph, parameters: parameters.to_vec(), time: t, activations };
        let output = self.build(&mut b, x, t, labels)?;
        Ok((output, b.activations.unwrap_or_default()))
    }

    fn build(
        &self,
        b: &mut Builder,
        x: ValueId,
        t: ValueId,
        labels: Option<ValueId>,
    ) -> Result<ValueId, GraphError> {
        // 1. Time and class embedding; every residual block takes its SiLU.
        b.time = b.scoped("time_embedding", |b| {
            let op = TimeEmbedding {
                width: self.config.block_out_channels[0],
                flip_sin_to_cos: self.config.flip_sin_to_cos,
                freq_shift: self.config.freq_shift as f32,
            };
            let frequencies = b.graph.constant("frequencies", op.frequencies());
            let e = b.graph.apply(op, &[t, frequencies])?;
            b.record("time_proj", e);
            let e = self.time_linear_1.forward(b, e)?;
            let e = b.graph.apply(Silu, &[e])?;
            let mut e = self.time_linear_2.forward(b, e)?;
            b.record("time_embedding", e);
            if let (Some(table), Some(labels)) = (self.class_embedding, labels) {
                let class = b.graph.apply(Embedding, &[labels, b.parameters[table]])?;
                b.record("class_embedding", class);
                e = b.graph.apply(Add, &[e, class])?;
            }
            b.graph.apply(Silu, &[e])
        })?;

        // 2. Down, keeping every skip.
        let mut x = b.recorded("conv_in", |b| self.conv_in.forward(b, x))?;
        let mut skips = vec![x];
        for level in &self.down {
            for i in 0..level.resnets.len() {
                x = level.block(i, b, x)?;
                skips.push(x);
            }
            if let Some(conv) = &level.resample {
                x = b.recorded(&format!("{}.downsamplers.0", level.name), |b| conv.forward(b, x))?;
                skips.push(x);
            }
            b.record(&level.name, x);
        }

        // 3. Mid: residual, attention, residual.
        x = self.mid.block(0, b, x)?;
        x = self.mid.resnets[1].forward(b, x)?;
        b.record(&self.mid.name, x);

        // 4. Up, joining the skips last first.
        for level in &self.up {
            for i in 0..level.resnets.len() {
                if let Some(skip) = skips.pop() {
                    x = b.scoped(&level.name, |b| b.graph.apply(Concat, &[x, skip]))?;
                }
                x = level.block(i, b, x)?;
            }
            if let Some(conv) = &level.resample {
                x = b.recorded(&format!("{}.upsamplers.0", level.name), |b| {
                    let x = b.graph.apply(UpsampleNearest, &[x])?;
                    conv.forward(b, x)
                })?;
            }
            b.record(&level.name, x);
        }

        // 5. Output.
        if b.activations.is_some() {
            // The network has this norm fused with the SiLU behind it; a copy without shows what the norm gives.
            b.recorded("conv_norm_out", |b| self.conv_norm_out.forward(b, x, false, None))?;
        }
        b.scoped("conv_out", |b| {
            let x = self.conv_norm_out.forward(b, x, true, None)?;
            self.conv_out.forward(b, x)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Preset;

    #[test]
    fn presets_have_the_published_parameter_counts() {
        for (preset, count) in [(Preset::TinyGray, 701_345), (Preset::Cifar, 35_746_307)] {
            let unet = UNet::new(&UNetConfig::preset(preset)).unwrap();
            assert_eq!(unet.parameter_count(), count, "{preset:?}");
        }
    }

    #[test]
    fn layouts_are_inverse() {
        for (layout, shape) in
            [(Layout::Conv, vec![5, 3, 3, 2]), (Layout::Linear, vec![4, 7]), (Layout::Same, vec![9])]
        {
            let p = Parameter { name: "p".into(), shape, layout, offset: 0, init: Init::Normal };
            let file: Vec<f32> = (0..p.elements()).map(|i| i as f32).collect();
            assert_eq!(p.to_file(&p.to_device(&file)), file);
        }
        // Conv: file [o][i][y][x] to device [y][x][i][o].
        let p = Parameter {
            name: "p".into(),
            shape: vec![2, 3, 1, 2],
            layout: Layout::Conv,
            offset: 0,
            init: Init::Normal,
        };
        let file: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(p.to_device(&file)[1], file[6]);
        assert_eq!(p.to_device(&file)[2], file[2]);
        assert_eq!(p.to_device(&file)[6], file[1]);
    }
}
