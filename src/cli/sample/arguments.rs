//! The flags of `inkwash sample`.

use crate::cli::Failure;
use crate::data;
use crate::diffusion::{Sampler, SchedulerConfig, TimestepSpacing, VarianceType};
use crate::nn::Precision;
use crate::sample::GuidanceOptions;
use clap::ValueEnum;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// Run folder of `inkwash train`, or a diffusers folder; the built-in glyph model if left out
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Pictures to draw
    #[arg(long, short, default_value_t = 25, value_name = "N")]
    pub n: usize,
    /// Steps from noise to picture; Heun evaluates the network twice in each
    #[arg(long, default_value_t = 50, value_name = "S")]
    pub steps: usize,
    /// Seed: picture i depends on the seed and i alone
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    /// Class to draw, for class-conditional models, or several in turn, as cat,dog; all in turn if left out
    #[arg(long, value_name = "NAME|INDEX")]
    pub class: Option<String>,
    /// Pictures computed at once
    #[arg(long, default_value_t = 16, value_name = "B")]
    pub batch: usize,
    /// Type in which activations and the weights of products are stored
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Folder for grid.png and the pictures. Nothing in it is replaced; where the same command was interrupted, it goes on
    #[arg(long, value_name = "DIR", default_value = "samples")]
    pub out: PathBuf,
    /// How the pictures are written beside grid.png
    #[arg(long, value_enum, default_value_t = Format::Png, value_name = "FORMAT")]
    pub format: Format,
    /// Draw and write grid.png alone
    #[arg(long, conflicts_with = "format")]
    pub grid_only: bool,
    /// Begin from this noise, tensor `x_T` (N, C, H, W) of a safetensors file, instead of the seed's
    #[arg(long, value_name = "FILE")]
    pub initial_noise: Option<PathBuf>,
    /// Draw pictures between those of two seeds, by turning one's noise into the other's
    #[arg(long, value_name = "A,B", value_delimiter = ',', conflicts_with_all = ["initial_noise", "from_picture"])]
    pub between_seeds: Option<Vec<u64>>,
    #[command(flatten)]
    pub guidance: GuidanceArgs,
    #[command(flatten)]
    pub given: GivenArgs,
    #[command(flatten)]
    pub scheduler: SchedulerArgs,
}

/// What is written beside grid.png.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One file for each picture: 00000.png, 00001.png, ...
    Png,
    /// One file for all, samples.npz, as evaluation tools take it: uint8 `arr_0` (N, H, W, C), and with classes int64 `arr_1`
    /// (N)
    Npz,
}

/// Classifier-free guidance.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guidance (for models trained with --label-dropout)")]
pub struct GuidanceArgs {
    /// Answer without the class plus W times what the class changes: 1 for none, more for clearer classes and less
    /// variety, too much for pictures that are none
    #[arg(long, value_name = "W")]
    pub guidance: Option<f64>,
    /// Guide only where noise / signal lies above LOW and not above HIGH
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', requires = "guidance")]
    pub guidance_interval: Option<Vec<f64>>,
    /// Label that stands for no class, where the model does not say so itself
    #[arg(long, value_name = "INDEX", requires = "guidance")]
    pub null_class: Option<u32>,
}

impl GuidanceArgs {
    /// What was asked for, if anything. `null_label` is the model's own.
    pub fn options(
        &self,
        null_label: Option<u32>,
        classes: Option<usize>,
    ) -> Result<Option<GuidanceOptions>, Failure> {
        let Some(weight) = self.guidance else { return Ok(None) };
        if !weight.is_finite() || weight < 0.0 {
            return Err(format!("--guidance {weight}: it must be at least 0").into());
        }
        let Some(classes) = classes else {
            return Err("--guidance: this model was trained without classes, so that there is nothing to guide towards; \
                        leave it out"
                .into());
        };
        let Some(null_label) = self.null_class.or(null_label) else {
            return Err("--guidance: this model never learnt to draw without a class; train with --label-dropout 0.1, or \
                        name the label that stands for none with --null-class"
                .into());
        };
        if null_label as usize >= classes {
            return Err(
                format!("--null-class {null_label}: this model has labels 0 to {}", classes - 1).into()
            );
        }
        let interval = match self.guidance_interval.as_deref() {
            None => (0.0, f64::INFINITY),
            Some(&[low, high]) if 0.0 <= low && low < high => (low, high),
            Some(found) => {
                return Err(format!(
                    "--guidance-interval: found {found:?}; give two numbers, the first at least 0 and below the second, as \
                     0.3,3"
                )
                .into());
            }
        };
        // A weight of 1 is the answer with the class alone, for which there is no need to ask twice.
        Ok((weight != 1.0).then_some(GuidanceOptions { weight, interval, null_label }))
    }
}

