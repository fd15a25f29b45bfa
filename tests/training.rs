//! Training and sampling as a whole on whatever device there is: a tiny network learns eight pictures by
//! heart, runs repeat bit for bit, micro-batches add up to the batch, an interrupted run ends as one that was
//! not, and a run folder holds what it should.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::training::{bits, losses, resumed, run, run_config, tiny, trainer};
use inkwash::data::{Dataset, Options, glyphs, to_unit};
use inkwash::diffusion::{
    Objective, Prediction, Sampler, ScheduleKind, Trajectory, UNet, UNetConfig, Weighting,
};
use inkwash::gpu::{Blocking as _, Store};
use inkwash::io::jsonl;
use inkwash::model::Model;
use inkwash::ops::{Hyper, StepWords};
use inkwash::sample::{Drawing, PictureSampler};
use inkwash::train::{
    Diffusion, LogRow, ModelFolder, NetworkKind, RunOptions, TimestepSampling, TrainConfig, TrainStates,
    Trainer, Updater, open_classifier, open_data, open_model, read_config, train,
};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Eight glyphs, (8, 8, 8, 1).
fn pictures() -> Vec<f32> {
    let options = Options { glyph_count: 8, ..Options::new((8, 8), 1) };
    let data: Dataset = glyphs::dataset(&options).unwrap();
    (0..8).flat_map(|i| data.image(i).iter().map(|&b| to_unit(b)).collect::<Vec<_>>()).collect()
}

/// Steps over the eight pictures, in micro-batches of the configuration's batch.
fn steps(trainer: &mut Trainer<Diffusion>, count: u32) -> Vec<LogRow> {
    let all = pictures();
    let batch = trainer.options.batch;
    let size = batch * 64;
    let mut rows = Vec::new();
    let mut next = 0;
    for _ in 0..count {
        let hyper = trainer.task.config.hyper(trainer.next_step());
        trainer
            .step(&hyper, || {
                let micro: Vec<f32> = all.iter().cycle().skip(next * size).take(size).copied().collect();
                next = (next + 1) % (all.len() / size);
                (micro, vec![0; batch])
            })
            .block_on()
            .unwrap();
        if trainer.log_is_full() {
            rows.extend(trainer.read_log().block_on().unwrap());
        }
    }
    rows.extend(trainer.read_log().block_on().unwrap());
    rows
}

fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// Eight pictures by heart. The loss starts near 1, the variance of ε, and its mean over the last 30 steps is
/// below a third of that over the first 10 (a quarter when this was written); what is left is mostly the steps
/// with little noise, where ε cannot be told from x_t by so small a network.
#[test]
fn a_tiny_network_learns_eight_pictures_by_heart() {
    let Some(device) = common::open_device() else { return };
    let mut trainer = trainer(&device, &tiny());
    let rows = steps(&mut trainer, 150);
    assert_eq!(rows.iter().map(|r| r.step).collect::<Vec<_>>(), (0..150).collect::<Vec<_>>());
    assert!(rows.iter().all(|r| r.finite && r.loss.is_finite() && r.gradient_norm > 0.0));
    let mean = |rows: &[LogRow]| rows.iter().map(|r| r.loss).sum::<f32>() / rows.len() as f32;
    let (first, last) = (mean(&rows[..10]), mean(&rows[120..]));
    println!("loss {first:.3} in the first 10 steps, {last:.3} in the last 30");
    assert!(last < first / 3.0, "the loss fell from {first} to {last} only");
    // The average follows the weights, but is not the weights.
    let [p, _, _, ema] = trainer.checkpoint().block_on().unwrap().states;
    let distance = relative_l2(&ema, &p);
    assert!(distance > 1e-4 && distance < 0.5, "the average is {distance} away from the weights");
}

#[test]
fn two_runs_agree_bit_for_bit() {
    for device in common::every_variant() {
        let run = || {
            let mut trainer = trainer(&device, &tiny());
            let losses: Vec<u32> = steps(&mut trainer, 5).iter().map(|r| r.loss.to_bits()).collect();
            (losses, trainer.checkpoint().block_on().unwrap().states.map(|s| bits(&s)))
        };
        let (first, second) = (run(), run());
        assert_eq!(first.0, second.0, "{device:?}: other losses");
        assert!(first.1 == second.1, "{device:?}: other weights");
    }
}

