//! One noise level, one step of the chain, and what a network may predict, in the notations of the article,
//! DDPM (arXiv 2006.11239), EDM (arXiv 2206.00364) and flow matching (arXiv 2210.02747). `docs/notation.md` has
//! them in one table.

use super::{NoiseSchedule, Prediction};
use crate::ops::Coefficients;

/// The standard deviation of the data that EDM's preconditioning counts on, as in its table 1.
const SIGMA_DATA: f64 = 0.5;

/// How much picture and how much noise: x = signal x_0 + noise ε with signal² + noise² = 1.
///
/// | | the same level | the same picture |
/// |---|---|---|
/// | article | ā = signal | x |
/// | DDPM | ᾱ = signal² | x |
/// | EDM | σ = noise / signal | x_0 + σ ε = x / signal |
/// | flow matching | t = σ / (1 + σ) | (1-t) x_0 + t ε = x / (signal + noise) |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// The share of x_0: the article's ā, DDPM's √ᾱ.
    pub signal: f64,
    /// The share of ε: √(1 - ā²).
    pub noise: f64,
}

impl NoiseLevel {
    /// From the article's ā.
    pub fn of_signal(signal: f64) -> Self {
        // 1 - ā² would lose the digits of a small noise.
        Self { signal, noise: ((1.0 - signal) * (1.0 + signal)).sqrt() }
    }

    /// From DDPM's ᾱ.
    pub fn of_alpha_bar(alpha_bar: f64) -> Self {
        Self { signal: alpha_bar.sqrt(), noise: (1.0 - alpha_bar).sqrt() }
    }

    /// From EDM's σ, the noise of x_0 + σ ε.
    pub fn of_sigma(sigma: f64) -> Self {
        let signal = 1.0 / 1f64.hypot(sigma);
        Self { signal, noise: sigma * signal }
    }

    /// From flow matching's t, 0 at the picture and 1 at the noise.
    pub fn of_flow_time(t: f64) -> Self {
        let length = (1.0 - t).hypot(t);
        Self { signal: (1.0 - t) / length, noise: t / length }
    }

    /// DDPM's ᾱ.
    pub fn alpha_bar(self) -> f64 {
        self.signal * self.signal
    }

    /// EDM's σ; infinite where nothing is left of the picture.
    pub fn sigma(self) -> f64 {
        self.noise / self.signal
    }

    /// Flow matching's t.
    pub fn flow_time(self) -> f64 {
        self.noise / (self.signal + self.noise)
    }

    /// (share of ε, share of x_0) in what the network predicts.
    pub fn target(self, prediction: Prediction) -> (f64, f64) {
        match prediction {
            Prediction::Epsilon => (1.0, 0.0),
            Prediction::Sample => (0.0, 1.0),
            Prediction::VPrediction => (self.signal, -self.noise),
            Prediction::Edm => {
                let scale = self.input_scale(prediction);
                (-SIGMA_DATA * self.signal * scale, self.noise * scale / SIGMA_DATA)
            }
            Prediction::Flow => (1.0, -1.0),
        }
    }

    /// What x is multiplied by before the network is given it: EDM's c_in over that of x, and for flow matching what makes
    /// (1-t) x_0 + t ε of it.
    pub fn input_scale(self, prediction: Prediction) -> f64 {
        match prediction {
            Prediction::Epsilon | Prediction::Sample | Prediction::VPrediction => 1.0,
            Prediction::Edm => 1.0 / (SIGMA_DATA * self.signal).hypot(self.noise),
            Prediction::Flow => 1.0 / (self.signal + self.noise),
        }
    }

    /// x_0 from x and what the network predicts, f: x_0 = k (p_x x + p_f f). The other coefficients are 0.
    pub fn x_0(self, prediction: Prediction) -> Coefficients {
        let Self { signal, noise } = self;
        let scale = self.input_scale(prediction);
        let (p_x, p_f, k) = match prediction {
            Prediction::Epsilon => (1.0, -noise, 1.0 / signal),
            Prediction::Sample => (0.0, 1.0, 1.0),
            Prediction::VPrediction => (signal, -noise, 1.0),
            // D = c_skip x + c_out f (EDM, eq. 7).
            Prediction::Edm => {
                (SIGMA_DATA * SIGMA_DATA * signal * scale * scale, SIGMA_DATA * noise * scale, 1.0)
            }
            // x_0 = ((1-t) x_0 + t ε) - t (ε - x_0).
            Prediction::Flow => (1.0, -noise, scale),
        };
        Coefficients { p_x, p_f, k, ..Coefficients::default() }
    }

