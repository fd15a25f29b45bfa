//! `inkwash verify` on small oracles that PyTorch made (tests/oracles/README.md has the commands), whole and
//! tampered with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::gpu::Device;
use inkwash::io::tensor_file;
use inkwash::train::open_model;
use inkwash::verify::{Oracle, Report, Row, VerifyError, verify};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod common;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn read(folder: &Path, files: &[&str]) -> Vec<Oracle> {
    files.iter().map(|f| Oracle::read(&folder.join(format!("{f}.safetensors"))).unwrap()).collect()
}

/// Verifies, or says that there is no device.
fn run(model: Option<&str>, oracles: &[Oracle]) -> Option<Result<Report, VerifyError>> {
    Some(run_on(&common::open_device()?, model, oracles))
}

fn run_on(device: &Arc<Device>, model: Option<&str>, oracles: &[Oracle]) -> Result<Report, VerifyError> {
    let model = model.map(|name| open_model(&root().join("folders").join(name)).unwrap());
    verify(device, model.as_ref(), oracles, |_| {})
}

fn failures(report: &Report) -> Vec<String> {
    report.rows.iter().filter(|r| !r.passed()).map(|r| format!("{r:?}")).collect()
}

fn row<'a>(report: &'a Report, name: &str) -> &'a Row {
    report.rows.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("nothing was compared with {name}"))
}

#[test]
fn a_model_agrees_with_pytorch() {
    let oracles = read(&root().join("oracles/scale-shift"), &["oracle", "train", "samplers"]);
    for device in common::every_variant() {
        agrees(&run_on(&device, Some("scale-shift"), &oracles).unwrap(), &oracles);
    }
}

fn agrees(report: &Report, oracles: &[Oracle]) {
    assert_eq!(failures(report), [""; 0]);
    assert!(report.left_out.is_empty(), "{:?}", report.left_out);
    // Everything that is no input was compared, and is in the dump in the oracle's form.
    let inputs = ["x0", "noise", "timestep", "class_labels", "sample", "target", "x_T", "step_noise"];
    for oracle in oracles {
        for (name, tensor) in &oracle.tensors {
            if inputs.contains(&name.as_str()) || name.starts_with("batch.") {
                continue;
            }
            row(report, name);
            assert_eq!(report.computed[name].shape, tensor.shape, "{name}");
        }
    }
    assert!(row(report, "param_step1.conv_in.weight").note.contains("from the stored gradient"));
}

#[test]
fn schedules_samplers_and_optimizers_agree_with_diffusers() {
    let files = ["schedules", "gaussian_samplers", "optimizer"];
    let oracles = read(&root().join("oracles/schedules"), &files);
    let Some(report) = run(None, &oracles) else { return };
    let report = report.unwrap();
    assert_eq!(failures(&report), [""; 0]);
    assert!(report.left_out.is_empty(), "{:?}", report.left_out);
    let trajectories = report.rows.iter().filter(|r| r.name.ends_with(".latents")).count();
    assert!(trajectories >= 120, "{trajectories} samplers");
    for name in ["adamw-clip.params", "adamw-clip.ema", "ema.decay_warmup", "lr.cosine"] {
        row(&report, name);
    }
}

