//! Launches summed up by what they have in common, as rows of a table.

use super::statistics::Seconds;
use super::{LaunchProfile, Limit, Profile};
use crate::graph::Phase;
use serde::Serialize;
use std::collections::HashMap;

/// What the launches of a row have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum By {
    /// The part of the step.
    Phase,
    /// The module.
    Module,
    /// The operator.
    Op,
    /// Shader and entry point.
    Shader,
    /// Every launch by itself.
    Launch,
}

impl By {
    /// As it heads a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Phase => "phase",
            Self::Module => "module",
            Self::Op => "op",
            Self::Shader => "shader",
            Self::Launch => "launch",
        }
    }

    fn key(self, launch: &LaunchProfile, number: usize) -> String {
        match self {
            Self::Phase => launch.phase.name().into(),
            Self::Module if launch.module.is_empty() => "(none)".into(),
            Self::Module => launch.module.clone(),
            Self::Op => launch.op.clone(),
            Self::Shader => launch.kernel(),
            Self::Launch => format!("{number} {}", full_name(launch)),
        }
    }
}

/// `phase module/op shader:entry [variant] workgroups`.
pub fn full_name(launch: &LaunchProfile) -> String {
    let [x, y, z] = launch.groups;
    let (phase, kernel) = (launch.phase.name(), launch.kernel());
    let LaunchProfile { module, op, variant, .. } = launch;
    let slash = if module.is_empty() { "" } else { "/" };
    format!("{phase} {module}{slash}{op} {kernel} [{variant}] {x}x{y}x{z}")
}

/// Launches that have something in common.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What they have in common.
    pub name: String,
    /// Launches in a step.
    pub calls: usize,
    /// What they took together in a step.
    pub seconds: Seconds,
    /// Their part of the time of all launches; among phases, of that and of the host's time for the batch.
    pub share: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must move.
    pub bytes: u64,
    /// The time at the roof over the median time.
    pub roof_share: f64,
    /// What bounds most of their time.
    pub limit: Limit,
    /// The gaps before them, together.
    pub gap_seconds: f64,
}

impl Row {
    /// Operations per byte; nothing where no byte must move.
    pub fn intensity(&self) -> f64 {
        self.flops as f64 / (self.bytes as f64).max(1.0)
    }

    /// Operations per second.
    pub fn flops_per_s(&self) -> f64 {
        self.flops as f64 / self.seconds.median.max(f64::MIN_POSITIVE)
    }

    /// Bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds.median.max(f64::MIN_POSITIVE)
    }
}

/// The rows of a table, the longest time first. `filter` keeps the launches whose [`full_name`] contains it, in any case.
pub fn rows(profile: &Profile, by: By, filter: Option<&str>) -> Vec<Row> {
    let filter = filter.map(str::to_lowercase);
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<&LaunchProfile>)> = Vec::new();
    for (number, launch) in profile.launches.iter().enumerate() {
        if filter.as_ref().is_some_and(|text| !full_name(launch).to_lowercase().contains(text)) {
            continue;
        }
        let key = by.key(launch, number);
        let place = *places.entry(key.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((key, Vec::new()));
        }
        groups[place].1.push(launch);
    }
    let mut rows: Vec<Row> = groups.into_iter().map(|(name, launches)| row(name, &launches)).collect();
    if by == By::Phase && filter.is_none() {
        // The only phase without a launch: the host makes and uploads the batch before the first.
        let seconds = profile.upload;
        let share = seconds.median / (seconds.median + profile.launched.median).max(f64::MIN_POSITIVE);
        rows.iter_mut().for_each(|row| row.share *= 1.0 - share);
        let (name, limit) = (Phase::Data.name().into(), Limit::Host);
        let none = Row {
            name,
            calls: 0,
            seconds,
            share,
            flops: 0,
            bytes: 0,
            roof_share: 0.0,
            limit,
            gap_seconds: 0.0,
        };
        rows.push(none);
    }
    rows.sort_by(|a, b| b.seconds.median.total_cmp(&a.seconds.median));
    rows
}

fn row(name: String, launches: &[&LaunchProfile]) -> Row {
    // The sum of every run, and the quantiles of the sums: the sum of quantiles would be another number.
    let runs = launches.iter().map(|l| l.samples.len()).min().unwrap_or(0);
    let sums: Vec<f64> = (0..runs).map(|run| launches.iter().map(|l| l.samples[run]).sum()).collect();
    let seconds = Seconds::of(&sums);
    let sum = |f: fn(&LaunchProfile) -> u64| launches.iter().map(|l| f(l)).sum::<u64>();
    let roof: f64 = launches.iter().map(|l| l.roof_share * l.seconds.median).sum();
    let limited = |limit| -> f64 { launches.iter().filter(|l| l.limit == limit).map(|l| l.share).sum() };
    let limits = [Limit::Arithmetic, Limit::Bandwidth, Limit::Launch];
    let limit = limits.into_iter().max_by(|&a, &b| limited(a).total_cmp(&limited(b)));
    Row {
        name,
        calls: launches.iter().map(|l| l.calls).sum(),
        seconds,
        share: launches.iter().map(|l| l.share).sum(),
        flops: sum(|l| l.flops),
        bytes: sum(|l| l.bytes),
        roof_share: roof / seconds.median.max(f64::MIN_POSITIVE),
        limit: limit.unwrap_or(Limit::Launch),
        gap_seconds: launches.iter().map(|l| l.gap_seconds).sum(),
    }
}