/// The same noise whichever way the batch is split, and sums that differ by rounding alone. Adam divides by
/// the gradient's own size, so the biases of `to_k`, whose gradient is zero but for rounding (the softmax
/// does not see them), may go anywhere within a learning rate: they are left out.
#[test]
fn micro_batches_add_up_to_the_batch() {
    for device in common::every_variant() {
        let run = |batch: usize, accumulate: u32| {
            let config = TrainConfig { batch, accumulate, ..tiny() };
            let mut trainer = trainer(&device, &config);
            let rows = steps(&mut trainer, 2);
            (trainer, rows)
        };
        let (whole, whole_rows) = run(8, 1);
        let gradients = |t: &Trainer<Diffusion>| t.store.read(&t.states.gradients).block_on().unwrap();
        let expected = whole.checkpoint().block_on().unwrap().states;
        for (batch, accumulate) in [(4, 2), (2, 4)] {
            let what = format!("{device:?}, {accumulate} of {batch}");
            let (split, rows) = run(batch, accumulate);
            for (a, b) in rows.iter().zip(&whole_rows) {
                assert!((a.loss / b.loss - 1.0).abs() < 1e-5, "{what}: loss {} for {}", a.loss, b.loss);
                let ratio = a.gradient_norm / b.gradient_norm;
                assert!(
                    (ratio - 1.0).abs() < 1e-5,
                    "{what}: norm {} for {}",
                    a.gradient_norm,
                    b.gradient_norm
                );
            }
            let error = relative_l2(&gradients(&split), &gradients(&whole));
            assert!(error < 1e-5, "{what}: gradients differ by {error:.1e}");
            let got = split.checkpoint().block_on().unwrap().states;
            let mut worst: f64 = 0.0;
            for p in whole.task.unet.parameters.iter().filter(|p| !p.name.ends_with("to_k.bias")) {
                let range = p.offset..p.offset + p.elements();
                let error = relative_l2(&got[0][range.clone()], &expected[0][range]);
                assert!(error < 1e-4, "{what}: {} differs by {error:.1e}", p.name);
                worst = worst.max(error);
            }
            let moments = relative_l2(&got[1], &expected[1]);
            println!("{what}: gradients {error:.1e}, moments {moments:.1e}, worst parameter {worst:.1e}");
            assert!(moments < 1e-5, "{what}: first moments differ by {moments:.1e}");
        }
    }
}

/// A step whose gradient is not finite is none, for the corrections of AdamW's bias too.
#[test]
fn skipped_steps_are_not_counted() {
    let Some(device) = common::open_device() else { return };
    let (good, bad) = (vec![0.5; 64], vec![f32::NAN; 64]);
    let other: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
    let run = |gradients: &[&Vec<f32>]| {
        let store = Store::new(&device);
        let states = TrainStates::new(64, 8);
        store.write(&states.parameters, &[1.0; 64]).unwrap();
        let updater = Updater::new(&store, &states, &TrainConfig::default().optimizer()).block_on().unwrap();
        for gradient in gradients {
            store.write(&states.gradients, gradient).unwrap();
            let hyper = Hyper { learning_rate: 1e-2, ema_decay: 0.5, max_norm: 0.0 };
            updater.run(&hyper, &StepWords::default()).block_on().unwrap();
        }
        let [p, m, v, ema] = [&states.parameters, &states.first_moment, &states.second_moment, &states.ema]
            .map(|state| bits(&store.read(state).block_on().unwrap()));
        (store.read_u32(&states.steps_taken).block_on().unwrap(), p, m, v, ema)
    };
    let (taken, expected) = (run(&[&bad, &good, &bad, &bad, &other]), run(&[&good, &other]));
    assert_eq!(taken.0, [2]);
    assert!(taken == expected, "a skipped step changed something");
}

/// Six pictures are six pictures, in batches of four too.
#[test]
fn every_held_out_picture_counts_once() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let loss = |batch: usize| {
        // The first step of a warm-up changes nothing.
        let config = TrainConfig { batch, steps: 1, accumulate: 1, ..run_config() };
        let out = folder.path().join(batch.to_string());
        run(&device, &config, &RunOptions::new(&out)).unwrap();
        let records = jsonl::read(&out.join("log.jsonl")).unwrap();
        records.iter().find_map(|r| r["held_out_loss"].as_f64()).unwrap()
    };
    let expected = loss(6);
    for batch in [1, 2, 3, 4, 5, 8] {
        let found = loss(batch);
        assert!((found / expected - 1.0).abs() < 1e-5, "batches of {batch}: {found}, not {expected}");
    }
}

