//! A launch with each of its parts on and off, in turns.

use super::super::clock::check;
use super::super::measure::spans;
use super::super::statistics::{Seconds, sorted};
use super::super::subject::now;
use super::{Candidate, Cost, FORMAT, FunctionText, Line, LineProfile, Lines, PartCost, ProfileError};
use crate::gpu::{Alone, Blocking as _, Clock, Device, Executable, Form};
use crate::shader::{Parts, Target, expand};
use std::time::Instant;

/// The shortest runs of a form agree if they differ by no more than this part.
const AGREED: f64 = 0.02;

/// Runs go on until they agree, up to so many times those that were asked for. A device that has nothing else to do needs no more
/// than were asked for; on a machine with twice the work that it has processors for, one in six parts took 2 to 10 times as many.
const MOST_ROUNDS: usize = 10;

/// A run lasts this long at least: a thousand times what a GPU's clock resolves, and ten times what waiting takes.
const RUN_SECONDS: f64 = 1e-3;

/// Launches in a run at the most.
const MOST_REPEATS: f64 = 1000.0;

/// Runs whose timestamps cannot be trusted, after which they are given up.
const FAULTS: usize = 3;

/// Measures all parts of a launch; the memory is as it was right before it.
pub(super) fn parts(
    device: &Device,
    executable: &Executable,
    chosen: &Candidate,
    lines: &Lines,
) -> Result<LineProfile, ProfileError> {
    let alone = executable.alone(chosen.number).block_on()?;
    let dispatch = &executable.plan().launches[chosen.number].dispatch;
    let expanded = match alone.edited() {
        Some(expanded) => expanded.clone(),
        None => expand(dispatch.shader, &dispatch.variant, Target::Native)?,
    };
    let parts = Parts::of(dispatch.entry, &dispatch.variant, expanded)?;
    let mut timer = Timer::new(device, &alone, lines)?;
    let free: Vec<usize> = (0..parts.list().len()).filter(|&i| parts.list()[i].kept.is_none()).collect();
    let mut kernels = Vec::with_capacity(free.len());
    for &number in &free {
        let kernel = alone.in_parts(&parts.switched(&[number])?).block_on()?;
        // Drivers compile when a kernel first runs.
        timer.runs(&[Form::On(&kernel), Form::Off(&kernel)])?;
        kernels.push(kernel);
    }
    let mut samples = vec![<[Vec<f64>; 3]>::default(); free.len()];
    let mut plain = Vec::new();
    let runs = lines.runs.max(1);
    // Part by part within each round, so that what the machine does besides reaches all of them.
    for round in 0..runs * MOST_ROUNDS {
        if plain.is_empty() {
            plain.extend(timer.runs(&[Form::Plain])?);
        }
        let least = low(&plain);
        for (kernel, samples) in kernels.iter().zip(&mut samples) {
            if round >= runs && is_settled(samples, least) {
                continue;
            }
            let forms = [Form::Plain, Form::On(kernel), Form::Off(kernel)];
            // Each of them comes first as often as the others.
            let order = [round % 3, (round + 1) % 3, (round + 2) % 3];
            let seconds = timer.runs(&order.map(|form| forms[form]))?;
            order.into_iter().zip(seconds).for_each(|(form, seconds)| samples[form].push(seconds));
            plain.extend(samples[0].last());
        }
    }
    let least = low(&plain);
    let mut costs = free.iter().zip(samples.into_iter().map(|samples| Cost::of(samples, least))).peekable();
    let costs = (0..parts.list().len())
        .map(|number| described(&parts, number, costs.next_if(|(part, _)| **part == number).map(|(_, c)| c)))
        .collect();
    alone.restore().block_on()?;
    Ok(LineProfile {
        format: FORMAT,
        inkwash: env!("CARGO_PKG_VERSION").into(),
        date: now(),
        device: device.info.name.clone(),
        backend: device.info.backend.clone(),
        driver: device.info.driver.clone(),
        subject: String::new(),
        config: serde_json::Value::Null,
        launch: chosen.clone(),
        others: Vec::new(),
        checked: alone.edited().is_some(),
        clock: timer.clock,
        notes: timer.notes,
        runs: lines.runs,
        repeats: timer.repeats,
        plain: Seconds::of(&plain),
        undisturbed: least,
        parts: costs,
        functions: functions(&parts),
    })
}

/// Times launches, by the clock that can be trusted.
struct Timer<'a> {
    device: &'a Device,
    alone: &'a Alone<'a>,
    clock: Clock,
    /// Whether another clock may be taken.
    is_free: bool,
    faults: usize,
    notes: Vec<String>,
    repeats: usize,
}

