//! Everything that decides a training run: flags, configuration file and checkpoint are this one struct.

use super::{ByteCount, CheckpointingMode, Group, StepOptions};
use crate::classifier::ClassifierConfig;
use crate::data::{ClassLabels, Damaged};
use crate::diffusion::{
    Objective, Prediction, Preset, Sampler, ScheduleKind, SchedulerConfig, TimestepSpacing, UNetConfig,
    Weighting,
};
use crate::nn::{PictureSize, Precision, Size};
use crate::ops::{AdamW, Hyper};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How the learning rate runs after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum LearningRate {
    /// Stays.
    Constant,
    /// Falls to zero in equal steps.
    Linear,
    /// Falls to zero along half a cosine (arXiv 1608.03983).
    Cosine,
}

/// How the decay of the moving average rises to its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum EmaWarmup {
    /// (1 + n) / (10 + n) at step n.
    Ratio,
    /// 1 - (1 + n)^(-3/4): slower.
    Power,
}

/// Which noise levels training draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum TimestepSampling {
    /// Each step of the schedule as often as another.
    Uniform,
    /// More often those in the middle: logit(t/T) is normal (arXiv 2403.03206, eq. 19).
    LogitNormal,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// A U-Net that takes noise off pictures.
    Unet,
    /// A convolutional network that predicts the class of a picture (subfolder or label).
    Classifier,
}

impl NetworkKind {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Classifier => "classifier",
        }
    }

    /// Whether samples can be drawn from it.
    pub fn draws_pictures(self) -> bool {
        match self {
            Self::Unet => true,
            Self::Classifier => false,
        }
    }

    /// Whether it is trained on pictures with classes alone.
    pub fn needs_classes(self) -> bool {
        match self {
            Self::Unet => false,
            Self::Classifier => true,
        }
    }
}

