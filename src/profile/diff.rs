//! Two profiles compared, kernel by kernel, with what noise leaves of a difference.
//!
//! What differs between two processes of one build (where code and buffers lie, what waking a thread costs) differs between the
//! rounds of a profile too, which are processes. So a round is one measurement of a kernel: the sum of its launches' fastest runs,
//! which other work on the machine reaches least.
//!
//! - What most kernels have in common in a round, a factor, is the machine's doing, and is taken out.
//! - A kernel's time in a profile is the mean of its rounds, but for those that lie far above the others (`FAR`). How far they
//!   scatter gives its standard error; a variance of so few numbers is drawn towards that of all kernels, and the band is one of
//!   Student's t (G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression", 2004, section 4).
//! - How far kernels scatter about what they have in common from one profile to the other beyond that adds to it.
//!
//! The band is wide enough for all kernels together to be called unchanged in 99 of 100 comparisons of a build with itself.

use super::statistics::{median, parts, student};
use super::{LaunchProfile, Profile};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The chance that a comparison of a build with itself calls anything changed.
const FALSE_ALARM: f64 = 0.01;

/// Kernels below this part of a step do not tell how the machine drifted: their times are mostly the launch's.
const TELLING: f64 = 0.005;

/// Fewer kernels than this do not tell the machine's drift from a change.
const ENOUGH: usize = 5;

/// Fewer rounds than this do not tell what differs between two processes.
const ENOUGH_ROUNDS: usize = 3;

/// How far two processes are taken to differ where too few kernels tell, and at least: parts of the time.
const UNTOLD: f64 = 0.1;
const AT_LEAST: f64 = 0.005;

/// A round that lies this many times as far above the median as the fastest lies below it does not count: other work reached it.
/// Of made-up kernels whose rounds scatter by 2 per cent, and by another 30 in one of seven, a third slower was named in 98 of 100
/// comparisons so, and in 60 where all rounds count; without disturbances it costs nothing.
const FAR: f64 = 3.0;

/// Degrees of freedom by which the variance of all kernels counts beside a kernel's own.
const SHARED_DEGREES: f64 = 2.0;

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
    /// Seconds in a step of the first profile: the mean of its rounds.
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

/// Compares; changes below `least` (0.03 for 3 per cent) are never named.
pub fn diff(before: &Profile, after: &Profile, least: f64) -> Diff {
    let profiles = [before, after].map(Rounds::of);
    let kernels = profiles.each_ref().map(|p| p.by(LaunchProfile::kernel));
    let step: f64 = kernels[0].values().map(Measured::seconds).sum();
    let pairs = Pairs::of(&kernels, |a| a.seconds() >= TELLING * step);
    let drifts = [0, 1].map(|profile| pairs.drifts(profile, profiles[profile].count));
    let judge = Judge { drifts, least, step };

    let told = pairs.0.len() >= ENOUGH;
    let kernel_changes = judge.all(&kernels, judge.noise(&pairs, told));
    let whole = judge
        .all(&profiles.each_ref().map(|p| p.by(|_| "all launches".into())), judge.noise(&pairs, told))
        .remove(0);

    let by_place = profiles.each_ref().map(|p| p.by(place));
    let pairs = Pairs::of(&by_place, |a| a.seconds() >= OF_THE_STEP * step);
    let mut launches = judge.all(&by_place, judge.noise(&pairs, told));
    launches.retain(|launch| {
        let kernel = kernel_changes.iter().find(|kernel| launch.name.ends_with(&format!(" {}", kernel.name)));
        matches!(launch.verdict, Verdict::Slower | Verdict::Faster)
            && kernel.is_some_and(|kernel| kernel.verdict == Verdict::Same)
    });
    let [first, second] = judge.drifts.each_ref().map(|drifts| median(drifts));
    Diff {
        warnings: warnings(before, after),
        drift: second / first - 1.0,
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
    let facts: [(&str, Fact); 7] = [
        ("subject", |p| p.subject.clone()),
        ("device", |p| p.device.clone()),
        ("driver", |p| p.driver.clone()),
        ("kernels", |p| p.kernels.clone()),
        ("clock", |p| p.clock.name().into()),
        ("configuration", |p| p.config.to_string()),
        ("folder", |p| p.shaders.is_empty().to_string()),
    ];
    let few = [before, after].into_iter().filter(|p| p.rounds < ENOUGH_ROUNDS).map(|p| {
        format!(
            "the profile of {} was measured in {} of {ENOUGH_ROUNDS} rounds or more: what differs between two processes of \
             one build may pass for a change",
            p.date, p.rounds
        )
    });
    let differ = facts.iter().filter(|(_, fact)| fact(before) != fact(after));
    differ
        .map(|(name, fact)| match *name {
            "configuration" => "the two were measured with different configurations".into(),
            "folder" => "kernels of one came from a folder and are checked at run time, which costs time: compare two edited folders"
                .into(),
            name => format!("the {name} differs: {}, then {}", fact(before), fact(after)),
        })
        .chain(few)
        .collect()
}

/// The fastest run of every launch of a profile in each of its rounds.
struct Rounds<'a> {
    profile: &'a Profile,
    count: usize,
    fastest: Vec<Vec<f64>>,
}

