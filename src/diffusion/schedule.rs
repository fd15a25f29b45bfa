//! Noise schedules: how much of the picture is left at each step.
//!
//! The article writes x_{t+1} = a_t x_t + b_t ε_t with a_t² + b_t² = 1 and ā_t = a_0 … a_t. DDPM (arXiv
//! 2006.11239) writes α_t = a_t², β_t = b_t² and ᾱ_t = ā_t². Both say the same; everything here is f64.

use super::{ChainStep, NoiseLevel, SchedulerConfig};
use crate::ops::{SCHEDULE_COLUMNS, TWO_NOISE_COLUMNS};
use crate::tensor::Array;
use serde::{Deserialize, Serialize};

/// How β_t runs from the first to the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β from 1e-4 to 0.02 in equal steps (DDPM, section 4).
    Linear,
    /// √β in equal steps between the same ends (latent diffusion, arXiv 2112.10752).
    ScaledLinear,
    /// ᾱ_t as a squared cosine, β at most 0.999 (arXiv 2102.09672, eq. 17).
    #[value(name = "squaredcos_cap_v2")]
    #[serde(rename = "squaredcos_cap_v2")]
    Cosine,
    /// β along a logistic curve from -6 to 6 between the same ends (GeoDiff, arXiv 2203.02923).
    Sigmoid,
}

/// What the network is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε (DDPM, eq. 12).
    Epsilon,
    /// The clean picture x_0.
    Sample,
    /// v = ā ε - √(1-ā²) x_0 (Salimans & Ho, arXiv 2202.00512, appendix D).
    VPrediction,
}

/// What the loss compares the network's answer with. All but the first are the article's, which looks at the last
/// step alone, x_t = a x_{t-1} + b ε; the first is what every paper since DDPM does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// All of the noise in one draw, or what --prediction makes of it.
    #[default]
    MergedNoise,
    /// The picture one step before, x_{t-1}; the network is not told t.
    PreviousWithoutTime,
    /// The picture one step before, x_{t-1}.
    Previous,
    /// The noise of the last step alone, under the weight (b/a)² that the picture's error has.
    LastNoiseWeighted,
    /// The noise of the last step alone.
    LastNoise,
}

impl Objective {
    /// Its name on the command line and in files.
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Whether the network answers with the picture one step before.
    pub fn predicts_previous(self) -> bool {
        matches!(self, Self::PreviousWithoutTime | Self::Previous)
    }
}

/// ᾱ_t for t = 0 .. T-1, rounded to f32 as in diffusers' table. Near t = 0 the rounding is seen: 1 - ᾱ_0 is
/// 1e-4, of which f32 keeps three digits, so that a network trained by one table and sampled by another would
/// be told of a noise that is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alpha_bar: Vec<f64>,
}

/// Rounded to f32.
fn rounded(x: f64) -> f64 {
    f64::from(x as f32)
}

/// Number t of `count` numbers from `first` to `last` in f32, as `torch.linspace` counts them: from the nearer end.
/// One unit in the last place of β is 5e-6 of the variance β̃ at small t, where 1 - ᾱ keeps few digits.
fn evenly(first: f64, last: f64, count: usize, t: usize) -> f64 {
    if count < 2 {
        return rounded(first);
    }
    let step = rounded(rounded(rounded(last) - rounded(first)) / (count - 1) as f64);
    let exact = if t < count / 2 {
        rounded(first) + step * t as f64
    } else {
        rounded(last) - step * (count - 1 - t) as f64
    };
    rounded(exact)
}

impl NoiseSchedule {
    /// The schedule of `steps` steps between the usual ends, β from 1e-4 to 0.02.
    pub fn new(kind: BetaSchedule, steps: usize) -> Self {
        Self::between(kind, steps, 1e-4, 0.02)
    }

