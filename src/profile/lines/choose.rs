//! Which launch of a step is taken.

use super::super::measure::{Recorder, facts};
use super::super::table::full_name;
use super::{Candidate, Lines, ProfileError};
use crate::gpu::{Blocking as _, Executable, RunError};
use crate::ops;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// The plans of a step in the order in which they are met, by the address of their executable, which stays where it is.
#[derive(Default)]
pub(super) struct Plans(Vec<usize>);

impl Plans {
    pub(super) fn number(&mut self, executable: &Executable) -> usize {
        let address = std::ptr::from_ref(executable) as usize;
        self.0.iter().position(|&known| known == address).unwrap_or_else(|| {
            self.0.push(address);
            self.0.len() - 1
        })
    }
}

/// The launches of the kernel in a step by variant and workgroups, those that take longest together first.
pub(super) fn candidates(
    lines: &Lines,
    step: &mut impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
) -> Result<Vec<Candidate>, ProfileError> {
    let filter = lines.filter.map(str::to_lowercase);
    let (mut there, mut found) = (BTreeSet::new(), Vec::new());
    // The first step compiles.
    for _ in 0..=lines.warmup.max(1) {
        found.clear();
        let mut plans = Plans::default();
        let mut instead = |executable: &Executable| {
            let plan = plans.number(executable);
            let launches: Vec<_> = facts(executable.plan()).collect();
            executable
                .run_by_launch(async |number, seconds| {
                    let launch = &launches[number];
                    let name = full_name(launch);
                    if launch.kernel() == lines.kernel
                        && filter.as_ref().is_none_or(|text| name.to_lowercase().contains(text))
                    {
                        let key = (launch.variant.clone(), launch.groups);
                        found.push((key, Candidate { name, calls: 1, seconds, plan, number }));
                    }
                    there.insert(launch.kernel());
                    Ok(ControlFlow::<()>::Continue(()))
                })
                .block_on()?;
            Ok(())
        };
        step(&mut Recorder::calling(&mut instead))?;
    }
    if !there.contains(lines.kernel) {
        return Err(unknown(lines.kernel, &there));
    }
    let mut candidates: Vec<(_, Candidate, f64)> = Vec::new();
    for (key, launch) in found {
        match candidates.iter_mut().find(|(known, ..)| *known == key) {
            Some((_, of_its_kind, longest)) => {
                of_its_kind.calls += 1;
                of_its_kind.seconds += launch.seconds;
                if launch.seconds > *longest {
                    *longest = launch.seconds;
                    let Candidate { calls, seconds, .. } = *of_its_kind;
                    *of_its_kind = Candidate { calls, seconds, ..launch };
                }
            }
            None => {
                let seconds = launch.seconds;
                candidates.push((key, launch, seconds));
            }
        }
    }
    candidates.sort_by(|(_, a, _), (_, b, _)| b.seconds.total_cmp(&a.seconds));
    Ok(candidates.into_iter().map(|(_, candidate, _)| candidate).collect())
}

/// The error where the filter lets no launch of the kernel pass.
pub(super) fn missing(lines: &Lines) -> ProfileError {
    let filter = lines.filter.unwrap_or_default();
    ProfileError::NoKernel {
        asked: lines.kernel.into(),
        reason: format!(
            "--filter {filter}: no launch of this kernel has this in its phase, module, operator or variant"
        ),
    }
}

/// The error for a kernel that the step does not launch.
fn unknown(kernel: &str, there: &BTreeSet<String>) -> ProfileError {
    let all: BTreeSet<String> =
        ops::kernels().iter().map(|kernel| format!("{}:{}", kernel.source.name, kernel.entry)).collect();
    let nearest = |names: &BTreeSet<String>| {
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_by(|a, b| strsim::jaro_winkler(b, kernel).total_cmp(&strsim::jaro_winkler(a, kernel)));
        names.truncate(5);
        names.join(", ")
    };
    let reason = if all.contains(kernel) {
        format!(
            "this step does not launch it on this device, but for example {}; --op OPERATOR takes another step, --kernels \
             the other kind of kernels",
            nearest(there)
        )
    } else if kernel.contains(':') {
        format!("there is no such kernel; nearest are {}", nearest(&all))
    } else {
        format!(
            "expected SHADER:ENTRY, as `profile --by shader` names kernels; nearest are {}",
            nearest(&all)
        )
    };
    ProfileError::NoKernel { asked: kernel.into(), reason }
}
