//! Several profiles of one step, each by a process of its own, made one.
//!
//! Two processes of one build differ by more than the runs of either: by where code and buffers lie, and by what waking a thread
//! costs. Only other processes show it, so that a profile that is to be compared is measured by several.

use super::statistics::median;
use super::{LaunchProfile, Profile, Roofs, Seconds};

impl Profile {
    /// Rounds of one step, each by another process, as one profile: the runs of launches follow each other, and what a profile
    /// keeps of a whole step without its runs is the middle of the rounds'. `None` where they are not of the same launches.
    pub fn together(rounds: Vec<Self>) -> Option<Self> {
        let launched: Vec<f64> = rounds.iter().map(|round| round.launched.median).collect();
        let distance = |round: &&Self| (round.launched.median - median(&launched)).abs();
        let typical = rounds.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        let of = |f: fn(&Self) -> f64| median(&rounds.iter().map(f).collect::<Vec<_>>());
        let seconds = |f: fn(&Self) -> Seconds| {
            let all = || rounds.iter().map(f);
            Seconds {
                median: median(&all().map(|s| s.median).collect::<Vec<_>>()),
                p5: all().map(|s| s.p5).fold(f64::INFINITY, f64::min),
                p95: all().map(|s| s.p95).fold(0.0, f64::max),
            }
        };
        let best = |f: fn(&Roofs) -> f64| rounds.iter().map(|round| f(&round.roofs)).fold(0.0, f64::max);
        let any = |f: fn(&Roofs) -> Option<f64>| rounds.iter().filter_map(|p| f(&p.roofs)).reduce(f64::max);
        let roofs = Roofs {
            flops_per_s: best(|r| r.flops_per_s),
            bytes_per_s: best(|r| r.bytes_per_s),
            f16_flops_per_s: any(|r| r.f16_flops_per_s),
            matrix_flops_per_s: any(|r| r.matrix_flops_per_s),
            workgroup_bytes_per_s: any(|r| r.workgroup_bytes_per_s),
            subgroup_shuffles_per_s: any(|r| r.subgroup_shuffles_per_s),
            launch_seconds: of(|p| p.roofs.launch_seconds),
            clock_seconds: of(|p| p.roofs.clock_seconds),
        };
        let launches = (0..typical.launches.len())
            .map(|number| launch(&rounds, number, &roofs))
            .collect::<Option<Vec<_>>>()
            .filter(|launches| rounds.iter().all(|round| round.launches.len() == launches.len()))?;
        let mut notes: Vec<String> = rounds.iter().flat_map(|round| round.notes.clone()).collect();
        notes.sort();
        notes.dedup();
        Some(Self {
            notes,
            runs: rounds.iter().map(|round| round.runs).sum(),
            rounds: rounds.len(),
            wall_seconds: of(|p| p.wall_seconds),
            accounted_seconds: of(|p| p.accounted_seconds),
            wall: seconds(|p| p.wall),
            profiled: seconds(|p| p.profiled),
            upload: seconds(|p| p.upload),
            encode: seconds(|p| p.encode),
            launched: seconds(|p| p.launched),
            gaps: seconds(|p| p.gaps),
            timing_seconds: of(|p| p.timing_seconds),
            roofs,
            launches,
            ..typical.clone()
        })
    }
}

/// A launch of all rounds together, if it is the same in all.
fn launch(rounds: &[Profile], number: usize, roofs: &Roofs) -> Option<LaunchProfile> {
    let all: Vec<&LaunchProfile> =
        rounds.iter().map(|round| round.launches.get(number)).collect::<Option<_>>()?;
    let first = *all.first()?;
    let same = |l: &&LaunchProfile| {
        (&l.shader, &l.entry, &l.variant, l.calls)
            == (&first.shader, &first.entry, &first.variant, first.calls)
    };
    if !all.iter().all(same) {
        return None;
    }
    let samples: Vec<f64> = all.iter().flat_map(|l| l.samples.iter().copied()).collect();
    let seconds = Seconds::of(&samples);
    Some(LaunchProfile {
        seconds,
        gap_seconds: median(&all.iter().map(|l| l.gap_seconds).collect::<Vec<_>>()),
        share: all.iter().map(|l| l.share).sum::<f64>() / all.len() as f64,
        roof_share: roofs.seconds(first.flops, first.bytes) / seconds.median.max(f64::MIN_POSITIVE),
        samples,
        ..first.clone()
    })
}
