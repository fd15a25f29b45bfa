//! Short steps can be foretold, and paths narrow on the way back: what x_t tells of the picture and of x_{t-k}, exactly,
//! and on paths that were walked.

use super::{SIDE, pixels};
use crate::data::{Dataset, Options};
use crate::diffusion::{ChainStep, NoiseLevel, NoiseSchedule, ScheduleKind};
use crate::io::{Chart, Series, Stroke};
use crate::lab::finite_set::FiniteSet;
use crate::lab::forward::Kernel;
use crate::lab::statistics::{Measured, fitted_order, two_sided_limit};
use crate::lab::{Expected, Findings, Lab, LabError};
use crate::rng::{Philox, Stream, normal_quantile};
use std::collections::BTreeMap;

/// Steps T.
const STEPS: usize = 1000;
/// Pictures in the set. The posterior over them is exact.
const PICTURES: usize = 500;
/// Paths that are walked, from pictures drawn from the set.
const PATHS: usize = 256;
/// The t at which the origin and one step back are looked at. Half of them are between 300 and 600, where most of the
/// picture is decided.
const TIMES: [usize; 35] = [
    1, 2, 5, 10, 20, 50, 100, 125, 150, 175, 200, 225, 250, 275, 300, 325, 350, 375, 400, 425, 450, 475, 500,
    525, 550, 575, 600, 650, 700, 750, 800, 850, 900, 950, STEPS,
];
/// The t from which longer steps back are looked at too: 1, 2, 4, … of the chain's, up to the picture itself.
const ANCHORS: [usize; 4] = [200, 300, 500, 800];
/// The chance that the comparison with the paths fails although nothing is wrong: one seed in a thousand.
const FALSE_ALARM: f64 = 1e-3;

/// What x_t tells of the picture that it came from, on each path.
struct Origin {
    t: usize,
    /// The entropy of the picture once x_t is known, in bits.
    bits: Vec<f64>,
    /// Its variance, per pixel.
    variance: Vec<f64>,
}

/// What x_t tells of x_{t-k}.
struct Back {
    t: usize,
    k: usize,
    step: ChainStep,
    /// The variance of x_{t-k} once x_t is known, per pixel: the error that the best prediction has.
    exact: f64,
    /// The part of it that is there because the picture is not known.
    of_picture: f64,
    /// The squared error of that prediction on the paths.
    walked: Measured,
    /// Its difference from the exact one on each path, in standard errors of their mean.
    deviation: f64,
}

/// The steps back from t that are looked at.
fn lengths(t: usize) -> Vec<usize> {
    if !ANCHORS.contains(&t) {
        return vec![1];
    }
    let mut lengths: Vec<usize> = (0..).map(|i| 1 << i).take_while(|&k| k < t).collect();
    lengths.push(t);
    lengths
}

/// What adds to the variance of x_{t-k} once x_t is known because the picture is not, whose own variance is given:
/// q(x_{t-k} | x_t, x_0) has the variance β̃ for every picture, and a mean that moves with the picture by `mean_0`.
fn of_picture(step: &ChainStep, variance: f64) -> f64 {
    step.mean_0 * step.mean_0 * variance
}

/// -Σ p log2 p.
fn bits(shares: &[f64]) -> f64 {
    0.0 - shares.iter().filter(|p| **p > 0.0).map(|p| p * p.log2()).sum::<f64>()
}

/// x_t at the t that are needed, path after path.
fn walk(lab: &Lab, set: &FiniteSet, schedule: &NoiseSchedule) -> Result<BTreeMap<usize, Vec<f32>>, LabError> {
    let mut rng = Philox::new(lab.seed, Stream::Cases, 1);
    let start: Vec<f32> = (0..PATHS)
        .flat_map(|_| set.pictures[rng.below(PICTURES)].iter().map(|&x| x as f32).collect::<Vec<_>>())
        .collect();
    let needed = |t: usize| {
        TIMES.iter().any(|&from| from == t || lengths(from).iter().any(|&length| from - length == t))
    };
    let kernel = Kernel::new(&lab.device, [PATHS, SIDE, SIDE, 1])?;
    kernel.set(&start)?;
    let mut states = BTreeMap::from([(0, start)]);
    for (t, number) in (1..=STEPS).zip(0..) {
        kernel.apply(&schedule.forward_step(t - 1), lab.seed, number)?;
        if needed(t) {
            states.insert(t, kernel.get()?);
        }
    }
    Ok(states)
}

