//! `inkwash doctor`.

use super::{DeviceArgs, Failure};
use crate::check;
use crate::gpu::{self, Store};
use crate::graph::{Caps, Kernels};
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
    let adapters = gpu::list(choice.backend.as_deref())?;
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
        "{:<30} {:<10} {:>6} {:>6} {:>10} {:>10}  worst case",
        "operator", "kernels", "cases", "failed", "rel. L2", "of limit"
    );
    let (mut failed, mut ran) = (0, 0);
    for kernels in [Kernels::Registers, Kernels::Workgroup] {
        let caps = Caps { kernels, ..device.caps.clone() };
        let kernels = format!("{kernels:?}").to_lowercase();
        let mut rows: Vec<(&str, usize, usize, check::Outcome, String)> = Vec::new();
        for case in ops::catalogue().iter().filter(|c| c.title().contains(&args.case)) {
            let outcome = check::on_device(case, &Store::new(&device), &caps)?;
            let bad = usize::from(!outcome.passed());
            if args.verbose || bad > 0 {
                let d = outcome.deviation;
                println!(
                    "  {} {}: {:.2} of the limit, relative L2 {:.1e}{} [{}]",
                    if bad > 0 { "FAILED" } else { "ok" },
                    case.title(),
                    d.excess,
                    d.relative_l2,
                    if outcome.guard_broken { ", wrote past its end" } else { "" },
                    outcome.kernels
                );
            }
            failed += bad;
            ran += 1;
            match rows.iter_mut().find(|r| r.0 == case.op.name()) {
                Some(row) => {
                    row.1 += 1;
                    row.2 += bad;
                    if outcome.deviation.excess > row.3.deviation.excess {
                        (row.3, row.4) = (outcome, case.name.clone());
                    }
                }
                None => rows.push((case.op.name(), 1, bad, outcome, case.name.clone())),
            }
        }
        for (name, cases, bad, worst, case) in rows {
            let d = worst.deviation;
            println!(
                "{name:<30} {kernels:<10} {cases:>6} {bad:>6} {:>10.1e} {:>10.2}  {case}",
                d.relative_l2, d.excess
            );
        }
    }
    if ran == 0 {
        return Err(format!("no case has a title that contains `{}`", args.case).into());
    }
    println!("{ran} cases, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
