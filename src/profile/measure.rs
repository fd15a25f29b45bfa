//! Profiled steps and undisturbed ones in turns, and a profile of both.

use super::clock::check;
use super::roofs::BURSTS;
use super::statistics::{Seconds, median, sorted};
use super::{
    ClockFault, DeviceSpan, FORMAT, HostSpan, LaunchProfile, Memory, Profile, ProfileError, Roofs, Timeline,
};
use crate::gpu::{Blocking as _, Clock, Device, Executable, GpuError, RunError, Timing};
use crate::graph::{Cost, Plan};
use crate::shader::Folder;
use std::sync::Arc;
use std::time::Instant;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Profiled steps, and undisturbed ones; at least 1.
    pub runs: usize,
    /// Steps before the first that counts.
    pub warmup: usize,
    /// This clock and no other; the best that can be trusted if left out.
    pub clock: Option<Clock>,
    /// Processes that share the profile, of which this is one: they share the measuring of roofs too.
    pub rounds: usize,
    /// Let the debugger that is attached capture one step more, before those that are measured.
    pub capture: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { runs: 24, warmup: 2, clock: None, rounds: 1, capture: false }
    }
}

/// Steps whose timestamps cannot be trusted, after which their clock is given up.
const FAULTS: usize = 3;

/// What is measured of a step: [`Options`] for a profile, [`super::lines::Lines`] for the parts of a kernel.
pub trait Measure {
    /// What comes of it.
    type Found;

    /// Takes the step, for real, as often as need be. It hands its plans to the recorder.
    fn measure(
        self,
        device: &Arc<Device>,
        subject: &str,
        config: serde_json::Value,
        step: impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
    ) -> Result<Self::Found, ProfileError>;
}

impl Measure for &Options {
    type Found = Profile;

    fn measure(
        self,
        device: &Arc<Device>,
        subject: &str,
        config: serde_json::Value,
        step: impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
    ) -> Result<Profile, ProfileError> {
        profile(device, subject, config, self, step)
    }
}

/// What is called in place of running a plan.
type Instead<'a> = dyn FnMut(&Executable) -> Result<(), GpuError> + 'a;

/// Runs the plans of a step, and notes what became of them. A step calls it in the place of [`Executable::run`].
#[derive(Default)]
pub struct Recorder<'a> {
    instead: Option<&'a mut Instead<'a>>,
    clock: Option<Clock>,
    /// The plans that were met, by the address of their executable, which stays where it is while a profile lasts, with the number
    /// of their first launch, and a copy for what is to be told of their memory.
    plans: Vec<(usize, usize, Plan)>,
    launches: Vec<Row>,
    runs: Vec<Run>,
}

/// A plan that was run.
struct Run {
    first: usize,
    entered: Instant,
    left: Instant,
    timing: Option<Timing>,
}

/// A launch without its times.
struct Row {
    facts: LaunchProfile,
    cost: Cost,
}

/// What is known of the launches of a plan before they run.
pub(super) fn facts(plan: &Plan) -> impl Iterator<Item = LaunchProfile> {
    plan.launches.iter().map(|launch| {
        let (node, d) = (&plan.graph.nodes[launch.node], &launch.dispatch);
        LaunchProfile {
            phase: node.phase,
            module: node.scope.clone(),
            op: node.op.name().into(),
            shader: d.shader.name.into(),
            entry: d.entry.into(),
            variant: d.variant.describe(),
            groups: d.groups,
            node: launch.node,
            calls: 0,
            seconds: Seconds::default(),
            gap_seconds: 0.0,
            share: 0.0,
            flops: 0,
            bytes: 0,
            roof_share: 0.0,
            limit: super::Limit::Launch,
            samples: Vec::new(),
        }
    })
}

impl<'a> Recorder<'a> {
    /// One that notes nothing, and calls this in place of running a plan.
    pub(super) fn calling(instead: &'a mut Instead<'a>) -> Self {
        Self { instead: Some(instead), ..Self::default() }
    }