/// What the states at t tell of the picture and of the states before.
fn look_back(
    set: &FiniteSet,
    schedule: &NoiseSchedule,
    states: &BTreeMap<usize, Vec<f32>>,
    t: usize,
) -> (Origin, Vec<Back>) {
    let level = schedule.level(Some(t - 1));
    let d = SIDE * SIDE;
    let path = |t: usize, i: usize| states[&t][i * d..(i + 1) * d].iter().map(|&x| f64::from(x));
    let mut origin = Origin { t, bits: Vec::new(), variance: Vec::new() };
    let mut means = Vec::new();
    for i in 0..PATHS {
        let x: Vec<f64> = path(t, i).collect();
        let (_, shares) = set.posterior(level, &x, &set.products(&x));
        let (mean, variance) = set.moments(&shares);
        origin.bits.push(bits(&shares));
        origin.variance.push(variance / d as f64);
        means.push(mean);
    }
    let back = |k: usize| {
        let step = ChainStep::between(level.alpha_bar(), schedule.alpha_bar((t - k).checked_sub(1)));
        let error = |i: usize| {
            let pixels = path(t, i).zip(path(t - k, i)).zip(&means[i]);
            pixels
                .map(|((x, before), mean)| (before - step.mean_x * x - step.mean_0 * mean).powi(2))
                .sum::<f64>()
                / d as f64
        };
        let errors: Vec<f64> = (0..PATHS).map(error).collect();
        let of_pictures: Vec<f64> = origin.variance.iter().map(|v| of_picture(&step, *v)).collect();
        let difference = errors.iter().zip(&of_pictures).map(|(error, of)| error - step.variance - of);
        let of_picture = of_pictures.iter().sum::<f64>() / PATHS as f64;
        Back {
            t,
            k,
            step,
            exact: step.variance + of_picture,
            of_picture,
            walked: Measured::mean(errors.iter().copied()),
            deviation: Measured::mean(difference).deviation(0.0),
        }
    };
    let backs = lengths(t).into_iter().map(back).collect();
    (origin, backs)
}

/// The entropy of the picture by another road, in bits, at each t: knowing x_t takes ½ ∫ E‖x_0 - E[x_0 | x]‖² dSNR nats
/// from it, the integral from no signal up to that of x_t (Guo, Shamai & Verdú, 2005). `variances` has (t, variance of
/// x_0 per pixel once x_t is known), in the order of t. Of one path they are a draw, whose mean over paths is the entropy.
fn bits_by_errors(variances: &[(usize, f64)], schedule: &NoiseSchedule) -> Vec<f64> {
    let snr = |t: usize| schedule.level(Some(t - 1)).sigma().powi(-2);
    let error = |variance: f64| variance * (SIDE * SIDE) as f64;
    // Below the SNR of t = T, 4e-5, the error is that of knowing nothing.
    let below = variances.last().map_or(0.0, |&(t, variance)| error(variance) * snr(t));
    let mut nats = (PICTURES as f64).ln() - 0.5 * below;
    let mut bits = vec![nats / std::f64::consts::LN_2];
    for pair in variances.windows(2).rev() {
        let width = snr(pair[0].0) - snr(pair[1].0);
        nats -= 0.5 * 0.5 * (error(pair[0].1) + error(pair[1].1)) * width;
        bits.push(nats / std::f64::consts::LN_2);
    }
    bits.reverse();
    bits
}

