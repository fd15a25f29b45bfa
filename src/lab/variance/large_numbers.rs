//! Σ p(x) Loss(x) from a few draws: how far the mean of N losses is from the mean of all, against N.

use super::super::statistics::fitted_order;
use super::super::{Expected, Findings, Lab, LabError};
use super::estimators::new_pictures;
use crate::data::{AugmentOptions, Dataset, batch_at};
use crate::diffusion::{NoiseSchedule, Prediction, UNet};
use crate::gpu::{Blocking as _, Executable, RunError, Store};
use crate::graph::{Graph, Plan, State};
use crate::io::{Chart, Series, Stroke};
use crate::model::Model;
use crate::ops::{
    AddNoise, AddTwoNoises, NoisingRow, SCHEDULE_COLUMNS, STEP_WORDS, StepWords, TWO_NOISE_COLUMNS,
};
use crate::tensor::{Array, DType, Spec};
use crate::train::built_in_model;

/// Losses of each kind, and how many the device computes at a time.
const LOSSES: usize = 2048;
const BATCH: usize = 64;
/// Losses in the largest means. There are then 32 of them, by which their deviation is known to 1 / √(2 · 31) = 13 %.
const LARGEST: usize = 64;
/// The article's t of the losses that are of one t.
const TIME: usize = 300;

/// How a loss is drawn.
struct Draw {
    name: &'static str,
    /// Whether by two noises, with their table, or by one, with its own.
    two: bool,
    /// Of t, each as likely as another.
    table: Array,
}

/// All that is drawn for DDPM's loss; and at one t, the last noise drawn too or integrated out.
fn draws(schedule: &NoiseSchedule) -> [Draw; 3] {
    let t = TIME - 1;
    let share = schedule.last_noise_share(t);
    let two = schedule.two_noise_row(t, [0.0, 1.0 / share, share * share]);
    let level = schedule.level(Some(t));
    let one = NoisingRow {
        signal: level.signal,
        sigma: level.noise,
        target_noise: 1.0,
        target_data: 0.0,
        weight: two.weight,
        time: two.time,
    };
    [
        Draw { name: "picture, t and noise", two: false, table: schedule.uniform_table(Prediction::Epsilon) },
        Draw {
            name: "t = 300, two noises",
            two: true,
            table: Array::new([1, TWO_NOISE_COLUMNS], two.values().to_vec()),
        },
        Draw {
            name: "t = 300, one noise",
            two: false,
            table: Array::new([1, SCHEDULE_COLUMNS], one.values().to_vec()),
        },
    ]
}

/// [`LOSSES`] independent losses of the model, per element: weight · ‖g - target‖² / d.
fn losses(
    lab: &Lab,
    store: &Store,
    unet: &UNet,
    weights: &State,
    pictures: &Dataset,
    draw: Draw,
) -> Result<Vec<f64>, LabError> {
    let (height, width) = unet.config.sample_size.get();
    let mut graph = Graph::new();
    let images = graph.input("pictures", Spec::f32([BATCH, height, width, unet.config.in_channels]));
    let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([BATCH])));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let table = graph.constant("schedule", draw.table);
    let noised = match draw.two {
        true => graph.apply_all(AddTwoNoises { dtype: DType::F32 }, &[images, table, step])?,
        false => graph.apply_all(AddNoise { dtype: DType::F32 }, &[images, table, step])?,
    };
    let flat = graph.state(weights);
    let parameters = unet.parameters.views(&mut graph, flat)?;
    let answer = unet.forward(&mut graph, &parameters, noised[0], noised[2], labels)?;
    for (name, value) in [("target", noised[1]), ("weight", noised[3]), ("answer", answer)] {
        graph.output(name, value);
    }
    let run = Executable::new(store, Plan::new(graph, store.caps()).map_err(RunError::from)?).block_on()?;
    let mut losses = Vec::new();
    for k in 0..(LOSSES / BATCH) as u32 {
        let batch = batch_at(pictures, BATCH, lab.seed, AugmentOptions::default(), k.into());
        run.write(images, &batch.images);
        if let Some(labels) = labels {
            run.write_u32(labels, &batch.labels);
        }
        run.write_u32(step, &StepWords { seed: !lab.seed, step: k, ..StepWords::default() }.words());
        run.run().block_on()?;
        let [target, weight, answer] = [noised[1], noised[3], answer].map(|value| run.read(value));
        let (target, weight, answer) = (target.block_on()?, weight.block_on()?, answer.block_on()?);
        let d = target.len() / BATCH;
        for (n, &weight) in weight.iter().enumerate() {
            let square = |i: usize| (f64::from(answer[i]) - f64::from(target[i])).powi(2);
            losses.push(f64::from(weight) * (n * d..(n + 1) * d).map(square).sum::<f64>() / d as f64);
        }
    }
    (lab.progress)(&format!("{LOSSES} losses: {}", draw.name));
    Ok(losses)
}