/// A classifier is trained by the same loop, to the same kind of folder.
#[test]
fn a_classifier_learns_glyphs_and_resumes_bit_for_bit() {
    let Some(device) = common::open_device() else { return };
    let config = TrainConfig {
        network: NetworkKind::Classifier,
        steps: 60,
        batch: 32,
        learning_rate: 5e-3,
        warmup_steps: 5,
        ema_decay: 0.9,
        glyph_count: 1500,
        held_out: 0.2,
        checkpoint_every: 30,
        sample_every: 0,
        ..TrainConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let straight = folder.path().join("straight");
    run(&device, &config, &RunOptions::new(&straight)).unwrap();
    let records = jsonl::read(&straight.join("log.jsonl")).unwrap();
    let accuracy = records.iter().find_map(|r| r["held_out_accuracy"].as_f64()).unwrap();
    println!("{:.1} % of the held-out glyphs after {} steps", 100.0 * accuracy, config.steps);
    assert!(accuracy > 0.9, "{accuracy}");
    assert!(straight.join("loss.png").is_file() && !straight.join("samples").exists());

    // 1. The folder says what it holds.
    let saved = read_config(&straight.join("config.toml")).unwrap();
    let class_names = open_data(&config).unwrap().0.class_names;
    assert_eq!(class_names.len(), 10);
    assert_eq!(saved, config.with_network(&class_names));
    let (classifier, weights) = open_classifier(&straight).unwrap();
    let end = |folder: &Path| ModelFolder::new(folder).load_checkpoint(&classifier.parameters).unwrap();
    let expected = end(&straight);
    assert_eq!(expected.next_step, 60);
    assert!(bits(&expected.states[3]) == bits(&weights));
    let e = open_model(&straight).unwrap_err().to_string();
    assert!(e.contains("a run of classifier") && e.contains("--network unet"), "{e}");

    // 2. Killed after the checkpoint of step 30.
    let killed = folder.path().join("killed");
    std::fs::create_dir_all(killed.join("checkpoints")).unwrap();
    let name = "checkpoints/step-000030.safetensors";
    std::fs::copy(straight.join(name), killed.join(name)).unwrap();
    run(&device, &saved, &resumed(&killed)).unwrap();
    assert!(end(&killed) == expected, "a killed run ends elsewhere");
}

/// Picture i is decided by the seed and i: another batch size may round sums otherwise, no more.
#[test]
fn pictures_do_not_depend_on_the_batch() {
    for device in common::every_variant() {
        let config = tiny();
        let unet = UNet::new(&config.unet_config(0)).unwrap();
        let trajectory = Trajectory::new(&config.scheduler(Sampler::Ddpm), 6, 0.0).unwrap();
        let draw = |batch: usize, count: usize, seed: u64| {
            let store = Store::new(&device);
            let state = unet.parameters.state("weights");
            store.write(&state, &unet.parameters.initial(3)).unwrap();
            let sampler =
                PictureSampler::new(&store, &unet, &state, batch, trajectory.clone()).block_on().unwrap();
            sampler.draw(&Drawing::new(count, seed, &vec![0; count]), async |_| Ok(())).block_on().unwrap()
        };
        let all = draw(5, 5, 1);
        assert_eq!(all.len(), 5 * 64);
        assert!(all.iter().all(|v| v.is_finite() && v.abs() < 4.0));
        for (batch, count) in [(1, 5), (2, 5), (3, 4), (8, 5)] {
            let other = draw(batch, count, 1);
            assert_eq!(other.len(), count * 64);
            let worst = all.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{device:?}: {count} pictures, {batch} at a time: off by {worst:.1e}");
            assert!(worst < 1e-5, "{device:?}: {count} pictures, {batch} at a time: off by {worst}");
        }
        let other = draw(5, 5, 2);
        assert!(all.iter().zip(&other).any(|(a, b)| (a - b).abs() > 0.1), "the seed makes no difference");
        let (first, second) = all.split_at(64);
        assert!(first.iter().zip(second).any(|(a, b)| (a - b).abs() > 0.1), "two pictures are the same");
    }
}

/// Every objective trains, is kept in the run folder, and draws finite pictures by its own way back.
#[test]
fn every_objective_trains_and_draws() {
    let Some(device) = common::open_device() else { return };
    for objective in [
        Objective::PreviousWithoutTime,
        Objective::Previous,
        Objective::LastNoiseWeighted,
        Objective::LastNoise,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig {
            objective,
            noise_schedule: ScheduleKind::Cosine,
            timesteps: 6,
            steps: 30,
            sample_count: 2,
            sample_steps: 3,
            log_every: 10,
            held_out: 0.5,
            glyph_count: 32,
            time_conditioning: objective != Objective::LastNoise,
            ..tiny()
        };
        let options = RunOptions::new(folder.path().join("run"));
        train(|| Ok(device.clone()), &config, &options, &AtomicBool::new(false), |_| ()).unwrap();
        assert!(options.out.join("samples/step-000030.png").is_file());
        let losses: Vec<f64> = losses(&options.out).into_iter().map(|(_, loss)| loss).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        println!("{objective:?}: {:.4} to {:.4}", mean(&losses[..5]), mean(&losses[20..]));
        assert!(mean(&losses[20..]) < mean(&losses[..5]), "{objective:?}: {losses:?}");

        let model = open_model(&options.out).unwrap();
        assert_eq!(model.scheduler.objective, objective);
        assert_eq!(
            model.scheduler.without_time,
            [Objective::PreviousWithoutTime, Objective::LastNoise].contains(&objective)
        );
        let refused = Trajectory::new(&model.scheduler, 3, 0.0).is_err();
        assert_eq!(refused, objective.predicts_previous());
    }
}

/// Schedules, predictions, weights and draws of timesteps combine: each trains, draws with every sampler, and is opened as
/// what it was trained as.
#[test]
fn improvements_combine() {
    let Some(device) = common::open_device() else { return };
    let base = || TrainConfig {
        noise_schedule: ScheduleKind::Cosine,
        steps: 24,
        sample_count: 2,
        sample_steps: 3,
        log_every: 12,
        glyph_count: 32,
        ..tiny()
    };
    let edm = || TrainConfig { noise_schedule: ScheduleKind::Edm, prediction: Prediction::Edm, ..base() };
    let flow = || TrainConfig { noise_schedule: ScheduleKind::Flow, prediction: Prediction::Flow, ..base() };
    let combinations = [
        edm(),
        flow(),
        TrainConfig { timestep_sampling: TimestepSampling::LogitNormal, logit_mean: -0.8, ..flow() },
        // The picture as answer under the loss of the velocity (arXiv 2511.13720).
        TrainConfig { prediction: Prediction::Sample, weighting: Weighting::Velocity, ..flow() },
        TrainConfig { prediction: Prediction::VPrediction, time_conditioning: false, ..flow() },
        TrainConfig { prediction: Prediction::Epsilon, weighting: Weighting::P2, ..edm() },
        TrainConfig { prediction: Prediction::Flow, weighting: Weighting::Snr, ..edm() },
        TrainConfig { prediction: Prediction::Edm, zero_terminal_snr: true, ..base() },
        TrainConfig { prediction: Prediction::VPrediction, weighting: Weighting::MinSnr, ..base() },
        TrainConfig {
            noise_schedule: ScheduleKind::Sigmoid,
            timestep_sampling: TimestepSampling::LogitNormal,
            ..base()
        },
        TrainConfig { class_conditional: true, label_dropout: 0.3, ..flow() },
    ];
    for config in combinations {
        let what = format!("{:?} {:?} {:?}", config.noise_schedule, config.prediction, config.weighting);
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions::new(folder.path().join("run"));
        train(|| Ok(device.clone()), &config, &options, &AtomicBool::new(false), |_| ()).unwrap();
        let losses: Vec<f64> = losses(&options.out).into_iter().map(|(_, loss)| loss).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        println!("{what}: {:.4} to {:.4}", mean(&losses[..6]), mean(&losses[18..]));
        assert!(mean(&losses[18..]) < mean(&losses[..6]), "{what}: {losses:?}");

        let Model { unet, weights, scheduler, null_label, .. } = open_model(&options.out).unwrap();
        assert_eq!(
            (scheduler.beta_schedule, scheduler.prediction_type),
            (config.noise_schedule, config.prediction)
        );
        // Glyphs have ten classes.
        assert_eq!(null_label, config.class_conditional.then_some(10));
        let store = Store::new(&device);
        let state = unet.parameters.state("weights");
        store.write(&state, &weights).unwrap();
        for sampler in Sampler::ALL {
            let trajectory = Trajectory::new(&scheduler.with_sampler(sampler), 3, 0.0).unwrap();
            let drawing = PictureSampler::new(&store, &unet, &state, 2, trajectory).block_on().unwrap();
            let pictures = drawing.draw(&Drawing::new(2, 0, &[0, 1]), async |_| Ok(())).block_on().unwrap();
            let alive = pictures.iter().all(|x| x.is_finite()) && pictures.iter().any(|x| x.abs() > 0.01);
            assert!(alive, "{what} {sampler:?}: {pictures:?}");
        }
    }
}

/// A label is left out by one that no picture has.
#[test]
fn labels_left_out_need_a_label_of_their_own() {
    let Some(device) = common::open_device() else { return };
    let unet = UNetConfig { num_class_embeds: Some(10), ..tiny().unet_config(0) };
    let config = TrainConfig {
        class_conditional: true,
        label_dropout: 0.1,
        glyph_count: 100,
        unet: Some(unet),
        ..tiny()
    };
    let folder = tempfile::tempdir().unwrap();
    let options = RunOptions::new(folder.path().join("run"));
    let error = train(|| Ok(device.clone()), &config, &options, &AtomicBool::new(false), |_| ())
        .unwrap_err()
        .to_string();
    for words in ["label 9", "has 9 classes", "standing for none", "num_class_embeds"] {
        assert!(error.contains(words), "{error}");
    }
    assert!(!options.out.exists());
}