    /// ε from x and what the network predicts, f: (e_x, e_f) of ε = e_x x + e_f f.
    pub fn epsilon(self, prediction: Prediction) -> (f64, f64) {
        let Self { signal, noise } = self;
        match prediction {
            Prediction::Epsilon => (0.0, 1.0),
            Prediction::Sample => (1.0 / noise, -signal / noise),
            Prediction::VPrediction => (noise, signal),
            // (x - signal x_0) / noise, without the division.
            Prediction::Edm => {
                let scale = self.input_scale(prediction);
                (noise * scale * scale, -SIGMA_DATA * signal * scale)
            }
            Prediction::Flow => (1.0 / (signal + noise), signal / (signal + noise)),
        }
    }

    /// ∇ log p(x), the score, from the expected ε: -ε / noise (arXiv 2011.13456, by Tweedie's formula).
    pub fn score(self, epsilon: f64) -> f64 {
        -epsilon / self.noise
    }

    /// The expected ε from the score: -noise ∇ log p(x).
    pub fn epsilon_of_score(self, score: f64) -> f64 {
        -self.noise * score
    }
}

/// A step of the chain from one level to a noisier one, and its posterior. With x' before the step and x after it,
/// x = a x' + b ε where a² = α and b² = β.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChainStep {
    /// α = ᾱ_t / ᾱ_s.
    pub alpha: f64,
    /// β = 1 - α, the variance of q(x_t | x_s).
    pub beta: f64,
    /// β̃ = (1 - ᾱ_s) / (1 - ᾱ_t) β, the variance of q(x_s | x_t, x_0) (DDPM, eq. 7).
    pub variance: f64,
    /// Share of x_t in the mean of q(x_s | x_t, x_0): √α (1 - ᾱ_s) / (1 - ᾱ_t).
    pub mean_x: f64,
    /// Share of x_0 in that mean: √ᾱ_s β / (1 - ᾱ_t).
    pub mean_0: f64,
}

impl ChainStep {
    /// Between ᾱ = `now` and, with less noise, ᾱ = `next`.
    pub fn between(now: f64, next: f64) -> Self {
        Self::with_alpha(now / next, now, next)
    }

    /// With α rounded to f32 as in diffusers: 1 - α loses three digits at the first timesteps.
    pub(super) fn rounded(now: f64, next: f64) -> Self {
        Self::with_alpha(f64::from((now / next) as f32), now, next)
    }

    fn with_alpha(alpha: f64, now: f64, next: f64) -> Self {
        let beta = 1.0 - alpha;
        let left = (1.0 - next) / (1.0 - now);
        Self {
            alpha,
            beta,
            variance: left * beta,
            mean_x: alpha.sqrt() * left,
            mean_0: next.sqrt() * beta / (1.0 - now),
        }
    }

    /// The article's way back, x_t = (x_{t+1} - b_t ε_t) / a_t, from the level `now` of x_{t+1}, for a network f that
    /// answers with the whole noise ε of x_{t+1} = ā_t x_0 + √(1-ā_t²) ε and not with its last part ε_t.
    ///
    /// √(1-ā_t²) ε is a sum of independent noises in which ε_t has the share b_t. So the covariance of ε_t and ε is
    /// b_t / √(1-ā_t²), and that times ε is what is to be expected of ε_t:
    ///
    /// x_t = 1 / a_t x_{t+1} - b_t² / (a_t √(1-ā_t²)) f
    ///
    /// This is the mean of DDPM's step (eq. 11), whose noise is left out.
    pub fn article(&self, now: NoiseLevel) -> Coefficients {
        let a = self.alpha.sqrt();
        Coefficients {
            range: UNCLAMPED,
            c_x: 1.0 / a,
            c_f: -self.beta / (a * now.noise),
            ..Coefficients::default()
        }
    }
}

/// Beyond any picture: a clamp that never acts.
pub(super) const UNCLAMPED: f64 = 1e30;

/// x' = c_x x + c_z z, the denoising kernel forwards.
fn noising(c_x: f64, c_z: f64) -> Coefficients {
    Coefficients { range: UNCLAMPED, c_x, c_z, ..Coefficients::default() }
}