impl<'a> Rounds<'a> {
    fn of(profile: &'a Profile) -> Self {
        // Of a profile without rounds enough, the runs in turn stand for them, and a warning says so.
        let rounds = profile.rounds.max(ENOUGH_ROUNDS);
        let count = parts(profile.runs, rounds).count();
        let fastest = |l: &LaunchProfile| {
            let least = |part: Range<usize>| l.samples[part].iter().copied().fold(f64::INFINITY, f64::min);
            parts(profile.runs, rounds).map(least).collect()
        };
        Self { profile, count, fastest: profile.launches.iter().map(fastest).collect() }
    }

    /// The times of the launches for which `key` is the same, together.
    fn by(&self, key: impl Fn(&LaunchProfile) -> String) -> BTreeMap<String, Measured> {
        let mut groups: BTreeMap<String, Measured> = BTreeMap::new();
        for (launch, fastest) in self.profile.launches.iter().zip(&self.fastest) {
            let group = groups.entry(key(launch)).or_default();
            group.rounds.resize(fastest.len(), f64::MIN_POSITIVE);
            group.rounds.iter_mut().zip(fastest).for_each(|(sum, seconds)| *sum += seconds);
        }
        groups
    }
}

/// A kernel's time in one profile.
#[derive(Clone, Default)]
struct Measured {
    /// The sum of the fastest runs of its launches, in each round.
    rounds: Vec<f64>,
}

impl Measured {
    fn seconds(&self) -> f64 {
        mean(&counting(&self.rounds))
    }
}

