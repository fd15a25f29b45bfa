//! `log.jsonl`: what a run says of its pictures, of each step, and of the held-out pictures now and then.

use super::evaluation::HeldOut;
use super::{LogRow, Pictures, Skipped};
use crate::io::{FileError, JsonLines, jsonl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Its name in the run folder.
pub(super) const NAME: &str = "log.jsonl";

/// The log, open.
pub(super) struct Log {
    lines: JsonLines,
}

/// What the log holds of the steps before.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Before {
    /// Whether the held-out pictures were measured after the last of them.
    pub held_out: bool,
    /// The steps, from 1, and whether their gradients were finite, or the scale of the loss was what made them not so.
    pub steps: Vec<(u32, bool)>,
}

/// The step of a record.
fn step_of(record: &Value) -> Option<u32> {
    record.get("step")?.as_u64()?.try_into().ok()
}

/// Whether a step is no sign of divergence ([`LogRow::is_skipped_by_scale`]).
fn is_sound(record: &Value) -> Option<bool> {
    let finite = record.get("finite")?.as_bool()?;
    let loss_scale = record.get("loss_scale").and_then(Value::as_f64).map(|scale| scale as f32);
    let row = LogRow { step: 0, loss: 0.0, gradient_norm: 0.0, finite, loss_scale };
    Some(finite || row.is_skipped_by_scale())
}

fn is_held_out(record: &Value, step: u32) -> bool {
    step_of(record) == Some(step) && record.get("held_out_loss").is_some()
}

impl Log {
    /// Opens the log of a run that is to go on after `step`, or begins one. Its first record says what the run is trained
    /// on. Whatever was logged after `step` is taken off: those steps will be taken again.
    pub fn open(path: PathBuf, pictures: &Pictures, step: u32) -> Result<(Self, Before), FileError> {
        let all = if path.exists() { jsonl::read(&path)? } else { Vec::new() };
        let is_first =
            |record: &Value| step_of(record).is_none() && record.get("training_pictures").is_some();
        let first = all.iter().find(|record| is_first(record)).cloned().unwrap_or_else(|| {
            json!({
                "training_pictures": pictures.training,
                "held_out_pictures": pictures.held_out,
                "class_names": pictures.class_names,
            })
        });
        let steps = all.into_iter().filter(|record| step_of(record).is_some_and(|logged| logged <= step));
        let records: Vec<Value> = std::iter::once(first).chain(steps).collect();
        let before = Before {
            held_out: records.iter().any(|record| is_held_out(record, step)),
            steps: records.iter().filter_map(|record| Some((step_of(record)?, is_sound(record)?))).collect(),
        };
        Ok((Self { lines: JsonLines::replace(path, &records)? }, before))
    }

    /// Whether the held-out pictures were measured after a step.
    pub fn has_held_out(path: &Path, step: u32) -> Result<bool, FileError> {
        Ok(path.exists() && jsonl::read(path)?.iter().any(|record| is_held_out(record, step)))
    }

    /// A step, the steps skipped so far with it, its learning rate, the speed, and in a group the share of the time that went
    /// into waiting for other ranks.
    pub fn step(
        &mut self,
        row: &LogRow,
        skipped: Skipped,
        learning_rate: f64,
        images_per_s: f64,
        waiting: Option<f64>,
    ) -> Result<(), FileError> {
        let mut record = json!({
            "step": row.step + 1,
            "loss": row.loss,
            "gradient_norm": row.gradient_norm,
            "finite": row.finite,
            "skipped": skipped.not_finite,
            "learning_rate": learning_rate,
            "images_per_s": images_per_s,
        });
        if let Some(scale) = row.loss_scale {
            record["loss_scale"] = json!(scale);
            record["skipped_by_scale"] = json!(skipped.by_scale);
        }
        if let Some(waiting) = waiting {
            record["waiting"] = json!(waiting);
        }
        self.lines.write(&record)
    }

    /// A measurement on the held-out pictures after so many steps.
    pub fn held_out(&mut self, step: u32, HeldOut { loss, accuracy }: HeldOut) -> Result<(), FileError> {
        let mut record = json!({ "step": step, "held_out_loss": loss });
        if let Some(accuracy) = accuracy {
            record["held_out_accuracy"] = json!(accuracy);
        }
        self.lines.write(&record)
    }

    /// Waits until all of it is on the disk.
    pub fn sync(&self) -> Result<(), FileError> {
        self.lines.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_after_a_step_and_says_its_pictures_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let pictures = Pictures { training: 9, held_out: 1, class_names: vec!["cat".into(), "dog".into()] };
        let row = |step| LogRow {
            step,
            loss: 0.5,
            gradient_norm: 1.0,
            finite: step != 1 && step != 3,
            loss_scale: (step == 3).then_some(2.0),
        };
        let (mut log, before) = Log::open(path.clone(), &pictures, 0).unwrap();
        assert_eq!(before, Before::default());
        for step in 0..4 {
            let skipped = Skipped { not_finite: u32::from(step > 0), by_scale: u32::from(step == 3) };
            log.step(&row(step), skipped, 0.1, 10.0, None).unwrap();
            if step == 2 {
                log.held_out(3, HeldOut { loss: 0.25, accuracy: None }).unwrap();
            }
        }
        log.sync().unwrap();
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!(lines(&path), 6);
        assert!(Log::has_held_out(&path, 3).unwrap() && !Log::has_held_out(&path, 4).unwrap());

        let other = Pictures { training: 90, ..pictures };
        let records = jsonl::read(&path).unwrap();
        assert_eq!(records[3].get("skipped_by_scale"), None);
        let last = &records[5];
        assert_eq!((&last["loss_scale"], &last["skipped_by_scale"]), (&json!(2.0), &json!(1)));
        assert_eq!(is_sound(&records[2]), Some(false));
        assert_eq!(is_sound(last), Some(true), "a step that the scale has cost is no fault of the run");
        let (_, before) = Log::open(path.clone(), &other, 3).unwrap();
        assert_eq!(before, Before { held_out: true, steps: vec![(1, true), (2, false), (3, true)] });
        let records = jsonl::read(&path).unwrap();
        assert_eq!(records.len(), 5);
        assert_eq!(records[0]["training_pictures"], 9);
        assert_eq!(records[0]["class_names"], json!(["cat", "dog"]));
        assert_eq!((&records[1]["skipped"], &records[2]["skipped"]), (&json!(0), &json!(1)));
        let (_, before) = Log::open(path.clone(), &other, 2).unwrap();
        assert!(!before.held_out && lines(&path) == 3);

        // A log of an older version gets its first record.
        std::fs::write(&path, "{\"step\":1,\"loss\":0.5,\"finite\":true}\n").unwrap();
        let (_, before) = Log::open(path.clone(), &other, 1).unwrap();
        assert_eq!(before.steps, [(1, true)]);
        assert_eq!(jsonl::read(&path).unwrap()[0]["training_pictures"], 90);
    }
}