/// A relative change of a thousandth in any one tensor is found, in that tensor alone.
#[test]
fn what_is_off_is_named() {
    let folder = root().join("oracles/scale-shift");
    for (file, name) in [
        ("oracle", "output"),
        ("oracle", "act.mid_block"),
        ("oracle", "grad.conv_out.weight"),
        ("oracle", "x_t"),
        ("train", "param_step1.conv_out.weight"),
        ("samplers", "sampler.dpmpp-2m.model_output"),
        ("samplers", "sampler.heun.sigmas"),
        ("samplers", "sampler.ddim-eta1.latents"),
    ] {
        let mut oracles = read(&folder, &["oracle", file]);
        if file == "oracle" {
            oracles.pop();
        }
        let last = oracles.last_mut().unwrap();
        let found = last.tensors.get_mut(name).unwrap_or_else(|| panic!("{name}"));
        found.data.iter_mut().for_each(|v| *v *= 1.001);
        let Some(report) = run(Some("scale-shift"), &oracles) else { return };
        let report = report.unwrap();
        assert!(!report.passed());
        let failed: Vec<&str> = report.rows.iter().filter(|r| !r.passed()).map(|r| r.name.as_str()).collect();
        // A sampler's latents are also what the network is given.
        assert!(failed.contains(&name), "{name}: {failed:?}");
        assert!(
            failed.len() == 1 || name.ends_with(".latents") || name.ends_with("model_output"),
            "{name}: {failed:?}"
        );
    }
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let folder = root().join("oracles/scale-shift");
    let refused = |model: Option<&str>, oracles: Vec<Oracle>, words: &[&str]| {
        let Some(result) = run(model, &oracles) else { return };
        let Err(error) = result else { panic!("{words:?} was accepted") };
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
    };
    refused(None, read(&folder, &["oracle"]), &["oracle.safetensors", "--model"]);
    refused(
        Some("plain"),
        read(&folder, &["oracle"]),
        &["oracle.safetensors", "`output`", "[2, 2, 4, 6]", "[2, 1, 4, 6]"],
    );
    let twice = read(&folder, &["oracle", "oracle"]);
    refused(Some("scale-shift"), twice, &["is in two of the oracle files"]);
    let tampered = |change: &dyn Fn(&mut Oracle)| {
        let mut oracles = read(&folder, &["oracle"]);
        change(&mut oracles[0]);
        oracles
    };
    let gone = tampered(&|o| drop(o.tensors.remove("timestep")));
    refused(Some("scale-shift"), gone, &["tensor `timestep` is missing"]);
    let label = tampered(&|o| o.tensors.get_mut("class_labels").unwrap().data[0] = 99.0);
    refused(Some("scale-shift"), label, &["`class_labels` has 99"]);
    let other = tampered(&|o| {
        let tensor = o.tensors.remove("grad.conv_out.weight").unwrap();
        o.tensors.insert("grad.conv_elsewhere.weight".into(), tensor);
    });
    refused(Some("scale-shift"), other, &["grad.conv_elsewhere.weight", "another network"]);
    let short = tampered(&|o| o.tensors.get_mut("grad.conv_in.weight").unwrap().data.truncate(35));
    refused(Some("scale-shift"), short, &["grad.conv_in.weight", "35 elements"]);
    let nothing = tampered(&|o| o.tensors.retain(|k, _| k == "noise"));
    refused(Some("scale-shift"), nothing, &["docs/oracle.md"]);
}

#[test]
fn samplers_need_to_know_how_they_were_made() {
    let folder = tempfile::tempdir().unwrap();
    let from = root().join("oracles/scale-shift/samplers.safetensors");
    std::fs::copy(from, folder.path().join("samplers.safetensors")).unwrap();
    let Some(result) = run(Some("scale-shift"), &read(folder.path(), &["samplers"])) else { return };
    let Err(error) = result else { panic!("accepted") };
    let message = error.to_string();
    assert!(message.contains("meta.json must say how sampler"), "{message}");
}

#[test]
fn a_dump_is_an_oracle_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let original = read(&root().join("oracles/scale-shift"), &["oracle"]);
    let Some(report) = run(Some("scale-shift"), &original) else { return };
    let mut dump = report.unwrap().dump();
    for name in ["sample", "timestep", "class_labels", "target"] {
        dump.tensors.insert(name.into(), original[0].tensors[name].clone());
    }
    tensor_file::write(&folder.path().join("again.safetensors"), &dump).unwrap();
    let again = run(Some("scale-shift"), &read(folder.path(), &["again"])).unwrap().unwrap();
    // The same kernels on the same numbers: the same bits.
    assert!(again.rows.len() > 100);
    assert!(
        again.rows.iter().filter(|r| r.name != "grad_norm").all(|r| r.max_abs == 0.0),
        "{:?}",
        failures(&again)
    );
}
