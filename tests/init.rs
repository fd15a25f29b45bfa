//! Fine-tuning: a run that begins from a model begins as that model, and goes on without it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::{records, short_run};
use inkwash::gpu::Device;
use inkwash::io::tensor_file;
use inkwash::train::{RunOptions, TrainConfig, TrainEvent, read_config, train};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Trains, and returns the notes.
fn run(device: &Arc<Device>, config: &TrainConfig, options: &RunOptions) -> Vec<String> {
    let mut notes = Vec::new();
    let take = |event: &TrainEvent| {
        if let TrainEvent::Note { message } = event {
            notes.push(message.to_string());
        }
    };
    train(|| Ok(device.clone()), config, options, &AtomicBool::new(false), take).unwrap();
    notes
}

/// The last held-out loss, to the last bit.
fn held_out_loss(run: &Path) -> f64 {
    records(run).iter().filter_map(|record| record["held_out_loss"].as_f64()).next_back().unwrap()
}

#[test]
fn a_run_begins_as_the_model_that_it_is_given() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [source, tuned, larger] = ["source", "tuned", "larger"].map(|name| folder.path().join(name));
    let classes = |steps| TrainConfig { class_conditional: true, label_dropout: 0.2, ..short_run(steps) };
    assert!(run(&device, &classes(6), &RunOptions::new(&source)).is_empty());

    // 1. A step that changes nothing leaves the model's own loss and weights.
    let init = Some(source.to_string_lossy().into_owned());
    let still = TrainConfig { init: init.clone(), learning_rate: 0.0, ..classes(1) };
    let notes = run(&device, &still, &RunOptions::new(&tuned));
    assert!(
        notes[0].contains("source") && notes[1].contains("keep their embedding") && notes[1].contains("(10)")
    );
    assert_eq!(held_out_loss(&tuned), held_out_loss(&source));
    let weights = |run: &Path| tensor_file::read(&run.join("model.safetensors")).unwrap().tensors;
    assert!(weights(&tuned) == weights(&source));
    let fresh = folder.path().join("fresh");
    run(&device, &TrainConfig { init: None, ..still.clone() }, &RunOptions::new(&fresh));
    assert!(held_out_loss(&fresh) != held_out_loss(&source), "the loss does not tell one model from another");

    // 2. Another size, and no classes.
    let size = Some("16x12".parse().unwrap());
    let notes = run(&device, &TrainConfig { init, size, ..short_run(1) }, &RunOptions::new(&larger));
    assert!(notes[1].contains("left out"), "{notes:?}");
    assert_eq!(read_config(&larger.join("config.toml")).unwrap().picture_shape(), [12, 16, 1]);

    // 3. The run goes on without the model, which its configuration still names.
    std::fs::remove_dir_all(&source).unwrap();
    let config = TrainConfig { steps: 2, ..read_config(&tuned.join("config.toml")).unwrap() };
    assert!(config.init.as_ref().is_some_and(|init| init.ends_with("source")));
    run(&device, &config, &RunOptions { resume: true, ..RunOptions::new(&tuned) });
    assert!(tuned.join("checkpoints/step-000002.safetensors").is_file());
}
