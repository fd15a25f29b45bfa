//! What training draws: the table whose rows [`AddNoise`] and [`AddTwoNoises`] choose from, each with the same chance.
//!
//! [`AddNoise`]: crate::ops::AddNoise
//! [`AddTwoNoises`]: crate::ops::AddTwoNoises

use super::{ChainStep, NoiseLevel, NoiseSchedule, Objective, Prediction, name_in_files};
use crate::ops::{NoisingRow, SCHEDULE_COLUMNS, TWO_NOISE_COLUMNS, TwoNoiseRow};
use crate::rng::normal_quantile;
use crate::tensor::Array;
use serde::{Deserialize, Serialize};

/// How much the loss of each noise level counts. SNR is (signal / noise)², and a weight of x_0 is one of ‖x̂_0 - x_0‖²
/// whatever the network predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// 1 for the error of what is predicted (DDPM, eq. 14; of EDM's prediction it is EDM's λ(σ) = 1 / c_out²).
    #[default]
    Uniform,
    /// SNR for x_0: the error of the noise, whatever is predicted (arXiv 2202.00512, section 4).
    Snr,
    /// min(SNR, γ) for x_0 (min-SNR-γ, arXiv 2303.09556).
    MinSnr,
    /// SNR / (1 + SNR) for x_0 (P2 with k = γ = 1, arXiv 2204.00227).
    P2,
    /// 1 / t² for x_0 with flow matching's t, at least 0.05: the error of the velocity ε - x_0, whatever is predicted (the
    /// v-loss of arXiv 2511.13720, with its bound).
    Velocity,
}

impl Weighting {
    /// Its name on the command line and in files.
    pub fn name(self) -> String {
        name_in_files(&self)
    }

    /// The weight of ‖f̂ - f‖² at a level. `gamma` is min-SNR's.
    pub fn of(self, level: NoiseLevel, prediction: Prediction, gamma: f64) -> f64 {
        // ‖x̂_0 - x_0‖² = share² ‖f̂ - f‖², and SNR share² where both may be infinite or 0 alone.
        let c = level.x_0(prediction);
        let share = match prediction {
            // k is infinite without signal, where such a network is refused.
            Prediction::Epsilon => level.sigma(),
            Prediction::Sample | Prediction::VPrediction | Prediction::Edm | Prediction::Flow => c.k * c.p_f,
        };
        let snr = (level.signal / level.noise).powi(2);
        let weight = match self {
            Self::Uniform => return 1.0,
            Self::Snr => snr,
            Self::MinSnr => snr.min(gamma),
            Self::P2 => snr / (1.0 + snr),
            Self::Velocity => level.flow_time().max(0.05).powi(-2),
        };
        weight * share * share
    }
}

impl NoiseSchedule {
    /// The timesteps at T equally likely places of a logit-normal distribution of t / T: ln(u / (1-u)) normal with this mean and
    /// deviation (arXiv 2403.03206, eq. 19). Some timesteps come often, those at the ends perhaps never.
    pub fn logit_normal_timesteps(&self, mean: f64, deviation: f64) -> Vec<usize> {
        let count = self.timesteps();
        let step = |i: usize| {
            let z = normal_quantile((i as f64 + 0.5) / count as f64);
            let u = 1.0 / (1.0 + (-(mean + deviation * z)).exp());
            ((u * count as f64) as usize).min(count - 1)
        };
        (0..count).map(step).collect()
    }

    /// The table of [`crate::ops::AddNoise`]: a [`NoisingRow`] for each of `timesteps`. Signal and sigma are those of what the network is given.
    pub fn training_table(
        &self,
        timesteps: impl IntoIterator<Item = usize>,
        prediction: Prediction,
        weight: impl Fn(NoiseLevel) -> f64,
    ) -> Array {
        let rows = timesteps.into_iter().flat_map(|t| {
            let level = self.level(Some(t));
            let scale = level.input_scale(prediction);
            let (target_noise, target_data) = level.target(prediction);
            NoisingRow {
                signal: scale * level.signal,
                sigma: scale * level.noise,
                target_noise,
                target_data,
                weight: weight(level),
                time: self.time(t),
            }
            .values()
        });
        let data: Vec<f64> = rows.collect();
        Array::new([data.len() / SCHEDULE_COLUMNS, SCHEDULE_COLUMNS], data)
    }

