//! The experiments of `inkwash lab`, on the device of this machine: their claims hold and their files are there. Those
//! of ten minutes take too long for a test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::lab::{EXPERIMENTS, Findings, Lab};
use std::collections::BTreeSet;

mod common;

#[test]
fn every_short_experiment_bears_out_its_claims() {
    let Some(device) = common::open_device() else { return };
    let mut ran = 0;
    for experiment in EXPERIMENTS.iter().filter(|e| e.minutes <= 2) {
        let folder = tempfile::tempdir().unwrap();
        let mut findings = Findings::new(folder.path());
        let progress = |line: &str| println!("  {line}");
        let lab = Lab { device: device.clone(), seed: 0, data: None, progress: &progress };
        println!("{}", experiment.name);
        (experiment.run)(&lab, &mut findings).unwrap();
        for v in &findings.verdicts {
            println!("  {} {}: {}, expected {}", v.pass, v.claim, v.value, v.expected);
        }
        assert!(findings.passed(), "{}", experiment.name);
        assert!(!findings.files.is_empty() && !findings.numbers.is_empty(), "{}", experiment.name);
        for file in &findings.files {
            let length = std::fs::metadata(folder.path().join(file)).unwrap().len();
            assert!(length > 500, "{}: {file} has {length} bytes", experiment.name);
        }
        for (name, value) in &findings.numbers {
            assert!(!value.is_null(), "{}: {name} is not finite", experiment.name);
        }
        ran += 1;
    }
    assert!(ran > 0, "no experiment was run");
}

/// What `lab list` and the pages promise.
#[test]
fn experiments_are_described() {
    let mut names = BTreeSet::new();
    for e in EXPERIMENTS {
        assert!(names.insert(e.name), "two experiments are called {}", e.name);
        assert!(e.title.chars().count() <= 70, "{}: the list has room for 70 characters", e.name);
        assert!(!e.see.is_empty() && !e.equation.is_empty() && !e.shaders.is_empty(), "{}", e.name);
        for shader in e.shaders {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/").to_string() + shader;
            assert!(std::path::Path::new(&path).is_file(), "{}: there is no {path}", e.name);
        }
    }
}
