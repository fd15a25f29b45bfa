//! A profile as text: for a terminal, as Markdown for a pull request, as CSV for a spreadsheet.

use super::Profile;
use super::diff::{Change, Diff, Verdict};
use super::table::{By, Row, rows};
use crate::gpu::Clock;
use crate::io::{columns, short};
use std::fmt::Write as _;

/// What stands in front of tables, one line each.
pub fn heading(profile: &Profile) -> String {
    let Profile { device, backend, driver, kernels, subject, clock, roofs, runs, rounds, .. } = profile;
    let mut text = String::new();
    let mut line = |label: &str, words: String| {
        let _ = writeln!(text, "{label:<16}{words}");
    };
    line("device", format!("{device} ({backend}, {driver}), kernels for {kernels}"));
    let by = if *rounds > 1 { format!(" by {rounds} processes") } else { String::new() };
    line("profile", format!("{subject}, {runs} runs{by}, in turns with undisturbed ones"));
    let how = match clock {
        Clock::TimestampsInPasses => {
            "timestamps inside passes: a launch's time begins at the end of the one before"
        }
        Clock::TimestampsPerPass => "timestamps per pass: each launch has a pass of its own",
        Clock::Waiting => "waiting for each launch, with the way to the device and back",
    };
    line("clock", format!("{how}; it adds {:.1} us to a launch", roofs.clock_seconds * 1e6));
    profile.notes.iter().for_each(|note| line("", note.clone()));
    line(
        "roofs",
        format!(
            "{:.1} GFLOP/s of f32 multiply-adds, {:.2} GB/s copied (read plus written), {:.1} us an empty launch",
            roofs.flops_per_s * 1e-9,
            roofs.bytes_per_s * 1e-9,
            roofs.launch_seconds * 1e6
        ),
    );
    let others = roofs.others();
    if !others.is_empty() {
        line("", others.join(", "));
    }
    text
}

/// The ratio of slow undisturbed steps to fast ones above which an account says more of other work than of this.
const BUSY: f64 = 1.3;

/// Where an undisturbed step's time went.
pub fn accounting(profile: &Profile) -> String {
    let wall = profile.wall_seconds;
    let mut text = String::new();
    let mut line = |label: &str, seconds: f64, words: &str| {
        let share = 100.0 * seconds / wall.max(f64::MIN_POSITIVE);
        let _ = writeln!(text, "{label:<20}{:>10.3} ms {share:>7.2} %{words}", seconds * 1e3);
    };
    line("data, on the host", profile.upload.median, "");
    line("encode and submit", profile.encode.median, "");
    let calls: usize = profile.launches.iter().map(|launch| launch.calls).sum();
    let empty = profile.roofs.launch_seconds * calls as f64 * 1e3;
    line(
        "launches",
        profile.launched.median,
        &format!("   ({calls}, which would take {empty:.3} ms if they were empty)"),
    );
    line("gaps between them", profile.gaps.median, "");
    line("added by timing", -profile.timing_seconds, "");
    line("not accounted for", profile.unaccounted_seconds(), "");
    let band = |s: &super::Seconds| format!("   (5 to 95 %: {:.3} to {:.3} ms)", s.p5 * 1e3, s.p95 * 1e3);
    line("undisturbed step", wall, &band(&profile.wall));
    line("profiled step", profile.profiled.median, &band(&profile.profiled));
    if profile.wall.p95 > BUSY * profile.wall.p5 {
        text.push_str("undisturbed steps differ much: other work keeps this machine busy; give more --runs, or end it\n");
    }
    text
}

/// The heads of the columns before limit and name.
const HEADS: [&str; 12] =
    ["ms", "p5", "p95", "share", "calls", "GFLOP", "MB", "FLOP/B", "GFLOP/s", "GB/s", "roof", "gap us"];

/// The cells under [`HEADS`].
fn cells(row: &Row) -> [String; 12] {
    let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
    [
        ms(row.seconds.median),
        ms(row.seconds.p5),
        ms(row.seconds.p95),
        format!("{:.2} %", row.share * 100.0),
        row.calls.to_string(),
        short(row.flops as f64 * 1e-9),
        short(row.bytes as f64 * 1e-6),
        short(row.intensity()),
        short(row.flops_per_s() * 1e-9),
        short(row.bytes_per_s() * 1e-9),
        format!("{:.1} %", row.roof_share * 100.0),
        format!("{:.1}", row.gap_seconds * 1e6),
    ]
}