/// Pictures to begin from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "From a picture")]
pub struct GivenArgs {
    /// Begin from this picture with noise on it, instead of noise alone (SDEdit)
    #[arg(long, value_name = "FILE", conflicts_with = "initial_noise")]
    pub from_picture: Option<PathBuf>,
    /// How much of the way from noise is gone again: 1 all of it, 0.1 little
    #[arg(long, default_value_t = 0.6, value_name = "X", requires = "from_picture")]
    pub strength: f64,
    /// Keep this picture and draw anew what --mask shows (RePaint; ddpm, ddim, euler or euler-ancestral)
    #[arg(long, value_name = "FILE", requires = "mask")]
    pub inpaint: Option<PathBuf>,
    /// White where --inpaint is to be drawn anew, black where it stays
    #[arg(long, value_name = "FILE", requires = "inpaint")]
    pub mask: Option<PathBuf>,
    /// How often each step of --inpaint is taken, with noise put back between
    #[arg(long, default_value_t = 5, value_name = "N", requires = "inpaint")]
    pub resamples: usize,
    /// The most MiB that one of these pictures may take in memory
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    max_picture_mib: u64,
}

impl GivenArgs {
    /// How the pictures are read, for a network of this height, width and channels.
    pub fn data_options(&self, [height, width, channels]: [usize; 3]) -> data::Options {
        data::Options {
            max_picture_bytes: self.max_picture_mib.saturating_mul(1 << 20),
            ..data::Options::new((height, width), channels)
        }
    }
}

/// What is left out follows the model: its `scheduler_config.json`, or DDIM for a run of this program.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Scheduler (left out: the model's own)")]
pub struct SchedulerArgs {
    /// Way back from noise
    #[arg(long, value_enum)]
    pub sampler: Option<Sampler>,
    /// Noise of DDIM: 0 deterministic, 1 as much as DDPM
    #[arg(long, value_name = "X")]
    pub eta: Option<f64>,
    /// Variance of DDPM's step
    #[arg(long, value_enum)]
    pub variance_type: Option<VarianceType>,
    /// Which timesteps are visited
    #[arg(long, value_enum)]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Space the noise levels as EDM does (any sampler but ddpm and ddim; of an edm or flow model, all)
    #[arg(long)]
    pub karras_sigmas: bool,
    /// Clamp the predicted picture to ±X at every step
    #[arg(long, value_name = "X")]
    pub clip_range: Option<f64>,
    /// Do not clamp the predicted picture
    #[arg(long, conflicts_with_all = ["clip_range", "thresholding"])]
    pub no_clip: bool,
    /// Dynamic thresholding of the predicted picture, up to this threshold
    #[arg(long, value_name = "MAX", conflicts_with = "clip_range")]
    pub thresholding: Option<f64>,
}

impl SchedulerArgs {
    /// The model's configuration with what was given in its place, and η.
    pub fn apply(&self, model: &SchedulerConfig) -> Result<(SchedulerConfig, f64), Failure> {
        let mut config = model.with_sampler(self.sampler.unwrap_or(model.sampler));
        let only = |given: bool, flag: &str, has_meaning: bool| -> Result<(), Failure> {
            if given && !has_meaning {
                return Err(format!(
                    "{flag} has no meaning for {}; leave it out",
                    value_name(&config.sampler)
                )
                .into());
            }
            Ok(())
        };
        only(self.eta.is_some(), "--eta", config.sampler == Sampler::Ddim)?;
        only(self.variance_type.is_some(), "--variance-type", config.sampler == Sampler::Ddpm)?;
        let continuous = config.beta_schedule.is_continuous();
        only(self.karras_sigmas, "--karras-sigmas", continuous || config.sampler.is_by_sigma())?;
        if let Some(variance) = self.variance_type {
            if (variance == VarianceType::LearnedRange) != (model.variance_type == VarianceType::LearnedRange)
            {
                return Err(
                    "--variance-type: learned_range is for the models that learn their variance, and for \
                            them alone; leave it out"
                        .into(),
                );
            }
            config.variance_type = variance;
        }
        config.timestep_spacing = self.timestep_spacing.unwrap_or(config.timestep_spacing);
        // A spacing that is asked for takes the place of EDM's own.
        config.use_karras_sigmas &= !(continuous && self.timestep_spacing.is_some());
        config.use_karras_sigmas |= self.karras_sigmas;
        if let Some(range) = self.clip_range {
            (config.clip_sample, config.clip_sample_range, config.thresholding) = (true, range, false);
        }
        if self.no_clip {
            (config.clip_sample, config.thresholding) = (false, false);
        }
        if let Some(max) = self.thresholding {
            (config.thresholding, config.sample_max_value) = (true, max);
        }
        Ok((config, self.eta.unwrap_or(0.0)))
    }
}

/// What a flag calls this value.
pub fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
}