/// The rounds that count, see [`FAR`].
fn counting(rounds: &[f64]) -> Vec<f64> {
    let (middle, least) = (median(rounds), rounds.iter().copied().fold(f64::INFINITY, f64::min));
    let most = middle + FAR * (middle - least).max(2.0 * AT_LEAST * middle.abs());
    rounds.iter().copied().filter(|&round| round <= most).collect()
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// A kernel that both profiles have.
struct Pair([Measured; 2]);

impl Pair {
    /// What all times are told by: the mean of its time in both.
    fn middle(&self) -> f64 {
        0.5 * (self.0[0].seconds() + self.0[1].seconds())
    }
}

/// The kernels by which both profiles are told apart.
struct Pairs(Vec<Pair>);

impl Pairs {
    fn of(profiles: &[BTreeMap<String, Measured>; 2], tells: impl Fn(&Measured) -> bool) -> Self {
        let both = profiles[0].iter().filter(|(_, a)| tells(a));
        Self(both.filter_map(|(name, a)| Some(Pair([a.clone(), profiles[1].get(name)?.clone()]))).collect())
    }

    /// What the times of most kernels are multiplied by in each round of a profile.
    fn drifts(&self, profile: usize, rounds: usize) -> Vec<f64> {
        if self.0.len() < ENOUGH {
            return vec![1.0; rounds];
        }
        let of = |round: usize| self.0.iter().map(move |pair| pair.0[profile].rounds[round] / pair.middle());
        (0..rounds).map(|round| median(&of(round).collect::<Vec<_>>())).collect()
    }
}

/// A kernel's rounds with the drift taken out of them, those that count.
struct Told([Vec<f64>; 2]);

impl Told {
    /// A logarithm, as are the next two.
    fn change(&self) -> f64 {
        mean(&self.0[1]).ln() - mean(&self.0[0]).ln()
    }

    /// Between the fastest rounds of both.
    fn fastest(&self) -> f64 {
        let [a, b] = self.0.each_ref().map(|rounds| rounds.iter().copied().fold(f64::INFINITY, f64::min));
        (b / a).ln()
    }

    /// Of a round.
    fn variance(&self) -> f64 {
        let squares = self.0.iter().flat_map(|rounds| {
            let mean = mean(rounds);
            rounds.iter().map(move |round| (round / mean - 1.0).powi(2))
        });
        squares.sum::<f64>() / self.degrees().max(1.0)
    }

    fn degrees(&self) -> f64 {
        (self.0[0].len() + self.0[1].len()) as f64 - 2.0
    }
}

/// What is known of the noise from all kernels together.
struct Noise {
    /// The variance of a round: the median of the kernels'.
    shared: f64,
    /// The standard deviation between two processes that rounds do not show.
    between: f64,
}

impl Noise {
    /// The standard error of a change.
    fn error(&self, told: &Told) -> f64 {
        let own = told.degrees();
        let variance = (own * told.variance() + SHARED_DEGREES * self.shared) / (own + SHARED_DEGREES);
        let [a, b] = told.0.each_ref().map(|rounds| rounds.len() as f64);
        (variance * (1.0 / a + 1.0 / b) + self.between.powi(2)).sqrt()
    }
}

/// What a change is judged by.
struct Judge {
    /// Of the rounds of each profile.
    drifts: [Vec<f64>; 2],
    least: f64,
    step: f64,
}

impl Judge {
    fn told(&self, pair: &Pair) -> Told {
        Told([0, 1].map(|profile| {
            let rounds = pair.0[profile].rounds.iter().zip(&self.drifts[profile]);
            counting(&rounds.map(|(seconds, drift)| seconds / drift).collect::<Vec<_>>())
        }))
    }

    /// Beyond what the rounds explain, kernels scatter about the drift: the addition to their variance with which half of them lie
    /// within 0.6745 standard deviations, as half of normal numbers do.
    fn noise(&self, pairs: &Pairs, enough: bool) -> Noise {
        let told: Vec<Told> = pairs.0.iter().map(|pair| self.told(pair)).collect();
        let shared = median(&told.iter().map(Told::variance).collect::<Vec<_>>());
        if !enough {
            return Noise { shared, between: UNTOLD };
        }
        let deviation = |between: f64| {
            let noise = Noise { shared, between };
            median(&told.iter().map(|told| told.change().abs() / noise.error(told)).collect::<Vec<_>>())
        };
        // By halves, to a part in a million.
        let (mut low, mut high) = (AT_LEAST, 1.0);
        for _ in 0..20 {
            let middle = 0.5 * (low + high);
            if deviation(middle) > 0.6745 { low = middle } else { high = middle }
        }
        Noise { shared, between: low }
    }

    /// Every name of either profile, the longest time first.
    fn all(&self, profiles: &[BTreeMap<String, Measured>; 2], noise: Noise) -> Vec<Change> {
        let [first, second] = profiles;
        let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
        let rounds = (self.drifts[0].len() + self.drifts[1].len()) as f64;
        let reach = student(FALSE_ALARM / names.len() as f64, rounds - 2.0 + SHARED_DEGREES);
        let mut changes: Vec<Change> = names
            .into_iter()
            .map(|name| match (first.get(name), second.get(name)) {
                (Some(a), Some(b)) => self.one(name, &Pair([a.clone(), b.clone()]), &noise, reach),
                (a, b) => Change {
                    name: name.clone(),
                    before: a.map_or(0.0, Measured::seconds),
                    after: b.map_or(0.0, Measured::seconds),
                    change: 0.0,
                    noise: 0.0,
                    verdict: if a.is_none() { Verdict::New } else { Verdict::Gone },
                },
            })
            .collect();
        changes.sort_by(|x, y| y.before.max(y.after).total_cmp(&x.before.max(x.after)));
        changes
    }

    fn one(&self, name: &str, pair: &Pair, noise: &Noise, reach: f64) -> Change {
        let told = self.told(pair);
        let ratio = told.change();
        let band = reach * noise.error(&told);
        let [before, after] = pair.0.each_ref().map(Measured::seconds);
        let change = ratio.exp() - 1.0;
        let counts = change.abs() >= self.least && change.abs() * before >= OF_THE_STEP * self.step;
        // Work beside it that reached most rounds of one profile left some round of it alone.
        let shown = ratio.signum() * told.fastest() >= 0.5 * ratio.abs();
        let verdict = match ratio.abs() > band && counts && shown {
            true if ratio > 0.0 => Verdict::Slower,
            true => Verdict::Faster,
            false => Verdict::Same,
        };
        Change { name: name.into(), before, after, change, noise: band.exp() - 1.0, verdict }
    }
}
