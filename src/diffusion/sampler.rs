//! Samplers as coefficients of the one denoising kernel (`shaders/denoise.wgsl`):
//! x_0 = clamp(k_x x + k_f f), x' = c_x x + c_f f + c_0 x_0 + c_z z.

use super::{NoiseSchedule, Prediction};
use crate::ops::COEFFICIENTS;
use serde::{Deserialize, Serialize};

/// A way back from noise to a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Ancestral sampling from the posterior (DDPM, arXiv 2006.11239, eq. 6 and 7).
    Ddpm,
    /// The non-Markovian process, deterministic at η = 0 (DDIM, arXiv 2010.02502, eq. 12).
    Ddim,
}

/// How to sample.
#[derive(Clone, Copy, Debug)]
pub struct SamplerOptions {
    /// Which update.
    pub sampler: Sampler,
    /// Network evaluations.
    pub steps: usize,
    /// Noise of DDIM: 0 deterministic, 1 as much as DDPM.
    pub eta: f64,
    /// Whether the predicted x_0 is clamped to [-1, 1].
    pub clip: bool,
}

/// One network evaluation and the update after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerStep {
    /// The t given to the network.
    pub timestep: usize,
    /// k_x, k_f, low, high, c_x, c_f, c_0, c_z.
    pub coefficients: [f32; COEFFICIENTS],
}

/// The steps of a sampler, from noise to picture.
///
/// Timesteps are spaced as diffusers' "leading": i ⌊T/S⌋ for i = S-1 .. 0. Steps must be in 1..=T.
pub fn sampler_steps(
    schedule: &NoiseSchedule,
    prediction: Prediction,
    options: &SamplerOptions,
) -> Vec<SamplerStep> {
    let stride = schedule.steps() / options.steps;
    (0..options.steps)
        .rev()
        .map(|i| {
            let t = i * stride;
            let previous = t.checked_sub(stride);
            let (now, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(previous));
            let (signal, sigma) = (now.sqrt(), (1.0 - now).sqrt());
            // x_0 = k_x x + k_f f and ε = e_x x + e_f f, for what the network predicts.
            let ((k_x, k_f), (e_x, e_f)) = match prediction {
                Prediction::Epsilon => ((1.0 / signal, -sigma / signal), (0.0, 1.0)),
                Prediction::Sample => ((0.0, 1.0), (1.0 / sigma, -signal / sigma)),
                Prediction::VPrediction => ((signal, -sigma), (sigma, signal)),
            };
            // Variance of q(x_{t-1} | x_t, x_0): β̃ = (1 - ᾱ') / (1 - ᾱ) (1 - ᾱ / ᾱ').
            let alpha = now / next;
            let posterior = (1.0 - next) / (1.0 - now) * (1.0 - alpha);
            let (c_x, c_f, c_0, c_z) = match options.sampler {
                Sampler::Ddpm => {
                    let c_0 = next.sqrt() * (1.0 - alpha) / (1.0 - now);
                    let c_x = alpha.sqrt() * (1.0 - next) / (1.0 - now);
                    (c_x, 0.0, c_0, if t > 0 { posterior.sqrt() } else { 0.0 })
                }
                Sampler::Ddim => {
                    let c_z = options.eta * posterior.sqrt();
                    let direction = (1.0 - next - c_z * c_z).max(0.0).sqrt();
                    (direction * e_x, direction * e_f, next.sqrt(), c_z)
                }
            };
            // Far beyond any f32 picture: a clamp that never acts.
            let bound = if options.clip { 1.0 } else { 1e30 };
            SamplerStep {
                timestep: t,
                coefficients: [k_x, k_f, -bound, bound, c_x, c_f, c_0, c_z].map(|c| c as f32),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::BetaSchedule;

    const OPTIONS: SamplerOptions =
        SamplerOptions { sampler: Sampler::Ddim, steps: 50, eta: 0.0, clip: false };

    /// With the true ε for every x, DDIM walks the line x = ā x_0 + √(1-ā²) ε exactly to x_0.
    #[test]
    fn ddim_is_exact_for_the_true_noise() {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000);
        let (x0, e) = (0.4, -0.9);
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction] {
            let steps = sampler_steps(&schedule, prediction, &OPTIONS);
            let start = schedule.alpha_bar(Some(steps[0].timestep));
            let mut x = start.sqrt() * x0 + (1.0 - start).sqrt() * e;
            for step in &steps {
                let a = schedule.alpha_bar(Some(step.timestep));
                let f = match prediction {
                    Prediction::Epsilon => e,
                    Prediction::Sample => x0,
                    Prediction::VPrediction => a.sqrt() * e - (1.0 - a).sqrt() * x0,
                };
                let [k_x, k_f, _, _, c_x, c_f, c_0, _] = step.coefficients.map(f64::from);
                x = c_x * x + c_f * f + c_0 * (k_x * x + k_f * f);
            }
            assert!((x - x0).abs() < 1e-4, "{prediction:?}: {x}");
        }
    }

    /// DDPM's posterior mean and variance against Bayes' rule for Gaussians, at every t.
    #[test]
    fn ddpm_is_the_posterior() {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 100);
        let options = SamplerOptions { sampler: Sampler::Ddpm, steps: 100, ..OPTIONS };
        for step in sampler_steps(&schedule, Prediction::Sample, &options) {
            let t = step.timestep;
            if t == 0 {
                continue;
            }
            let (now, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(Some(t - 1)));
            // Prior x' ~ N(√ᾱ' x_0, 1 - ᾱ'), likelihood x ~ N(√α x', 1 - α).
            let alpha = now / next;
            let precision = 1.0 / (1.0 - next) + alpha / (1.0 - alpha);
            let c = step.coefficients.map(f64::from);
            assert!((c[6] - next.sqrt() / (1.0 - next) / precision).abs() < 1e-6);
            assert!((c[4] - alpha.sqrt() / (1.0 - alpha) / precision).abs() < 1e-6);
            assert!((c[7] - (1.0 / precision).sqrt()).abs() < 1e-6);
        }
    }

    #[test]
    fn ddim_with_eta_one_has_the_posterior_variance() {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000);
        let ddim = sampler_steps(&schedule, Prediction::Epsilon, &SamplerOptions { eta: 1.0, ..OPTIONS });
        let ddpm = sampler_steps(
            &schedule,
            Prediction::Epsilon,
            &SamplerOptions { sampler: Sampler::Ddpm, ..OPTIONS },
        );
        for (a, b) in ddim.iter().zip(&ddpm).filter(|(a, _)| a.timestep > 0) {
            assert!((a.coefficients[7] - b.coefficients[7]).abs() < 1e-6);
        }
    }
}
