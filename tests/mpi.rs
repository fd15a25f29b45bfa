//! Several processes that train one model, started by mpirun on this machine: the bits of one process, and a loud end when one
//! of them is lost.
//!
//!     cargo test --features mpi --test mpi

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::training::{end_of, losses, tiny};
use inkwash::io::jsonl;
use inkwash::train::TrainConfig;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_inkwash");

/// A run of some thirty thousand weights: everything that is random, and held-out pictures that do not fill their batches.
fn config(accumulate: u32) -> TrainConfig {
    TrainConfig {
        steps: 50,
        batch: 2,
        accumulate,
        glyph_count: 60,
        held_out: 0.25,
        flip: true,
        crop_padding: 1,
        log_every: 10,
        sample_every: 25,
        sample_count: 4,
        sample_steps: 2,
        checkpoint_every: 25,
        ..tiny()
    }
}

/// `mpirun` with so many ranks, before what it is to run. Root and more ranks than cores are allowed.
fn mpirun(ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string(), "--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]);
    // One thread of the CPU driver for each rank.
    command.env("LP_NUM_THREADS", "1").stdin(Stdio::null());
    command
}

/// Trains in a folder; alone with no ranks.
fn train(ranks: usize, config: &TrainConfig, out: &Path, more: &[&str]) -> Output {
    let file = out.with_extension("toml");
    std::fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    let mut command = if ranks == 0 { Command::new(PROGRAM) } else { mpirun(ranks) };
    if ranks > 0 {
        command.arg(PROGRAM);
    }
    command.env("LP_NUM_THREADS", "1");
    command.args(["train", "--quiet", "--config"]).arg(&file).arg("--out").arg(out).args(more);
    command.output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn any_number_of_ranks_trains_to_the_bits_of_one() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = config(4);
    let out = |name: &str| folder.path().join(name);
    succeeds(&train(0, &config, &out("alone"), &[]));
    let expected = end_of(&out("alone"));
    let held_out = |name: &str| -> Vec<f64> {
        let rows = jsonl::read(&out(name).join("log.jsonl")).unwrap();
        rows.iter().filter_map(|row| row["held_out_loss"].as_f64()).collect()
    };
    assert_eq!((expected.0, held_out("alone").len()), (50, 2));
    for (name, ranks) in [("two", 2), ("four", 4)] {
        succeeds(&train(ranks, &config, &out(name), &[]));
        assert!(end_of(&out(name)) == expected, "{ranks} ranks end elsewhere");
        assert_eq!(losses(&out(name)), losses(&out("alone")));
        assert_eq!(held_out(name), held_out("alone"));
    }
}
