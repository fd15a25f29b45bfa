//! What a network could answer at best with the noise level and without, exactly: for data that are a finite set of pictures
//! the posteriors of picture and noise level are sums.

use crate::diffusion::{NoiseLevel, NoiseSchedule, Prediction, ScheduleKind};
use crate::lab::finite_set::{FiniteSet, normalised};
use crate::ops::Coefficients;
use crate::rng::Philox;

/// Levels of a schedule.
const TIMESTEPS: usize = 1000;
/// Steps of the probability-flow ODE.
pub(super) const STEPS: usize = 50;

/// The ideal denoiser (EDM, arXiv 2206.00364, appendix B.3) of a finite set of pictures, each as likely as another, under the
/// noise of a schedule, each of whose levels is as likely as another: the best that a network can learn of them, with the
/// level or without.
pub(super) struct IdealDenoiser<'a> {
    set: FiniteSet<'a>,
    prediction: Prediction,
    /// In the units of what the network is given.
    pub(super) levels: Vec<NoiseLevel>,
    /// (share of ε, share of x_0) in the target of each.
    targets: Vec<(f64, f64)>,
    /// x_0 from x and the answer at each, and what x is multiplied by there before the network is given it.
    estimates: Vec<Coefficients>,
    scales: Vec<f64>,
}

impl<'a> IdealDenoiser<'a> {
    pub(super) fn new(pictures: &'a [Vec<f64>], kind: ScheduleKind, prediction: Prediction) -> Self {
        let schedule = NoiseSchedule::new(kind, TIMESTEPS);
        let (mut levels, mut targets, mut estimates, mut scales) = (vec![], vec![], vec![], vec![]);
        // The last of flow matching has no σ.
        for level in (0..TIMESTEPS).map(|t| schedule.level(Some(t))).filter(|level| level.signal > 0.0) {
            let scale = level.input_scale(prediction);
            levels.push(NoiseLevel { signal: scale * level.signal, noise: scale * level.noise });
            targets.push(level.target(prediction));
            estimates.push(level.x_0(prediction));
            scales.push(scale);
        }
        Self { set: FiniteSet::new(pictures), prediction, levels, targets, estimates, scales }
    }

    /// The level whose σ is nearest.
    pub(super) fn nearest(&self, sigma: f64) -> usize {
        let distance = |g: usize| (self.levels[g].sigma() / sigma).ln().abs();
        let all = 0..self.levels.len();
        all.min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    }

    /// A picture of the set under the noise of a level.
    pub(super) fn draw(&self, level: usize, rng: &mut Philox) -> Vec<f64> {
        self.set.draw(self.levels[level], rng)
    }

    /// The share of every level given x, and in each of every picture.
    fn posterior(&self, x: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let products = self.set.products(x);
        let each = self.levels.iter().map(|&level| self.set.posterior(level, x, &products));
        let (mut levels, pictures): (Vec<f64>, Vec<Vec<f64>>) = each.unzip();
        normalised(&mut levels);
        (levels, pictures)
    }

