//! The U-Net with the semantics and parameter names of diffusers' `UNet2DModel`.
//!
//! [`UNet::new`] lays out the parameters, as a module tree; [`UNet::forward`] appends the operators to a
//! graph.

use super::blocks::{Level, Resnet, SelfAttention};
use super::config::{TimeScaleShift, UNetConfig};
use crate::graph::{Graph, GraphError, ValueId};
use crate::nn::{
    Builder, ConfigError, Conv, Init, Layout, Linear, Network, Norm, ParameterId, Parameters, Precision,
};
use crate::ops::{Add, Concat, Conv2d, Embedding, Padding, Silu, TimeEmbedding, UpsampleNearest};
use crate::tensor::DType;

/// The network: its configuration, parameters and module tree.
#[derive(Debug)]
pub struct UNet {
    /// What it was built from.
    pub config: UNetConfig,
    /// Every parameter, in the order of the flat vector.
    pub parameters: Parameters,
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

impl Network for UNet {
    fn parameters(&self) -> &Parameters {
        &self.parameters
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
            let attention = kind.has_attention();
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
            let attention = kind.has_attention();
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
                let channels = resnet.norm1.channels();
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
        // 6. All time projections have one input: those of equal width lie together, to be one product.
        let levels = down.iter().chain([&mid]).chain(&up);
        let mut projections: Vec<[ParameterId; 2]> =
            levels.flat_map(|level| &level.resnets).map(|resnet| resnet.time_emb_proj.parameters()).collect();
        projections.sort_by_key(|&[weight, _]| parameters[weight].elements());
        parameters.lay_together(&projections.concat());
        Ok(Self {
            config: config.clone(),
            parameters,
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

    /// The same network computing in this precision; a flat vector of its parameters is then laid out otherwise
    /// ([`Parameters::in_precision`]).
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { parameters: self.parameters.in_precision(precision), ..self }
    }

    /// Appends the network: x (N, H, W, in_channels), t (N), labels u32 (N) if it is class-conditional, and
    /// the [`Parameters::views`]. Returns the prediction (N, H, W, out_channels). Both are f32 in every precision.
    pub fn forward(
        &self,
        graph: &mut Graph,
        parameters: &[ValueId],
        x: ValueId,
        t: ValueId,
        labels: Option<ValueId>,
    ) -> Result<ValueId, GraphError> {
        self.build(&mut Builder::new(graph, parameters), x, t, labels)
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
        let mut b = Builder::recording(graph, parameters);
        let output = self.build(&mut b, x, t, labels)?;
        Ok((output, b.activations()))
    }

    fn build(
        &self,
        b: &mut Builder,
        x: ValueId,
        t: ValueId,
        labels: Option<ValueId>,
    ) -> Result<ValueId, GraphError> {
        // 1. Time and class embedding; every residual block takes its SiLU.
        let dtype = self.parameters.precision().dtype();
        let time = b.scoped("time_embedding", |b| {
            let op = TimeEmbedding {
                width: self.config.block_out_channels[0],
                flip_sin_to_cos: self.config.flip_sin_to_cos,
                freq_shift: self.config.freq_shift as f32,
                dtype,
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
                let class = b.cast(class, dtype)?;
                e = b.graph.apply(Add, &[e, class])?;
            }
            b.graph.apply(Silu, &[e])
        })?;

        // 2. Down, keeping every skip.
        let mut x = b.recorded("conv_in", |b| {
            let x = b.cast(x, dtype)?;
            self.conv_in.forward(b, x)
        })?;
        let mut skips = vec![x];
        for level in &self.down {
            for i in 0..level.resnets.len() {
                b.graph.begin_block();
                x = level.block(i, b, x, time)?;
                skips.push(x);
            }
            if let Some(conv) = &level.resample {
                x = b.recorded(&format!("{}.downsamplers.0", level.name), |b| conv.forward(b, x))?;
                skips.push(x);
            }
            b.record(&level.name, x);
        }

        // 3. Mid: residual, attention, residual.
        b.graph.begin_block();
        x = self.mid.block(0, b, x, time)?;
        b.graph.begin_block();
        x = self.mid.resnets[1].forward(b, x, time)?;
        b.record(&self.mid.name, x);

        // 4. Up, joining the skips last first.
        for level in &self.up {
            for i in 0..level.resnets.len() {
                // The joined tensor belongs to the block: both its parts are kept anyway.
                b.graph.begin_block();
                if let Some(skip) = skips.pop() {
                    x = b.scoped(&level.name, |b| b.graph.apply(Concat, &[x, skip]))?;
                }
                x = level.block(i, b, x, time)?;
            }
            if let Some(conv) = &level.resample {
                b.graph.begin_block();
                x = b.recorded(&format!("{}.upsamplers.0", level.name), |b| {
                    let x = b.graph.apply(UpsampleNearest, &[x])?;
                    conv.forward(b, x)
                })?;
            }
            b.record(&level.name, x);
        }

        // 5. Output.
        b.graph.begin_block();
        if b.records() {
            // The network has this norm fused with the SiLU behind it; a copy without shows what the norm gives.
            b.recorded("conv_norm_out", |b| self.conv_norm_out.forward(b, x, false, None))?;
        }
        b.scoped("conv_out", |b| {
            let x = self.conv_norm_out.forward(b, x, true, None)?;
            let answer = self.conv_out.forward(b, x)?;
            b.cast(answer, DType::F32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Preset;

    #[test]
    fn presets_have_the_stated_parameter_counts() {
        for (preset, count) in [
            (Preset::TinyGray, 701_345),
            (Preset::Cifar, 35_746_307),
            (Preset::Faces64, 39_625_603),
            (Preset::Photos128, 58_749_059),
        ] {
            let unet = UNet::new(&UNetConfig::preset(preset)).unwrap();
            assert_eq!(unet.parameters.count(), count, "{preset:?}");
        }
    }
}
