//! The three estimators of the article's expected loss, compared in value, gradient and cost.

mod estimators;
mod large_numbers;

use self::estimators::{BATCH, ESTIMATES, Estimator, Estimators, Summary};
use super::statistics::Measured;
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::io::{Chart, Series, Stroke};
use serde_json::{Value, json};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "variance",
    title: "Three estimators of the loss: the whole path, two noises, one",
    see: "In gradient-variance.png the whole path lies on two noises: fewer draws of the same law change nothing. \
              One noise lies far below them, by the factor that ratio.png shows: the last noise was averaged beforehand. In \
              large-numbers.png more draws go down a line of 1/√N, and a better estimator begins on a lower line.",
    equation: "E ‖f - ε_{t-1}‖² = E ‖f - b ε̄ / √(1 - ā²)‖² + 1 - b² / (1 - ā²) per element (the article stops at \
                   the left side)",
    shaders: &["noise.wgsl", "denoise.wgsl", "loss.wgsl"],
    minutes: 2,
    run,
};

/// The article's t. At t = 1000 the schedule's last step wipes out all that is left, b² = 0.999.
const TIMES: [usize; 10] = [1, 2, 5, 20, 100, 300, 600, 900, 990, 1000];
/// Where the whole path is walked too: each estimate takes t launches.
const LONGEST_PATH: usize = 300;
/// Where the gradient is measured at weights that have learned nothing, so that its mean is not near zero.
const UNTRAINED_TIMES: [usize; 2] = [5, 20];
/// Largest deviation, in standard errors, that passes for chance. Some 100 are looked at: one in 16000 goes beyond.
const CHANCE: f64 = 4.0;

/// What the estimators give at one t.
struct Comparison {
    t: usize,
    /// b / √(1 - ā²).
    share: f64,
    /// Where it is walked, from t = 2 up to [`LONGEST_PATH`].
    path: Option<Summary>,
    two: Summary,
    one: Summary,
}

impl Comparison {
    fn new(estimators: &Estimators, t: usize) -> Result<Self, LabError> {
        let one = estimators.summarise(Estimator::One, t)?;
        let two = estimators.summarise(Estimator::Two, t)?;
        let walked = t > 1 && t <= LONGEST_PATH;
        let path = walked.then(|| estimators.summarise(Estimator::Path, t)).transpose()?;
        Ok(Self { t, share: estimators.last_noise_share(t), path, two, one })
    }

    /// The variance of the gradient over the whole path, in that with two noises.
    fn path_over_two(&self) -> Option<Measured> {
        self.path.as_ref().map(|path| path.gradient_variance.over(self.two.gradient_variance))
    }

    /// The variance of the gradient with two noises, in that with one.
    fn two_over_one(&self) -> Measured {
        self.two.gradient_variance.over(self.one.gradient_variance)
    }

    /// What that would be if the network's errors were white: what is left of the target's noise, against what the
    /// network leaves of ε̄.
    fn two_over_one_if_white(&self) -> f64 {
        1.0 + (self.share.powi(-2) - 1.0) / (self.one.loss.value / (self.share * self.share))
    }