/// A training run. Every field is a flag, a line of the configuration file, and kept in the run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Pictures to learn: a folder or zip file, an IDX (MNIST), CIFAR or NumPy file or folder, or builtin:glyphs
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().data, value_name = "PATH|builtin:NAME")
    )]
    pub data: String,
    /// What becomes of pictures that are damaged
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().damaged))]
    pub damaged: Damaged,
    /// Which split to learn, where the data has several: train, val, test, or the name of an EMNIST split
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Which classes of CIFAR-100: 100 fine ones or 20 coarse ones
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().class_labels))]
    pub class_labels: ClassLabels,
    /// The most MiB that one picture may take in memory
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().max_picture_mib, value_name = "MIB")
    )]
    pub max_picture_mib: u64,
    /// What is trained: a U-Net that draws pictures, or a classifier of pictures
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().network))]
    pub network: NetworkKind,
    /// Shape of the network; `[unet]` or `[classifier]` in a configuration file overrides it
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().preset))]
    pub preset: Preset,
    /// Begin from the averaged weights of this model: a run, a folder of diffusers, or builtin:glyphs. Network, prediction and
    /// noise are the model's unless given; classes keep their embeddings by name
    #[cfg_attr(feature = "cli", arg(long, value_name = "MODEL"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Size of the pictures, N or WIDTHxHEIGHT, in place of the network's own; its sides must halve once less than the
    /// network has levels
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|WxH"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<PictureSize>,
    /// Optimizer steps
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().steps, value_name = "N"))]
    pub steps: u32,
    /// Pictures per micro-batch
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().batch, value_name = "B"))]
    pub batch: usize,
    /// Micro-batches per optimizer step; the effective batch is B times this
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().accumulate, value_name = "N"))]
    pub accumulate: u32,
    /// Seed of everything random: the same seed gives the same bits on one device
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().seed, value_name = "S"))]
    pub seed: u64,
    /// Type in which activations, their gradients and the weights of products are stored; f16 takes about half the memory,
    /// keeps f32 weights for the optimizer, and scales the loss
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().precision))]
    pub precision: Precision,
    /// Compute activations again in the backward pass instead of keeping them: those within blocks, or nearly all; auto does so as
    /// far as --memory-budget asks for it. The numbers are the same to the last bit
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().checkpointing))]
    pub checkpointing: CheckpointingMode,
    /// Device memory that the run may plan, as 6GiB: chooses the pictures at a time, with the effective batch as it is, and with
    /// --checkpointing auto what is computed again
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<ByteCount>,
    /// Peak learning rate of AdamW
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().learning_rate, value_name = "LR")
    )]
    pub learning_rate: f64,
    /// Course of the learning rate after the warm-up
    #[cfg_attr(
        feature = "cli",
        arg(long, value_enum, default_value_t = Self::default().learning_rate_schedule)
    )]
    pub learning_rate_schedule: LearningRate,
    /// Steps over which the learning rate rises from zero
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().warmup_steps, value_name = "N"))]
    pub warmup_steps: u32,
    /// Decoupled weight decay of AdamW
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().weight_decay, value_name = "X"))]
    pub weight_decay: f32,
    /// Decay of AdamW's first moment
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().beta1, value_name = "X"))]
    pub beta1: f32,
    /// Decay of AdamW's second moment
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().beta2, value_name = "X"))]
    pub beta2: f32,
    /// Largest norm of the gradient; longer ones are scaled down to it; 0 for no clipping
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().clip_norm, value_name = "X"))]
    pub clip_norm: f32,
    /// Decay of the moving average of the weights, which samples are drawn from
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().ema_decay, value_name = "X"))]
    pub ema_decay: f64,
    /// How that decay rises in the first steps: (1+n)/(10+n), or 1-(1+n)^(-3/4)
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().ema_warmup))]
    pub ema_warmup: EmaWarmup,
    /// What the network predicts
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().prediction))]
    pub prediction: Prediction,
    /// What the loss is taken of; all but merged-noise look at the last step alone, as the article does
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().objective))]
    pub objective: Objective,
    /// Whether the network is conditioned on t; if not, it is given 0, in training and in sampling
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().time_conditioning, action = clap::ArgAction::Set, value_name = "BOOL")
    )]
    pub time_conditioning: bool,
    /// Course of the noise: a chain of β, or edm or flow, which are continuous
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().noise_schedule))]
    pub noise_schedule: ScheduleKind,
    /// First β of linear, scaled_linear and sigmoid
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().beta_start, value_name = "X"))]
    pub beta_start: f64,
    /// Last β of these; a chain of few steps needs a larger one to end in noise
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().beta_end, value_name = "X"))]
    pub beta_end: f64,
    /// Noise steps T; of edm and flow, the levels that training draws from
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().timesteps, value_name = "T"))]
    pub timesteps: usize,
    /// Shift the noise so that nothing of the picture is left at T (arXiv 2305.08891)
    #[cfg_attr(feature = "cli", arg(long))]
    pub zero_terminal_snr: bool,
    /// How much each noise level counts in the loss
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().weighting))]
    pub weighting: Weighting,
    /// γ of --weighting min-snr
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().min_snr_gamma, value_name = "X"))]
    pub min_snr_gamma: f64,
    /// How often each noise level is drawn
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t = Self::default().timestep_sampling))]
    pub timestep_sampling: TimestepSampling,
    /// Mean of logit(t/T) for --timestep-sampling logit-normal: below 0 for less noise
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().logit_mean, value_name = "X", allow_negative_numbers = true)
    )]
    pub logit_mean: f64,
    /// Its standard deviation
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().logit_deviation, value_name = "X")
    )]
    pub logit_deviation: f64,
    /// Condition on the class of each picture (subfolder or label)
    #[cfg_attr(feature = "cli", arg(long))]
    pub class_conditional: bool,
    /// Fraction of the labels that are left out, so that samples can be guided (--guidance of `sample`)
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().label_dropout, value_name = "X"))]
    pub label_dropout: f64,
    /// Mirror half of the pictures left to right
    #[cfg_attr(feature = "cli", arg(long))]
    pub flip: bool,
    /// Shift pictures at random by up to this many pixels
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().crop_padding, value_name = "PIXELS")
    )]
    pub crop_padding: usize,
    /// Fraction of the pictures that is held out to measure the loss on
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().held_out, value_name = "X"))]
    pub held_out: f64,
    /// Pictures that builtin:glyphs draws
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().glyph_count, value_name = "N"))]
    pub glyph_count: usize,
    /// Steps between readbacks of the loss for the log and the progress bar
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().log_every, value_name = "N"))]
    pub log_every: u32,
    /// Steps between sample grids and held-out losses; 0 for the end only
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().sample_every, value_name = "N"))]
    pub sample_every: u32,
    /// Pictures in a sample grid
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().sample_count, value_name = "N"))]
    pub sample_count: usize,
    /// DDIM steps of a sample grid; all T where the objective is the previous picture
    #[cfg_attr(feature = "cli", arg(long, default_value_t = Self::default().sample_steps, value_name = "N"))]
    pub sample_steps: usize,
    /// Steps between checkpoints; 0 for the end only
    #[cfg_attr(
        feature = "cli",
        arg(long, default_value_t = Self::default().checkpoint_every, value_name = "N")
    )]
    pub checkpoint_every: u32,
    /// Whether operators are fused into fewer launches. Its flag is that of every command, `--no-fusion`.
    #[cfg_attr(feature = "cli", arg(skip = true))]
    pub fusion: bool,
    /// The classes by name, in the order of their labels, where the run learns classes. Not a flag: the data has them.
    #[cfg_attr(feature = "cli", arg(skip))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// The network in full. Not a flag: `[unet]` in a configuration file.
    #[cfg_attr(feature = "cli", arg(skip))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unet: Option<UNetConfig>,
    /// The classifier in full: `[classifier]` in a configuration file.
    #[cfg_attr(feature = "cli", arg(skip))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierConfig>,
}

