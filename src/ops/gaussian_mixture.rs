//! The exact answer of a perfect network, where the data are a mixture of Gaussians (`shaders/gaussian_mixture.wgsl`).

use super::words::words;
use super::{Case, Fill, expect_f32};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Spec, Tolerance};

static SHADER: Source = crate::wgsl!("gaussian_mixture");

/// Numbers of a component before its mean: weight and standard deviation.
const BEFORE_MEAN: usize = 2;
/// The shader holds a point in one vector.
const MOST_CHANNELS: usize = 4;

words! {
    /// How much of a point is left, and how much noise is on it.
    MixtureLevel {
        /// Share of x_0.
        signal,
        /// Share of ε.
        noise,
    }
}

/// E\[ε | x\] for x = signal x_0 + noise ε: inputs [x (N, ..., C), components (K, 2 + C), [`MixtureLevel`]]; output as x.
///
/// x_0 is from the mixture with density Σ_k w_k N(μ_k, s_k² I), a component's row being w_k, s_k and the C numbers of
/// μ_k, C from 1 to 4; level is signal and noise. Weights must be positive and need not add up to 1; s_k may be 0 if
/// noise is not. By Bayes' rule component k has variance v_k = signal² s_k² + noise² at x and the share
/// r_k ∝ w_k v_k^(-C/2) exp(-|x - signal μ_k|² / 2 v_k), so that
///
/// E\[ε | x\] = noise Σ_k r_k (x - signal μ_k) / v_k = -noise ∇ log p(x),
///
/// the second by Tweedie's formula (Efron, "Tweedie's formula and selection bias", JASA 2011, eq. 1.2; for diffusion
/// Song et al., arXiv 2011.13456, appendix B).
#[derive(Debug, Clone)]
pub struct GaussianMixture;

/// Share of a component before they are divided by their sum, as a logarithm; v_k; and x - signal μ_k.
fn seen(x: &[f64], component: &[f64], signal: f64, noise: f64) -> (f64, f64, Vec<f64>) {
    let (weight, deviation, mean) = (component[0], component[1], &component[BEFORE_MEAN..]);
    let variance = (signal * deviation).powi(2) + noise * noise;
    let offset: Vec<f64> = x.iter().zip(mean).map(|(x, m)| x - signal * m).collect();
    let square: f64 = offset.iter().map(|d| d * d).sum();
    let log_weight = weight.ln() - 0.5 * x.len() as f64 * variance.ln() - 0.5 * square / variance;
    (log_weight, variance, offset)
}

impl Op for GaussianMixture {
    fn name(&self) -> &'static str {
        "gaussian_mixture"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("gaussian_mixture", x, 3)?;
        let channels = x[0].shape.last();
        ensure_shape!(
            "gaussian_mixture",
            x[0].shape.rank() >= 2 && (1..=MOST_CHANNELS).contains(&channels),
            "x must be (points, ..., channels) with 1 to 4 channels, found {:?}",
            x[0]
        );
        let axes = x[1].shape.axes();
        ensure_shape!(
            "gaussian_mixture",
            axes.len() == 2 && axes[0] > 0 && axes[1] == BEFORE_MEAN + channels,
            "the components must be (count, {}): weight, deviation and {channels} number(s) of the mean; found {:?}",
            BEFORE_MEAN + channels,
            x[1]
        );
        ensure_shape!(
            "gaussian_mixture",
            x[2] == Spec::f32([MixtureLevel::WORDS]),
            "the level must be f32(2), signal and noise; found {:?}",
            x[2]
        );
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (points, components) = (&x[0], &x[1]);
        let MixtureLevel { signal, noise } = MixtureLevel::of(&x[2].data);
        let channels = points.shape.last();
        let mut y = Vec::with_capacity(points.data.len());
        for point in points.data.chunks(channels) {
            let rows = components.data.chunks(BEFORE_MEAN + channels);
            let rows: Vec<_> = rows.map(|row| seen(point, row, signal, noise)).collect();
            let largest = rows.iter().fold(f64::NEG_INFINITY, |l, (log_weight, ..)| l.max(*log_weight));
            let (mut total, mut sum) = (0.0, vec![0.0; channels]);
            for (log_weight, variance, offset) in rows {
                let r = (log_weight - largest).exp();
                total += r;
                sum.iter_mut().zip(offset).for_each(|(sum, d)| *sum += r * d / variance);
            }
            y.extend(sum.iter().map(|sum| noise * sum / total));
        }
        vec![Array { shape: points.shape.clone(), data: y }]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // Each component is looked at twice: some 5 operations a channel, and 15.
        let [components, channels] = [x[1].shape[0], x[0].shape.last()];
        Cost::elementwise(x, y, (2 * components * (5 * channels + 15)).div_ceil(channels) as u64)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let points = x[0].shape.rows();
        // Written into the shader, so that the loops over channels unroll and the vectors stay in registers.
        let variant = Variant::base().with("CHANNELS", format!("{}u", x[0].shape.last()));
        Dispatch::new(&SHADER, "posterior_noise")
            .variant(variant)
            .bind("x", Operand::Input(0))
            .bind("components", Operand::Input(1))
            .bind("level", Operand::Input(2))
            .bind("y", Operand::Output(0))
            .param("points", points)
            .param("components", x[1].shape[0])
            .linear(points, 64)
            .into()
    }
}