/// A table for a terminal, `top` rows of it; what is left out is counted in a last line.
pub fn table(by: By, rows: &[Row], top: usize) -> String {
    let (shown, rest) = rows.split_at(top.min(rows.len()));
    let with_name = |row: &Row| [&cells(row)[..], &[row.limit.name().into(), row.name.clone()]].concat();
    let shown: Vec<Vec<String>> = shown.iter().map(with_name).collect();
    let mut text = columns(&[&HEADS[..], &["limit", by.name()]].concat(), &shown, 2);
    if !rest.is_empty() {
        let seconds: f64 = rest.iter().map(|row| row.seconds.median).sum();
        let share: f64 = rest.iter().map(|row| row.share).sum();
        let _ = writeln!(text, "and {} more: {:.3} ms, {:.2} %", rest.len(), seconds * 1e3, share * 100.0);
    }
    text
}

/// For a pull request: the accounting, and a table.
pub fn markdown(profile: &Profile, by: By, filter: Option<&str>, top: usize) -> String {
    let mut text = format!("```text\n{}\n{}```\n\n", heading(profile), accounting(profile));
    let _ = writeln!(text, "| {} | {} | limit |", by.name(), HEADS.join(" | "));
    let _ = writeln!(text, "|---|{}---|", "--:|".repeat(HEADS.len()));
    for row in rows(profile, by, filter).iter().take(top) {
        // A variant may hold the character that parts cells.
        let name = row.name.replace('|', "\\|");
        let _ = writeln!(text, "| {name} | {} | {} |", cells(row).join(" | "), row.limit.name());
    }
    text
}

/// Every launch as a line of comma-separated values (RFC 4180), under a line of names. Times in seconds.
pub fn csv(profile: &Profile) -> String {
    let mut text = String::from(
        "launch,phase,module,op,shader,entry,variant,groups,calls,median_s,p5_s,p95_s,gap_s,share,flops,bytes,\
         roof_share,limit\n",
    );
    let quoted = |field: &str| match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.into(),
    };
    for (number, l) in profile.launches.iter().enumerate() {
        let [x, y, z] = l.groups;
        let names = [&l.module, &l.op, &l.shader, &l.entry, &l.variant].map(|name| quoted(name)).join(",");
        let s = l.seconds;
        let _ = writeln!(
            text,
            "{number},{},{names},{x}x{y}x{z},{},{},{},{},{},{},{},{},{},{}",
            l.phase.name(),
            l.calls,
            s.median,
            s.p5,
            s.p95,
            l.gap_seconds,
            l.share,
            l.flops,
            l.bytes,
            l.roof_share,
            l.limit.name()
        );
    }
    text
}

/// A comparison for a terminal: what changed, and how far noise would have gone unnoticed.
pub fn diff(diff: &Diff) -> String {
    let mut text = String::new();
    diff.warnings.iter().for_each(|warning| {
        let _ = writeln!(text, "{:<16}{warning}", "careful");
    });
    let percent = |x: f64| format!("{:+.1} %", x * 100.0);
    // A step that other work drew out to many times its length gives numbers that nobody can read.
    let noise = |c: &Change| match c.noise * 100.0 {
        much if much > 1000.0 => "> 1000 %".to_string(),
        part => format!("{part:.1} %"),
    };
    let _ = writeln!(text, "{:<16}{} for most kernels, taken out below", "drift", percent(diff.drift));
    let widest = diff.kernels.iter().take(3).map(|c| format!("{} {}", c.name, noise(c)));
    let _ = writeln!(text, "{:<16}{}", "noise", widest.collect::<Vec<_>>().join(", "));
    let line = |text: &mut String, [before, after, change, noise, verdict, name]: [&str; 6]| {
        let _ = writeln!(text, "{before:>10}  {after:>10}  {change:>9}  {noise:>8}  {verdict:<7}  {name}");
    };
    let row = |text: &mut String, c: &Change| {
        let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
        let (change, noise, verdict) = match c.verdict {
            Verdict::New => (String::new(), String::new(), "new"),
            Verdict::Gone => (String::new(), String::new(), "gone"),
            Verdict::Slower => (percent(c.change), noise(c), "slower"),
            Verdict::Faster => (percent(c.change), noise(c), "faster"),
            Verdict::Same => (percent(c.change), noise(c), "same"),
        };
        line(text, [&ms(c.before), &ms(c.after), &change, &noise, verdict, &c.name]);
    };
    let changed: Vec<&Change> = diff.changed().collect();
    text.push('\n');
    line(&mut text, ["ms before", "after", "change", "noise", "", "kernel"]);
    row(&mut text, &diff.step);
    changed.iter().for_each(|change| row(&mut text, change));
    if changed.is_empty() {
        text.push_str("nothing changed\n");
    }
    text
}