impl Default for TrainConfig {
    /// The flags' defaults too.
    fn default() -> Self {
        Self {
            data: "builtin:glyphs".into(),
            damaged: Damaged::Refuse,
            split: None,
            class_labels: ClassLabels::Fine,
            max_picture_mib: 512,
            network: NetworkKind::Unet,
            preset: Preset::TinyGray,
            init: None,
            size: None,
            steps: 2000,
            batch: 16,
            accumulate: 1,
            seed: 0,
            precision: Precision::F32,
            checkpointing: CheckpointingMode::Auto,
            memory_budget: None,
            learning_rate: 1e-3,
            learning_rate_schedule: LearningRate::Cosine,
            warmup_steps: 100,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            clip_norm: 1.0,
            ema_decay: 0.999,
            ema_warmup: EmaWarmup::Ratio,
            prediction: Prediction::Epsilon,
            objective: Objective::MergedNoise,
            time_conditioning: true,
            noise_schedule: ScheduleKind::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            timesteps: 1000,
            zero_terminal_snr: false,
            weighting: Weighting::Uniform,
            min_snr_gamma: 5.0,
            timestep_sampling: TimestepSampling::Uniform,
            logit_mean: 0.0,
            logit_deviation: 1.0,
            class_conditional: false,
            label_dropout: 0.0,
            flip: false,
            crop_padding: 0,
            held_out: 0.05,
            glyph_count: 20_000,
            log_every: 20,
            sample_every: 500,
            sample_count: 25,
            sample_steps: 50,
            checkpoint_every: 500,
            fusion: true,
            class_names: Vec::new(),
            unet: None,
            classifier: None,
        }
    }
}

impl TrainConfig {
    /// How a model of this run is sampled: what it was trained with, and the sampler's defaults.
    pub fn scheduler(&self, sampler: Sampler) -> SchedulerConfig {
        let defaults = SchedulerConfig::new(sampler);
        let continuous = self.noise_schedule.is_continuous();
        SchedulerConfig {
            num_train_timesteps: self.timesteps,
            beta_schedule: self.noise_schedule,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            prediction_type: self.prediction,
            objective: self.objective,
            without_time: !self.conditions_on_time(),
            rescale_betas_zero_snr: self.zero_terminal_snr,
            timestep_spacing: if continuous || self.zero_terminal_snr {
                // A continuous schedule has no other, and a chain that ends in noise is to begin there (arXiv 2305.08891,
                // section 3.3).
                TimestepSpacing::Trailing
            } else {
                defaults.timestep_spacing
            },
            use_karras_sigmas: self.noise_schedule.has_karras_sigmas(),
            ..defaults
        }
    }

