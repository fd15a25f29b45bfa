//! A small convolutional network that tells the class of a picture.

use crate::diffusion::Preset;
use crate::graph::{Graph, GraphError, ValueId};
use crate::nn::{Builder, ConfigError, Conv, Linear, Network, Norm, Parameters, Size};
use crate::ops::{Conv2d, Padding, Scale, SumPixels};
use serde::{Deserialize, Serialize};

/// The configuration of a [`Classifier`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Height and width of the picture.
    pub sample_size: Size,
    /// Channels of the picture.
    pub in_channels: usize,
    /// Classes.
    pub num_classes: usize,
    /// Channels of each level, finest first; each level but the first has half the side of the one before.
    pub block_out_channels: Vec<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            sample_size: Size::Square(16),
            in_channels: 1,
            num_classes: 10,
            block_out_channels: vec![16, 32, 64],
            norm_num_groups: 4,
        }
    }
}

impl ClassifierConfig {
    /// For pictures of the size that the U-Net of a preset draws.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::TinyGray => Self::default(),
            Preset::Small32 | Preset::Cifar => Self {
                sample_size: Size::Square(32),
                in_channels: 3,
                block_out_channels: vec![32, 64, 128, 128],
                ..Self::default()
            },
        }
    }

    /// Checks everything that a network needs before it is built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 16 {
            return fail("block_out_channels", format!("found {levels} levels; give between 1 and 16"));
        }
        let (height, width) = self.sample_size.get();
        let factor = 1 << (levels - 1);
        if height == 0 || width == 0 || height % factor != 0 || width % factor != 0 {
            return fail(
                "sample_size",
                format!(
                    "{height}x{width} does not halve {} times; with {levels} levels, both sides must be positive \
                     multiples of {factor}",
                    levels - 1
                ),
            );
        }
        // A row of scores is walked by one invocation, twice: far below the 65535 turns after which lavapipe stops.
        let (channels, classes) = (1 << 16, 1 << 14);
        for (field, value, least, most) in [
            ("in_channels", self.in_channels, 1, channels),
            ("norm_num_groups", self.norm_num_groups, 1, channels),
            ("num_classes", self.num_classes, 2, classes),
        ] {
            if value < least || value > most {
                return fail(field, format!("found {value}; it must be between {least} and {most}"));
            }
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || channels > 1 << 16 || channels % self.norm_num_groups != 0 {
                return fail(
                    "block_out_channels",
                    format!(
                        "{channels} channels do not divide into norm_num_groups = {}",
                        self.norm_num_groups
                    ),
                );
            }
        }
        Ok(())
    }
}

/// The network: a convolution, then for each level but the first norm, SiLU and a convolution of stride 2, then norm,
/// SiLU, the mean over the pixels and a linear layer.
#[derive(Debug)]
pub struct Classifier {
    /// What it was built from.
    pub config: ClassifierConfig,
    /// Every parameter, in the order of the flat vector.
    pub parameters: Parameters,
    conv_in: Conv,
    down: Vec<(Norm, Conv)>,
    norm_out: Norm,
    classes: Linear,
}

impl Network for Classifier {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

impl Classifier {
    /// Lays out the parameters of a valid configuration.
    pub fn new(config: &ClassifierConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut parameters = Parameters::default();
        let p = &mut parameters;
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
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
        Ok(Self { config: config.clone(), parameters, conv_in, down, norm_out, classes })
    }

    /// Appends the network: x (N, H, W, in_channels) and the [`Parameters::views`]. Returns a score for each class
    /// (N, num_classes): logarithms of probabilities, up to a constant of each picture.
    pub fn forward(
        &self,
        graph: &mut Graph,
        parameters: &[ValueId],
        x: ValueId,
    ) -> Result<ValueId, GraphError> {
        let mut b = Builder::new(graph, parameters);
        let mut x = b.scoped("conv_in", |b| self.conv_in.forward(b, x))?;
        for (i, (norm, conv)) in self.down.iter().enumerate() {
            x = b.scoped(&format!("down.{i}"), |b| {
                let x = norm.forward(b, x, true, None)?;
                conv.forward(b, x)
            })?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_errors_name_the_field() {
        for preset in [Preset::TinyGray, Preset::Small32, Preset::Cifar] {
            let config = ClassifierConfig::preset(preset);
            let classifier = Classifier::new(&config).unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<ClassifierConfig>(&text).unwrap(), config, "{text}");
            println!("{preset:?}: {} parameters", classifier.parameters.count());
        }
        let config = ClassifierConfig { sample_size: Size::Square(18), ..ClassifierConfig::default() };
        let e = Classifier::new(&config).unwrap_err().to_string();
        assert!(e.contains("sample_size: 18x18") && e.contains("multiples of 4"), "{e}");
        let config = ClassifierConfig { num_classes: 1, ..ClassifierConfig::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("num_classes: found 1"));
    }
}
