//! `inkwash data`, and how what was found in a data set is shown.

use super::configuration::of_new_run;
use super::progress::Bar;
use super::train::plan;
use super::{DeviceArgs, Failure, in_words};
use crate::data::{ClassCount, Damaged, DataError, Dataset, Findings, Options, Report, to_unit};
use crate::io::{GridExtent, save_grid, save_rows};
use crate::train::{TrainConfig, check_labels, split_data};
use clap::{ArgMatches, Command, Subcommand};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Read all pictures as `train` would, and tell what is there, what is not used and why, and what is remarkable
    ///
    /// The exit status is 0 if training would start, and 1 if not.
    Check(Box<CheckArgs>),
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Pictures, as for --data of `inkwash train`
    #[arg(value_name = "PATH|builtin:NAME", required_unless_present = "file")]
    path: Option<String>,
    #[command(flatten)]
    config: TrainConfig,
    /// TOML file as for `inkwash train`; flags on the command line win
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw what the network will be given, the first pictures of each class, to this new PNG file
    #[arg(long, value_name = "FILE")]
    contact_sheet: Option<PathBuf>,
}

/// The flags of `train` that decide how pictures are read; the others are taken too, so that a command of `train` can be
/// checked as it is, and not shown.
const SHOWN: [&str; 17] = [
    "path",
    "damaged",
    "split",
    "class_labels",
    "max_picture_mib",
    "network",
    "preset",
    "size",
    "init",
    "class_conditional",
    "held_out",
    "seed",
    "glyph_count",
    "file",
    "json",
    "contact_sheet",
    "help",
];

/// The command with the flags hidden that do not matter to it.
pub fn hide_flags(command: Command) -> Command {
    command.mut_subcommand("check", |check| {
        check.mut_args(|arg| {
            let hidden = !SHOWN.contains(&arg.get_id().as_str());
            arg.hide(hidden)
        })
    })
}

pub fn run(args: &DataArgs, matches: &ArgMatches, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    match (&args.command, matches.subcommand()) {
        (DataCommand::Check(args), Some((_, matches))) => check(args, matches, device),
        (DataCommand::Check(_), None) => Ok(ExitCode::FAILURE),
    }
}

/// What a check finds beside the report.
struct Checked {
    config: TrainConfig,
    report: Report,
    findings: Findings,
    /// Pictures to train on and held out, or why training would not start.
    outcome: Result<(usize, usize), String>,
    sheet: Option<String>,
}

