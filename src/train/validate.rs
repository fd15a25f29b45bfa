//! What a training configuration must hold before anything is opened: ranges of numbers, and settings that cannot be
//! combined.

use super::{NetworkKind, TimestepSampling, TrainConfig};
use crate::diffusion::{Sampler, Weighting};
use crate::nn::{ConfigError, check_halving};
use serde::Serialize;

/// A field's value as a configuration file has it.
pub(super) fn shown(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(value) => value.to_string(),
        Err(e) => e.to_string(),
    }
}

impl TrainConfig {
    /// Checks every number that has a range. The network is checked when it is built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let at_least_one = [
            ("steps", u64::from(self.steps)),
            ("batch", self.batch as u64),
            ("accumulate", self.accumulate.into()),
            ("timesteps", self.timesteps as u64),
            ("log_every", self.log_every.into()),
            ("sample_count", self.sample_count as u64),
            ("sample_steps", self.sample_steps as u64),
            ("glyph_count", self.glyph_count as u64),
        ];
        for (field, value) in at_least_one {
            if value == 0 || value > 1 << 30 {
                return fail(field, format!("found {value}; it must be between 1 and 2^30"));
            }
        }
        match self.network {
            NetworkKind::Unet => self.validate_diffusion()?,
            NetworkKind::Classifier => self.refuse_diffusion()?,
        }
        if let Some(size) = self.size {
            let widths = match self.network {
                NetworkKind::Unet => self.unet_config(0).block_out_channels,
                NetworkKind::Classifier => self.classifier_config(0).block_out_channels,
            };
            let most = crate::data::MAX_SIDE as usize;
            if size.width.max(size.height) > most {
                return fail("size", format!("found {size}; each side must be at most {most}"));
            }
            // More levels than a network may have are refused when it is built.
            let times = widths.len().clamp(1, 16) - 1;
            check_halving([size.width, size.height], times)
                .map_err(|message| ConfigError { field: "size", message })?;
        }
        if self.log_every > 4096 {
            return fail("log_every", format!("found {}; it must be at most 4096", self.log_every));
        }
        let within = |low: f64, value: f64, high: f64| value.is_finite() && low <= value && value < high;
        let ranges = [
            ("learning_rate", self.learning_rate, 1e6),
            ("weight_decay", self.weight_decay.into(), 1e6),
            ("beta1", self.beta1.into(), 1.0),
            ("beta2", self.beta2.into(), 1.0),
            ("clip_norm", self.clip_norm.into(), 1e30),
            ("ema_decay", self.ema_decay, 1.0),
            ("held_out", self.held_out, 1.0),
            ("label_dropout", self.label_dropout, 1.0),
        ];
        for (field, value, high) in ranges {
            if !within(0.0, value, high) {
                return fail(field, format!("found {value}; it must be at least 0 and below {high}"));
            }
        }
        Ok(())
    }

    /// Checks what only a U-Net has.
    fn validate_diffusion(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        if self.classifier.is_some() {
            return fail(
                "classifier",
                "found a [classifier] with network = unet, which it says nothing of; leave it out, or choose \
                 --network classifier"
                    .into(),
            );
        }
        let unet = self.unet_config(0);
        if unet.in_channels != unet.out_channels {
            return fail(
                "out_channels",
                format!(
                    "found {}, but the loss compares the prediction with a picture of in_channels = {}; make them equal",
                    unet.out_channels, unet.in_channels
                ),
            );
        }
        if self.timesteps > 1_000_000 {
            return fail("timesteps", format!("found {}; it must be at most 1000000", self.timesteps));
        }
        self.scheduler(Sampler::Ddim).validate()?;
        self.validate_combination()?;
        if self.sample_steps > self.timesteps {
            return fail(
                "sample_steps",
                format!("found {}, but there are only {} timesteps", self.sample_steps, self.timesteps),
            );
        }
        Ok(())
    }

    /// Refuses what only a U-Net has and a classifier was given all the same.
    fn refuse_diffusion(&self) -> Result<(), ConfigError> {
        if self.unet.is_some() {
            return Err(ConfigError {
                field: "unet",
                message:
                    "found a [unet] with network = classifier, which it says nothing of; leave it out, or \
                          choose --network unet"
                        .into(),
            });
        }
        let defaults = Self::default();
        macro_rules! options {
            ($($field:ident),*) => {
                [$((stringify!($field), shown(&self.$field), shown(&defaults.$field))),*]
            };
        }
        let options = options![
            init,
            prediction,
            objective,
            time_conditioning,
            noise_schedule,
            beta_start,
            beta_end,
            timesteps,
            zero_terminal_snr,
            weighting,
            min_snr_gamma,
            timestep_sampling,
            logit_mean,
            logit_deviation,
            class_conditional,
            label_dropout,
            sample_count,
            sample_steps
        ];
        match options.into_iter().find(|(_, found, default)| found != default) {
            None => Ok(()),
            Some((field, found, default)) => Err(ConfigError {
                field,
                message: format!(
                    "found {found} with network = classifier, which has neither noise nor samples; expected the \
                     default, {default}: leave it out, or choose --network unet"
                ),
            }),
        }
    }

    /// Refuses what cannot be combined, with the reason.
    fn validate_combination(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let (schedule, objective) = (self.noise_schedule.name(), self.objective.name());
        let ends_in_noise = self.zero_terminal_snr || self.noise_schedule.ends_in_noise();
        if self.objective.is_of_last_step() {
            let other = [
                (self.zero_terminal_snr, "zero_terminal_snr", "true".to_string()),
                (self.weighting != Weighting::Uniform, "weighting", self.weighting.name()),
                (
                    self.timestep_sampling != TimestepSampling::Uniform,
                    "timestep_sampling",
                    "logit-normal".into(),
                ),
            ];
            if let Some((_, field, found)) = other.into_iter().find(|(is, ..)| *is) {
                return fail(
                    field,
                    format!(
                        "found {found} with the objective {objective}, one of the article's, which has a table of \
                         its own for the last step of the chain; leave it out, or choose merged-noise"
                    ),
                );
            }
        } else if ends_in_noise && self.prediction.needs_signal() {
            let why = if self.zero_terminal_snr { "zero_terminal_snr".to_string() } else { schedule };
            return fail(
                "prediction",
                format!(
                    "found epsilon with {why}, which ends in noise alone: there the noise is the input, and tells \
                     nothing of the picture to begin with; choose v_prediction, sample, edm or flow"
                ),
            );
        }
        if self.noise_schedule.is_a_distribution() && self.timestep_sampling != TimestepSampling::Uniform {
            let schedule = self.noise_schedule.name();
            return fail(
                "timestep_sampling",
                format!(
                    "found logit-normal with {schedule}, which says itself how often each σ is drawn; leave it out"
                ),
            );
        }
        if !(self.min_snr_gamma > 0.0 && self.min_snr_gamma.is_finite()) {
            return fail("min_snr_gamma", format!("found {}; it must be positive", self.min_snr_gamma));
        }
        if !(self.logit_mean.abs() <= 100.0 && self.logit_deviation > 0.0 && self.logit_deviation <= 100.0) {
            return fail(
                "logit_mean",
                format!(
                    "found mean {} and deviation {}; give a mean between -100 and 100 and a deviation above 0 and at \
                     most 100",
                    self.logit_mean, self.logit_deviation
                ),
            );
        }
        if self.label_dropout > 0.0 && !self.class_conditional {
            return fail(
                "label_dropout",
                format!(
                    "found {} without class_conditional, so that there is no label to leave out; give \
                     --class-conditional too",
                    self.label_dropout
                ),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::ClassifierConfig;
    use crate::diffusion::{Objective, Prediction, Preset, UNetConfig};

    #[test]
    fn out_of_range_numbers_are_named() {
        let c = TrainConfig { beta2: 1.5, ..TrainConfig::default() };
        assert!(c.validate().unwrap_err().to_string().starts_with("beta2: found 1.5"));
        assert!(TrainConfig::default().validate().is_ok());
        let c = TrainConfig {
            objective: Objective::Previous,
            prediction: Prediction::VPrediction,
            ..TrainConfig::default()
        };
        assert!(c.validate().unwrap_err().to_string().starts_with("objective: found previous with"));
    }

    #[test]
    fn a_size_must_halve() {
        let sized = |text: &str, network| TrainConfig {
            size: Some(text.parse().unwrap()),
            preset: Preset::Cifar,
            network,
            ..TrainConfig::default()
        };
        for network in [NetworkKind::Unet, NetworkKind::Classifier] {
            let good = sized("96x64", network);
            assert!(good.validate().is_ok());
            assert_eq!(good.picture_shape(), [64, 96, 3]);
            let named = good.with_network(&[]);
            assert_eq!(TrainConfig { size: None, ..named }.picture_shape(), [64, 96, 3]);
            for (text, words) in [
                ("100x64", "size: 100x64 does not halve 3 times"),
                ("100x64", "multiples of 8, as 96x64 or 104x64"),
                ("0", "as 8x8"),
                ("16384", "found 16384x16384; each side must be at most 8192"),
            ] {
                let message = sized(text, network).validate().unwrap_err().to_string();
                assert!(message.contains(words), "{message}");
            }
        }
    }

    #[test]
    fn a_classifier_refuses_what_only_a_unet_has() {
        let classifier = || TrainConfig { network: NetworkKind::Classifier, ..TrainConfig::default() };
        assert!(classifier().validate().is_ok());
        let e = TrainConfig { prediction: Prediction::VPrediction, ..classifier() };
        let e = e.validate().unwrap_err().to_string();
        for words in ["prediction: found v_prediction", "network = classifier", "epsilon", "--network unet"] {
            assert!(e.contains(words), "{e}");
        }
        let refused = |config: TrainConfig| config.validate().unwrap_err().field;
        assert_eq!(refused(TrainConfig { sample_steps: 7, ..classifier() }), "sample_steps");
        assert_eq!(refused(TrainConfig { class_conditional: true, ..classifier() }), "class_conditional");
        assert_eq!(refused(TrainConfig { unet: Some(UNetConfig::default()), ..classifier() }), "unet");
        let other = TrainConfig { classifier: Some(ClassifierConfig::default()), ..TrainConfig::default() };
        assert_eq!(refused(other), "classifier");
    }
}
