//! The losses of a run as a picture.

use crate::io::{Chart, FileError, Series, jsonl};
use std::path::Path;

/// Draws the losses of a log as a PNG. `loss` says what they are.
pub fn loss_curve(log: &Path, path: &Path, loss: &str) -> Result<(), FileError> {
    let records = jsonl::read(log)?;
    let series = |key: &str| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| Some((r.get("step")?.as_f64()?, r.get(key)?.as_f64()?))).collect()
    };
    let training = series("loss");
    let mut chart = Chart {
        title: "loss".into(),
        x_label: "step".into(),
        y_label: loss.into(),
        log_y: true,
        ..Chart::default()
    };
    chart.add_smoothed("training", &training, (training.len() / 40).max(1));
    let held_out = series("held_out_loss");
    if !held_out.is_empty() {
        chart.series.push(Series {
            name: "held out".into(),
            points: held_out,
            colour: 1,
            ..Default::default()
        });
    }
    chart.save_png(path)
}
