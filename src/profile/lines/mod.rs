//! What the parts of one kernel cost, from whole loops down to lines: each is put behind a switch
//! ([`crate::shader::Parts`]) and run with the switch on and off, alone and from the same memory.

mod choose;
mod measure;
pub mod report;

use super::measure::{Measure, Recorder};
use super::{ProfileError, Seconds};
use crate::gpu::{Blocking as _, Clock, Device, Executable, RunError};
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The version of the JSON, raised when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// Which kernel to measure, and how.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    /// `shader:entry`.
    pub kernel: &'a str,
    /// Only launches whose [`super::table::full_name`] contains this, in any case.
    pub filter: Option<&'a str>,
    /// Runs of each form of the kernel; at least 1.
    pub runs: usize,
    /// Steps before the one whose launch is taken.
    pub warmup: usize,
    /// [`Clock::Waiting`], or timestamps of passes for either of the others; timestamps if they can be trusted if left out.
    pub clock: Option<Clock>,
}

/// A kernel, part by part. All times are in seconds, of one launch.
#[derive(Clone, Debug, Serialize)]
pub struct LineProfile {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program.
    pub inkwash: String,
    /// When it was measured: UTC.
    pub date: String,
    /// The adapter.
    pub device: String,
    /// Its interface.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// `training step`, `sampling step`, or an operator with its case.
    pub subject: String,
    /// What decides the step.
    pub config: serde_json::Value,
    /// The launch that was taken.
    pub launch: Candidate,
    /// Other variants and sizes of the kernel in the step, which a filter can choose, the longest first.
    pub others: Vec<Candidate>,
    /// Whether the kernel is a user's, compiled with checks of bounds and loops, in all its forms.
    pub checked: bool,
    /// How launches were timed.
    pub clock: Clock,
    /// Why timestamps are not trusted.
    pub notes: Vec<String>,
    /// Runs of each form.
    pub runs: usize,
    /// Launches in each run, one after another; times are for one of them.
    pub repeats: usize,
    /// The kernel as it is, alone.
    pub plain: Seconds,
    /// The same in runs that nothing disturbed, as costs are: the middle of the three shortest.
    pub undisturbed: f64,
    /// Every part, function by function, each before those within it.
    pub parts: Vec<PartCost>,
    /// The text of the functions, as compiled.
    pub functions: Vec<FunctionText>,
}

/// Launches of a kernel that differ in nothing that decides their work.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// `phase module/op shader:entry [variant] workgroups` of the longest of them.
    pub name: String,
    /// Launches of this variant and size in a step.
    pub calls: usize,
    /// What they took together when each was waited for.
    pub seconds: f64,
    #[serde(skip)]
    plan: usize,
    #[serde(skip)]
    number: usize,
}

/// A part of a kernel.
#[derive(Clone, Debug, Serialize)]
pub struct PartCost {
    /// The function that it is in.
    pub function: String,
    /// The file of its first line.
    pub file: String,
    /// Its first and its last line there.
    pub lines: [usize; 2],
    /// Index of the part that it is within.
    pub parent: Option<usize>,
    /// Whether it is a loop, a condition or another block.
    pub block: bool,
    /// Why it stays on, if it must; then it has no times.
    pub kept: Option<&'static str>,
    /// Its times.
    pub cost: Option<Cost>,
}

/// What switching a part off saves.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// The middle of the three shortest runs with the part on less that with it off.
    pub seconds: f64,
    /// How far the three shortest runs lie apart, with the part on and with it off, added up; and how much longer than elsewhere the
    /// plain kernel took meanwhile.
    pub noise: f64,
    /// With the part on.
    pub on: Seconds,
    /// With the part off.
    pub off: Seconds,
    /// With the part on over the plain kernel, by the same runs: how far the switch distorts.
    pub distortion: f64,
    /// The seconds of every run: of the plain kernel, with the part on, with it off.
    pub samples: [Vec<f64>; 3],
}

impl Cost {
    /// Whether it is more than noise.
    pub fn is_seen(&self) -> bool {
        self.seconds.abs() > self.noise
    }
}

/// A function of a kernel.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionText {
    /// Its name.
    pub name: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// A line of source.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The file.
    pub file: String,
    /// Its number there, from 1.
    pub number: usize,
    /// Its text, with the variant's values in it.
    pub text: String,
}

impl Measure for &Lines<'_> {
    type Found = LineProfile;

    fn measure(
        self,
        device: &Arc<Device>,
        subject: &str,
        config: serde_json::Value,
        mut step: impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
    ) -> Result<LineProfile, ProfileError> {
        let candidates = choose::candidates(self, &mut step)?;
        let Some((chosen, others)) = candidates.split_first() else { return Err(choose::missing(self)) };
        let (mut plans, mut found) = (choose::Plans::default(), None);
        let mut instead = |executable: &Executable| {
            if plans.number(executable) != chosen.plan {
                // What comes behind the launch would compute on with what a switch has spoilt.
                return if found.is_none() { executable.run().block_on() } else { Ok(()) };
            }
            if found.is_some() {
                return Ok(());
            }
            if chosen.number > 0 {
                let before = |number: usize| match number + 1 == chosen.number {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                };
                executable.run_by_launch(async |number, _| Ok(before(number))).block_on()?;
            }
            found = Some(measure::parts(device, executable, chosen, self));
            Ok(())
        };
        step(&mut Recorder::calling(&mut instead))?;
        let Some(measured) = found else { return Err(choose::missing(self)) };
        Ok(LineProfile { subject: subject.into(), config, others: others.to_vec(), ..measured? })
    }
}