    pub(super) async fn run(&mut self, executable: &Executable) -> Result<(), GpuError> {
        if let Some(instead) = &mut self.instead {
            return instead(executable);
        }
        let first = self.first_launch(executable);
        let entered = Instant::now();
        let timing = match self.clock {
            Some(clock) => Some(executable.run_timed(clock).await?),
            None => {
                executable.run().await?;
                None
            }
        };
        self.runs.push(Run { first, entered, left: Instant::now(), timing });
        Ok(())
    }

    fn first_launch(&mut self, executable: &Executable) -> usize {
        let address = std::ptr::from_ref(executable) as usize;
        if let Some((_, first, _)) = self.plans.iter().find(|(known, ..)| *known == address) {
            return *first;
        }
        let first = self.launches.len();
        let plan = executable.plan();
        self.plans.push((address, first, plan.clone()));
        let rows = facts(plan).zip(plan.launch_costs());
        self.launches.extend(rows.map(|(facts, cost)| Row { facts, cost }));
        first
    }
}

/// A profiled step.
struct Step {
    wall: f64,
    upload: f64,
    encode: f64,
    timeline: Timeline,
}

impl Step {
    /// Seconds, gap before it, and number of calls of each of so many launches.
    fn by_launch(&self, launches: usize) -> (Vec<f64>, Vec<f64>, Vec<usize>) {
        let (mut seconds, mut gaps, mut calls) =
            (vec![0.0; launches], vec![0.0; launches], vec![0; launches]);
        let mut end = 0.0;
        // To the nanosecond, which no clock is finer than.
        let round = |seconds: f64| (seconds * 1e9).round() * 1e-9;
        for span in &self.timeline.device {
            seconds[span.launch] += round(span.end - span.begin);
            gaps[span.launch] += round(span.begin - end);
            calls[span.launch] += 1;
            end = span.end;
        }
        (seconds, gaps, calls)
    }
}

/// Ticks as seconds since the first of them.
pub(super) fn spans(ticks: &[[u64; 2]], tick_seconds: f64) -> Vec<[f64; 2]> {
    let first = ticks.first().map_or(0, |[begin, _]| *begin);
    let seconds = |tick: u64| (i128::from(tick) - i128::from(first)) as f64 * tick_seconds;
    ticks.iter().map(|stamps| stamps.map(seconds)).collect()
}

/// Runs a step with its launches timed.
fn profiled(
    device: &Device,
    recorder: &mut Recorder<'_>,
    clock: Clock,
    step: &mut impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
) -> Result<Result<Step, ClockFault>, RunError> {
    recorder.clock = Some(clock);
    recorder.runs.clear();
    let start = Instant::now();
    step(recorder)?;
    let called = start.elapsed().as_secs_f64();
    device.idle().block_on()?;
    let wall = start.elapsed().as_secs_f64();
    recorder.clock = None;

    let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
    let (mut ticks, mut numbers, mut tick_seconds) = (Vec::<[u64; 2]>::new(), Vec::new(), 0.0);
    let (mut host, mut before, mut submitted) = (Vec::new(), 0.0, None);
    let mut span = |name: &str, begin, end| host.push(HostSpan { name: name.into(), begin, end });
    for run in recorder.runs.drain(..) {
        let (entered, left) = (since(run.entered), since(run.left));
        span("upload", before, entered);
        span("encode and submit", entered, left);
        before = left;
        let Some(timing) = run.timing else { continue };
        submitted = submitted.or(timing.first_submitted.map(since));
        let (mut read, seconds) = timing.read().block_on()?;
        if clock == Clock::Waiting {
            let end = ticks.last().map_or(0, |[_, end]| *end);
            read.iter_mut().flatten().for_each(|tick| *tick += end);
        }
        numbers.extend((run.first..).take(read.len()));
        ticks.extend(read);
        tick_seconds = seconds;
    }
    span("wait", called, wall);
    let submitted = submitted.unwrap_or(wall);
    if clock != Clock::Waiting
        && let Err(fault) = check(&ticks, tick_seconds, [wall, wall - submitted])
    {
        return Ok(Err(fault));
    }
    let device = spans(&ticks, tick_seconds)
        .into_iter()
        .zip(numbers)
        .map(|([begin, end], launch)| DeviceSpan { launch, begin, end })
        .collect();
    let upload = host.first().map_or(0.0, |h| h.end - h.begin);
    let timeline = Timeline { host, device, submitted };
    Ok(Ok(Step { wall, upload, encode: submitted - upload, timeline }))
}

