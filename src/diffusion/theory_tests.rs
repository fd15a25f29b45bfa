//! What docs/estimators.md, docs/theory.md and docs/lab/forward.md state, in numbers.

use super::{ChainStep, NoiseLevel, NoiseSchedule, ScheduleKind};
use crate::rng::{Philox, Stream};

const CHAINS: [ScheduleKind; 4] =
    [ScheduleKind::Linear, ScheduleKind::ScaledLinear, ScheduleKind::Cosine, ScheduleKind::Sigmoid];

/// x_{t+1} = ā_t x_0 + Σ_k a_t … a_{k+1} b_k ε_k, and (a_t … a_{k+1} b_k)² is the difference of two neighbours in 1,
/// a_t², (a_t a_{t-1})², …, so that the sum is 1 - ā_t².
#[test]
fn the_variance_of_the_unrolled_sum_telescopes() {
    for kind in CHAINS {
        let schedule = NoiseSchedule::new(kind, 1000);
        let mut shares: Vec<f64> = Vec::new();
        let mut product = 1.0;
        for t in 0..1000 {
            // A step multiplies all noise so far by a_t, and adds b_t ε_t.
            shares.iter_mut().for_each(|share| *share *= schedule.a(t));
            shares.push(schedule.b(t));
            product *= schedule.a(t);
            let variance: f64 = shares.iter().map(|share| share * share).sum();
            assert!((variance - (1.0 - product * product)).abs() < 1e-12, "{kind:?} {t}: {variance}");
        }
        let mut behind = 1.0;
        for k in (0..1000).rev() {
            let before = behind * schedule.a(k);
            let difference = behind * behind - before * before;
            assert!((shares[k] * shares[k] - difference).abs() < 1e-15, "{kind:?} {k}: {difference}");
            behind = before;
        }
    }
}

/// exp(-Σ b²/a²) ≤ ā² ≤ exp(-Σ b²): nothing of the picture is left in the end exactly if Σ b² has no bound.
#[test]
fn the_picture_is_forgotten_exactly_if_the_added_variances_have_no_bound() {
    let signal_and_sum = |variance: &dyn Fn(f64) -> f64, steps: u32| {
        (0..steps).map(|t| variance(f64::from(t))).fold((1.0, 0.0), |(p, s), b| (p * (1.0 - b), s + b))
    };
    for steps in [10, 1000, 100_000] {
        let n = f64::from(steps);
        // Σ 1/(t+2) grows as ln n.
        let (left, sum) = signal_and_sum(&|t| 1.0 / (t + 2.0), steps);
        assert!((left * (n + 1.0) - 1.0).abs() < 1e-9 && sum > n.ln() - 1.0, "{steps}: {left} {sum}");
        // Σ 1/(t+2)² stays below π²/6 - 1.
        let (left, sum) = signal_and_sum(&|t| (t + 2.0).powi(-2), steps);
        assert!((left - 0.5 * (n + 2.0) / (n + 1.0)).abs() < 1e-9 && sum < 0.645, "{steps}: {left} {sum}");
    }
    for kind in CHAINS {
        let schedule = NoiseSchedule::new(kind, 1000);
        let (mut sum, mut upper) = (0.0, 0.0);
        for t in 0..1000 {
            sum += schedule.beta(t);
            upper += schedule.beta(t) / (1.0 - schedule.beta(t));
            let left = schedule.alpha_bar(Some(t)).ln();
            let rounding = (t + 1) as f64 * 2f64.powi(-23);
            assert!(-upper - rounding < left && left < -sum + rounding, "{kind:?} {t}: {left} {sum}");
        }
        println!("{kind:?}: Σ b² = {sum:.2}, ā = {:.2e}", schedule.alpha_bar(Some(999)).sqrt());
    }
}

/// ε̄ = (a s' ε̄' + b ε) / s and ω = (b ε̄' - a s' ε) / s are an orthogonal map of (ε̄', ε), and its own inverse: two
/// independent standard normals, of which x_t holds the first.
#[test]
fn two_noises_are_turned_into_one_and_one_that_is_not_seen() {
    for kind in CHAINS {
        let schedule = NoiseSchedule::new(kind, 1000);
        for t in 1..1000 {
            let before = schedule.level(Some(t - 1));
            let (a, b) = (schedule.a(t), schedule.b(t));
            let s = (a * before.noise).hypot(b);
            let (along, across) = (a * before.noise / s, b / s);
            let turned = |x: f64, y: f64| (along * x + across * y, across * x - along * y);
            let (earlier, last) = (0.3, -1.7);
            let (merged, unseen) = turned(earlier, last);
            assert!((merged.powi(2) + unseen.powi(2) - earlier * earlier - last * last).abs() < 1e-12);
            let (again, last_again) = turned(merged, unseen);
            assert!((again - earlier).abs() < 1e-12 && (last_again - last).abs() < 1e-12);
            // x_t by way of x_{t-1}, and by the jump.
            let x_0 = 0.4;
            let walked = a * (before.signal * x_0 + before.noise * earlier) + b * last;
            assert!((walked - (a * before.signal * x_0 + s * merged)).abs() < 1e-12, "{kind:?} {t}");
            // What is left of ε_{t-1} once ε̄ is known is that of ω.
            assert!((along * along - (1.0 - across * across)).abs() < 1e-12);
        }
    }
}

