//! The U-Net's configuration, under the names of diffusers' `UNet2DModel`, and the presets.

use crate::nn::{ConfigError, Size, check_halving};
use serde::{Deserialize, Serialize};

/// How a level of the U-Net is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnDownBlock2D,
}

impl DownBlock {
    /// Whether it has self-attention.
    pub fn has_attention(self) -> bool {
        match self {
            Self::AttnDownBlock2D => true,
            Self::DownBlock2D => false,
        }
    }
}

/// The same on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnUpBlock2D,
}

impl UpBlock {
    /// Whether it has self-attention.
    pub fn has_attention(self) -> bool {
        match self {
            Self::AttnUpBlock2D => true,
            Self::UpBlock2D => false,
        }
    }
}

/// How the time embedding enters a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added before the second norm.
    Default,
    /// Scales and shifts after the second norm (arXiv 2105.05233).
    ScaleShift,
}

/// diffusers' `UNet2DModel` configuration, as far as it is supported. Names and defaults are its own, but that
/// an absent `attention_head_dim` means one head, since TOML has no null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Height and width of the picture.
    pub sample_size: Size,
    /// Channels of the noisy picture.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Kind of each level on the way down.
    pub down_block_types: Vec<DownBlock>,
    /// Kind of each level on the way up, coarsest first.
    pub up_block_types: Vec<UpBlock>,
    /// Channels per attention head; absent for one head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_head_dim: Option<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in every norm.
    pub norm_eps: f64,
    /// Groups of the mid-block attention's norm, where `resnet_time_scale_shift` would leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn_norm_num_groups: Option<usize>,
    /// Subtracted from half the width in the time embedding's exponent.
    pub freq_shift: f64,
    /// Whether cosines come first in the time embedding.
    pub flip_sin_to_cos: bool,
    /// 1: symmetric padding before stride 2; 0: one row and column at the bottom and right.
    pub downsample_padding: usize,
    /// Width of the time embedding behind its two layers; absent for 4 times the finest level's channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_embedding_dim: Option<usize>,
    /// How the time embedding enters a residual block.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the mid block has attention.
    pub add_attention: bool,
    /// Divides the sums in the mid block.
    pub mid_block_scale_factor: f64,
    /// Classes of the label embedding; absent for an unconditional model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_class_embeds: Option<usize>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            sample_size: Size::Square(32),
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            down_block_types: vec![
                DownBlock::DownBlock2D,
                DownBlock::AttnDownBlock2D,
                DownBlock::AttnDownBlock2D,
                DownBlock::AttnDownBlock2D,
            ],
            up_block_types: vec![
                UpBlock::AttnUpBlock2D,
                UpBlock::AttnUpBlock2D,
                UpBlock::AttnUpBlock2D,
                UpBlock::UpBlock2D,
            ],
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            attn_norm_num_groups: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            downsample_padding: 1,
            time_embedding_dim: None,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            mid_block_scale_factor: 1.0,
            num_class_embeds: None,
        }
    }
}

/// A named configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// 16x16 grey, 0.7 M parameters, 0.4 GFLOP per picture and training step.
    TinyGray,
    /// 32x32 RGB, 4.4 M parameters, 6.5 GFLOP per picture and training step.
    #[serde(rename = "small-32")]
    #[cfg_attr(feature = "cli", value(name = "small-32"))]
    Small32,
    /// 32x32 RGB, 35.7 M parameters, the shape of google/ddpm-cifar10-32; 37.3 GFLOP.
    Cifar,
    /// 64x64 RGB, 39.6 M parameters, 140.8 GFLOP per picture and training step; 2.7 GiB at batch 16.
    #[serde(rename = "faces-64")]
    #[cfg_attr(feature = "cli", value(name = "faces-64"))]
    Faces64,
    /// 128x128 RGB, 58.7 M parameters, 364.5 GFLOP; 4.1 GiB at batch 8.
    #[serde(rename = "photos-128")]
    #[cfg_attr(feature = "cli", value(name = "photos-128"))]
    Photos128,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::TinyGray, Self::Small32, Self::Cifar, Self::Faces64, Self::Photos128];
}