    /// The largest deviation of the whole path from two noises, in standard errors. They have the same joint law of x_t
    /// and ε_{t-1}, so the same everything.
    fn path_deviation(&self) -> f64 {
        let (Some(path), Some(ratio)) = (&self.path, self.path_over_two()) else { return 0.0 };
        [
            path.loss.minus(self.two.loss).deviation(0.0),
            path.loss_variance.minus(self.two.loss_variance).deviation(0.0),
            ratio.deviation(1.0),
            path.gradient_deviation(&self.two),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }

    /// The loss with two noises less that with one, and what is expected of it: one noise less costs the loss a constant,
    /// the variance of ε_{t-1} given x_0 and x_t.
    fn loss_difference(&self) -> (Measured, f64) {
        (self.two.loss.minus(self.one.loss), 1.0 - self.share * self.share)
    }

    /// E g ε_{t-1} - (b/s) E g ε̄, which is 0 for any function g of x_t; here g is what the network answers.
    fn excess(&self) -> Measured {
        let products: Vec<f64> =
            self.two.products.iter().map(|[last, all]| last - self.share * all).collect();
        Measured::mean(products.into_iter())
    }

    /// The last noise in units of all noise, as the network's answers measure it.
    fn slope(&self) -> Measured {
        let excess = self.excess();
        let all = Measured::mean(self.two.products.iter().map(|[_, all]| *all)).value;
        Measured { value: self.share + excess.value / all, error: excess.error / all.abs() }
    }

    fn row(&self) -> Value {
        let Self { t, share, path, two, one } = self;
        let path = path.as_ref();
        let (difference, expected) = self.loss_difference();
        json!({
            "t": t,
            "last_noise_share": share,
            "slope_of_last_noise": self.slope().interval(),
            "loss": {
                "path": path.map(|s| s.loss.interval()),
                "two": two.loss.interval(),
                "one": one.loss.interval(),
                "two_minus_one": difference.interval(),
                "expected_difference": expected,
            },
            "loss_variance": {
                "path": path.map(|s| s.loss_variance.interval()),
                "two": two.loss_variance.interval(),
                "one": one.loss_variance.interval(),
            },
            "gradient_variance": {
                "path": path.map(|s| s.gradient_variance.interval()),
                "two": two.gradient_variance.interval(),
                "one": one.gradient_variance.interval(),
                "two_over_one": self.two_over_one().interval(),
                "two_over_one_if_white": self.two_over_one_if_white(),
            },
            "draws_per_pixel": { "path": t, "two": 2, "one": 1 },
            "milliseconds": {
                "path": path.map(|s| s.milliseconds[0]),
                "of_that_walking": path.map(|s| s.milliseconds[1]),
                "two": two.milliseconds[0],
                "one": one.milliseconds[0],
            },
        })
    }
}

/// The mean gradient at weights that have learned nothing, where it is not near zero, in standard errors: the largest
/// deviation of the estimators from each other, and how far that of the nearest is from zero.
fn untrained(lab: &Lab, estimators: &Estimators) -> Result<(f64, f64), LabError> {
    estimators.reset_weights()?;
    let (mut same_mean, mut resolved): (f64, f64) = (0.0, f64::INFINITY);
    for t in UNTRAINED_TIMES {
        (lab.progress)(&format!("t = {t}, untrained"));
        let path = estimators.summarise(Estimator::Path, t)?;
        let two = estimators.summarise(Estimator::Two, t)?;
        let one = estimators.summarise(Estimator::One, t)?;
        same_mean = same_mean.max(two.gradient_deviation(&one)).max(path.gradient_deviation(&one));
        resolved = resolved.min(two.gradient_significance()).min(one.gradient_significance());
    }
    Ok((same_mean, resolved))
}

/// Runs the experiment.
fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let estimators = Estimators::new(&lab.device, lab.seed)?;
    let mut comparisons = Vec::new();
    for t in TIMES {
        (lab.progress)(&format!("t = {t}"));
        comparisons.push(Comparison::new(&estimators, t)?);
    }
    let untrained = untrained(lab, &estimators)?;
    verdicts(findings, &comparisons, untrained);
    charts(findings, &comparisons)?;
    large_numbers::run(lab, findings)
}