/// How the weight (b/s)² lies along the chain: at both ends for the cosine schedule, at the first steps for the linear one.
#[test]
fn the_weight_that_stays_with_the_last_noise() {
    for (kind, steps, first, last, half) in [
        (ScheduleKind::Cosine, 1000, 0.303, 0.382, 647),
        (ScheduleKind::Linear, 1000, 0.377, 0.097, 285),
        (ScheduleKind::Cosine, 50, 0.233, 0.247, 27),
    ] {
        let schedule = NoiseSchedule::new(kind, steps);
        let weights: Vec<f64> = (0..steps).map(|t| schedule.last_noise_share(t).powi(2)).collect();
        let sum: f64 = weights.iter().sum();
        let share = |part: &[f64]| part.iter().sum::<f64>() / sum;
        let found = (share(&weights[..steps / 10]), share(&weights[steps - steps / 10..]));
        println!("{kind:?} {steps}: {found:?}");
        assert!(
            (found.0 - first).abs() < 1e-3 && (found.1 - last).abs() < 1e-3,
            "{kind:?} {steps}: {found:?}"
        );
        assert!(share(&weights[..half - 1]) < 0.5 && share(&weights[..half]) >= 0.5, "{kind:?} {steps}");
    }
}

/// ln of the density of N(mean, variance).
fn log_normal(x: f64, mean: f64, variance: f64) -> f64 {
    -0.5 * ((x - mean).powi(2) / variance + (std::f64::consts::TAU * variance).ln())
}

/// Two Gaussians on a line, for which everything is known: weight, mean, variance.
const MIXTURE: [(f64, f64, f64); 2] = [(0.3, -1.2, 0.05), (0.7, 0.8, 0.2)];

/// The density of x = signal x_0 + noise ε.
fn density(level: NoiseLevel, x: f64) -> f64 {
    let NoiseLevel { signal, noise } = level;
    MIXTURE
        .iter()
        .map(|(w, m, v)| w * log_normal(x, signal * m, signal * signal * v + noise * noise).exp())
        .sum()
}

/// Its score by central differences of ln p.
fn score(level: NoiseLevel, x: f64) -> f64 {
    let h = 1e-5;
    (density(level, x + h).ln() - density(level, x - h).ln()) / (2.0 * h)
}

/// Tweedie's formula, E[x_0 | x] = (x + noise² ∇log p(x)) / signal, against Bayes' rule by sums over x_0: the score is
/// -E[ε | x] / noise.
#[test]
fn the_score_is_the_expected_noise() {
    for signal in [0.99, 0.8, 0.5, 0.1] {
        let level = NoiseLevel::of_signal(signal);
        for x in [-2.0, -0.7, 0.0, 0.3, 1.5] {
            let (mut total, mut mean) = (0.0, 0.0);
            for i in -40_000..=40_000 {
                let x_0 = f64::from(i) * 1e-4;
                let prior: f64 = MIXTURE.iter().map(|&(w, m, v)| w * log_normal(x_0, m, v).exp()).sum();
                let joint = prior * log_normal(x, signal * x_0, level.noise.powi(2)).exp();
                total += joint;
                mean += joint * x_0;
            }
            let (expected, score) = (mean / total, score(level, x));
            let tweedie = (x + level.noise.powi(2) * score) / signal;
            assert!((tweedie - expected).abs() < 1e-7, "{signal} {x}: {tweedie} {expected}");
            let noise = (x - signal * expected) / level.noise;
            assert!((level.score(noise) - score).abs() < 1e-6, "{signal} {x}: {score}");
        }
    }
}

/// q(x_1 … x_T | x_0) the other way round, q(x_T | x_0) Π q(x_{t-1} | x_t, x_0), on which the bound rests (DDPM, appendix A).
#[test]
fn the_chain_given_the_picture_is_the_same_backwards() {
    let steps = 50;
    let schedule = NoiseSchedule::new(ScheduleKind::Cosine, steps);
    let level = |t: usize| if t == 0 { 1.0 } else { schedule.alpha_bar(Some(t - 1)) };
    let mut random = Philox::new(0, Stream::Cases, 0);
    let x: Vec<f64> = (0..=steps).map(|_| random.normal()).collect();
    let step = |t: usize| ChainStep::between(level(t), level(t - 1));
    let forwards: f64 =
        (1..=steps).map(|t| log_normal(x[t], step(t).alpha.sqrt() * x[t - 1], step(t).beta)).sum();
    let end = log_normal(x[steps], level(steps).sqrt() * x[0], 1.0 - level(steps));
    let posterior = |t: usize| {
        let step = step(t);
        log_normal(x[t - 1], step.mean_x * x[t] + step.mean_0 * x[0], step.variance)
    };
    let backwards = end + (2..=steps).map(posterior).sum::<f64>();
    assert!((forwards - backwards).abs() < 1e-9 * forwards.abs(), "{forwards} {backwards}");
}

