//! The blocks of the U-Net, with the semantics and parameter names of diffusers.

use super::config::{TimeScaleShift, UNetConfig};
use crate::graph::{GraphError, ValueId};
use crate::nn::{Builder, Conv, Linear, Norm, Parameters};
use crate::ops::{AddChannels, Attention, Conv2d, Padding, View};
use crate::tensor::Shape;

/// Two convolutions around a residual connection, modulated by the time embedding.
#[derive(Debug)]
pub(super) struct Resnet {
    pub(super) name: String,
    pub(super) norm1: Norm,
    conv1: Conv,
    pub(super) time_emb_proj: Linear,
    norm2: Norm,
    conv2: Conv,
    conv_shortcut: Option<Conv>,
    scale_shift: bool,
    output_scale: f32,
}

impl Resnet {
    pub(super) fn new(
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

    /// h = conv2(silu(norm2(conv1(silu(norm1(x))) + e))) with e the projected `time`, silu(time embedding)
    /// (N, time_width); x + h.
    pub(super) fn forward(&self, b: &mut Builder, x: ValueId, time: ValueId) -> Result<ValueId, GraphError> {
        b.recorded(&self.name, |b| {
            let h = self.norm1.forward(b, x, true, None)?;
            let h = self.conv1.forward(b, h)?;
            let e = self.time_emb_proj.forward(b, time)?;
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

/// Self-attention over the pixels.
#[derive(Debug)]
pub(super) struct SelfAttention {
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
    pub(super) fn new(
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
    pub(super) fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        b.graph.begin_block();
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

/// Residual blocks of one size with their attentions, and what leads to the next size.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) resnets: Vec<Resnet>,
    pub(super) attentions: Vec<SelfAttention>,
    pub(super) resample: Option<Conv>,
    pub(super) name: String,
}

impl Level {
    /// The i-th residual block and its attention.
    pub(super) fn block(
        &self,
        i: usize,
        b: &mut Builder,
        x: ValueId,
        time: ValueId,
    ) -> Result<ValueId, GraphError> {
        let x = self.resnets[i].forward(b, x, time)?;
        match self.attentions.get(i) {
            Some(attention) => attention.forward(b, x),
            None => Ok(x),
        }
    }
}
