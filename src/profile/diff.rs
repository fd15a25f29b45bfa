//! Two profiles compared, kernel by kernel, with what the noise of both leaves of a difference.
//!
//! Other work on a machine only ever adds to a launch's time, so a kernel is judged by its launches' low quantiles: a tenth of
//! the runs took less, which few disturbances reach. Three things may pass for a change, and widen the band in which nothing is said:
//!
//! - chance, by the bootstrap over the runs of each profile;
//! - disturbances that reached the low quantile too: half the way from it to the median;
//! - what differs between two processes even so (clocks, caches, addresses): what most kernels have in common is the machine's
//!   [`Diff::drift`] and taken out, and how far they scatter about it is as much noise as no kernel's own runs show.
//!
//! The band is wide enough for all kernels together to be called unchanged in 99 of 100 comparisons of a build with itself, were
//! the noise normal.

use super::statistics::{median, quantile, sorted};
use super::{LaunchProfile, Profile};
use crate::rng::{Philox, Stream};
use serde::Serialize;
use std::collections::BTreeMap;

/// The quantile of a launch's runs by which it is judged.
const LOW: f64 = 0.1;

/// Samples of the bootstrap.
const RESAMPLES: usize = 60;

/// The chance that a comparison of a build with itself calls anything changed.
const FALSE_ALARM: f64 = 0.01;

/// Kernels below this part of a step do not tell how the machine drifted: their times are mostly the launch's.
const TELLING: f64 = 0.005;

/// Fewer kernels than this do not tell the machine's drift from a change.
const ENOUGH: usize = 5;

/// How far two processes are taken to differ where too few kernels tell, and at least: parts of the time.
const UNTOLD: f64 = 0.1;
const AT_LEAST: f64 = 0.005;

/// How far they are taken to differ at least where other work kept the machine busy: a part of how far the medians of a step lie
/// above its low quantiles. Without it, one of ten comparisons of a build with itself named a kernel (by 6.7 per cent), on a
/// machine with five times the work that it has processors for.
const OF_DISTURBANCE: f64 = 0.03;

/// A change below this part of the step is not worth a line.
const OF_THE_STEP: f64 = 0.001;

/// What became of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing that noise does not explain.
    Same,
    /// It takes longer.
    Slower,
    /// It takes less time.
    Faster,
    /// Only the second profile has it.
    New,
    /// Only the first profile has it.
    Gone,
}

/// A kernel in both profiles.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// `shader:entry`, or a launch by `phase module/op shader:entry`.
    pub name: String,
    /// Seconds in a step of the first profile, by the low quantiles of its launches.
    pub before: f64,
    /// In the second.
    pub after: f64,
    /// What it changed by, the machine's drift taken out: 0.1 for a tenth longer.
    pub change: f64,
    /// What noise may make of an unchanged kernel.
    pub noise: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// Two profiles compared.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Why the two may not be comparable, one sentence each.
    pub warnings: Vec<String>,
    /// How much longer most kernels took in the second profile: 0.1 for a tenth.
    pub drift: f64,
    /// All launches together; it is not among the changes.
    pub step: Change,
    /// Every kernel, the longest first.
    pub kernels: Vec<Change>,
    /// Launches that changed although their kernel as a whole did not, the longest first.
    pub launches: Vec<Change>,
}

impl Diff {
    /// Everything that changed.
    pub fn changed(&self) -> impl Iterator<Item = &Change> {
        self.kernels.iter().chain(&self.launches).filter(|change| change.verdict != Verdict::Same)
    }

    /// Whether any kernel or launch takes longer.
    pub fn is_slower(&self) -> bool {
        self.changed().any(|change| change.verdict == Verdict::Slower)
    }
}

/// A kernel's time in one profile.
#[derive(Clone, Copy)]
struct Measured {
    /// Sum of the shortest runs of its launches.
    least: f64,
    /// Sum of the low quantiles of its launches.
    low: f64,
    /// Standard error of that, as part of it.
    error: f64,
    /// How far the medians lie above it, as part of it.
    disturbed: f64,
}