/// The entropy of the picture at each t by that road, the mean over the paths; and its difference from the entropy itself,
/// in standard errors of the difference on each path.
fn other_road(origins: &[Origin], schedule: &NoiseSchedule) -> Vec<(f64, f64)> {
    let of_path = |i: usize| {
        let variances: Vec<(usize, f64)> = origins.iter().map(|o| (o.t, o.variance[i])).collect();
        bits_by_errors(&variances, schedule)
    };
    let paths: Vec<Vec<f64>> = (0..PATHS).map(of_path).collect();
    let at = |(n, origin): (usize, &Origin)| {
        let by_errors: Vec<f64> = paths.iter().map(|bits| bits[n]).collect();
        let difference = Measured::mean(by_errors.iter().zip(&origin.bits).map(|(a, b)| a - b));
        (mean(&by_errors), difference.deviation(0.0))
    };
    origins.iter().enumerate().map(at).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Of normal data with variance 1 the variance of a step back is β exactly; the largest relative difference of what is
/// computed for 4001 quantiles of that distribution in its place.
fn gaussian_control(schedule: &NoiseSchedule) -> f64 {
    let quantile = |i: u32| vec![normal_quantile((f64::from(i) + 0.5) / 4001.0)];
    let pictures: Vec<Vec<f64>> = (0..4001).map(quantile).collect();
    let set = FiniteSet::new(&pictures);
    let off = |&t: &usize| {
        let now: NoiseLevel = schedule.level(Some(t - 1));
        let step = ChainStep::between(now.alpha_bar(), schedule.alpha_bar((t - 1).checked_sub(1)));
        let (_, shares) = set.posterior(now, &[0.3], &set.products(&[0.3]));
        ((step.variance + of_picture(&step, set.moments(&shares).1)) / step.beta - 1.0).abs()
    };
    TIMES.iter().map(off).fold(0.0, f64::max)
}

pub(super) fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let options = Options { seed: lab.seed, glyph_count: PICTURES, ..Options::new((SIDE, SIDE), 1) };
    let glyphs = Dataset::open("builtin:glyphs", &options)?;
    let pictures: Vec<Vec<f64>> = (0..PICTURES).map(|i| pixels(&glyphs, i)).collect();
    let set = FiniteSet::new(&pictures);
    let schedule = NoiseSchedule::new(ScheduleKind::Linear, STEPS);
    let states = walk(lab, &set, &schedule)?;
    (lab.progress)(&format!("walked {PATHS} paths of {STEPS} steps"));
    let (origins, backs): (Vec<Origin>, Vec<Vec<Back>>) =
        TIMES.iter().map(|&t| look_back(&set, &schedule, &states, t)).unzip();
    let roads = other_road(&origins, &schedule);
    let backs: Vec<Back> = backs.into_iter().flatten().collect();

    judge(findings, &origins, &backs, &roads, gaussian_control(&schedule));
    tables(findings, &origins, &backs);
    draw(findings, &origins, &backs, &roads)
}

fn judge(findings: &mut Findings, origins: &[Origin], backs: &[Back], roads: &[(f64, f64)], gaussian: f64) {
    let all = (PICTURES as f64).log2();
    let bits_at = |t: usize| origins.iter().find(|o| o.t == t).map_or(f64::NAN, |o| mean(&o.bits));
    findings.verdict(
        format!("x_T tells nothing of its picture: bits left, of {all:.2}"),
        bits_at(STEPS),
        Expected::AtLeast(0.99 * all),
    );
    findings.verdict("x_100 tells which picture it was: bits left", bits_at(100), Expected::AtMost(0.05));
    let rise = origins.windows(2).map(|pair| mean(&pair[0].bits) - mean(&pair[1].bits));
    findings.verdict(
        "the way back narrows: most that a step of the table adds to the bits left",
        rise.fold(f64::NEG_INFINITY, f64::max),
        // The mean can only fall; this is one over 256 paths.
        Expected::AtMost(0.01),
    );
    // `max` would pass over a NaN.
    let worst = |scores: &mut dyn Iterator<Item = f64>| {
        scores.fold(0.0, |worst: f64, x| if x.is_nan() { x } else { worst.max(x) })
    };
    findings.verdict(
        "bits left are all bits less ½ ∫ squared error dSNR: standard errors, at the worst t",
        worst(&mut roads.iter().map(|road| road.1)),
        Expected::AtMost(two_sided_limit(FALSE_ALARM / roads.len() as f64)),
    );
    findings.verdict(
        "control: on normal data of variance 1 a step back has the variance β: largest relative difference",
        gaussian,
        Expected::AtMost(1e-3),
    );
    findings.verdict(
        "on walked paths the best prediction of x_{t-k} errs by its exact variance: standard errors, at the worst",
        worst(&mut backs.iter().map(|b| b.deviation)),
        Expected::AtMost(two_sided_limit(FALSE_ALARM / backs.len() as f64)),
    );
    let unit = |b: &Back| b.of_picture / (b.step.beta - b.step.variance);
    let single = || backs.iter().filter(|b| b.k == 1 && b.t > 1);
    findings.verdict(
        "a step back varies by β̃ and a part of β - β̃: the largest part",
        single().map(unit).fold(0.0, f64::max),
        Expected::AtMost(1.0),
    );
    let short: Vec<(f64, f64)> =
        backs.iter().filter(|b| b.t == 500 && b.k <= 16).map(|b| (b.k as f64, b.exact)).collect();
    findings.verdict(
        "from t = 500, half the step is half the error: its power of the length, for 1 to 16 steps",
        -fitted_order(&short),
        Expected::About(1.0, 0.1),
    );
    let told = |b: &Back| 1.0 - b.exact / b.step.beta;
    let at = |t: usize, k: usize| backs.iter().find(|b| (b.t, b.k) == (t, k)).map_or(f64::NAN, told);
    findings.verdict(
        "from t = 500, the part of the noise that x_t tells is small for one step",
        at(500, 1),
        Expected::AtMost(0.05),
    );
    findings.verdict("from t = 500, and large for all 500 at once", at(500, 500), Expected::AtLeast(0.7));
}

