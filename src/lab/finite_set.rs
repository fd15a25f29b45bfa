//! Data of which everything is known: a finite set of pictures, each as likely as another. Once a noisy picture is seen,
//! the chances of all of them are a sum by Bayes' rule, in f64, with no network in between.

use crate::diffusion::NoiseLevel;
use crate::rng::Philox;

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Numbers that are these but for a factor with the given logarithms and have the sum 1; and the logarithm of the sum.
pub(super) fn normalised(logs: &mut [f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter_mut().for_each(|l| *l = (*l - largest).exp());
    let sum: f64 = logs.iter().sum();
    logs.iter_mut().for_each(|l| *l /= sum);
    largest + sum.ln()
}

/// Pictures of d pixels, each as likely as another.
pub(super) struct FiniteSet<'a> {
    pub(super) pictures: &'a [Vec<f64>],
    /// Of each with itself.
    squares: Vec<f64>,
}

impl<'a> FiniteSet<'a> {
    pub(super) fn new(pictures: &'a [Vec<f64>]) -> Self {
        Self { pictures, squares: pictures.iter().map(|p| dot(p, p)).collect() }
    }

    /// A picture of the set under the noise of a level.
    pub(super) fn draw(&self, NoiseLevel { signal, noise }: NoiseLevel, rng: &mut Philox) -> Vec<f64> {
        let picture = &self.pictures[rng.below(self.pictures.len())];
        picture.iter().map(|x| signal * x + noise * rng.normal()).collect()
    }

    /// What x says of each picture: its product with x.
    pub(super) fn products(&self, x: &[f64]) -> Vec<f64> {
        self.pictures.iter().map(|p| dot(x, p)).collect()
    }

    /// ln p(x | level) but for a constant, and the share of every picture in it. Bayes' rule: p(x | level, picture) is
    /// normal with mean signal x_0 and deviation noise. `products` are those of x.
    pub(super) fn posterior(&self, level: NoiseLevel, x: &[f64], products: &[f64]) -> (f64, Vec<f64>) {
        let (length, NoiseLevel { signal, noise }) = (dot(x, x), level);
        let exponent = |(along, square): (&f64, &f64)| {
            -0.5 * (length - 2.0 * signal * along + signal * signal * square) / (noise * noise)
        };
        let mut shares: Vec<f64> = products.iter().zip(&self.squares).map(exponent).collect();
        let evidence = normalised(&mut shares) - x.len() as f64 * noise.ln();
        (evidence, shares)
    }

    /// Mean and variance of the picture whose shares these are; the variance is summed over its pixels.
    pub(super) fn moments(&self, shares: &[f64]) -> (Vec<f64>, f64) {
        // Shares too small to change a sum in f64 are most of them where the noise is low.
        let seen = || self.pictures.iter().zip(shares).filter(|(_, share)| **share > 1e-20);
        let mut mean = vec![0.0; self.pictures[0].len()];
        for (picture, share) in seen() {
            mean.iter_mut().zip(picture).for_each(|(m, p)| *m += share * p);
        }
        let square = |p: &[f64]| p.iter().zip(&mean).map(|(p, m)| (p - m).powi(2)).sum::<f64>();
        let variance = seen().map(|(picture, share)| share * square(picture)).sum();
        (mean, variance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::normal_quantile;

    /// 4001 quantiles of a normal distribution stand for it. Of normal data everything is known in closed form: with
    /// x = signal x_0 + noise ε the mean of x_0 is signal v x / (signal² v + noise²), its variance v noise² over the same.
    #[test]
    fn of_normal_data_mean_and_variance_are_those_in_closed_form() {
        let deviation: f64 = 0.7;
        let v = deviation * deviation;
        let quantile = |i: u32| vec![deviation * normal_quantile((f64::from(i) + 0.5) / 4001.0)];
        let pictures: Vec<Vec<f64>> = (0..4001).map(quantile).collect();
        let set = FiniteSet::new(&pictures);
        for alpha_bar in [0.999, 0.9, 0.5, 0.1, 1e-3] {
            let level = NoiseLevel::of_alpha_bar(alpha_bar);
            let total = alpha_bar * v + 1.0 - alpha_bar;
            for x in [-0.6, 0.0, 0.4] {
                let (evidence, shares) = set.posterior(level, &[x], &set.products(&[x]));
                let (mean, variance) = set.moments(&shares);
                let expected = level.signal * v * x / total;
                assert!(
                    (mean[0] - expected).abs() < 2e-3 * deviation,
                    "{alpha_bar} {x}: {mean:?} {expected}"
                );
                let expected = v * (1.0 - alpha_bar) / total;
                assert!((variance / expected - 1.0).abs() < 5e-3, "{alpha_bar} {x}: {variance} {expected}");
                // The sum is over 4001 densities without 1 / √(2π).
                let density = evidence.exp() / 4001.0 / std::f64::consts::TAU.sqrt();
                let expected = (-0.5 * x * x / total).exp() / (std::f64::consts::TAU * total).sqrt();
                assert!((density / expected - 1.0).abs() < 2e-3, "{alpha_bar} {x}: {density} {expected}");
            }
        }
    }

    #[test]
    fn two_pictures_by_hand() {
        let pictures = [vec![1.0, 0.0], vec![-1.0, 2.0]];
        let set = FiniteSet::new(&pictures);
        // Half way between both.
        let (_, shares) =
            set.posterior(NoiseLevel::of_alpha_bar(0.5), &[0.0, 0.5f64.sqrt()], &[0.0, 2f64.sqrt()]);
        assert!((shares[0] - 0.5).abs() < 1e-12);
        assert_eq!(set.moments(&[0.75, 0.25]), (vec![0.5, 0.5], 0.75 * 0.5 + 0.25 * 4.5));
    }
}