/// The steps that were measured by one clock.
struct Measured {
    walls: Vec<f64>,
    steps: Vec<Step>,
}

/// Measures by a clock, or says why it cannot be trusted.
fn measured_by(
    device: &Device,
    recorder: &mut Recorder<'_>,
    clock: Clock,
    options: &Options,
    step: &mut impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
) -> Result<Result<Measured, ClockFault>, RunError> {
    let undisturbed =
        |recorder: &mut Recorder<'_>, step: &mut dyn FnMut(&mut Recorder<'_>) -> Result<(), RunError>| {
            recorder.runs.clear();
            let start = Instant::now();
            step(recorder)?;
            device.idle().block_on()?;
            Ok::<f64, RunError>(start.elapsed().as_secs_f64())
        };
    for _ in 0..options.warmup {
        undisturbed(recorder, step)?;
    }
    let (mut walls, mut steps, mut faults) = (Vec::new(), Vec::new(), 0);
    // The first profiled step warms up what profiling needs.
    let mut warm = false;
    while steps.len() < options.runs.max(1) {
        match profiled(device, recorder, clock, step)? {
            Ok(found) if warm => steps.push(found),
            Ok(_) => {}
            Err(fault) => {
                faults += 1;
                if faults == FAULTS {
                    return Ok(Err(fault));
                }
                continue;
            }
        }
        let wall = undisturbed(recorder, step)?;
        if warm {
            walls.push(wall);
        }
        warm = true;
    }
    Ok(Ok(Measured { walls, steps }))
}