    /// [`Self::training_table`] of every step once, the article's and DDPM's draw.
    pub fn uniform_table(&self, prediction: Prediction) -> Array {
        self.training_table(0..self.timesteps(), prediction, |_| 1.0)
    }

    /// Row t of the table of [`crate::ops::AddTwoNoises`] for a target c_prev x_{t-1} + c_last ε.
    pub fn two_noise_row(&self, t: usize, [c_prev, c_last, weight]: [f64; 3]) -> TwoNoiseRow {
        let before = self.alpha_bar(t.checked_sub(1));
        let ChainStep { alpha, beta, .. } = self.step(t, t.checked_sub(1));
        TwoNoiseRow {
            signal_prev: before.sqrt(),
            sigma_prev: (1.0 - before).sqrt(),
            a: alpha.sqrt(),
            b: beta.sqrt(),
            c_prev,
            c_last,
            weight,
            time: self.time(t),
        }
    }

    /// The table (T, 8) of [`crate::ops::AddTwoNoises`] for an objective of the article's; `None` for the one that
    /// draws a single noise.
    pub fn two_noise_table(&self, objective: Objective) -> Option<Array> {
        let target: fn(ChainStep) -> [f64; 3] = match objective {
            Objective::MergedNoise => return None,
            Objective::PreviousWithoutTime | Objective::Previous => |_| [1.0, 0.0, 1.0],
            Objective::LastNoiseWeighted => |step| [0.0, 1.0, step.beta / step.alpha],
            Objective::LastNoise => |_| [0.0, 1.0, 1.0],
        };
        let row = |t: usize| self.two_noise_row(t, target(self.step(t, t.checked_sub(1)))).values();
        Some(Array::new([self.timesteps(), TWO_NOISE_COLUMNS], (0..self.timesteps()).flat_map(row).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::ScheduleKind;

    const PREDICTIONS: [Prediction; 5] =
        [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction, Prediction::Edm, Prediction::Flow];

    /// By way of x_{t-1} the signal and the variance of x_t are those of the jump; the last noise is all of the noise
    /// at first, and never more.
    #[test]
    fn two_noises_are_one() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            let s = NoiseSchedule::new(kind, 100);
            let table = s.two_noise_table(Objective::LastNoiseWeighted).unwrap();
            assert_eq!(s.last_noise_share(0), 1.0);
            for t in 0..100 {
                let [signal, sigma, a, b, c_prev, c_last, weight, time] =
                    std::array::from_fn(|k| table.data[t * TWO_NOISE_COLUMNS + k]);
                let alpha_bar = s.alpha_bar(Some(t));
                assert!((a * signal - alpha_bar.sqrt()).abs() < 1e-6 && time == t as f64);
                assert!((a * a * sigma * sigma + b * b - (1.0 - alpha_bar)).abs() < 1e-6);
                assert!((weight * a * a - b * b).abs() < 1e-6 && (c_prev, c_last) == (0.0, 1.0));
                let share = s.last_noise_share(t);
                assert!(share > 0.0 && (t == 0 || share < 1.0));
                assert!((share * (1.0 - alpha_bar).sqrt() - b).abs() < 1e-6);
            }
        }
        assert!(
            NoiseSchedule::new(ScheduleKind::Linear, 9).two_noise_table(Objective::MergedNoise).is_none()
        );
    }

    /// Papers' own formulas for what the network is given and asked for.
    #[test]
    fn targets_are_those_of_the_papers() {
        let (x_0, e) = (0.3, -1.7);
        for kind in [ScheduleKind::Cosine, ScheduleKind::Edm, ScheduleKind::Flow] {
            let s = NoiseSchedule::new(kind, 50);
            let tables = PREDICTIONS.map(|p| (p, s.uniform_table(p)));
            for t in 0..49 {
                let level = s.level(Some(t));
                let (sigma, time) = (level.sigma(), level.flow_time());
                for (prediction, table) in &tables {
                    let row = &table.data[t * SCHEDULE_COLUMNS..];
                    let (given, asked) = (row[0] * x_0 + row[1] * e, row[2] * e + row[3] * x_0);
                    let (x, y) = (level.signal * x_0 + level.noise * e, x_0 + sigma * e);
                    let (expected_given, expected_asked) = match prediction {
                        Prediction::Epsilon => (x, e),
                        Prediction::Sample => (x, x_0),
                        Prediction::VPrediction => (x, level.signal * e - level.noise * x_0),
                        // EDM, table 1, with σ_data² = 0.25.
                        Prediction::Edm => {
                            let total = sigma * sigma + 0.25;
                            let (c_skip, c_out) = (0.25 / total, sigma * 0.5 / total.sqrt());
                            (y / total.sqrt(), (x_0 - c_skip * y) / c_out)
                        }
                        Prediction::Flow => ((1.0 - time) * x_0 + time * e, e - x_0),
                    };
                    let what = format!("{kind:?} {prediction:?} {t}");
                    assert!((given - expected_given).abs() < 1e-9, "{what}: {given} {expected_given}");
                    assert!((asked - expected_asked).abs() < 1e-9, "{what}: {asked} {expected_asked}");
                    assert_eq!((row[4], row[5]), (1.0, s.time(t)));
                }
            }
        }
    }

    /// The weights of the papers, in what each predicts.
    #[test]
    fn weights_are_those_of_the_papers() {
        for sigma in [0.01, 0.3, 1.0, 2.0, 50.0] {
            let level = NoiseLevel::of_sigma(sigma);
            let (snr, t) = (1.0 / (sigma * sigma), sigma / (1.0 + sigma));
            let of = |w: Weighting, p| w.of(level, p, 5.0);
            let (e, x, v) = (Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction);
            let total = sigma * sigma + 0.25;
            for (found, expected) in [
                // arXiv 2303.09556: min(SNR, γ), / SNR, / (SNR + 1).
                (of(Weighting::MinSnr, x), snr.min(5.0)),
                (of(Weighting::MinSnr, e), snr.min(5.0) / snr),
                (of(Weighting::MinSnr, v), snr.min(5.0) / (snr + 1.0)),
                (of(Weighting::Snr, e), 1.0),
                (of(Weighting::Snr, x), snr),
                // arXiv 2204.00227: λ / (1 + SNR) with DDPM's λ, which is 1 for ε.
                (of(Weighting::P2, e), 1.0 / (1.0 + snr)),
                (of(Weighting::Velocity, x), t.max(0.05).powi(-2)),
                (of(Weighting::Velocity, Prediction::Flow), (t / t.max(0.05)).powi(2)),
                // EDM: λ = (σ² + σ_data²) / (σ σ_data)² for x_0 is 1 for what is predicted.
                (of(Weighting::Snr, Prediction::Edm), snr * (sigma * 0.5).powi(2) / total),
            ] {
                assert!((found - expected).abs() < 1e-9 * expected, "{sigma}: {found} {expected}");
            }
            assert!(PREDICTIONS.iter().all(|&p| of(Weighting::Uniform, p) == 1.0));
        }
        // Where there is no signal left.
        let end = NoiseLevel::of_flow_time(1.0);
        assert_eq!(Weighting::MinSnr.of(end, Prediction::Flow, 5.0), 0.0);
        assert_eq!(Weighting::Velocity.of(end, Prediction::Sample, 5.0), 1.0);
    }

    /// Half of all draws lie in the first half of the steps, and 68 % within one deviation.
    #[test]
    fn logit_normal_draws_prefer_the_middle() {
        let s = NoiseSchedule::new(ScheduleKind::Flow, 1000);
        let steps = s.logit_normal_timesteps(0.0, 1.0);
        assert_eq!(steps.iter().filter(|&&t| t < 500).count(), 500);
        let one = |z: f64| 1000.0 / (1.0 + (-z).exp());
        let within = steps.iter().filter(|&&t| (t as f64) < one(1.0) && (t as f64 + 1.0) > one(-1.0)).count();
        assert!((678..=688).contains(&within), "{within}");
        assert!(s.logit_normal_timesteps(3.0, 1e-3).iter().all(|&t| t == 952));
    }
}