/// A number with four digits.
fn digits(x: f64) -> String {
    if x == 0.0 || x.abs() >= 0.01 { format!("{x:.4}") } else { format!("{x:.2e}") }
}

fn tables(findings: &mut Findings, origins: &[Origin], backs: &[Back]) {
    let step = |t: usize| backs.iter().find(|b| (b.t, b.k) == (t, 1));
    let row = |o: &Origin| {
        let back = step(o.t)?;
        let Back { step, exact, of_picture, walked, .. } = back;
        let numbers = [step.beta, step.variance, *exact, *of_picture, walked.value];
        let head = [o.t.to_string(), format!("{:.3}", mean(&o.bits)), digits(mean(&o.variance))];
        Some([head.to_vec(), numbers.map(digits).to_vec()].concat())
    };
    findings.table(
        "step_back",
        &[
            "t",
            "bits left",
            "variance of x_0",
            "β",
            "β̃",
            "variance of x_{t-1}",
            "of the picture",
            "error on paths",
        ],
        origins.iter().filter_map(row).collect(),
    );
    let row = |b: &Back| {
        let told = 1.0 - b.exact / b.step.beta;
        let numbers = [b.step.beta, b.exact, b.of_picture, b.walked.value, told].map(digits);
        [vec![b.t.to_string(), b.k.to_string()], numbers.to_vec()].concat()
    };
    findings.table(
        "step_length",
        &["t", "k", "noise added", "error", "of the picture", "error on paths", "part of the noise told"],
        backs.iter().filter(|b| ANCHORS.contains(&b.t)).map(row).collect(),
    );
    let last = origins.iter().find(|o| mean(&o.bits) > 0.5 * (PICTURES as f64).log2());
    findings.number("half_of_the_bits_are_left_at_t", last.map_or(0, |o| o.t));
    let column = |of: &dyn Fn(&Origin) -> f64| origins.iter().map(of).collect::<Vec<_>>();
    findings.number("t", TIMES.to_vec());
    findings.number("bits_left", column(&|o| mean(&o.bits)));
    findings.number("variance_of_x_0", column(&|o| mean(&o.variance)));
}

