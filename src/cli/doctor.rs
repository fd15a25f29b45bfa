//! `inkwash doctor`.

use super::{DeviceArgs, Failure};
use crate::check;
use crate::gpu::{self, Blocking as _, Store};
use crate::ops;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// List the adapters and stop
    #[arg(long)]
    list: bool,
    /// Run only cases whose title contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    case: String,
    /// Print every case, not only the worst of each operator
    #[arg(long, short)]
    verbose: bool,
}

pub fn run(args: &DoctorArgs, choice: &DeviceArgs) -> Result<ExitCode, Failure> {
    let adapters = gpu::list(choice.backend.as_deref()).block_on()?;
    for (i, info) in adapters.iter().enumerate() {
        println!("{i}: {} ({}, {}, {})", info.name, info.kind, info.backend, info.driver);
        println!("   subgroups of {} to {}; {}", info.subgroup.0, info.subgroup.1, info.features.join(", "));
        for (name, value) in &info.limits {
            println!("   {name} {value}");
        }
    }
    if args.list && !adapters.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let device = choice.open()?;
    println!("\nEvery kernel on {} ({}) against its f64 reference:", device.info.name, device.info.backend);
    println!(
        "{:<30} {:<20} {:>6} {:>6} {:>10} {:>10}  worst case",
        "operator", "algorithm", "cases", "failed", "rel. L2", "of limit"
    );
    let (mut failed, mut ran) = (0, 0);
    let mut rows: Vec<Row> = Vec::new();
    let all: Vec<ops::Case> =
        ops::catalogue().into_iter().filter(|c| c.title().contains(&args.case)).collect();
    let (cases, left_out): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| case.suits(&device.caps));
    for case in &cases {
        for outcome in check::on_device(case, &Store::new(&device), &device.caps).block_on()? {
            let bad = !outcome.passed();
            if args.verbose || bad {
                let d = outcome.deviation;
                println!(
                    "  {} {}: {:.2} of the limit, relative L2 {:.1e}{} [{}]",
                    if bad { "FAILED" } else { "ok" },
                    case.title(),
                    d.excess,
                    d.relative_l2,
                    if outcome.guard_broken { ", wrote past its end" } else { "" },
                    outcome.kernels
                );
            }
            failed += usize::from(bad);
            ran += 1;
            let same =
                |row: &&mut Row| row.name == case.op.name() && row.worst.algorithm == outcome.algorithm;
            match rows.iter_mut().find(same) {
                Some(row) => {
                    row.cases += 1;
                    row.failed += usize::from(bad);
                    if outcome.deviation.excess > row.worst.deviation.excess {
                        (row.worst, row.case) = (outcome, case.name.clone());
                    }
                }
                None => rows.push(Row {
                    name: case.op.name(),
                    cases: 1,
                    failed: usize::from(bad),
                    worst: outcome,
                    case: case.name.clone(),
                }),
            }
        }
    }
    let wrong: Vec<String> = rows
        .iter()
        .filter(|r| r.failed > 0)
        .map(|r| format!("{} by {}", r.name, r.worst.algorithm))
        .collect();
    for Row { name, cases, failed, worst, case } in rows {
        let (algorithm, d) = (worst.algorithm, worst.deviation);
        println!(
            "{name:<30} {algorithm:<20} {cases:>6} {failed:>6} {:>10.1e} {:>10.2}  {case}",
            d.relative_l2, d.excess
        );
    }
    if ran == 0 {
        return Err(format!("no case has a title that contains `{}`", args.case).into());
    }
    if !left_out.is_empty() {
        println!(
            "LEFT OUT: {} cases of f16, subgroups or matrix units, which this device lacks",
            left_out.len()
        );
    }
    if !wrong.is_empty() {
        println!("WRONG on this device: {}", wrong.join(", "));
    }
    println!("{} cases, {ran} runs, one by each algorithm: {failed} failed", cases.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The cases of one operator by one algorithm.
struct Row {
    name: &'static str,
    cases: usize,
    failed: usize,
    worst: check::Outcome,
    case: String,
}