/// (N, root mean square difference of a mean of N losses from the mean of all), for N = 1, 2, 4, …
fn errors_of_means(losses: &[f64], largest: usize) -> Vec<(f64, f64)> {
    let all = losses.iter().sum::<f64>() / losses.len() as f64;
    let sizes = (0..).map(|i| 1usize << i).take_while(|&n| n <= largest);
    let error = |n: usize| {
        let means = losses.chunks_exact(n).map(|few| few.iter().sum::<f64>() / n as f64);
        let count = means.len() as f64;
        // One degree of freedom is the mean of all.
        (n as f64, (means.map(|mean| (mean - all).powi(2)).sum::<f64>() / (count - 1.0)).sqrt())
    };
    sizes.map(error).collect()
}

pub(super) fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let Model { unet, weights, scheduler, .. } = built_in_model()?;
    let pictures = new_pictures(&unet, lab.seed, LOSSES)?;
    let store = Store::new(&lab.device);
    let state = unet.parameters.state("weights");
    store.write(&state, &weights)?;

    let (mut series, mut rows) = (Vec::new(), Vec::new());
    for (colour, draw) in draws(&NoiseSchedule::of(&scheduler)).into_iter().enumerate() {
        let name = draw.name;
        let losses = losses(lab, &store, &unet, &state, &pictures, draw)?;
        let errors = errors_of_means(&losses, LARGEST);
        findings.verdict(
            format!("the error of a mean of N losses falls as 1/√N ({name}): its power of N"),
            fitted_order(&errors),
            Expected::About(0.5, 0.1),
        );
        let single = errors[0].1;
        let mean = losses.iter().sum::<f64>() / LOSSES as f64;
        let cell = |&(_, error): &(f64, f64)| format!("{error:.2e}");
        rows.push(
            [vec![name.to_string(), format!("{mean:.2e}")], errors.iter().map(cell).collect()].concat(),
        );
        let law = errors.iter().map(|&(n, _)| (n, single / n.sqrt())).collect();
        series.push(Series { name: String::new(), points: law, stroke: Stroke::Thin, colour });
        series.push(Series { name: name.into(), points: errors, colour, ..Series::default() });
    }
    let sizes: Vec<String> =
        (0..).map(|i| 1usize << i).take_while(|&n| n <= LARGEST).map(|n| format!("N = {n}")).collect();
    let heads: Vec<&str> = ["drawn", "mean"].into_iter().chain(sizes.iter().map(String::as_str)).collect();
    findings.table("error_of_the_mean", &heads, rows);
    findings.chart(
        "large-numbers",
        &Chart {
            title: "How far the mean of N losses is from the mean of all; pale: 1/√N".into(),
            x_label: "losses N".into(),
            y_label: "root mean square difference".into(),
            log_x: true,
            log_y: true,
            series,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Philox, Stream};

    /// Independent numbers fall by the root; numbers that go in pairs of the same begin to fall at two; and one number
    /// alone has no error.
    #[test]
    fn errors_fall_by_the_root_of_independent_numbers_only() {
        let mut rng = Philox::new(0, Stream::Cases, 0);
        let independent: Vec<f64> = (0..8192).map(|_| 3.0 + 2.0 * rng.normal()).collect();
        let errors = errors_of_means(&independent, 64);
        assert_eq!(errors.len(), 7);
        assert!((errors[0].1 - 2.0).abs() < 0.1 && (fitted_order(&errors) - 0.5).abs() < 0.05, "{errors:?}");
        let pairs: Vec<f64> = independent.iter().flat_map(|&x| [x, x]).collect();
        let errors = errors_of_means(&pairs, 64);
        assert!((errors[1].1 / errors[0].1 - 1.0).abs() < 1e-2 && fitted_order(&errors) < 0.45, "{errors:?}");
        assert_eq!(errors_of_means(&[1.5; 64], 8), [1.0, 2.0, 4.0, 8.0].map(|n| (n, 0.0)));
    }
}