fn verdicts(findings: &mut Findings, comparisons: &[Comparison], (same_mean, resolved): (f64, f64)) {
    let path_over_two = Measured::geometric_mean(
        &comparisons.iter().filter_map(Comparison::path_over_two).collect::<Vec<_>>(),
    );
    let ratios: Vec<(usize, f64)> = comparisons.iter().map(|c| (c.t, c.two_over_one().value)).collect();
    let ratio_at = |t: usize| ratios.iter().find(|(at, _)| *at == t).map_or(f64::NAN, |(_, ratio)| *ratio);
    let largest = ratios.iter().copied().fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
    let same_law = comparisons.iter().map(Comparison::path_deviation).fold(0.0, f64::max);
    let differences = comparisons.iter().map(Comparison::loss_difference);
    let constant = differences.map(|(found, expected)| found.deviation(expected)).fold(0.0, f64::max);
    let after_first = comparisons.iter().filter(|c| c.t > 1);
    let optimum = after_first.map(|c| c.excess().deviation(0.0)).fold(0.0, f64::max);

    findings.number("estimates", ESTIMATES);
    findings.number("pictures_per_estimate", BATCH);
    findings.number("rows", comparisons.iter().map(Comparison::row).collect::<Vec<_>>());
    findings.number("path_over_two_gradient_variance", path_over_two.value);
    findings.number("two_over_one_gradient_variance_at_t_2", ratio_at(2));
    findings.number("two_over_one_gradient_variance_at_t_300", ratio_at(300));
    findings.number("two_over_one_gradient_variance_largest", largest.1);
    findings.number("two_over_one_gradient_variance_largest_at_t", largest.0 as f64);
    findings.number("two_over_one_gradient_variance_at_t_1000", ratio_at(1000));
    findings.verdict(
        "whole path and two noises agree in loss, gradient and both variances (largest difference, standard errors)",
        same_law,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "two draws instead of t do not lessen the variance of the gradient (whole path / two noises)",
        path_over_two.value,
        Expected::About(1.0, 3.0 * path_over_two.error),
    );
    findings.verdict(
        "the third estimator's loss is lower by 1 - b²/(1 - ā²) (largest difference from it, standard errors)",
        constant,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "all three have the same expected gradient, at weights that have learned nothing (standard errors)",
        same_mean,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "that gradient is distinguishable from zero (smallest over the estimators, standard errors)",
        resolved,
        Expected::AtLeast(2.0 * CHANCE),
    );
    findings.verdict(
        "the last noise is b/√(1 - ā²) times the merged noise, as the network can tell it (standard errors)",
        optimum,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "integrating the last noise out lessens the variance of the gradient at t = 300 (two noises / one)",
        ratio_at(300),
        Expected::AtLeast(10.0),
    );
}

fn charts(findings: &mut Findings, comparisons: &[Comparison]) -> Result<(), LabError> {
    let series = |name: &str, colour, stroke, y: &dyn Fn(&Comparison) -> Option<f64>| {
        let points = comparisons.iter().filter_map(|c| Some((c.t as f64, y(c)?))).collect();
        Series { name: name.into(), points, colour, stroke }
    };
    // A logarithmic axis has no place for what is not positive.
    let low = |c: &Comparison| {
        let [middle, bottom, _] = c.two_over_one().interval();
        Some(bottom.max(0.01 * middle))
    };
    let chart = |title: &str, y_label: &str, series| Chart {
        title: title.into(),
        x_label: "t".into(),
        y_label: y_label.into(),
        log_x: true,
        log_y: true,
        series,
    };
    findings.chart(
        "gradient-variance",
        &chart(
            "Variance of the gradient, by estimator",
            "summed over the weights of conv_out",
            vec![
                series("one noise", 0, Stroke::Thick, &|c| Some(c.one.gradient_variance.value)),
                series("two noises", 1, Stroke::Thick, &|c| Some(c.two.gradient_variance.value)),
                series("whole path", 2, Stroke::Thick, &|c| {
                    c.path.as_ref().map(|s| s.gradient_variance.value)
                }),
            ],
        ),
    )?;
    findings.chart(
        "ratio",
        &chart(
            "By how much integrating the last noise out lessens the variance",
            "variance with two noises / with one",
            vec![
                series("measured", 0, Stroke::Thick, &|c| Some(c.two_over_one().value)),
                series("", 0, Stroke::Thin, &low),
                series("", 0, Stroke::Thin, &|c| Some(c.two_over_one().interval()[2])),
                series("if the network's errors were white", 1, Stroke::Thick, &|c| {
                    Some(c.two_over_one_if_white())
                }),
            ],
        ),
    )?;
    findings.chart(
        "share",
        &chart(
            "The last noise in units of all noise, as x_t tells it",
            "slope",
            vec![
                series("b / √(1 - ā²)", 1, Stroke::Thick, &|c| Some(c.share)),
                series("measured", 0, Stroke::Thick, &|c| Some(c.slope().value)),
            ],
        ),
    )
}
