//! Networks that tell the class of a picture: one file for the layers of each.

mod convolutional;

use crate::diffusion::Preset;
use crate::graph::{Graph, GraphError, ValueId};
use crate::nn::{Builder, ConfigError, Network, Parameters, Precision, Size};
use crate::tensor::DType;
use convolutional::Convolutional;
use serde::{Deserialize, Serialize};

/// What lies between a picture and the scores of its classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Convolutions, each level but the first of half the side, then the mean over the pixels and a linear layer.
    #[default]
    Convolutional,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Convolutional];
}

/// The configuration of a [`Classifier`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Which layers.
    pub architecture: Architecture,
    /// Height and width of the picture.
    pub sample_size: Size,
    /// Channels of the picture.
    pub in_channels: usize,
    /// Classes.
    pub num_classes: usize,
    /// Channels of each level, first to last.
    pub block_out_channels: Vec<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            architecture: Architecture::default(),
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
            Preset::Faces64 => Self {
                sample_size: Size::Square(64),
                in_channels: 3,
                block_out_channels: vec![32, 64, 128, 128, 256],
                ..Self::default()
            },
            Preset::Photos128 => Self {
                sample_size: Size::Square(128),
                in_channels: 3,
                block_out_channels: vec![32, 64, 128, 128, 256, 256],
                ..Self::default()
            },
        }
    }

    /// Checks what every architecture needs.
    fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 16 {
            return fail("block_out_channels", format!("found {levels} levels; give between 1 and 16"));
        }
        let (height, width) = self.sample_size.get();
        // A row of scores is walked by one invocation, twice: far below the 65535 turns after which lavapipe stops.
        let (most, classes) = (1 << 16, 1 << 14);
        let widths = self.block_out_channels.iter().map(|&width| ("block_out_channels", width, 1, most));
        let others = [
            ("sample_size", height, 1, most),
            ("sample_size", width, 1, most),
            ("in_channels", self.in_channels, 1, most),
            ("num_classes", self.num_classes, 2, classes),
        ];
        for (field, value, least, most) in others.into_iter().chain(widths) {
            if value < least || value > most {
                return fail(field, format!("found {value}; it must be between {least} and {most}"));
            }
        }
        Ok(())
    }
}

/// The layers of one architecture.
trait Layers: std::fmt::Debug + Send + Sync {
    /// Appends them: scores (N, num_classes) from x (N, H, W, in_channels).
    fn forward(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, GraphError>;
}

/// A network from a picture to a score for each class.
#[derive(Debug)]
pub struct Classifier {
    /// What it was built from.
    pub config: ClassifierConfig,
    /// Every parameter, in the order of the flat vector.
    pub parameters: Parameters,
    layers: Box<dyn Layers>,
}

impl Network for Classifier {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

impl Classifier {
    /// Lays out the parameters of a valid configuration.
    ///
    /// # Errors
    /// The field from which no network can be built.
    pub fn new(config: &ClassifierConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut parameters = Parameters::default();
        let layers: Box<dyn Layers> = match config.architecture {
            Architecture::Convolutional => Box::new(Convolutional::new(config, &mut parameters)?),
        };
        Ok(Self { config: config.clone(), parameters, layers })
    }

    /// The same network computing in this precision ([`Parameters::in_precision`]).
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { parameters: self.parameters.in_precision(precision), ..self }
    }

    /// Appends the network: x (N, H, W, in_channels) and the [`Parameters::views`]. Returns a score for each class
    /// (N, num_classes): logarithms of probabilities, up to a constant of each picture. Both are f32 in every precision.
    pub fn forward(
        &self,
        graph: &mut Graph,
        parameters: &[ValueId],
        x: ValueId,
    ) -> Result<ValueId, GraphError> {
        let mut b = Builder::new(graph, parameters);
        let x = b.cast(x, self.parameters.precision().dtype())?;
        let scores = self.layers.forward(&mut b, x)?;
        b.cast(scores, DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_errors_name_the_field() {
        for architecture in Architecture::ALL {
            for preset in Preset::ALL {
                let config = ClassifierConfig { architecture, ..ClassifierConfig::preset(preset) };
                let classifier = Classifier::new(&config).unwrap();
                let text = toml::to_string(&config).unwrap();
                assert_eq!(toml::from_str::<ClassifierConfig>(&text).unwrap(), config, "{text}");
                println!("{architecture:?}, {preset:?}: {} parameters", classifier.parameters.count());
            }
        }
        let refused = |config| Classifier::new(&config).unwrap_err().to_string();
        let e = refused(ClassifierConfig { sample_size: Size::Square(18), ..ClassifierConfig::default() });
        assert!(e.contains("sample_size: 18x18") && e.contains("multiples of 4"), "{e}");
        let e = refused(ClassifierConfig { num_classes: 1, ..ClassifierConfig::default() });
        assert!(e.starts_with("num_classes: found 1"), "{e}");
        let e = refused(ClassifierConfig { block_out_channels: vec![16, 0], ..ClassifierConfig::default() });
        assert!(e.starts_with("block_out_channels: found 0"), "{e}");
        let e = refused(ClassifierConfig { norm_num_groups: 3, ..ClassifierConfig::default() });
        assert!(e.contains("16 channels do not divide into norm_num_groups = 3"), "{e}");
    }

    /// Files from before there was a choice have none.
    #[test]
    fn the_architecture_may_be_left_out() {
        let config: ClassifierConfig = toml::from_str("num_classes = 3").unwrap();
        assert_eq!(config.architecture, Architecture::Convolutional);
    }
}