    /// The schedule of `steps` steps with β from `first` to `last`; the cosine schedule has ends of its own.
    pub fn between(kind: BetaSchedule, steps: usize, first: f64, last: f64) -> Self {
        let beta = |t: usize| match kind {
            BetaSchedule::Linear => evenly(first, last, steps, t),
            BetaSchedule::ScaledLinear => evenly(first.sqrt(), last.sqrt(), steps, t).powi(2),
            BetaSchedule::Cosine => {
                // f(t) = cos²((t/T + 0.008) / 1.008 · π/2)
                let f =
                    |t: f64| ((t / steps as f64 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                (1.0 - f(t as f64 + 1.0) / f(t as f64)).min(0.999)
            }
            BetaSchedule::Sigmoid => {
                let logistic = rounded(1.0 / rounded(1.0 + rounded((-evenly(-6.0, 6.0, steps, t)).exp())));
                rounded(logistic * rounded(last - first)) + rounded(first)
            }
        };
        Self::from_betas((0..steps).map(beta))
    }

    /// The schedule with these β.
    pub fn from_betas(betas: impl IntoIterator<Item = f64>) -> Self {
        let betas: Vec<f64> = betas.into_iter().map(rounded).collect();
        let mut product = 1.0;
        let alpha_bar = betas
            .iter()
            .map(|beta| {
                product *= rounded(1.0 - beta);
                rounded(product)
            })
            .collect();
        Self { betas, alpha_bar }
    }

    /// The schedule of a scheduler's configuration.
    pub fn of(config: &SchedulerConfig) -> Self {
        let schedule = match &config.trained_betas {
            Some(betas) => Self::from_betas(betas.iter().copied()),
            None => Self::between(
                config.beta_schedule,
                config.num_train_timesteps,
                config.beta_start,
                config.beta_end,
            ),
        };
        if config.rescale_betas_zero_snr { schedule.zero_terminal_snr() } else { schedule }
    }

    /// √ᾱ shifted and stretched so that its first value stays and its last is 0 (arXiv 2305.08891, algorithm 1).
    fn zero_terminal_snr(&self) -> Self {
        let root: Vec<f64> = self.alpha_bar.iter().map(|a| rounded(a.sqrt())).collect();
        let (first, last) = (root[0], root[root.len() - 1]);
        let alpha_bar: Vec<f64> =
            root.iter().map(|r| rounded(((r - last) * first / (first - last)).powi(2))).collect();
        let before = std::iter::once(&1.0).chain(&alpha_bar);
        Self::from_betas(before.zip(&alpha_bar).map(|(before, a)| 1.0 - rounded(a / before)))
    }

    /// β_t of DDPM.
    pub fn beta(&self, t: usize) -> f64 {
        self.betas[t]
    }

    /// The number of steps T.
    pub fn steps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// ᾱ_t of DDPM, the squared signal; 1 for a time before the first step.
    pub fn alpha_bar(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.alpha_bar[t])
    }

    /// The step of the chain from `previous` to `t`, its α rounded to f32 as in diffusers.
    pub fn step(&self, t: usize, previous: Option<usize>) -> ChainStep {
        let (now, next) = (self.alpha_bar(Some(t)), self.alpha_bar(previous));
        ChainStep::rounded(now, next)
    }

    /// b_{t-1} / √(1 - ā_{t-1}²), at most 1: how much of all the noise in x_t is that of the last step. With x_0 and x_t
    /// known, the last noise is this times the merged noise in the mean, and its variance is 1 less the square of this.
    pub fn last_noise_share(&self, t: usize) -> f64 {
        (self.step(t, t.checked_sub(1)).beta / (1.0 - self.alpha_bar[t])).sqrt()
    }

    /// Row t of the table of [`crate::ops::AddTwoNoises`] for a target c_prev x_{t-1} + c_last ε.
    pub fn two_noise_row(&self, t: usize, [c_prev, c_last, weight]: [f64; 3]) -> [f64; TWO_NOISE_COLUMNS] {
        let before = self.alpha_bar(t.checked_sub(1));
        let ChainStep { alpha, beta, .. } = self.step(t, t.checked_sub(1));
        [before.sqrt(), (1.0 - before).sqrt(), alpha.sqrt(), beta.sqrt(), c_prev, c_last, weight]
    }

    /// The table (T, 7) of [`crate::ops::AddTwoNoises`] for an objective of the article's; `None` for the one that
    /// draws a single noise.
    pub fn two_noise_table(&self, objective: Objective) -> Option<Array> {
        let target: fn(ChainStep) -> [f64; 3] = match objective {
            Objective::MergedNoise => return None,
            Objective::PreviousWithoutTime | Objective::Previous => |_| [1.0, 0.0, 1.0],
            Objective::LastNoiseWeighted => |step| [0.0, 1.0, step.beta / step.alpha],
            Objective::LastNoise => |_| [0.0, 1.0, 1.0],
        };
        let row = |t: usize| self.two_noise_row(t, target(self.step(t, t.checked_sub(1))));
        Some(Array::new([self.steps(), TWO_NOISE_COLUMNS], (0..self.steps()).flat_map(row).collect()))
    }

    /// The table of [`crate::ops::AddNoise`]: (T, 5) signal, sigma, target_noise, target_data, weight.
    pub fn training_table(&self, prediction: Prediction) -> Array {
        let rows = self.alpha_bar.iter().flat_map(|&alpha_bar| {
            let level = NoiseLevel::of_alpha_bar(alpha_bar);
            let (noise, data) = level.target(prediction);
            [level.signal, level.noise, noise, data, 1.0]
        });
        Array::new([self.steps(), SCHEDULE_COLUMNS], rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DDPM's own numbers: with T = 1000 and linear β, √ᾱ_T is about 0.00635.
    #[test]
    fn linear_ends_in_noise() {
        let s = NoiseSchedule::new(BetaSchedule::Linear, 1000);
        assert!((s.alpha_bar(Some(0)) - 0.9999).abs() < 6e-8);
        assert!((s.alpha_bar(Some(999)) - 4.035_830e-5).abs() < 1e-9);
    }

    #[test]
    fn every_schedule_decreases_within_the_unit_interval() {
        for kind in
            [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::Cosine, BetaSchedule::Sigmoid]
        {
            for steps in [1, 2, 10, 1000] {
                let s = NoiseSchedule::new(kind, steps);
                assert!(s.alpha_bar.windows(2).all(|w| w[1] < w[0]));
                assert!(s.alpha_bar.iter().all(|&a| a > 0.0 && a < 1.0), "{kind:?} {steps}");
            }
        }
    }

    /// By way of x_{t-1} the signal and the variance of x_t are those of the jump; the last noise is all of the noise
    /// at first, and never more.
    #[test]
    fn two_noises_are_one() {
        for kind in [BetaSchedule::Linear, BetaSchedule::Cosine] {
            let s = NoiseSchedule::new(kind, 100);
            let table = s.two_noise_table(Objective::LastNoiseWeighted).unwrap();
            assert_eq!(s.last_noise_share(0), 1.0);
            for t in 0..100 {
                let [signal, sigma, a, b, c_prev, c_last, weight] =
                    std::array::from_fn(|k| table.data[t * TWO_NOISE_COLUMNS + k]);
                let alpha_bar = s.alpha_bar(Some(t));
                assert!((a * signal - alpha_bar.sqrt()).abs() < 1e-6);
                assert!((a * a * sigma * sigma + b * b - (1.0 - alpha_bar)).abs() < 1e-6);
                assert!((weight * a * a - b * b).abs() < 1e-6 && (c_prev, c_last) == (0.0, 1.0));
                let share = s.last_noise_share(t);
                assert!(share > 0.0 && (t == 0 || share < 1.0));
                assert!((share * (1.0 - alpha_bar).sqrt() - b).abs() < 1e-6);
            }
        }
        assert!(
            NoiseSchedule::new(BetaSchedule::Linear, 9).two_noise_table(Objective::MergedNoise).is_none()
        );
    }

    /// x_0 and ε are recovered from x_t and any prediction target.
    #[test]
    fn v_is_a_rotation() {
        let s = NoiseSchedule::new(BetaSchedule::Cosine, 50);
        let table = s.training_table(Prediction::VPrediction);
        for t in 0..50 {
            let row = &table.data[t * SCHEDULE_COLUMNS..];
            let (x0, e) = (0.3, -1.7);
            let x_t = row[0] * x0 + row[1] * e;
            let v = row[2] * e + row[3] * x0;
            assert!((row[0] * x_t - row[1] * v - x0).abs() < 1e-12);
            assert!((row[1] * x_t + row[0] * v - e).abs() < 1e-12);
        }
    }
}