/// A ring of components, each with another weight and deviation.
fn ring(count: usize, channels: usize) -> Vec<f64> {
    let row = |k: usize| {
        let part = k as f64 / count as f64;
        let mean = (0..channels).map(move |c| 2.0 * (std::f64::consts::TAU * part + c as f64).cos());
        [0.2 + part, 0.3 + 0.5 * part].into_iter().chain(mean)
    };
    (0..count).flat_map(row).collect()
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    // A share is wrong by as much as its exponent, which reaches some 50 where x lies between two narrow components:
    // 50 · 6e-8.
    let tolerance = Tolerance { absolute: 2e-5, relative: 1e-5 };
    let case = |name: String, shape: &[usize], components: usize, signal: f64, noise: f64| {
        let channels = shape[shape.len() - 1];
        let x = [Spec::f32(shape), Spec::f32([components, BEFORE_MEAN + channels]), Spec::f32([2])];
        Case::new(name, GaussianMixture, &x)
            .fill(1, Fill::Values(ring(components, channels)))
            .fill(2, MixtureLevel { signal, noise }.words().into())
            .tolerance(tolerance)
            .no_gradient()
    };
    let mut cases = Vec::new();
    for (shape, components) in [
        (vec![1, 1], 1),
        (vec![1, 2], 3),
        (vec![65, 2], 1),
        (vec![257, 2], 4),
        (vec![7, 3, 5, 3], 5),
        (vec![130, 4], 9),
    ] {
        for (signal, noise) in [(0.8, 0.6), (1.0, 1e-3), (6e-3, 1.0)] {
            let name = format!("{:?}, {components} component(s), noise {noise}", Spec::f32(shape.clone()));
            cases.push(case(name, &shape, components, signal, noise));
        }
    }
    // Without the shift every exponential is 0.
    cases.push(case("far from all".into(), &[33, 2], 4, 0.8, 0.6).fill(0, Fill::Uniform(50.0, 90.0)));
    // Two spikes: ε points away from the nearer one.
    let spikes = vec![0.5, 0.0, -1.0, 0.5, 0.0, 1.0];
    cases.push(
        case("components of no width".into(), &[5, 1], 2, 0.8, 0.6)
            .fill(0, Fill::Values(vec![-3.0, -0.8, 0.0, 0.1, 2.0]))
            .fill(1, Fill::Values(spikes)),
    );
    // 64 points in each of 65536 workgroups: past the limit of one dimension.
    cases.push(case("past 65535 workgroups".into(), &[65_536 * 64 + 1, 1], 2, 0.8, 0.6).large());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// -noise ∇ log p by differences of the density itself, added up without logarithms.
    #[test]
    fn the_answer_is_the_score() {
        for (channels, signal, noise) in [(1, 0.8, 0.6), (2, 0.95, 0.3), (3, 0.1, 0.99), (4, 0.8, 0.6)] {
            let components = ring(4, channels);
            let density = |x: &[f64]| -> f64 {
                let term = |row: &[f64]| {
                    let v = (signal * row[1]).powi(2) + noise * noise;
                    let square: f64 = x.iter().zip(&row[2..]).map(|(x, m)| (x - signal * m).powi(2)).sum();
                    row[0] * (-square / (2.0 * v)).exp() / v.powf(channels as f64 / 2.0)
                };
                components.chunks(2 + channels).map(term).sum()
            };
            let point = [0.4, -0.7, 1.1, 0.2];
            let point = &point[..channels];
            let answer = GaussianMixture.reference(&[
                Array::new([1, channels], point.to_vec()),
                Array::new([4, 2 + channels], components.clone()),
                Array::new([2], vec![signal, noise]),
            ]);
            for c in 0..channels {
                let at = |step: f64| {
                    let mut x = point.to_vec();
                    x[c] += step;
                    density(&x).ln()
                };
                let score = (at(1e-5) - at(-1e-5)) / 2e-5;
                let found = answer[0].data[c];
                assert!(
                    (found + noise * score).abs() < 1e-8,
                    "{channels} {c}: {found} for {}",
                    -noise * score
                );
            }
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let refused = |i: usize, spec: Spec, words: &str| {
            let mut x = [Spec::f32([5, 2]), Spec::f32([3, 4]), Spec::f32([2])];
            assert!(GaussianMixture.infer(&x).is_ok());
            x[i] = spec;
            let message = GaussianMixture.infer(&x).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        refused(0, Spec::f32([5, 5]), "with 1 to 4 channels, found f32(5, 5)");
        refused(0, Spec::f32([2]), "x must be (points, ..., channels)");
        refused(1, Spec::f32([3, 3]), "the components must be (count, 4)");
        refused(1, Spec::f32([0, 4]), "found f32(0, 4)");
        refused(2, Spec::f32([3]), "the level must be f32(2), signal and noise; found f32(3)");
    }
}