impl<'a> Timer<'a> {
    fn new(device: &'a Device, alone: &'a Alone<'a>, lines: &Lines) -> Result<Self, ProfileError> {
        let stamps = device.caps.features.timestamps;
        let clock = match lines.clock {
            Some(Clock::Waiting) => Clock::Waiting,
            None if !stamps => Clock::Waiting,
            Some(wanted) if !stamps => {
                return Err(ProfileError::Clock {
                    device: device.info.name.clone(),
                    clock: wanted.name(),
                    reason: "it has none".into(),
                });
            }
            // A launch alone has a pass of its own anyway.
            _ => Clock::TimestampsPerPass,
        };
        let is_free = lines.clock.is_none();
        let mut timer = Self { device, alone, clock, is_free, faults: 0, notes: Vec::new(), repeats: 1 };
        timer.runs(&[Form::Plain])?;
        let once = timer.runs(&[Form::Plain; 3])?.into_iter().fold(f64::INFINITY, f64::min);
        timer.repeats = (RUN_SECONDS / once.max(1e-9)).ceil().clamp(1.0, MOST_REPEATS) as usize;
        Ok(timer)
    }

    /// The seconds that a launch takes in each of these forms.
    fn runs(&mut self, forms: &[Form]) -> Result<Vec<f64>, ProfileError> {
        loop {
            let start = Instant::now();
            let timing = self.alone.run_timed(self.clock, forms, self.repeats).block_on()?;
            let (ticks, tick_seconds) = timing.read().block_on()?;
            let wall = start.elapsed().as_secs_f64();
            // Restoring memory is not in the spans, so that the host may well have waited longer than they claim.
            let fault = match self.clock {
                Clock::Waiting => None,
                _ => check(&ticks, tick_seconds, [wall, 0.0]).err(),
            };
            let Some(fault) = fault else {
                let spans = spans(&ticks, tick_seconds).into_iter();
                return Ok(spans.map(|[begin, end]| (end - begin) / self.repeats as f64).collect());
            };
            self.faults += 1;
            if self.faults == FAULTS && !self.is_free {
                let device = self.device.info.name.clone();
                let reason = fault.to_string();
                return Err(ProfileError::Clock { device, clock: self.clock.name(), reason });
            }
            if self.faults == FAULTS {
                self.notes.push(format!("{} are not trusted: {fault}", self.clock.name()));
                self.clock = Clock::Waiting;
            }
        }
    }
}

/// The time of runs that nothing disturbed: the middle of the three shortest.
fn low(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    sorted.get(1).or(sorted.first()).copied().unwrap_or(0.0)
}

/// How far the three shortest runs lie apart.
fn spread(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    let third = sorted.get(2).or(sorted.last()).copied().unwrap_or(0.0);
    third - sorted.first().copied().unwrap_or(0.0)
}

/// Whether undisturbed runs have been seen of each form: the shortest agree, and those of the plain kernel are as short here as
/// among all its runs (`least`).
fn is_settled(samples: &[Vec<f64>; 3], least: f64) -> bool {
    samples.iter().all(|samples| spread(samples) <= AGREED * low(samples))
        && low(&samples[0]) <= (1.0 + AGREED) * least
}

impl Cost {
    /// From the seconds of the plain kernel, with the part on, and with it off; and those of the plain kernel in all its runs.
    fn of(samples: [Vec<f64>; 3], least: f64) -> Self {
        let [plain, on, off] = &samples;
        let busy = (low(plain) / least.max(f64::MIN_POSITIVE) - 1.0).max(0.0);
        Self {
            seconds: low(on) - low(off),
            noise: spread(on) + spread(off) + busy * low(on),
            on: Seconds::of(on),
            off: Seconds::of(off),
            distortion: low(on) / low(plain).max(f64::MIN_POSITIVE),
            samples,
        }
    }
}

fn described(parts: &Parts, number: usize, cost: Option<Cost>) -> PartCost {
    let part = &parts.list()[number];
    let line = |line: usize| parts.expanded().place(line).unwrap_or(("?", 0));
    let (file, first) = line(part.lines.start);
    let (_, last) = line(part.lines.end.saturating_sub(1));
    PartCost {
        function: part.function.clone(),
        file: file.into(),
        lines: [first, last],
        parent: part.parent,
        block: part.is_block,
        kept: part.kept.map(|kept| kept.reason()),
        cost,
    }
}

fn functions(parts: &Parts) -> Vec<FunctionText> {
    let text: Vec<&str> = parts.expanded().text.lines().collect();
    let line = |at: usize| {
        let (file, number) = parts.expanded().place(at).unwrap_or(("?", 0));
        Line { file: file.into(), number, text: text.get(at).copied().unwrap_or_default().into() }
    };
    parts
        .functions()
        .into_iter()
        .map(|(name, lines)| FunctionText { name: name.into(), lines: lines.map(line).collect() })
        .collect()
}
