//! Noise schedules: how much of the picture is left at each step.
//!
//! The article writes x_{t+1} = a_t x_t + b_t ε_t with a_t² + b_t² = 1 and ā_t = a_0 … a_t. DDPM (arXiv
//! 2006.11239) writes α_t = a_t², β_t = b_t² and ᾱ_t = ā_t². Both say the same; everything here is f64.

use crate::ops::SCHEDULE_COLUMNS;
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

/// ᾱ_t for t = 0 .. T-1.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    alpha_bar: Vec<f64>,
}

impl NoiseSchedule {
    /// The schedule of `steps` steps. `steps` must not be zero.
    pub fn new(kind: BetaSchedule, steps: usize) -> Self {
        const FIRST: f64 = 1e-4;
        const LAST: f64 = 0.02;
        let fraction = |t: usize| if steps > 1 { t as f64 / (steps - 1) as f64 } else { 0.0 };
        let beta = |t: usize| match kind {
            BetaSchedule::Linear => FIRST + (LAST - FIRST) * fraction(t),
            BetaSchedule::ScaledLinear => (FIRST.sqrt() + (LAST.sqrt() - FIRST.sqrt()) * fraction(t)).powi(2),
            BetaSchedule::Cosine => {
                // f(t) = cos²((t/T + 0.008) / 1.008 · π/2)
                let f =
                    |t: f64| ((t / steps as f64 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                (1.0 - f(t as f64 + 1.0) / f(t as f64)).min(0.999)
            }
        };
        let mut product = 1.0;
        let alpha_bar = (0..steps)
            .map(|t| {
                product *= 1.0 - beta(t);
                product
            })
            .collect();
        Self { alpha_bar }
    }

    /// The number of steps T.
    pub fn steps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// ᾱ_t of DDPM, the squared signal; 1 for a time before the first step.
    pub fn alpha_bar(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.alpha_bar[t])
    }

    /// The table of [`crate::ops::AddNoise`]: (T, 5) signal, sigma, target_noise, target_data, weight.
    pub fn training_table(&self, prediction: Prediction) -> Array {
        let rows = self.alpha_bar.iter().flat_map(|&alpha_bar| {
            let (signal, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
            let (noise, data) = match prediction {
                Prediction::Epsilon => (1.0, 0.0),
                Prediction::Sample => (0.0, 1.0),
                Prediction::VPrediction => (signal, -sigma),
            };
            [signal, sigma, noise, data, 1.0]
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
        assert!((s.alpha_bar(Some(0)) - 0.9999).abs() < 1e-12);
        assert!((s.alpha_bar(Some(999)) - 4.035_830e-5).abs() < 1e-9);
    }

    #[test]
    fn every_schedule_decreases_within_the_unit_interval() {
        for kind in [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::Cosine] {
            for steps in [1, 2, 10, 1000] {
                let s = NoiseSchedule::new(kind, steps);
                assert!(s.alpha_bar.windows(2).all(|w| w[1] < w[0]));
                assert!(s.alpha_bar.iter().all(|&a| a > 0.0 && a < 1.0), "{kind:?} {steps}");
            }
        }
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