fn check(args: &CheckArgs, matches: &ArgMatches, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    let (mut config, inherited) = of_new_run(args.file.as_deref(), &args.config, matches)?;
    inherited.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if let Some(path) = &args.path {
        config.data.clone_from(path);
    }
    if let Some(sheet) = &args.contact_sheet
        && sheet.exists()
    {
        return Err(format!(
            "--contact-sheet {}: the file is there already; name a new one",
            sheet.display()
        )
        .into());
    }
    let mut report = Report::default();
    // Damaged pictures are left out here, so that the others are looked at too.
    let options = Options { damaged: Damaged::Skip, ..config.data_options() };
    let bar = Bar::new(0, "picture");
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let opened = Dataset::open_reporting(&config.data, &options, &mut report, &progress);
    bar.finish();
    let (findings, outcome, sheet) = match &opened {
        Err(error) => (Findings::default(), Err(in_words(error)), None),
        Ok(data) => {
            let sheet = args.contact_sheet.as_ref().map(|path| draw(path, data, &report)).transpose()?;
            let outcome = would_train(&config, data, &report, device).map_err(|error| in_words(&*error));
            (Findings::new(data, &report), outcome, sheet)
        }
    };
    let checked = Checked { config, report, findings, outcome, sheet };
    if args.json {
        println!("{:#}", checked.json()?);
    } else {
        print!("{}", checked.text());
    }
    Ok(if checked.outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many pictures a run would train on and hold out, or what would keep it from starting.
fn would_train(
    config: &TrainConfig,
    data: &Dataset,
    report: &Report,
    device: &DeviceArgs,
) -> Result<(usize, usize), Failure> {
    config.validate()?;
    if config.damaged == Damaged::Refuse && !report.damaged.is_empty() {
        return Err(DataError::damaged(Path::new(&config.data), report, data.len()).into());
    }
    let (training, held_out) = split_data(config, data.clone())?;
    let config = config.with_network(&training.class_names);
    check_labels(&config, &training)?;
    plan(&config, None, device)?;
    Ok((training.len(), held_out.len()))
}

/// Columns of a contact sheet.
const COLUMNS: usize = 10;
/// The least side of a picture on it, in pixels.
const MIN_SIDE: usize = 48;

/// Draws the contact sheet; says what is on it.
fn draw(path: &Path, data: &Dataset, report: &Report) -> Result<String, Failure> {
    let (height, width, channels) = (data.height, data.width, data.channels);
    let extent = GridExtent::new(usize::MAX, COLUMNS, height, width, MIN_SIDE);
    let pixels = |pictures: &[usize]| -> Vec<f32> {
        pictures.iter().flat_map(|&i| data.image(i)).map(|&byte| to_unit(byte)).collect()
    };
    if report.classes.is_empty() {
        let shown: Vec<usize> = (0..data.len().min(extent.shown).min(COLUMNS * COLUMNS)).collect();
        save_grid(path, &pixels(&shown), height, width, channels, extent.columns, MIN_SIDE)?;
        return Ok(format!("{}: the first {} of {} pictures", path.display(), shown.len(), data.len()));
    }
    let rows = report.classes.len().min((extent.shown / extent.columns).max(1));
    let mut of_class = vec![Vec::new(); rows];
    for i in 0..data.len() {
        if let Some(row) = of_class.get_mut(data.label(i) as usize)
            && row.len() < extent.columns
        {
            row.push(i);
        }
    }
    let labelled: Vec<(String, Vec<f32>)> = of_class
        .iter()
        .zip(&report.classes)
        .map(|(row, class)| (format!("{} ({})", clean(&class.name), class.pictures), pixels(row)))
        .collect();
    save_rows(path, &labelled, height, width, channels, MIN_SIDE)?;
    let (columns, classes) = (extent.columns, report.classes.len());
    Ok(format!("{}: up to {columns} pictures of {rows} of {classes} classes", path.display()))
}

impl Checked {
    fn json(&self) -> Result<serde_json::Value, Failure> {
        let [height, width, channels] = self.config.picture_shape();
        let mut value = serde_json::to_value(&self.report)?;
        value["data"] = json!(self.config.data);
        value["network"] = json!({ "height": height, "width": width, "channels": channels });
        value["duplicates"] = json!(self.findings.duplicates);
        value["constant"] = json!(self.findings.constant);
        value["would_train"] = json!(self.outcome.is_ok());
        match &self.outcome {
            Ok((training, held_out)) => {
                value["training"] = json!(training);
                value["held_out"] = json!(held_out);
            }
            Err(reason) => value["reason"] = json!(reason),
        }
        Ok(value)
    }

    fn text(&self) -> String {
        let [height, width, channels] = self.config.picture_shape();
        let colours = if channels == 1 { "grey" } else { "RGB" };
        let mut text = Lines::default();
        text.line("data", clean(&self.config.data));
        text.report(&self.report, usize::MAX);
        text.line("network", format!("{width} x {height} pixels (width x height), {colours}"));
        text.findings(&self.findings);
        if let Some(sheet) = &self.sheet {
            text.line("contact sheet", sheet);
        }
        match &self.outcome {
            Ok((training, held_out)) => {
                text.line(
                    "result",
                    format!("training would start: {training} to train on, {held_out} held out"),
                );
            }
            Err(reason) => text.line("result", format!("training would not start: {}", clean(reason))),
        }
        text.0
    }
}

/// What was found in a data set, for the start of a run.
pub(super) fn describe(report: &Report) -> String {
    let mut text = Lines::default();
    text.report(report, NAMED);
    text.0
}

/// Names that are printed of each kind of thing; all are in the report.
const NAMED: usize = 3;
/// Classes that are printed.
const CLASSES: usize = 20;

/// Lines with a label at the left of each paragraph.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, label: &str, text: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{label:<16}{text}");
    }

    /// `damaged` is how many damaged pictures are named.
    fn report(&mut self, report: &Report, damaged: usize) {
        let formats: Vec<String> =
            report.formats.iter().map(|(name, count)| format!("{count} {name}")).collect();
        match &formats[..] {
            [] if report.layout.is_empty() => {}
            [] => self.line("layout", &report.layout),
            formats => self.line("layout", format!("{}: {}", report.layout, formats.join(", "))),
        }
        let sizes = &report.sizes;
        if let (Some(smallest), Some(median), Some(largest)) = (sizes.smallest, sizes.median, sizes.largest) {
            let size = |(width, height)| format!("{width} x {height}");
            self.line(
                "sizes",
                match sizes.different {
                    1 => size(median),
                    different => format!(
                        "{} to {} by area, half of them up to {}; {different} different ones",
                        size(smallest),
                        size(largest),
                        size(median)
                    ),
                },
            );
        }
        self.classes(&report.classes);
        for (kind, files) in report.unused_by_kind() {
            let names = files.iter().map(|file| file.path.display().to_string());
            self.line(
                "not used",
                format!("{} {kind}: {}; {}", files.len(), some(names, NAMED), files[0].remedy),
            );
        }
        if !report.damaged.is_empty() {
            self.line("damaged", report.damaged.len());
            for picture in report.damaged.iter().take(damaged) {
                self.line("", clean(&format!("{}: {}", picture.path.display(), picture.message)));
            }
            if let more @ 1.. = report.damaged.len().saturating_sub(damaged) {
                self.line("", format!("and {more} more"));
            }
        }
        for folder in &report.passed_over {
            self.line("passed over", clean(&format!("{}: {}", folder.path.display(), folder.reason)));
        }
        if report.other.files > 0 {
            let mut names = report.other.first.iter().map(|name| clean(name)).collect::<Vec<_>>().join(", ");
            if report.other.files > report.other.first.len() {
                names += ", ...";
            }
            self.line("other files", format!("{}, no pictures: {names}", report.other.files));
        }
        for note in &report.notes {
            self.line("note", clean(note));
        }
    }

    /// The label, name and number of pictures of each class; of many, the first.
    fn classes(&mut self, classes: &[ClassCount]) {
        if classes.is_empty() {
            return;
        }
        self.line("classes", format!("{}, by label, name and pictures", classes.len()));
        let shown = if classes.len() > CLASSES + 1 { &classes[..CLASSES] } else { classes };
        let names: Vec<String> = shown.iter().map(|class| clean(&class.name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(40);
        for (label, (name, class)) in names.iter().zip(shown).enumerate() {
            self.line("", format!("{label:>4}  {name:<width$}  {:>7}", class.pictures));
        }
        let rest = &classes[shown.len()..];
        let counts = || rest.iter().map(|class| class.pictures);
        if let (Some(low), Some(high)) = (counts().min(), counts().max()) {
            self.line("", format!("and {} more of {low} to {high} pictures", rest.len()));
        }
    }

    fn findings(&mut self, findings: &Findings) {
        let Findings { duplicates, constant } = findings;
        if !duplicates.is_empty() {
            let pictures: usize = duplicates.iter().map(|group| group.pictures.len() - 1).sum();
            self.line(
                "duplicates",
                format!("{pictures} that are copies of others, in {} groups", duplicates.len()),
            );
            for group in duplicates.iter().take(CLASSES) {
                let what = if group.same_files { "same files" } else { "same when scaled" };
                let classes = if group.across_classes { ", IN DIFFERENT CLASSES" } else { "" };
                self.line("", format!("{}: {what}{classes}", some(group.pictures.iter().cloned(), NAMED)));
            }
            let across = duplicates.iter().skip(CLASSES).filter(|group| group.across_classes).count();
            if let more @ 1.. = duplicates.len().saturating_sub(CLASSES) {
                self.line(
                    "",
                    format!("and {more} more, {across} of them in different classes; --json has all"),
                );
            }
        }
        if !constant.is_empty() {
            let names = some(constant.iter().cloned(), NAMED);
            self.line("one colour", format!("{}: {names}", constant.len()));
        }
    }
}

/// The first names, and how many more there are.
fn some(names: impl ExactSizeIterator<Item = String>, shown: usize) -> String {
    let more = names.len().saturating_sub(shown);
    let named: Vec<String> = names.take(shown).map(|name| clean(&name)).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// Text of the user's, without what a terminal would act on.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