fn profile(
    device: &Arc<Device>,
    subject: &str,
    config: serde_json::Value,
    options: &Options,
    mut step: impl FnMut(&mut Recorder<'_>) -> Result<(), RunError>,
) -> Result<Profile, ProfileError> {
    let features = &device.caps.features;
    let mut notes = Vec::new();
    if options.capture {
        for _ in 0..options.warmup {
            step(&mut Recorder::default())?;
        }
        device.captured(|| step(&mut Recorder::default()))?;
    }
    for clock in Clock::ALL {
        if options.clock.is_some_and(|wanted| wanted != clock) {
            continue;
        }
        let unusable =
            |reason| ProfileError::Clock { device: device.info.name.clone(), clock: clock.name(), reason };
        if !clock.suits(features) {
            if options.clock.is_some() {
                return Err(unusable("it has none".into()));
            }
            continue;
        }
        let mut recorder = Recorder::default();
        match measured_by(device, &mut recorder, clock, options, &mut step)? {
            Ok(measured) => {
                let roofs = Roofs::measure(device, clock, BURSTS.div_ceil(options.rounds.max(1)))?;
                let memory = Memory::of(
                    &recorder.plans.iter().map(|(_, first, plan)| (*first, plan)).collect::<Vec<_>>(),
                );
                let mut profile = assemble(device, recorder.launches, measured, roofs, clock);
                profile.memory = memory;
                (profile.subject, profile.config, profile.notes) = (subject.into(), config, notes);
                return Ok(profile);
            }
            Err(fault) if options.clock.is_some() => return Err(unusable(fault.to_string())),
            Err(fault) => notes.push(format!("{} are not trusted: {fault}", clock.name())),
        }
    }
    // Waiting is never at fault.
    let device = device.info.name.clone();
    Err(ProfileError::Clock { device, clock: "any clock", reason: notes.join("; ") })
}

/// Times, work and roofs together.
fn assemble(device: &Device, rows: Vec<Row>, measured: Measured, roofs: Roofs, clock: Clock) -> Profile {
    let Measured { walls, mut steps } = measured;
    let by_launch: Vec<_> = steps.iter().map(|step| step.by_launch(rows.len())).collect();
    let launched: Vec<f64> = by_launch.iter().map(|(seconds, ..)| seconds.iter().sum()).collect();
    let gaps: Vec<f64> = by_launch.iter().map(|(_, gaps, _)| gaps.iter().sum()).collect();
    let calls: usize = by_launch[0].2.iter().sum();
    let timing = calls as f64 * roofs.clock_seconds;
    let accounted: Vec<f64> = steps
        .iter()
        .enumerate()
        .map(|(i, step)| step.upload + step.encode + launched[i] + gaps[i] - timing)
        .collect();
    let launches = rows
        .into_iter()
        .enumerate()
        .map(|(launch, Row { facts, cost })| {
            let samples: Vec<f64> = by_launch.iter().map(|(seconds, ..)| seconds[launch]).collect();
            let before: Vec<f64> = by_launch.iter().map(|(_, gaps, _)| gaps[launch]).collect();
            let parts = samples.iter().zip(&launched).map(|(s, all)| s / all.max(f64::MIN_POSITIVE));
            let share = parts.sum::<f64>() / samples.len() as f64;
            let calls = by_launch[0].2[launch];
            let (flops, bytes) = (cost.flops(), cost.bytes_read + cost.bytes_written);
            let seconds = Seconds::of(&samples);
            LaunchProfile {
                calls,
                seconds,
                gap_seconds: median(&before),
                share,
                flops: flops * calls as u64,
                bytes: bytes * calls as u64,
                roof_share: roofs.seconds(flops, bytes) * calls as f64
                    / seconds.median.max(f64::MIN_POSITIVE),
                limit: roofs.limit(flops, bytes),
                samples,
                ..facts
            }
        })
        .collect();
    // Of an even number, the slower one in the middle.
    let middle = sorted(&launched)[launched.len() / 2];
    let typical = launched.iter().position(|&all| all == middle).unwrap_or(0);
    let of = |f: fn(&Step) -> f64| Seconds::of(&steps.iter().map(f).collect::<Vec<_>>());
    let (upload, encode, profiled) = (of(|s| s.upload), of(|s| s.encode), of(|s| s.wall));
    let wall = Seconds::of(&walls);
    Profile {
        format: FORMAT,
        inkwash: env!("CARGO_PKG_VERSION").into(),
        date: super::subject::now(),
        device: device.info.name.clone(),
        backend: device.info.backend.clone(),
        driver: device.info.driver.clone(),
        kernels: device.caps.kernels.name().into(),
        shaders: device.shaders().map(Folder::checksums).unwrap_or_default(),
        subject: String::new(),
        config: serde_json::Value::Null,
        clock,
        notes: Vec::new(),
        runs: steps.len(),
        rounds: 1,
        wall_seconds: wall.median,
        accounted_seconds: median(&accounted),
        wall,
        profiled,
        upload,
        encode,
        launched: Seconds::of(&launched),
        gaps: Seconds::of(&gaps),
        timing_seconds: timing,
        roofs,
        launches,
        memory: Memory::default(),
        timeline: steps.swap_remove(typical).timeline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_launch_and_the_gaps_before_them_add_up() {
        let spans = [(0, 0.0, 5.0), (1, 7.0, 9.0), (0, 9.0, 13.0), (1, 12.0, 14.0)];
        let device = spans.map(|(launch, begin, end)| DeviceSpan { launch, begin, end }).to_vec();
        let timeline = Timeline { device, ..Timeline::default() };
        let step = Step { wall: 0.0, upload: 0.0, encode: 0.0, timeline };
        // The last began before the one before it had ended.
        assert_eq!(step.by_launch(2), (vec![9.0, 4.0], vec![0.0, 1.0], vec![2, 2]));
    }

    #[test]
    fn ticks_become_seconds_since_the_first() {
        let ticks = [[u64::MAX - 10, u64::MAX - 6], [u64::MAX - 5, u64::MAX]];
        assert_eq!(spans(&ticks, 0.5), [[0.0, 2.0], [2.5, 5.0]]);
        assert!(spans(&[], 0.5).is_empty());
    }
}
