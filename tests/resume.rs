//! What a run leaves when it ends early, and how it goes on: bit for bit, from whatever was written last, without a step
//! too many or too few.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::records;
use common::training::{
    Finished, copy, cut_log, end_of, files, losses, resumed, run, run_config, run_until, tiny, trainer,
};
use inkwash::diffusion::UNet;
use inkwash::gpu::Blocking as _;
use inkwash::io::{jsonl, tensor_file};
use inkwash::nn::Precision;
use inkwash::ops::LossScale;
use inkwash::train::{
    Checkpoint, Diffusion, ModelFolder, RunOptions, Skipped, TrainConfig, TrainEvent, Trainer, read_config,
    train,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

#[test]
fn runs_leave_their_folder_and_resume_bit_for_bit() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = run_config();

    // 1. Straight through, and what is in the folder.
    let straight = folder.path().join("straight");
    run(&device, &config, &RunOptions::new(&straight)).unwrap();
    let saved = read_config(&straight.join("config.toml")).unwrap();
    assert_eq!(saved, config);
    let logged = losses(&straight);
    assert_eq!(logged.iter().map(|l| l.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(logged.iter().all(|l| l.1 > 0.0 && l.1 < 10.0), "{logged:?}");
    let rows = jsonl::read(&straight.join("log.jsonl")).unwrap();
    let held_out: Vec<u64> = rows
        .iter()
        .filter(|r| r["held_out_loss"].as_f64() > Some(0.0))
        .filter_map(|r| r["step"].as_u64())
        .collect();
    assert_eq!(held_out, [3, 6]);
    // The warm-up begins at a rate of 0.
    assert_eq!(rows[1]["learning_rate"].as_f64(), Some(0.0));
    for key in ["gradient_norm", "learning_rate", "images_per_s"] {
        assert!(rows[2][key].as_f64() > Some(0.0), "{key} in {}", rows[2]);
    }
    // The first record says what the run is trained on.
    assert_eq!((&rows[0]["training_pictures"], &rows[0]["held_out_pictures"]), (&18.into(), &6.into()));
    for name in ["samples/step-000003.png", "samples/step-000006.png", "loss.png"] {
        let picture = image::open(straight.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(picture.width() >= 24 && picture.height() >= 16, "{name}");
    }
    for step in [3, 6] {
        assert!(straight.join(format!("checkpoints/step-{step:06}.safetensors")).is_file());
    }
    let expected = end_of(&straight);
    assert_eq!(expected.0, 6);
    assert!(expected.1[3] == expected.2, "model.safetensors is not the average of the checkpoint");

    // 2. Interrupted after every step, as by Ctrl-C.
    let interrupted = folder.path().join("interrupted");
    run_until(&device, &config, &RunOptions::new(&interrupted), true).unwrap();
    assert_eq!(end_of(&interrupted).0, 1);
    run_until(&device, &config, &resumed(&interrupted), true).unwrap();
    assert_eq!(end_of(&interrupted).0, 2);
    run(&device, &config, &resumed(&interrupted)).unwrap();
    assert!(end_of(&interrupted) == expected, "an interrupted run ends elsewhere");
    assert_eq!(records(&interrupted), records(&straight), "an interrupted run logs something else");

    // 3. Killed after the checkpoint of step 3: the folder as it was then, with the configuration in it.
    let killed = folder.path().join("killed");
    std::fs::create_dir_all(killed.join("checkpoints")).unwrap();
    let name = "checkpoints/step-000003.safetensors";
    std::fs::copy(straight.join(name), killed.join(name)).unwrap();
    run(&device, &saved, &resumed(&killed)).unwrap();
    assert!(end_of(&killed) == expected, "a killed run ends elsewhere");

    // 4. A folder with a run in it is not written over.
    let e = run(&device, &config, &RunOptions::new(&straight)).unwrap_err().to_string();
    assert!(e.contains("already holds files") && e.contains("--resume"), "{e}");
    assert!(end_of(&straight) == expected);
}

/// The configuration in the folder says how it was computed: fused kernels add in another order.
#[test]
fn a_run_without_fusions_goes_on_without_them() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [straight, interrupted, fused] = ["straight", "interrupted", "fused"].map(|f| folder.path().join(f));
    let config = TrainConfig { fusion: false, ..run_config() };
    run(&device, &config, &RunOptions::new(&straight)).unwrap();
    run_until(&device, &config, &RunOptions::new(&interrupted), true).unwrap();
    let saved = read_config(&interrupted.join("config.toml")).unwrap();
    assert_eq!(saved, config);
    run(&device, &saved, &resumed(&interrupted)).unwrap();
    assert!(end_of(&interrupted) == end_of(&straight), "a resumed run ends elsewhere");
    run(&device, &run_config(), &RunOptions::new(&fused)).unwrap();
    assert!(end_of(&fused) != end_of(&straight), "fusions change no bit, or were not done");
}

/// In f16 the scale of the loss is part of where a run stands. It is made to change: too large at first, it costs the first steps,
/// which the log tells apart from divergence.
#[test]
fn a_run_in_f16_goes_on_bit_for_bit() {
    let Some(device) = common::open_device().filter(|device| device.caps.features.f16) else {
        common::skip("no device with f16");
        return;
    };
    /// The gradient of the loss, at most 2 / (4 · 64) of a difference above 1 and half of that for two micro-batches, is then
    /// beyond 2^16.
    const TOO_LARGE: f64 = 8_388_608.0;
    let folder = tempfile::tempdir().unwrap();
    let [begun, straight, interrupted] = ["begun", "straight", "interrupted"].map(|f| folder.path().join(f));
    let config = TrainConfig { precision: Precision::F16, ..run_config() };
    run_until(&device, &config, &RunOptions::new(&begun), true).unwrap();
    let parameters = UNet::new(&config.unet_config(0)).unwrap().parameters;
    let mut checkpoint = ModelFolder::new(&begun).load_checkpoint(&parameters).unwrap();
    assert_eq!(checkpoint.loss_scale, Some(LossScale { steps: 1.0, ..LossScale::INITIAL }));
    checkpoint.loss_scale = Some(LossScale { scale: TOO_LARGE, ..LossScale::INITIAL });
    ModelFolder::new(&begun).save_checkpoint(&parameters, &checkpoint).unwrap();
    for path in [&straight, &interrupted] {
        copy(&begun, path);
    }
    let saved = read_config(&begun.join("config.toml")).unwrap();
    assert_eq!(saved, config);
    run(&device, &saved, &resumed(&straight)).unwrap();
    run_until(&device, &saved, &resumed(&interrupted), true).unwrap();
    run(&device, &saved, &resumed(&interrupted)).unwrap();
    let scale =
        |path: &Path| ModelFolder::new(path).load_checkpoint(&parameters).unwrap().loss_scale.unwrap();
    assert!(end_of(&interrupted) == end_of(&straight), "an interrupted run ends elsewhere");
    assert_eq!(scale(&interrupted), scale(&straight));
    assert_eq!(records(&interrupted), records(&straight), "an interrupted run logs something else");
    let rows: Vec<_> = records(&straight).into_iter().filter(|r| r["loss"].is_number()).collect();
    let (first, last) = (&rows[1], &rows[5]);
    println!("{last}");
    assert!(first["finite"] == false && first["loss_scale"] == TOO_LARGE);
    assert!(last["finite"] == true && last["loss_scale"].as_f64() < Some(TOO_LARGE) && last["skipped"] == 0);
    assert_eq!(last["skipped_by_scale"].as_f64(), Some(scale(&straight).skips));

    // On in f32, where there is no scale, and back: it is as it was left, but for the steps since.
    let left = scale(&straight);
    let go_on = |precision: Precision, steps: u32| {
        let config = TrainConfig { precision, steps, ..saved.clone() };
        run(&device, &config, &resumed(&straight)).unwrap();
        records(&straight).into_iter().rfind(|r| r["loss"].is_number()).unwrap()
    };
    let single = go_on(Precision::F32, 7);
    assert!(
        single["finite"] == true && single["skipped"] == 0 && single.get("loss_scale").is_none(),
        "{single}"
    );
    let half = go_on(Precision::F16, 8);
    assert!(half["skipped"] == 0 && half["loss_scale"].as_f64() == Some(left.scale), "{half}");
    assert_eq!(scale(&straight), LossScale { steps: left.steps + 1.0, ..left });
}

/// What a run of six steps tells, interrupted after its first and then resumed.
#[test]
fn an_observer_is_told_what_happens_in_order() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let told = |resume: bool, interrupted: bool| {
        let mut told = Vec::new();
        let options = RunOptions { resume, ..RunOptions::new(&out) };
        let flag = AtomicBool::new(interrupted);
        train(
            || Ok(device.clone()),
            &run_config(),
            &options,
            &flag,
            |event| {
                // What is told to be done is done.
                let exists = |name: String| assert!(out.join(&name).is_file(), "{name}");
                told.push(match *event {
                    TrainEvent::DataOpened { report } => {
                        format!("opened {} classes", report.classes.len())
                    }
                    TrainEvent::Planned { training, held_out, plan, .. } => {
                        assert!(training > held_out && held_out > 0 && plan.bytes > 0);
                        assert_eq!(out.exists(), resume, "a plan was told after something was written");
                        "planned".to_string()
                    }
                    TrainEvent::Started { step, steps, allocated_bytes, .. } => {
                        assert!(allocated_bytes > 0);
                        exists("config.toml".into());
                        format!("started {step}/{steps}")
                    }
                    TrainEvent::Logged { rows, skipped, images_per_s } => {
                        assert!(images_per_s > 0.0 && skipped == Skipped::default());
                        format!("logged {}", rows.len())
                    }
                    TrainEvent::Step { step } => format!("step {step}"),
                    TrainEvent::HeldOut { step, loss, accuracy } => {
                        assert!(loss > 0.0 && accuracy.is_none());
                        format!("held-out {step}")
                    }
                    TrainEvent::GridSaved { step } => {
                        exists(format!("samples/step-{step:06}.png"));
                        format!("grid {step}")
                    }
                    TrainEvent::CheckpointSaved { step } => {
                        exists(format!("checkpoints/step-{step:06}.safetensors"));
                        format!("checkpoint {step}")
                    }
                    TrainEvent::Interrupted { step } => format!("interrupted {step}"),
                    TrainEvent::Finished { step } => format!("finished {step}"),
                    TrainEvent::Warning { message } | TrainEvent::Note { message } => message.to_string(),
                    TrainEvent::NothingToDo { .. } => "nothing to do".into(),
                });
            },
        )
        .unwrap();
        told.join(", ")
    };
    assert_eq!(
        told(false, true),
        "opened 10 classes, planned, started 0/6, logged 1, step 1, checkpoint 1, interrupted 1"
    );
    assert_eq!(
        told(true, false),
        "opened 10 classes, planned, started 1/6, step 2, logged 2, step 3, checkpoint 3, held-out 3, grid 3, step 4, step 5, \
         logged 3, step 6, checkpoint 6, held-out 6, grid 6, finished 6"
    );
}

/// The count of steps taken is part of a checkpoint.
#[test]
fn a_run_that_skipped_a_step_resumes_bit_for_bit() {
    let Some(device) = common::open_device() else { return };
    let config = tiny();
    let step = |trainer: &mut Trainer<Diffusion>| {
        // The second step sees something that is not a number.
        let value = if trainer.next_step() == 1 { f32::NAN } else { 0.25 };
        let hyper = config.hyper(trainer.next_step());
        trainer.step(&hyper, || (vec![value; 8 * 64], vec![0; 8])).block_on().unwrap();
    };
    let mut straight = trainer(&device, &config);
    (0..3).for_each(|_| step(&mut straight));
    let folder = tempfile::tempdir().unwrap();
    let run = ModelFolder::new(folder.path());
    std::fs::create_dir(folder.path().join("checkpoints")).unwrap();
    let parameters = &straight.task.unet.parameters;
    run.save_checkpoint(parameters, &straight.checkpoint().block_on().unwrap()).unwrap();
    let checkpoint = run.load_checkpoint(parameters).unwrap();
    assert_eq!((checkpoint.next_step, checkpoint.steps_taken), (3, 2));
    let mut resumed = trainer(&device, &config);
    resumed.restore(&checkpoint).unwrap();
    step(&mut straight);
    step(&mut resumed);
    let [a, b] = [straight, resumed].map(|trainer| trainer.checkpoint().block_on().unwrap());
    assert_eq!((a.next_step, a.steps_taken), (4, 3));
    assert!(a == b, "a resumed run went another way");
}

/// A checkpoint is believed for what it says, not for its name.
#[test]
fn a_checkpoint_must_agree_with_its_name() {
    let unet = UNet::new(&tiny().unet_config(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = ModelFolder::new(folder.path());
    let checkpoints = folder.path().join("checkpoints");
    std::fs::create_dir(&checkpoints).unwrap();
    let flat = unet.parameters.initial(0);
    let states = [flat.clone(), flat.clone(), flat.clone(), flat];
    let loss_scale = Some(LossScale { scale: 4096.0, steps: 7.0, skips: 1.0 });
    let saved = Checkpoint { next_step: 7, steps_taken: 5, loss_scale, pictures: None, states };
    let path = run.save_checkpoint(&unet.parameters, &saved).unwrap();
    let load = || run.load_checkpoint(&unet.parameters);
    assert!(load().unwrap() == saved);

    // 1. From before steps taken were counted apart.
    let write = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut file = tensor_file::read(&path).unwrap();
        change(&mut file.metadata);
        tensor_file::write(&path, &file).unwrap();
    };
    write(&|metadata| drop(metadata.remove("steps_taken")));
    assert_eq!(load().unwrap().steps_taken, 7);

    // 2. Damaged.
    write(&|metadata| drop(metadata.insert("steps_taken".into(), "8".into())));
    let e = load().unwrap_err().to_string();
    assert!(e.contains("steps_taken = 8, more than next_step = 7"), "{e}");
    write(&|metadata| drop(metadata.insert("next_step".into(), "seven".into())));
    assert!(load().unwrap_err().to_string().contains("next_step = \"seven\"; expected a number"));
    write(&|metadata| drop(metadata.remove("next_step")));
    assert!(load().unwrap_err().to_string().contains("lacks next_step"));
    for (key, value, words) in [
        ("loss_scale", Some("3"), "loss_scale = \"3\"; expected a power of two from 1"),
        ("loss_scale", Some("0.5"), "loss_scale = \"0.5\"; expected a power of two from 1"),
        ("loss_scale", Some("NaN"), "loss_scale = \"NaN\"; expected a power of two from 1"),
        ("loss_scale", Some("large"), "loss_scale = \"large\"; expected a number"),
        ("loss_scale_skips", Some("-1"), "loss_scale_skips = \"-1\"; expected a whole number from 0"),
        ("loss_scale_steps", None, "has loss_scale, but lacks loss_scale_steps"),
    ] {
        run.save_checkpoint(&unet.parameters, &saved).unwrap();
        write(&|metadata| {
            metadata.remove(key);
            metadata.extend(value.map(|value| (key.to_string(), value.to_string())));
        });
        let e = load().unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }

    // 3. Renamed.
    run.save_checkpoint(&unet.parameters, &saved).unwrap();
    std::fs::rename(&path, checkpoints.join("step-000009.safetensors")).unwrap();
    let e = load().unwrap_err().to_string();
    for words in ["step-000009", "says step 9", "next_step = 7", "no older checkpoint"] {
        assert!(e.contains(words), "{e}");
    }
}

/// A run that died between two checkpoints logged steps that it will take again.
#[test]
fn a_resumed_run_logs_every_step_once() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = run_config();
    let out = folder.path().join("run");
    run(&device, &config, &RunOptions::new(&out)).unwrap();
    let before = records(&out);
    // Back to step 3, with a log that goes on to step 6.
    std::fs::remove_file(out.join("checkpoints/step-000006.safetensors")).unwrap();
    // And what a killed write leaves in each folder.
    let left = ["", "checkpoints", "samples"].map(|sub| out.join(sub).join(".inkwash-0123456789ab.tmp"));
    for path in &left {
        std::fs::write(path, "half of").unwrap();
    }
    run(&device, &config, &resumed(&out)).unwrap();
    assert!(left.iter().all(|path| !path.exists()), "temporary files are left");
    assert_eq!(records(&out), before);
}

/// Between a checkpoint and what else is due at its step, a process may be killed anywhere.
#[test]
fn what_a_killed_run_had_not_written_yet_is_made_up_for() {
    let Some(finished) = Finished::new() else { return };
    let weights = |path: &Path| path.join("model.safetensors");
    let grid = |path: &Path| std::fs::remove_file(path.join("samples/step-000003.png")).unwrap();
    let measured = |r: &serde_json::Value| r["held_out_loss"].is_number();

    // 1. Before the averaged weights, the held-out loss and the grid.
    let path = finished.killed("weights", |path| {
        std::fs::remove_file(weights(path)).unwrap();
        cut_log(path, measured);
        grid(path);
    });
    let told = finished.catches_up(&path);
    assert!(told.starts_with("started 3\nheld-out 3\ngrid 3\ncheckpoint 6\nheld-out 6\n"), "{told}");

    // 2. Before the grid.
    let path = finished.killed("grid", |path| {
        cut_log(path, |_| false);
        grid(path);
    });
    assert!(finished.catches_up(&path).starts_with("started 3\ngrid 3\ncheckpoint 6\n"));

    // 3. Within a line of the log, with a temporary file beside it, and before the older checkpoint was removed.
    let path = finished.killed("line", |path| {
        let log = std::fs::read_to_string(path.join("log.jsonl")).unwrap();
        std::fs::write(path.join("log.jsonl"), &log[..log.len() - 20]).unwrap();
        std::fs::write(path.join("checkpoints/.inkwash-0123456789ab.tmp"), "half of").unwrap();
        std::fs::write(path.join("checkpoints/step-000001.safetensors"), "older").unwrap();
    });
    assert!(finished.catches_up(&path).starts_with("started 3\ncheckpoint 6\n"));

    // 4. At the last step, where nothing is left to train. Before the older checkpoint was removed, too.
    for (name, lost) in [
        ("last grid", "samples/step-000006.png"),
        ("curve", "loss.png"),
        ("weights of 6", "model.safetensors"),
    ] {
        let path = finished.folder.path().join(name);
        copy(&finished.path(), &path);
        std::fs::remove_file(path.join(lost)).unwrap();
        std::fs::write(path.join("checkpoints/step-000001.safetensors"), "older").unwrap();
        let told = finished.catches_up(&path);
        let expected = if lost.contains("samples") { "started 6\ngrid 6\n" } else { "started 6\n" };
        assert_eq!(told, expected, "{name}");
    }
}

/// A run whose steps change nothing any more ends, and says where it begins. Here one layer's weights are so large that
/// what it computes is not finite.
#[test]
fn a_run_that_skips_its_steps_names_the_layer() {
    let Some(finished) = Finished::new() else { return };
    let path = finished.path();
    let config = TrainConfig { steps: 60, ..finished.config.clone() };
    let unet = UNet::new(&config.unet_config(0)).unwrap();
    let run_folder = ModelFolder::new(&path);
    let mut checkpoint = run_folder.load_checkpoint(&unet.parameters).unwrap();
    let layer = "down_blocks.1.resnets.0.conv2";
    let weight = unet.parameters.iter().find(|p| p.name == format!("{layer}.weight")).unwrap();
    checkpoint.states[0][weight.offset..][..weight.elements()].fill(f32::MAX);
    run_folder.save_checkpoint(&unet.parameters, &checkpoint).unwrap();
    let checkpoints = files(&path.join("checkpoints"));
    // Nothing is written at step 9.
    let config = TrainConfig { checkpoint_every: 0, sample_every: 0, ..config };
    let e = run(&finished.device, &config, &resumed(&path)).unwrap_err().to_string();
    // Six good steps came before; the table of the device has four rows.
    for words in [
        "12 of the last 18 steps",
        "In step 18",
        "in the forward pass",
        layer,
        "Lower --learning-rate",
        "checkpoint of step 6 is whole",
    ] {
        assert!(e.contains(words), "no `{words}` in: {e}");
    }
    assert!(files(&path.join("checkpoints")) == checkpoints, "a checkpoint was changed");
    let skipped: Vec<u64> = records(&path).iter().filter_map(|r| r["skipped"].as_u64()).collect();
    assert_eq!(skipped, (0..18).map(|step: u64| step.saturating_sub(5)).collect::<Vec<_>>());
}