fn draw(
    findings: &mut Findings,
    origins: &[Origin],
    backs: &[Back],
    roads: &[(f64, f64)],
) -> Result<(), LabError> {
    let line =
        |name: &str, colour, points| Series { name: name.into(), points, stroke: Stroke::Thick, colour };
    let thin = |name: &str, colour, points| Series { stroke: Stroke::Thin, ..line(name, colour, points) };
    let dots = |points: Vec<(f64, f64)>| points.into_iter().map(move |point| line("", 1, vec![point]));
    let over_time = |of: &dyn Fn(&Origin) -> f64| origins.iter().map(|o| (o.t as f64, of(o))).collect();
    let by_errors = origins.iter().zip(roads).map(|(o, road)| (o.t as f64, road.0)).collect();
    findings.chart(
        "origins",
        &Chart {
            title: format!("Which of {PICTURES} pictures was it? What is open once x_t is known"),
            x_label: "t".into(),
            y_label: "bits".into(),
            series: vec![
                line("entropy of the picture given x_t", 0, over_time(&|o| mean(&o.bits))),
                line("all bits less ½ ∫ squared error dSNR", 1, Vec::new()),
            ]
            .into_iter()
            .chain(dots(by_errors))
            .collect(),
            ..Chart::default()
        },
    )?;
    let single = |of: &dyn Fn(&Back) -> f64| {
        backs.iter().filter(|b| b.k == 1).map(|b| (b.t as f64, of(b))).collect::<Vec<_>>()
    };
    findings.chart(
        "step",
        &Chart {
            title: "One step back: how much x_{t-1} varies once x_t is known".into(),
            x_label: "t".into(),
            y_label: "variance of a pixel, in units of β".into(),
            log_x: true,
            series: vec![
                line("exact variance", 0, single(&|b| b.exact / b.step.beta)),
                line("squared error of the best prediction, on walked paths", 1, Vec::new()),
            ]
            .into_iter()
            .chain(dots(single(&|b| b.walked.value / b.step.beta)))
            .collect(),
            ..Chart::default()
        },
    )?;
    let (mut errors, mut told) = (Vec::new(), Vec::new());
    for (colour, t) in ANCHORS.into_iter().enumerate() {
        let of = |of: &dyn Fn(&Back) -> f64| {
            backs.iter().filter(|b| b.t == t).map(|b| (b.k as f64, of(b))).collect::<Vec<_>>()
        };
        errors.push(line(&format!("from t = {t}"), colour, of(&|b| b.exact)));
        errors.push(thin("", colour, of(&|b| b.step.beta)));
        told.push(line(&format!("from t = {t}"), colour, of(&|b| 1.0 - b.exact / b.step.beta)));
    }
    let chart = |title: &str, y_label: &str, log_y, series| Chart {
        title: title.into(),
        x_label: "length k of the step back".into(),
        y_label: y_label.into(),
        log_x: true,
        log_y,
        series,
    };
    findings.chart(
        "error",
        &chart(
            "How far x_{t-k} is from its best prediction; pale: the noise that k steps add",
            "mean squared error of a pixel",
            true,
            errors,
        ),
    )?;
    findings.chart(
        "told",
        &chart(
            "The part of the noise added in k steps that x_t tells",
            "1 - error / noise added",
            false,
            told,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x' ~ N(0, ā'² v + s'²) and x = a x' + b ε: the variance of x' once x is known is 1 / (1/(ā'² v + s'²) + a²/b²), by
    /// adding precisions and without the picture in between.
    #[test]
    fn a_step_back_on_normal_data_is_that_of_added_precisions() {
        let schedule = NoiseSchedule::new(ScheduleKind::Linear, STEPS);
        for v in [0.01, 0.5, 1.0, 4.0] {
            for (t, k) in [(1, 1), (2, 1), (100, 1), (100, 64), (500, 500), (1000, 1), (1000, 999)] {
                let now = schedule.level(Some(t - 1));
                let next = schedule.alpha_bar((t - k).checked_sub(1));
                let step = ChainStep::between(now.alpha_bar(), next);
                let total = now.alpha_bar() * v + 1.0 - now.alpha_bar();
                let found = step.variance + of_picture(&step, v * (1.0 - now.alpha_bar()) / total);
                let precision = 1.0 / (next * v + 1.0 - next) + step.alpha / step.beta;
                assert!((found * precision - 1.0).abs() < 1e-9, "{v} {t} {k}: {found} {precision}");
            }
        }
        assert!(gaussian_control(&schedule) < 1e-3);
    }

    #[test]
    fn entropies_and_lengths_by_hand() {
        assert!((bits(&[0.25; 4]) - 2.0).abs() < 1e-15 && bits(&[1.0, 0.0]) == 0.0);
        assert_eq!((lengths(200), lengths(7)), (vec![1, 2, 4, 8, 16, 32, 64, 128, 200], vec![1]));
        assert!(ANCHORS.iter().all(|t| TIMES.contains(t)) && TIMES.is_sorted());
    }

    /// The integral's first part and one trapezoid by hand.
    #[test]
    fn the_other_road_to_the_bits_by_hand() {
        let schedule = NoiseSchedule::new(ScheduleKind::Linear, STEPS);
        let snr = |t: usize| schedule.level(Some(t - 1)).sigma().powi(-2);
        let expected = 0.5 * 256.0 * 0.3 * (snr(STEPS) + 0.5 * (snr(900) - snr(STEPS)));
        let found = bits_by_errors(&[(900, 0.0), (STEPS, 0.3)], &schedule);
        assert!(((500f64.ln() - expected) / 2f64.ln() - found[0]).abs() < 1e-9, "{found:?}");
    }
}