/// A term of the bound: two Gaussians of variance σ² whose means differ by what ε and the network's answer differ
/// (DDPM, eq. 8 to 12), and the article's weight (b/a)² (b/s)².
#[test]
fn a_term_of_the_bound_is_the_weighted_error_of_the_noise() {
    for kind in CHAINS {
        let schedule = NoiseSchedule::new(kind, 1000);
        for t in 1..1000 {
            let (now, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(Some(t - 1)));
            let step = ChainStep::between(now, next);
            let level = NoiseLevel::of_alpha_bar(now);
            let (x, noise, answer) = (0.7, 0.4, 0.1);
            let mean = |e: f64| step.mean_x * x + step.mean_0 * (x - level.noise * e) / level.signal;
            let weight = step.beta.powi(2) / (2.0 * step.variance * step.alpha * (1.0 - now));
            let term = (mean(noise) - mean(answer)).powi(2) / (2.0 * step.variance);
            let expected = weight * (noise - answer).powi(2);
            // 1 - α keeps few digits at the first steps, and the difference of two means fewer.
            let digits = 1e-12 / (1.0 - now);
            assert!((term / expected - 1.0).abs() < digits.max(1e-9), "{kind:?} {t}: {term} {expected}");
            let article = (step.beta / step.alpha) * (step.beta / (1.0 - now));
            assert!((article / (2.0 * step.variance * weight) - 1.0).abs() < 1e-12);
        }
    }
}

/// For every λ, dx = [-½β x - ½(1+λ²) β ∇log p] dt + λ √β dw passes backwards through the densities of the forward
/// process: both sides of its Fokker-Planck equation by finite differences, β = 1 and ā = exp(-t/2).
#[test]
fn every_way_between_sde_and_ode_has_the_same_densities() {
    let h = 1e-3;
    let p = |t: f64, x: f64| density(NoiseLevel::of_signal((-0.5 * t).exp()), x);
    let first = |f: &dyn Fn(f64) -> f64, x: f64| (f(x + h) - f(x - h)) / (2.0 * h);
    let second = |f: &dyn Fn(f64) -> f64, x: f64| (f(x + h) - 2.0 * f(x) + f(x - h)) / (h * h);
    for t in [0.3f64, 1.0, 3.0] {
        let level = NoiseLevel::of_signal((-0.5 * t).exp());
        for x in [-1.5, -0.4, 0.2, 1.1] {
            let forwards = first(&|t| p(t, x), t);
            let expected = 0.5 * first(&|x| x * p(t, x), x) + 0.5 * second(&|x| p(t, x), x);
            assert!((forwards - expected).abs() < 1e-5, "{t} {x}: {forwards} {expected}");
            for lambda in [0.0f64, 0.5, 1.0, 2.0] {
                let share = lambda * lambda;
                // Time runs backwards, so both signs of the drift turn.
                let flow = |x: f64| (0.5 * x + 0.5 * (1.0 + share) * score(level, x)) * p(t, x);
                let backwards = -first(&flow, x) + 0.5 * share * second(&|x| p(t, x), x);
                assert!((backwards + forwards).abs() < 1e-5, "{t} {x} {lambda}: {backwards} {forwards}");
            }
        }
    }
}

/// The mean of N losses is off by 1/√N: a hundred times the draws, a tenth of the deviation. The loss is that of the
/// best answer for x_0 = ±1, tanh.
#[test]
fn the_error_of_a_mean_falls_with_the_root_of_the_draws() {
    let NoiseLevel { signal, noise } = NoiseLevel::of_signal(0.8);
    let mut random = Philox::new(0, Stream::Cases, 1);
    let mut loss = || {
        let x_0 = if random.normal() < 0.0 { -1.0 } else { 1.0 };
        let e = random.normal();
        let x = signal * x_0 + noise * e;
        let answer = (x - signal * (signal * x / (noise * noise)).tanh()) / noise;
        (answer - e).powi(2)
    };
    let mut deviation = |draws: u32| {
        let means: Vec<f64> =
            (0..400).map(|_| (0..draws).map(|_| loss()).sum::<f64>() / f64::from(draws)).collect();
        let mean = means.iter().sum::<f64>() / 400.0;
        (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / 399.0).sqrt()
    };
    let found = [10, 100, 1000].map(&mut deviation);
    println!("deviation of the mean of 10, 100, 1000 losses: {found:.4?}");
    // Each of 400 means: a ratio of deviations is known to 5 %.
    for pair in found.windows(2) {
        assert!((pair[0] / pair[1] / 10f64.sqrt() - 1.0).abs() < 0.2, "{found:?}");
    }
}