/// Compares; changes below `least` (0.03 for 3 per cent) are never named.
pub fn diff(before: &Profile, after: &Profile, least: f64) -> Diff {
    let profiles = [Quantiles::of(before), Quantiles::of(after)];
    let kernels = profiles.each_ref().map(|p| p.by(LaunchProfile::kernel));
    let step: f64 = kernels[0].values().map(|m| m.low).sum();
    let telling = |pair: &(Measured, Measured)| pair.0.low >= TELLING * step;
    let pairs: Vec<(Measured, Measured)> = in_both(&kernels).filter(telling).collect();
    let ratios: Vec<f64> = pairs.iter().map(|(a, b)| (b.low / a.low).ln()).collect();
    let drift = if pairs.len() < ENOUGH { 0.0 } else { median(&ratios) };
    let judge = Judge { drift, least, step };

    let whole = profiles.each_ref().map(|p| p.by(|_| "all launches".into()));
    let disturbed = whole.iter().flat_map(BTreeMap::values).map(|m| m.disturbed).fold(0.0, f64::max);
    let busy = OF_DISTURBANCE * disturbed;

    let between = scatter(&pairs, drift).max(busy);
    let kernel_changes = judge.all(&kernels, between);
    let whole = judge.all(&whole, between).remove(0);

    let by_place = profiles.each_ref().map(|p| p.by(place));
    let pairs: Vec<(Measured, Measured)> =
        in_both(&by_place).filter(|(a, _)| a.low >= OF_THE_STEP * step).collect();
    let mut launches = judge.all(&by_place, scatter(&pairs, drift).max(busy));
    launches.retain(|launch| {
        let kernel = kernel_changes.iter().find(|kernel| launch.name.ends_with(&format!(" {}", kernel.name)));
        matches!(launch.verdict, Verdict::Slower | Verdict::Faster)
            && kernel.is_some_and(|kernel| kernel.verdict == Verdict::Same)
    });
    Diff {
        warnings: warnings(before, after),
        drift: drift.exp() - 1.0,
        step: whole,
        kernels: kernel_changes,
        launches,
    }
}

/// `phase module/op shader:entry`.
fn place(launch: &LaunchProfile) -> String {
    format!("{} {}/{} {}", launch.phase.name(), launch.module, launch.op, launch.kernel())
}

fn warnings(before: &Profile, after: &Profile) -> Vec<String> {
    type Fact = fn(&Profile) -> String;
    let facts: [(&str, Fact); 6] = [
        ("subject", |p| p.subject.clone()),
        ("device", |p| p.device.clone()),
        ("driver", |p| p.driver.clone()),
        ("kernels", |p| p.kernels.clone()),
        ("clock", |p| p.clock.name().into()),
        ("configuration", |p| p.config.to_string()),
    ];
    let differ = facts.iter().filter(|(_, fact)| fact(before) != fact(after));
    differ
        .map(|(name, fact)| match *name {
            "configuration" => "the two were measured with different configurations".into(),
            name => format!("the {name} differs: {}, then {}", fact(before), fact(after)),
        })
        .collect()
}

/// Low quantile and median of every launch of a profile, and the low quantiles of its resamples.
struct Quantiles<'a> {
    profile: &'a Profile,
    least: Vec<f64>,
    low: Vec<f64>,
    middle: Vec<f64>,
    resampled: Vec<[f64; RESAMPLES]>,
}

impl<'a> Quantiles<'a> {
    fn of(profile: &'a Profile) -> Self {
        // The same runs for all launches: what disturbs one disturbs its neighbours too.
        let mut rng = Philox::new(0, Stream::Cases, 0);
        let resamples: [Vec<usize>; RESAMPLES] =
            std::array::from_fn(|_| (0..profile.runs).map(|_| rng.below(profile.runs)).collect());
        let of = |q: f64| profile.launches.iter().map(|l| quantile(&sorted(&l.samples), q)).collect();
        let resampled = |l: &LaunchProfile| {
            resamples.each_ref().map(|runs| {
                let drawn: Vec<f64> = runs.iter().map(|&run| l.samples[run]).collect();
                quantile(&sorted(&drawn), LOW)
            })
        };
        Self {
            profile,
            least: of(0.0),
            low: of(LOW),
            middle: of(0.5),
            resampled: profile.launches.iter().map(resampled).collect(),
        }
    }

