//! A small convolutional network: a convolution, then for each level but the first group norm, SiLU and a convolution of
//! stride 2, then norm, SiLU, the mean over the pixels and a linear layer.

use super::{ClassifierConfig, Layers};
use crate::graph::{GraphError, ValueId};
use crate::nn::{Builder, ConfigError, Conv, Linear, Norm, Parameters, check_halving};
use crate::ops::{Conv2d, Padding, Scale, SumPixels};

/// The layers. Each level but the first has half the side of the one before.
#[derive(Debug)]
pub(super) struct Convolutional {
    conv_in: Conv,
    down: Vec<(Norm, Conv)>,
    norm_out: Norm,
    classes: Linear,
}

impl Convolutional {
    /// Adds the parameters.
    ///
    /// # Errors
    /// Sides that do not halve so many times, and widths that do not divide into the groups of the norms.
    pub fn new(config: &ClassifierConfig, p: &mut Parameters) -> Result<Self, ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (height, width) = config.sample_size.get();
        if let Err(message) = check_halving([height, width], widths.len() - 1) {
            return fail("sample_size", message);
        }
        if groups == 0 {
            return fail("norm_num_groups", "found 0; it must be at least 1".into());
        }
        if let Some(channels) = widths.iter().find(|channels| !channels.is_multiple_of(groups)) {
            return fail(
                "block_out_channels",
                format!("{channels} channels do not divide into norm_num_groups = {groups}"),
            );
        }
        let halving = Conv2d { kernel: 3, stride: 2, padding: Padding::Symmetric(1) };
        let conv_in = Conv::three(p, "conv_in", config.in_channels, widths[0]);
        let down = widths
            .windows(2)
            .enumerate()
            .map(|(i, pair)| {
                let norm = Norm::new(p, &format!("down.{i}.norm"), pair[0], groups, EPS);
                (norm, Conv::new(p, &format!("down.{i}.conv"), pair[0], pair[1], halving.clone()))
            })
            .collect();
        let coarsest = widths[widths.len() - 1];
        let norm_out = Norm::new(p, "norm_out", coarsest, groups, EPS);
        let classes = Linear::new(p, "classes", coarsest, config.num_classes);
        Ok(Self { conv_in, down, norm_out, classes })
    }
}

impl Layers for Convolutional {
    fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError> {
        let mut x = b.scoped("conv_in", |b| self.conv_in.forward(b, x))?;
        for (i, (norm, conv)) in self.down.iter().enumerate() {
            b.graph.begin_block();
            x = b.scoped(&format!("down.{i}"), |b| {
                let x = norm.forward(b, x, true, None)?;
                conv.forward(b, x)
            })?;
        }
        b.graph.begin_block();
        b.scoped("classes", |b| {
            let x = self.norm_out.forward(b, x, true, None)?;
            let shape = b.graph.shape(x);
            let pixels = (shape[1] * shape[2]) as f32;
            let sum = b.graph.apply(SumPixels, &[x])?;
            let mean = b.graph.apply(Scale(1.0 / pixels), &[sum])?;
            self.classes.forward(b, mean)
        })
    }
}

/// Added to the variance in every norm, as the U-Net has it.
const EPS: f64 = 1e-5;