    /// Whether the network is conditioned on t. Objective `previous-without-time` says no by its name.
    pub fn conditions_on_time(&self) -> bool {
        self.time_conditioning && self.objective.conditions_on_time()
    }

    /// The U-Net's configuration: `unet` if it is given, else the preset; of `size` if that is given; with an embedding
    /// for `classes` classes if the run is class-conditional.
    pub fn unet_config(&self, classes: usize) -> UNetConfig {
        let mut unet = self.unet.clone().unwrap_or_else(|| UNetConfig::preset(self.preset));
        if self.class_conditional && unet.num_class_embeds.is_none() {
            unet.num_class_embeds = Some(classes.max(1) + usize::from(self.label_dropout > 0.0));
        }
        unet.sample_size = self.size.map_or(unet.sample_size, Size::from);
        unet
    }

    /// The classifier's configuration: `classifier` if it is given, else the preset with so many classes; of `size` if that
    /// is given.
    pub fn classifier_config(&self, classes: usize) -> ClassifierConfig {
        let preset = || ClassifierConfig { num_classes: classes, ..ClassifierConfig::preset(self.preset) };
        let mut classifier = self.classifier.clone().unwrap_or_else(preset);
        classifier.sample_size = self.size.map_or(classifier.sample_size, Size::from);
        classifier
    }

    /// Whether the run learns the classes of its pictures.
    pub fn learns_classes(&self) -> bool {
        self.class_conditional || self.network.needs_classes()
    }

    /// The configuration of the network in full, for pictures of these classes, whose names it keeps.
    #[must_use]
    pub fn with_network(&self, class_names: &[String]) -> Self {
        let classes = class_names.len();
        let class_names = if self.learns_classes() { class_names.to_vec() } else { Vec::new() };
        let own = Self { class_names, ..self.clone() };
        match self.network {
            NetworkKind::Unet => Self { unet: Some(self.unet_config(classes)), ..own },
            NetworkKind::Classifier => Self { classifier: Some(self.classifier_config(classes)), ..own },
        }
    }

    /// How its pictures are read.
    pub fn data_options(&self) -> crate::data::Options {
        let [height, width, channels] = self.picture_shape();
        crate::data::Options {
            seed: self.seed,
            glyph_count: self.glyph_count,
            damaged: self.damaged,
            split: self.split.clone(),
            class_labels: self.class_labels,
            max_picture_bytes: self.max_picture_mib.saturating_mul(1 << 20),
            ..crate::data::Options::new((height, width), channels)
        }
    }

    /// Height, width and channels of the pictures.
    pub fn picture_shape(&self) -> [usize; 3] {
        let (size, channels) = match self.network {
            NetworkKind::Unet => {
                let unet = self.unet_config(0);
                (unet.sample_size, unet.in_channels)
            }
            NetworkKind::Classifier => {
                let classifier = self.classifier_config(0);
                (classifier.sample_size, classifier.in_channels)
            }
        };
        let (height, width) = size.get();
        [height, width, channels]
    }

    /// The label that stands for none, the last of the network's, if labels are left out in training.
    pub fn null_label(&self) -> Option<u32> {
        let classes = self.unet.as_ref().and_then(|unet| unet.num_class_embeds)?;
        (self.label_dropout > 0.0).then(|| u32::try_from(classes - 1).unwrap_or(u32::MAX))
    }

    /// Pictures per optimizer step.
    pub fn effective_batch(&self) -> usize {
        self.batch * self.accumulate as usize
    }