    /// The times of the launches for which `key` is the same, together.
    fn by(&self, key: impl Fn(&LaunchProfile) -> String) -> BTreeMap<String, Measured> {
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, launch) in self.profile.launches.iter().enumerate() {
            groups.entry(key(launch)).or_default().push(number);
        }
        let together = |launches: Vec<usize>| {
            let sum = |of: &dyn Fn(usize) -> f64| launches.iter().map(|&l| of(l)).sum::<f64>();
            let low = sum(&|l| self.low[l]).max(f64::MIN_POSITIVE);
            let sums: [f64; RESAMPLES] = std::array::from_fn(|i| sum(&|l| self.resampled[l][i]));
            let mean = sums.iter().sum::<f64>() / RESAMPLES as f64;
            let variance = sums.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (RESAMPLES - 1) as f64;
            let disturbed = sum(&|l| self.middle[l]) / low - 1.0;
            let least = sum(&|l| self.least[l]).max(f64::MIN_POSITIVE);
            Measured { least, low, error: variance.sqrt() / low, disturbed }
        };
        groups.into_iter().map(|(name, launches)| (name, together(launches))).collect()
    }
}

fn in_both(profiles: &[BTreeMap<String, Measured>; 2]) -> impl Iterator<Item = (Measured, Measured)> {
    profiles[0].iter().filter_map(|(name, a)| Some((*a, *profiles[1].get(name)?)))
}

/// How far kernels scatter about the drift beyond what their errors explain: the addition to their variance with which half of them
/// lie within 0.6745 standard deviations, as half of normal numbers do.
fn scatter(pairs: &[(Measured, Measured)], drift: f64) -> f64 {
    if pairs.len() < ENOUGH {
        return UNTOLD;
    }
    let deviation = |more: f64| {
        let deviations = pairs.iter().map(|(a, b)| {
            let error = (a.error.powi(2) + b.error.powi(2) + more.powi(2)).sqrt();
            ((b.low / a.low).ln() - drift).abs() / error
        });
        median(&deviations.collect::<Vec<_>>())
    };
    // By halves, to a part in a million.
    let (mut low, mut high) = (AT_LEAST, 1.0);
    for _ in 0..20 {
        let middle = 0.5 * (low + high);
        if deviation(middle) > 0.6745 { low = middle } else { high = middle }
    }
    low
}

/// What a change is judged by.
struct Judge {
    drift: f64,
    least: f64,
    step: f64,
}

impl Judge {
    /// Every name of either profile, the longest time first.
    fn all(&self, profiles: &[BTreeMap<String, Measured>; 2], between: f64) -> Vec<Change> {
        let [first, second] = profiles;
        let names: std::collections::BTreeSet<&String> = first.keys().chain(second.keys()).collect();
        // P(|z| > x) is at most 2 exp(-x²/2): all of them are within it, but for the chance of a false alarm.
        let reach = (2.0 * (2.0 * names.len() as f64 / FALSE_ALARM).ln()).sqrt();
        let mut changes: Vec<Change> = names
            .into_iter()
            .map(|name| match (first.get(name), second.get(name)) {
                (Some(a), Some(b)) => self.one(name, *a, *b, between, reach),
                (a, b) => Change {
                    name: name.clone(),
                    before: a.map_or(0.0, |a| a.low),
                    after: b.map_or(0.0, |b| b.low),
                    change: 0.0,
                    noise: 0.0,
                    verdict: if a.is_none() { Verdict::New } else { Verdict::Gone },
                },
            })
            .collect();
        changes.sort_by(|x, y| y.before.max(y.after).total_cmp(&x.before.max(x.after)));
        changes
    }

    fn one(&self, name: &str, a: Measured, b: Measured, between: f64, reach: f64) -> Change {
        let ratio = (b.low / a.low).ln() - self.drift;
        let error = (a.error.powi(2) + b.error.powi(2) + between.powi(2)).sqrt();
        let noise = reach * error + 0.5 * a.disturbed.max(b.disturbed);
        let change = ratio.exp() - 1.0;
        let counts = change.abs() >= self.least && change.abs() * a.low >= OF_THE_STEP * self.step;
        // Work beside it that reached nearly every run of a launch in one profile left some run of it alone.
        let fastest = (b.least / a.least).ln() - self.drift;
        let shown = ratio.signum() * fastest >= 0.5 * ratio.abs();
        let verdict = match ratio.abs() > noise && counts && shown {
            true if ratio > 0.0 => Verdict::Slower,
            true => Verdict::Faster,
            false => Verdict::Same,
        };
        Change { name: name.into(), before: a.low, after: b.low, change, noise: noise.exp() - 1.0, verdict }
    }
}
