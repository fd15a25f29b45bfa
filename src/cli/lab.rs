//! `inkwash lab`.

use super::{DeviceArgs, Failure};
use crate::lab::{EXPERIMENTS, Experiment, Findings, Lab, find};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct LabArgs {
    /// An experiment, `list` to name them, or `all` to run them
    #[arg(value_name = "NAME|list|all", default_value = "list")]
    name: String,
    /// Folder for result.json and the plots, which must be new or empty; for `all`, of such a folder for each
    #[arg(long, value_name = "DIR", default_value = "lab")]
    out: PathBuf,
    /// Seed of everything random
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// For `premises`: real pictures, as `train --data` takes them, to look at beside the built-in glyphs
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

fn list() {
    for e in EXPERIMENTS {
        println!("{:<12} {:<70} up to {} min", e.name, e.title, e.minutes);
    }
}

/// Refuses a folder with files in it: an experiment's own would replace them.
fn refuse_files(folder: &Path) -> Result<(), Failure> {
    crate::io::remove_abandoned(folder);
    let error = |e: std::io::Error| format!("{}: {e}; choose another --out", folder.display());
    let first = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(error)?.next().transpose().map_err(error)?,
    };
    first.map_or(Ok(()), |file| {
        let (folder, file) = (folder.display(), file.file_name());
        Err(format!("{folder} already holds {}; choose another --out, or move it away", file.display())
            .into())
    })
}

/// Runs one experiment into `folder`; whether its claims held.
fn one(experiment: &Experiment, folder: &Path, args: &LabArgs, choice: &DeviceArgs) -> Result<bool, Failure> {
    let result = folder.join("result.json");
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let device = choice.open()?;
    println!("\n{}: {}\n{}\n", experiment.name, experiment.title, experiment.equation);
    let progress = |line: &str| eprintln!("  {line}");
    let seed = args.seed;
    let lab = Lab { device: device.clone(), seed, data: args.data.as_deref(), progress: &progress };
    let mut findings = Findings::new(folder);
    let start = Instant::now();
    (experiment.run)(&lab, &mut findings)?;
    let seconds = start.elapsed().as_secs_f64();
    for (name, value) in findings.numbers.iter().filter(|(_, v)| v.is_number()) {
        println!("{name:<60} {value}");
    }
    for table in &findings.tables {
        let heads: Vec<&str> = table.columns.iter().map(String::as_str).collect();
        println!("\n{}\n{}", table.name, crate::io::columns(&heads, &table.rows, 0).trim_end());
    }
    println!();
    for v in &findings.verdicts {
        let pass = if v.pass { "holds" } else { "FAILS" };
        println!("{pass}  {}: {:.6}, expected {}", v.claim, v.value, v.expected);
    }
    println!("\nWhat to see: {}", experiment.see);
    println!("Computed by: {}", experiment.shaders.join(", "));
    let value = json!({
        "experiment": experiment.name,
        "title": experiment.title,
        "equation": experiment.equation,
        "see": experiment.see,
        "shaders": experiment.shaders,
        "inkwash": env!("CARGO_PKG_VERSION"),
        "device": device.info.name,
        "driver": device.info.driver,
        "seed": seed,
        "seconds": seconds,
        "numbers": findings.numbers,
        "tables": findings.tables,
        "verdicts": findings.verdicts,
        "files": findings.files,
        "pass": findings.passed(),
    });
    crate::io::write_json(&result, &value)?;
    println!("{:.0} s; {} and {} more file(s)", seconds, result.display(), findings.files.len());
    Ok(findings.passed())
}

pub fn run(args: &LabArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    let passed = match args.name.as_str() {
        "list" => {
            list();
            true
        }
        "all" => {
            // All of them before the first, which may take an hour.
            for experiment in EXPERIMENTS {
                refuse_files(&args.out.join(experiment.name))?;
            }
            let mut passed = true;
            for experiment in EXPERIMENTS {
                passed &= one(experiment, &args.out.join(experiment.name), args, device)?;
            }
            passed
        }
        name => match find(name) {
            Some(experiment) => {
                if args.data.is_some() && experiment.name != "premises" {
                    return Err(format!(
                        "`lab {name}` has its own pictures; only `lab premises` takes --data"
                    )
                    .into());
                }
                refuse_files(&args.out)?;
                one(experiment, &args.out, args, device)?
            }
            None => {
                let names: Vec<&str> = EXPERIMENTS.iter().map(|e| e.name).collect();
                return Err(format!(
                    "`{name}` is no experiment; there are {}, and `list` and `all`",
                    names.join(", ")
                )
                .into());
            }
        },
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
