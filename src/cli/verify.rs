//! `inkwash verify`.

use super::{DeviceArgs, Failure};
use crate::io::tensor_file;
use crate::train::open_model;
use crate::verify::{Limit, Oracle, Row, verify};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Folder of the model that the oracle was made with: a diffusers folder, or a run of `inkwash train`
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Files of what PyTorch computed, as `tests/python/make_oracle.py` writes them (docs/oracle.md)
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    oracle: Vec<PathBuf>,
    /// Write every computed tensor to this file, which must be new, under the oracle's names
    #[arg(long, value_name = "OUT.safetensors")]
    dump: Option<PathBuf>,
    /// Print only the tensors that did not pass, and the worst of each kind
    #[arg(long, short)]
    quiet: bool,
}

fn print(row: &Row) {
    let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let limit = match row.limit {
        Limit::Relative(limit) => format!("{limit:.0e}"),
        Limit::Absolute(limit) => format!("{limit:.0e} abs"),
    };
    println!(
        "{:<62} {:>18} {:>9.1e} {:>9.1e} {:>10} {:<6} {}",
        row.name,
        shape,
        row.max_abs,
        row.relative_l2,
        limit,
        if row.passed() { "ok" } else { "FAILED" },
        row.note
    );
}

/// What a tensor is, by the first part of its name: `grad`, `sampler`, `adamw`, …
fn kind(name: &str) -> &str {
    let first = name.split('.').next().unwrap_or(name);
    if first == "sampler" { name.rsplit('.').next().unwrap_or(name) } else { first }
}

/// Of what is allowed.
fn share(row: &Row) -> f64 {
    match row.limit {
        Limit::Relative(limit) => row.relative_l2 / limit,
        Limit::Absolute(limit) => row.max_abs / limit,
    }
}

pub fn run(args: &VerifyArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    let oracles = args.oracle.iter().map(|p| Oracle::read(p)).collect::<Result<Vec<_>, _>>()?;
    let model = args.model.as_deref().map(open_model).transpose()?;
    for warning in model.iter().flat_map(|m| &m.warnings) {
        eprintln!("warning: {warning}");
    }
    if let Some(path) = args.dump.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(format!("--dump {}: there is a file already; name a new one", path.display()).into());
    }
    let device = device.open()?;
    let report = verify(&device, model.as_ref(), &oracles, |part| eprintln!("{part}"))?;

    println!("\nOn {} ({}, {}):", device.info.name, device.info.backend, device.info.driver);
    println!(
        "{:<62} {:>18} {:>9} {:>9} {:>10} {:<6}",
        "tensor", "shape", "max abs", "rel. L2", "tolerance", "pass"
    );
    let mut kinds: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !args.quiet || !row.passed() {
            print(row);
        }
        if !kinds.contains(&kind(&row.name)) {
            kinds.push(kind(&row.name));
        }
    }
    if args.quiet {
        for k in kinds {
            let of_kind = report.rows.iter().filter(|r| kind(&r.name) == k && r.passed());
            if let Some(worst) = of_kind.max_by(|a, b| share(a).total_cmp(&share(b))) {
                print(worst);
            }
        }
    }
    for (name, why) in &report.left_out {
        println!("not compared: {name}: {why}");
    }
    let failed = report.rows.iter().filter(|r| !r.passed()).count();
    println!("{} tensors, {failed} failed, {} not compared", report.rows.len(), report.left_out.len());
    let passed = report.passed();
    if let Some(path) = &args.dump {
        tensor_file::write(path, &report.dump())?;
        println!("{}", path.display());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