    /// The standard deviation of ln SNR given x.
    pub(super) fn deviation(&self, x: &[f64]) -> f64 {
        let shares = self.posterior(x).0;
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            shares.iter().zip(&self.levels).map(|(p, level)| p * f(-2.0 * level.sigma().ln())).sum::<f64>()
        };
        let mean = mean_of(&|l| l);
        mean_of(&|l| (l - mean).powi(2)).sqrt()
    }

    /// The best answer at the level that it is conditioned on, or at an unknown one: E[f | x, level] or E[f | x].
    fn answer(&self, x: &[f64], level: Option<usize>) -> Vec<f64> {
        let (mut of_x, mut of_pictures) = (0.0, vec![0.0; self.set.pictures.len()]);
        // At a level that of ε is (x - signal E x_0) / noise.
        let mut add = |level: usize, share: f64, pictures: &[f64]| {
            let NoiseLevel { signal, noise } = self.levels[level];
            let (of_noise, of_data) = self.targets[level];
            of_x += share * of_noise / noise;
            let each = share * (of_data - of_noise * signal / noise);
            of_pictures.iter_mut().zip(pictures).for_each(|(sum, p)| *sum += each * p);
        };
        match level {
            Some(level) => {
                add(level, 1.0, &self.set.posterior(self.levels[level], x, &self.set.products(x)).1);
            }
            None => {
                let (levels, pictures) = self.posterior(x);
                (0..levels.len()).for_each(|g| add(g, levels[g], &pictures[g]));
            }
        }
        let mut answer: Vec<f64> = x.iter().map(|x| of_x * x).collect();
        for (share, picture) in of_pictures.iter().zip(self.set.pictures) {
            answer.iter_mut().zip(picture).for_each(|(sum, p)| *sum += share * p);
        }
        answer
    }

    /// The mean square per pixel of the error in x_0 without the level: gain² ‖E[f | x] - E[f | x, level]‖² / d.
    pub(super) fn excess(&self, level: usize, x: &[f64]) -> f64 {
        let pairs = self.answer(x, None).into_iter().zip(self.answer(x, Some(level)));
        let square: f64 = pairs.map(|(blind, conditioned)| (blind - conditioned).powi(2)).sum();
        self.estimates[level].p_f.powi(2) * self.estimates[level].k.powi(2) * square / x.len() as f64
    }

    /// A picture drawn along the probability-flow ODE by Euler's method in [`STEPS`] steps, with no clamp.
    pub(super) fn sample(&self, conditioned: bool, rng: &mut Philox) -> Vec<f64> {
        let at = |i: usize| self.levels.len() * (STEPS - i) / STEPS - 1;
        let mut x: Vec<f64> =
            self.set.pictures[0].iter().map(|_| self.levels[at(0)].noise * rng.normal()).collect();
        for i in 0..STEPS {
            let level = at(i);
            let f = self.answer(&x, conditioned.then_some(level));
            let (c, scale, now) = (self.estimates[level], self.scales[level], self.levels[level]);
            let next =
                if i + 1 < STEPS { self.levels[at(i + 1)] } else { NoiseLevel { signal: 1.0, noise: 0.0 } };
            let kept = next.noise / now.noise;
            for (x, f) in x.iter_mut().zip(f) {
                let x_0 = c.k * (c.p_x * *x / scale + c.p_f * f);
                *x = kept * *x + (next.signal - kept * now.signal) * x_0;
            }
        }
        x
    }

    /// The root mean square per pixel of a picture's difference from the nearest of the set.
    pub(super) fn distance(&self, x: &[f64]) -> f64 {
        let square = |p: &Vec<f64>| p.iter().zip(x).map(|(p, x)| (p - x).powi(2)).sum::<f64>();
        let nearest = self.set.pictures.iter().map(square).fold(f64::INFINITY, f64::min);
        (nearest / x.len() as f64).sqrt()
    }

    /// [`Self::excess`] by the formulas of `docs/lab/blind.md`, which hold where x tells the picture and no end of the
    /// schedule is near.
    pub(super) fn expected_excess(&self, level: usize, mean_square: f64) -> f64 {
        let (m, d) = (mean_square, self.set.pictures[0].len() as f64);
        let sigma = self.levels[level].sigma();
        let (t, precision) = (sigma / (1.0 + sigma), sigma.powi(-2));
        match self.prediction {
            Prediction::Epsilon => sigma * sigma * (m + precision) / (d * (m + 2.0 * precision)),
            Prediction::VPrediction => 1.0 / (d * (m + 2.0 * precision)),
            Prediction::Flow => t * t * (1.0 + m) / (d * (2.0 + m)),
            // There is no formula, and a verdict on this one fails.
            Prediction::Sample | Prediction::Edm => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pictures of one pixel: against sums written out by hand.
    #[test]
    fn the_posterior_is_that_of_bayes() {
        let set = vec![vec![1.0], vec![-0.5]];
        let denoiser = IdealDenoiser::new(&set, ScheduleKind::Linear, Prediction::Epsilon);
        let x = 0.3;
        let density = |g: usize, picture: f64| {
            let NoiseLevel { signal, noise } = denoiser.levels[g];
            (-0.5 * ((x - signal * picture) / noise).powi(2)).exp() / noise
        };
        let total: f64 = (0..TIMESTEPS).map(|g| density(g, 1.0) + density(g, -0.5)).sum();
        let (levels, pictures) = denoiser.posterior(&[x]);
        for g in [0, 10, 300, 999] {
            let of_level = density(g, 1.0) + density(g, -0.5);
            assert!((levels[g] - of_level / total).abs() < 1e-12, "{g}");
            if of_level > 0.0 {
                assert!((pictures[g][0] - density(g, 1.0) / of_level).abs() < 1e-12, "{g}");
            }
        }
        // The answer that is expected, and what it lacks against the one with the level.
        let answer = |g: usize| {
            let NoiseLevel { signal, noise } = denoiser.levels[g];
            let (a, b) = (density(g, 1.0), density(g, -0.5));
            if a + b > 0.0 { (x - signal * (a - 0.5 * b) / (a + b)) / noise } else { 0.0 }
        };
        let blind: f64 =
            (0..TIMESTEPS).map(|g| (density(g, 1.0) + density(g, -0.5)) / total * answer(g)).sum();
        let level = 500;
        let expected = (denoiser.levels[level].sigma() * (blind - answer(level))).powi(2);
        assert!((denoiser.excess(level, &[x]) / expected - 1.0).abs() < 1e-9);
    }

    /// With one level there is nothing to know.
    #[test]
    fn a_single_level_costs_nothing() {
        let set = vec![vec![1.0, 0.2], vec![-0.5, 0.1]];
        let mut denoiser = IdealDenoiser::new(&set, ScheduleKind::Flow, Prediction::Flow);
        denoiser.levels = vec![denoiser.levels[400]];
        (denoiser.targets, denoiser.estimates) = (vec![denoiser.targets[400]], vec![denoiser.estimates[400]]);
        assert!(denoiser.excess(0, &[0.3, 0.4]) < 1e-20 && denoiser.deviation(&[0.3, 0.4]) < 1e-7);
    }
}