impl UNetConfig {
    /// A named configuration.
    pub fn preset(preset: Preset) -> Self {
        use DownBlock::{AttnDownBlock2D, DownBlock2D};
        use UpBlock::{AttnUpBlock2D, UpBlock2D};
        let ddpm = Self {
            attention_head_dim: None,
            downsample_padding: 0,
            freq_shift: 1.0,
            flip_sin_to_cos: false,
            norm_eps: 1e-6,
            ..Self::default()
        };
        // Widths, attention at sides 16 and 8, heads of 64 channels and scale and shift as in arXiv 2105.05233. The widths
        // end where the vector of all parameters would outgrow WebGPU's default buffer of 256 MiB, 67 M of them.
        let adm = Self {
            attention_head_dim: Some(64),
            attn_norm_num_groups: Some(32),
            resnet_time_scale_shift: TimeScaleShift::ScaleShift,
            ..Self::default()
        };
        match preset {
            Preset::TinyGray => Self {
                sample_size: Size::Square(16),
                in_channels: 1,
                out_channels: 1,
                block_out_channels: vec![32, 64],
                layers_per_block: 1,
                down_block_types: vec![DownBlock2D, AttnDownBlock2D],
                up_block_types: vec![AttnUpBlock2D, UpBlock2D],
                norm_num_groups: 8,
                ..Self::default()
            },
            Preset::Small32 => Self {
                block_out_channels: vec![64, 128, 128],
                layers_per_block: 1,
                down_block_types: vec![DownBlock2D, AttnDownBlock2D, DownBlock2D],
                up_block_types: vec![UpBlock2D, AttnUpBlock2D, UpBlock2D],
                ..ddpm
            },
            Preset::Cifar => Self {
                block_out_channels: vec![128, 256, 256, 256],
                down_block_types: vec![DownBlock2D, AttnDownBlock2D, DownBlock2D, DownBlock2D],
                up_block_types: vec![UpBlock2D, UpBlock2D, AttnUpBlock2D, UpBlock2D],
                ..ddpm
            },
            Preset::Faces64 => Self {
                sample_size: Size::Square(64),
                block_out_channels: vec![128, 256, 256, 256],
                down_block_types: vec![DownBlock2D, DownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
                up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, UpBlock2D, UpBlock2D],
                ..adm
            },
            Preset::Photos128 => Self {
                sample_size: Size::Square(128),
                block_out_channels: vec![128, 128, 256, 256, 384],
                down_block_types: vec![
                    DownBlock2D,
                    DownBlock2D,
                    DownBlock2D,
                    AttnDownBlock2D,
                    AttnDownBlock2D,
                ],
                up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, UpBlock2D, UpBlock2D, UpBlock2D],
                ..adm
            },
        }
    }

    /// Width of the time embedding behind its two layers.
    pub fn time_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    /// Checks everything that a network needs before it is built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 16 {
            return fail("block_out_channels", format!("found {levels} levels; give between 1 and 16"));
        }
        let blocks = [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
        ];
        for (field, found) in blocks {
            if found != levels {
                let message =
                    format!("found {found}; block_out_channels has {levels} levels, and each needs one");
                return fail(field, message);
            }
        }
        let (height, width) = self.sample_size.get();
        if let Err(message) = check_halving([height, width], levels - 1) {
            return fail("sample_size", message);
        }
        let width = 1 << 16;
        for (field, value, most) in [
            ("in_channels", self.in_channels, width),
            ("out_channels", self.out_channels, width),
            // 16 levels of so many have 80000 parameters, whose list alone takes 20 MB.
            ("layers_per_block", self.layers_per_block, 256),
            ("norm_num_groups", self.norm_num_groups, width),
            ("attention_head_dim", self.attention_head_dim.unwrap_or(1), width),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1), width),
            ("time_embedding_dim", self.time_embedding_dim.unwrap_or(1), width),
        ] {
            if value == 0 || value > most {
                return fail(field, format!("found {value}; it must be between 1 and {most}"));
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
        let attended = |i: usize| {
            self.down_block_types[i].has_attention()
                || self.up_block_types[levels - 1 - i].has_attention()
                || (i + 1 == levels && self.add_attention)
        };
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            if let Some(head) = self.attention_head_dim.filter(|&head| head > channels && attended(i)) {
                let message = format!(
                    "{head} channels per head exceed the {channels} channels of level {i}; make it smaller"
                );
                return fail("attention_head_dim", message);
            }
        }
        let coarsest = self.block_out_channels[levels - 1];
        if self.attn_norm_num_groups.is_some_and(|groups| groups == 0 || !coarsest.is_multiple_of(groups)) {
            return fail(
                "attn_norm_num_groups",
                format!(
                    "{:?} groups do not divide the coarsest level's {coarsest} channels",
                    self.attn_norm_num_groups
                ),
            );
        }
        let frequencies = self.block_out_channels[0] / 2;
        if frequencies == 0 || !(self.freq_shift.abs() <= 65_536.0 && self.freq_shift < frequencies as f64) {
            return fail(
                "freq_shift",
                format!(
                    "found {}; it must be below half of the finest level's channels, here {frequencies}",
                    self.freq_shift
                ),
            );
        }
        if !(0.0..1.0).contains(&self.norm_eps) {
            return fail("norm_eps", format!("found {}; it must be at least 0 and below 1", self.norm_eps));
        }
        if !(1e-6..=1e6).contains(&self.mid_block_scale_factor) {
            let found = self.mid_block_scale_factor;
            return fail("mid_block_scale_factor", format!("found {found}; it must be between 1e-6 and 1e6"));
        }
        if self.downsample_padding > 1 {
            return fail(
                "downsample_padding",
                format!("found {}; it must be 0 or 1", self.downsample_padding),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for preset in Preset::ALL {
            let config = UNetConfig::preset(preset);
            config.validate().unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<UNetConfig>(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn errors_name_the_field_and_the_remedy() {
        let config = UNetConfig { sample_size: Size::Square(18), ..UNetConfig::preset(Preset::Small32) };
        let e = config.validate().unwrap_err();
        assert!(
            e.to_string().contains("sample_size: 18x18") && e.to_string().contains("multiples of 4"),
            "{e}"
        );
    }
}
