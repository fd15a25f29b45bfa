//! Costs beside the source, for a terminal.

use super::{Candidate, FunctionText, LineProfile, PartCost};
use crate::gpu::Clock;
use std::fmt::Write as _;

/// What the numbers are not, as the last lines of the text.
const LIMITS: &str = "\
What a part costs is the time of a launch with it on less that with it off, everything else running as before: loops as often,
at the same addresses. A block's cost includes its lines, a line's the functions that it calls, which are listed by themselves
too. Costs overlap: what the device does at the same time is saved by neither part alone (sums fall short of the whole), what
delays several counts in each (sums exceed it). The switch may keep the compiler from what it does with the plain kernel:
`*` marks parts whose kernel differs by more than 10 % from the plain one with everything on, and tells ratios at best.
";

/// Characters of a bar.
const BAR: usize = 10;

/// How far a kernel with a part on may be from the plain one before it is marked.
const DISTORTED: f64 = 0.1;

/// Other variants that are listed.
const OTHERS: usize = 5;

/// The whole report.
pub fn report(profile: &LineProfile) -> String {
    let LineProfile { device, backend, driver, subject, launch, others, runs, repeats, plain, .. } = profile;
    let mut text = String::new();
    let mut line = |label: &str, words: String| {
        let _ = writeln!(text, "{label:<10}{words}");
    };
    let told = |c: &Candidate| {
        let times = if c.calls == 1 { "launch" } else { "launches" };
        format!("{}: {} {times}, {:.3} ms", c.name, c.calls, c.seconds * 1e3)
    };
    line("device", format!("{device} ({backend}, {driver})"));
    line("kernel", told(launch));
    line(
        "",
        format!("the longest of its kind in this {subject}, alone and again and again from the same memory"),
    );
    if profile.checked {
        line("", "a user's file: compiled with checks of bounds and loops".into());
    }
    others.iter().take(OTHERS).for_each(|other| line("others", told(other)));
    if others.len() > OTHERS {
        line("", format!("and {} more; --filter takes another", others.len() - OTHERS));
    }
    let how = match profile.clock {
        Clock::Waiting => "waiting, with the way to the device and back",
        Clock::TimestampsInPasses | Clock::TimestampsPerPass => "timestamps",
    };
    let many = if *repeats == 1 { String::new() } else { format!(" of {repeats} launches each") };
    line(
        "clock",
        format!("{how}; {runs} runs{many} of the plain kernel, with a part on, and with it off, in turns"),
    );
    profile.notes.iter().for_each(|note| line("", note.clone()));
    line(
        "plain",
        format!(
            "{:.1} us a launch undisturbed (median {:.1} us, 5 to 95 %: {:.1} to {:.1} us)",
            profile.undisturbed * 1e6,
            plain.median * 1e6,
            plain.p5 * 1e6,
            plain.p95 * 1e6
        ),
    );
    let _ = writeln!(text, "\n{:>10} {:>9} {:>6}  {:<BAR$}", "us", "+-", "share", "");
    let mut file = "";
    for function in &profile.functions {
        self::function(&mut text, profile, function, &mut file);
    }
    text.push('\n');
    text.push_str(LIMITS);
    text
}

fn function<'a>(text: &mut String, profile: &'a LineProfile, function: &'a FunctionText, file: &mut &'a str) {
    let width = 10 + 1 + 9 + 1 + 6 + 3 + BAR;
    for line in &function.lines {
        if line.file != *file {
            *file = &line.file;
            let _ = writeln!(text, "{:width$}   {file}", "");
        }
        let here = |part: &&PartCost| {
            part.function == function.name && part.file == line.file && part.lines[0] == line.number
        };
        let mut parts = profile.parts.iter().filter(here);
        let numbers = |part: Option<&PartCost>| part.map_or(String::new(), |part| numbers(profile, part));
        let _ = writeln!(text, "{:<width$} {:>4} {}", numbers(parts.next()), line.number, line.text);
        // A line with several parts, as `for (…) { y = x; }` is.
        parts.for_each(|part| {
            let _ = writeln!(text, "{:<width$}    ^", numbers(Some(part)));
        });
    }
}

/// The columns in front of a line.
fn numbers(profile: &LineProfile, part: &PartCost) -> String {
    let Some(cost) = &part.cost else {
        return format!("{:>10} {}", "-", part.kept.unwrap_or_default());
    };
    let share = cost.seconds / profile.undisturbed.max(f64::MIN_POSITIVE);
    let mark = if (cost.distortion - 1.0).abs() > DISTORTED { '*' } else { ' ' };
    let (us, noise) = (cost.seconds * 1e6, cost.noise * 1e6);
    if !cost.is_seen() {
        return format!("{:>10} {noise:>9.2} {:>6} {mark}", "noise", "");
    }
    let bar = "#".repeat((share.clamp(0.0, 1.0) * BAR as f64).round() as usize);
    format!("{us:>10.2} {noise:>9.2} {:>5.1}%{mark} {bar}", share * 100.0)
}