impl NoiseSchedule {
    /// Signal and noise after step t, the article's x_{t+1} and DDPM's x_t; no noise before the first step.
    pub fn level(&self, t: Option<usize>) -> NoiseLevel {
        NoiseLevel::of_alpha_bar(self.alpha_bar(t))
    }

    /// The article's a_t, √(1-β_t).
    pub fn a(&self, t: usize) -> f64 {
        (1.0 - self.beta(t)).sqrt()
    }

    /// The article's b_t, √β_t.
    pub fn b(&self, t: usize) -> f64 {
        self.beta(t).sqrt()
    }

    /// One step of the chain as coefficients of the denoising kernel: x_{t+1} = a_t x_t + b_t z.
    pub fn forward_step(&self, t: usize) -> Coefficients {
        noising(self.a(t), self.b(t))
    }

    /// Steps 0 to t at once as coefficients of the denoising kernel: x_{t+1} = ā_t x_0 + √(1-ā_t²) z.
    pub fn jump(&self, t: usize) -> Coefficients {
        let level = self.level(Some(t));
        noising(level.signal, level.noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::ScheduleKind;

    const KINDS: [ScheduleKind; 4] =
        [ScheduleKind::Linear, ScheduleKind::ScaledLinear, ScheduleKind::Cosine, ScheduleKind::Sigmoid];

    /// Relative to the larger of the expected number and 1.
    fn assert_close(found: f64, expected: f64, what: &str) {
        let off = (found - expected).abs() / expected.abs().max(1.0);
        assert!(off < 1e-12, "{what}: found {found}, expected {expected}");
    }

    fn assert_same(found: NoiseLevel, expected: NoiseLevel, what: &str) {
        assert_close(found.signal, expected.signal, what);
        assert_close(found.noise, expected.noise, what);
    }

    /// 1e-12, or the digits that are lost when what cancels to `share` of itself is divided by it.
    fn lost(share: f64) -> f64 {
        1e-12f64.max(2f64.powi(-51) / share)
    }

    /// Every level of every schedule.
    fn levels() -> impl Iterator<Item = NoiseLevel> {
        KINDS.into_iter().flat_map(|kind| {
            let schedule = NoiseSchedule::new(kind, 1000);
            (0..1000).map(move |t| schedule.level(Some(t)))
        })
    }

    #[test]
    fn the_four_views_give_each_other_back() {
        for level in levels() {
            assert_close(level.signal.powi(2) + level.noise.powi(2), 1.0, "signal² + noise²");
            assert_same(NoiseLevel::of_signal(level.signal), level, "article");
            assert_same(NoiseLevel::of_alpha_bar(level.alpha_bar()), level, "DDPM");
            assert_same(NoiseLevel::of_sigma(level.sigma()), level, "EDM");
            assert_same(NoiseLevel::of_flow_time(level.flow_time()), level, "flow matching");
            // And the views among each other, as their papers have them.
            let (sigma, t) = (level.sigma(), level.flow_time());
            assert_close(level.alpha_bar() * (1.0 + sigma * sigma), 1.0, "ᾱ = 1 / (1 + σ²)");
            assert_close(t * (1.0 + sigma), sigma, "t = σ / (1 + σ)");
        }
        let ends = [(0.0, 1.0, 0.0), (1.0, 0.0, f64::INFINITY)];
        for (t, signal, sigma) in ends {
            let level = NoiseLevel::of_flow_time(t);
            assert_eq!((level.signal, level.noise, level.sigma()), (signal, 1.0 - signal, sigma));
        }
    }

    #[test]
    fn the_same_picture_in_every_notation() {
        let (x_0, e) = (0.3, -1.7);
        for level in levels() {
            let x = level.signal * x_0 + level.noise * e;
            assert_close(x / level.signal, x_0 + level.sigma() * e, "EDM");
            let t = level.flow_time();
            assert_close(x / (level.signal + level.noise), (1.0 - t) * x_0 + t * e, "flow matching");
        }
    }

    /// The article's step by which a long sum of noises becomes one.
    #[test]
    fn two_noises_merge_into_one() {
        for kind in KINDS {
            let schedule = NoiseSchedule::new(kind, 1000);
            let mut product = schedule.a(0);
            for t in 1..1000 {
                let (a, b) = (schedule.a(t), schedule.b(t));
                let (before_a, before_b) = (schedule.a(t - 1), schedule.b(t - 1));
                assert_close(a * a + b * b, 1.0, "a² + b²");
                let merged = (a * before_b).powi(2) + b * b;
                assert_close(merged, 1.0 - (a * before_a).powi(2), "two noises");
                // From any level on: (a_t noise)² + b_t² is the next level's.
                let level = NoiseLevel::of_signal(product);
                product *= a;
                assert_close((a * level.noise).powi(2) + b * b, 1.0 - product * product, "all noises so far");
                // The table of ᾱ is rounded to f32 at each of its t products.
                let off = (product / schedule.level(Some(t)).signal - 1.0).abs();
                assert!(off < (t + 1) as f64 * 2f64.powi(-24), "{kind:?} {t}: {off}");
            }
        }
    }

    /// Bayes' rule for Gaussians, whose precisions add: the prior x' ~ N(√ᾱ' x_0, 1-ᾱ'), the likelihood x ~ N(√α x', 1-α).
    #[test]
    fn the_posterior_is_that_of_bayes() {
        for kind in KINDS {
            let schedule = NoiseSchedule::new(kind, 1000);
            for (t, previous) in (1..1000).map(|t| (t, t - 1)).chain((100..1000).map(|t| (t, t - 100))) {
                let (now, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(Some(previous)));
                let step = ChainStep::between(now, next);
                let (prior, likelihood) = (1.0 / (1.0 - next), step.alpha / step.beta);
                let precision = prior + likelihood;
                for (found, expected) in [
                    (step.variance, 1.0 / precision),
                    (step.mean_0, next.sqrt() * prior / precision),
                    (step.mean_x, likelihood / step.alpha.sqrt() / precision),
                ] {
                    assert!((found - expected).abs() < lost(1.0 - now), "{kind:?} {t}: {found} {expected}");
                }
            }
        }
    }

    /// x_0, ε and the score from each of the things that a network may predict.
    #[test]
    fn predictions_give_each_other() {
        let (x_0, e) = (0.3, -1.7);
        for level in levels() {
            let x = level.signal * x_0 + level.noise * e;
            for prediction in [
                Prediction::Epsilon,
                Prediction::Sample,
                Prediction::VPrediction,
                Prediction::Edm,
                Prediction::Flow,
            ] {
                let (of_e, of_x_0) = level.target(prediction);
                let f = of_e * e + of_x_0 * x_0;
                let c = level.x_0(prediction);
                let close = |found: f64, expected: f64, share: f64| {
                    assert!(
                        (found - expected).abs() < lost(share),
                        "{prediction:?} {level:?} {found} {expected}"
                    );
                };
                close(c.k * (c.p_x * x + c.p_f * f), x_0, level.signal);
                let (e_x, e_f) = level.epsilon(prediction);
                close(e_x * x + e_f * f, e, level.noise);
            }
            // The score of x ~ N(signal x_0, noise²) at x, and back.
            let score = level.score(e);
            let expected = -(x - level.signal * x_0) / level.noise.powi(2);
            assert!((score - expected).abs() < lost(level.noise.powi(2)), "{level:?} {score} {expected}");
            assert_close(level.epsilon_of_score(score), e, "score");
        }
    }

    /// The derivation of the expected last noise, in numbers: DDPM's mean with x_0 = (x - noise f) / signal is the
    /// article's update.
    #[test]
    fn the_articles_update_is_the_posterior_mean() {
        for kind in KINDS {
            let schedule = NoiseSchedule::new(kind, 1000);
            for t in 1..1000usize {
                for previous in [Some(t - 1), t.checked_sub(20)] {
                    let (now, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(previous));
                    let (step, level) = (ChainStep::between(now, next), NoiseLevel::of_alpha_bar(now));
                    let c = step.article(level);
                    let bound = lost(1.0 - now) * c.c_x;
                    let of_x = step.mean_x + step.mean_0 / level.signal;
                    let of_f = -step.mean_0 * level.noise / level.signal;
                    assert!((of_x - c.c_x).abs() < bound, "{kind:?} {t}: {of_x} {}", c.c_x);
                    assert!((of_f - c.c_f).abs() < bound, "{kind:?} {t}: {of_f} {}", c.c_f);
                }
            }
        }
    }
}