    /// The learning rate of a step (from 0), by the rules of diffusers' `get_scheduler`: at step 0 of a warm-up it
    /// is 0.
    pub fn learning_rate_at(&self, step: u32) -> f64 {
        let (step, warmup, total) = (f64::from(step), f64::from(self.warmup_steps), f64::from(self.steps));
        if step < warmup {
            return self.learning_rate * step / warmup;
        }
        match self.learning_rate_schedule {
            LearningRate::Constant => self.learning_rate,
            LearningRate::Linear => {
                self.learning_rate * ((total - step) / (total - warmup).max(1.0)).max(0.0)
            }
            LearningRate::Cosine => {
                let done = ((step - warmup) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
                self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }

    /// The optimizer, with PyTorch's epsilon.
    pub fn optimizer(&self) -> AdamW {
        let (beta1, beta2, weight_decay) = (self.beta1, self.beta2, self.weight_decay);
        AdamW { beta1, beta2, epsilon: 1e-8, weight_decay, copy: false }
    }

    /// What decides a training step beside its task.
    pub fn step_options(&self) -> StepOptions {
        StepOptions {
            batch: self.batch,
            accumulate: self.accumulate,
            seed: self.seed,
            log_every: self.log_every,
            optimizer: self.optimizer(),
            fusion: self.fusion,
            checkpointing: self.checkpointing.allowed(false)[0],
            choices: Arc::default(),
            group: Group::alone(),
        }
    }

    /// The hyperparameters of a step (from 0).
    pub fn hyper(&self, step: u32) -> Hyper {
        Hyper {
            learning_rate: self.learning_rate_at(step),
            ema_decay: self.ema_decay_at(step),
            max_norm: self.clip_norm.into(),
        }
    }

    /// The decay of the moving average at a step n (from 0): 0 at first, then (1 + n) / (10 + n), so that early
    /// weights are forgotten, or 1 - (1 + n)^(-3/4); at most `ema_decay` (diffusers' EMAModel).
    pub fn ema_decay_at(&self, step: u32) -> f64 {
        let n = f64::from(step);
        let rising = match self.ema_warmup {
            _ if step == 0 => 0.0,
            EmaWarmup::Ratio => (1.0 + n) / (10.0 + n),
            EmaWarmup::Power => 1.0 - (1.0 + n).powf(-0.75),
        };
        self.ema_decay.min(rising)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_survives_toml_and_refuses_unknown_fields() {
        let config = TrainConfig { unet: Some(UNetConfig::preset(Preset::Cifar)), ..TrainConfig::default() };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config);
        let e = toml::from_str::<TrainConfig>("stpes = 3").unwrap_err();
        assert!(e.to_string().contains("stpes"), "{e}");
    }

    #[test]
    fn learning_rate_rises_and_falls() {
        let c = TrainConfig { steps: 1000, warmup_steps: 100, learning_rate: 1.0, ..TrainConfig::default() };
        assert!(c.learning_rate_at(0) == 0.0);
        assert!((c.learning_rate_at(50) - 0.5).abs() < 1e-12);
        assert!((c.learning_rate_at(100) - 1.0).abs() < 1e-12);
        assert!((c.learning_rate_at(550) - 0.5).abs() < 1e-12);
        assert!(c.learning_rate_at(999) < 1e-4);
        let c = TrainConfig { learning_rate_schedule: LearningRate::Linear, ..c };
        assert!(
            (c.learning_rate_at(550) - 0.5).abs() < 1e-12 && (c.learning_rate_at(775) - 0.25).abs() < 1e-12
        );
    }

    #[test]
    fn the_average_begins_as_the_weights() {
        let c = TrainConfig { ema_decay: 0.999, ..TrainConfig::default() };
        assert_eq!([0, 1, 8].map(|n| c.ema_decay_at(n)), [0.0, 2.0 / 11.0, 0.5]);
        assert_eq!(c.ema_decay_at(100_000), 0.999);
        let c = TrainConfig { ema_warmup: EmaWarmup::Power, ..c };
        assert_eq!([0, 15].map(|n| c.ema_decay_at(n)), [0.0, 0.875]);
    }
}
