//! A run that takes a second or two and writes everything that a run writes, and whether one that was cut short leaves the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use super::training::tiny;
use inkwash::diffusion::UNetConfig;
use inkwash::io::jsonl;
use inkwash::train::{LearningRate, TrainConfig};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Steps of 8x8 pictures that take milliseconds, with checkpoints, grids, held-out losses and log lines all at different ones.
pub fn short_run(steps: u32) -> TrainConfig {
    let tiny = tiny();
    let unet = tiny.unet.map(|unet| UNetConfig { block_out_channels: vec![8, 8], ..unet });
    TrainConfig {
        steps,
        batch: 4,
        learning_rate: 2e-3,
        learning_rate_schedule: LearningRate::Cosine,
        warmup_steps: 2,
        glyph_count: 16,
        held_out: 0.25,
        flip: true,
        crop_padding: 1,
        checkpoint_every: 3,
        sample_every: 4,
        sample_count: 2,
        sample_steps: 2,
        log_every: 2,
        unet,
        ..TrainConfig::default()
    }
}

/// Files by their paths in a folder.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Every file below a folder with its bytes.
pub fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().into(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Whether a run has come as far as its first checkpoint.
pub fn has_checkpoint(folder: &Path) -> bool {
    std::fs::read_dir(folder.join("checkpoints")).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("step-"))
    })
}

/// The records of a run's log, without the one number that depends on the clock.
pub fn records(folder: &Path) -> Vec<Value> {
    let mut records = jsonl::read(&folder.join("log.jsonl")).unwrap();
    for record in &mut records {
        record.as_object_mut().unwrap().remove("images_per_s");
    }
    records
}

/// That a run which was cut short, however often, left what the one that was not did: the same log but for the clock, and the
/// same files otherwise. `theirs` are files that a user put into its folder.
pub fn assert_same_run(expected: &Path, found: &Path, theirs: &Files) {
    assert_eq!(records(found), records(expected), "{}: another log", found.display());
    compare(expected, found, theirs, Some("log.jsonl"));
}

/// That two folders hold the same files with the same bytes, but for a user's.
pub fn assert_same_files(expected: &Path, found: &Path, theirs: &Files) {
    compare(expected, found, theirs, None);
}

fn compare(expected: &Path, found: &Path, theirs: &Files, but_for: Option<&str>) {
    let what = found.display();
    let (expected, mut found) = (files(expected), files(found));
    for (path, bytes) in theirs {
        assert!(found.remove(path).as_ref() == Some(bytes), "{what}: {} was changed", path.display());
    }
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what}: other files");
    for (path, bytes) in
        expected.iter().filter(|(path, _)| but_for.is_none_or(|name| *path != Path::new(name)))
    {
        assert!(&found[path] == bytes, "{what}: {} differs", path.display());
    }
}
