//! `inkwash sample`.

mod arguments;
mod classes;
mod given;
mod output;
mod record;

pub use arguments::SampleArgs;

use super::progress::Bar;
use super::{DeviceArgs, Failure, interruption};
use crate::diffusion::{SchedulerConfig, Trajectory};
use crate::gpu::{Blocking as _, RunError, Store};
use crate::model::Model;
use crate::nn::Precision;
use crate::sample::{Drawing, GuidanceOptions, PictureSampler};
use crate::train::{built_in_model, open_model};
use arguments::{Format, value_name};
use classes::Classes;
use given::Given;
use output::{GRID, Kind, Output};
use record::{Record, checksum};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// What decides the pictures, but for what they begin from.
fn settings(
    args: &SampleArgs,
    model: &Model,
    scheduler: &SchedulerConfig,
    eta: f64,
    weights: &str,
) -> serde_json::Result<Value> {
    Ok(json!({
        "format": if args.grid_only { "grid".into() } else { value_name(&args.format) },
        "network": model.unet.config,
        "weights": weights,
        "scheduler": scheduler,
        "objective": scheduler.objective,
        "time_conditioning": !scheduler.without_time,
        "steps": args.steps,
        "eta": eta,
        "seed": args.seed,
    }))
}

pub fn run(args: &SampleArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    // 1. Refuse before anything is drawn.
    let model = match &args.model {
        Some(path) => open_model(path)?,
        None => built_in_model()?,
    };
    let checksum = checksum(&model.weights);
    let model = model.in_precision(args.precision);
    let Model { unet, weights, null_label, class_names, warnings, .. } = &model;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if args.n == 0 || args.batch == 0 {
        return Err("--n and --batch must be at least 1".into());
    }
    if u32::try_from(args.n).is_err() {
        return Err(
            format!("--n {}: at most {} pictures can be drawn from one seed", args.n, u32::MAX).into()
        );
    }
    let (scheduler, eta) = args.scheduler.apply(&model.scheduler)?;
    let mut trajectory = Trajectory::new(&scheduler, args.steps, eta).map_err(|e| format!("--{e}"))?;
    let (height, width) = unet.config.sample_size.get();
    let channels = unet.config.in_channels;
    if !unet.config.out_channels.is_multiple_of(channels) || ![1, 3].contains(&channels) {
        return Err(format!(
            "this network takes {channels} channels and gives {}; only pictures of 1 or 3 channels can be drawn",
            unet.config.out_channels
        )
        .into());
    }
    let embeddings = unet.config.num_class_embeds;
    let guidance = args.guidance.options(*null_label, embeddings)?;
    let null_label = args.guidance.null_class.or(*null_label);
    let classes = Classes::new(args.class.as_deref(), embeddings, class_names, null_label, &mut |note| {
        eprintln!("note: {note}");
    })?;
    let given = Given::new(args, args.n, [height, width, channels], &mut trajectory)?;

    let mut settings = settings(args, &model, &scheduler, eta, &checksum)?;
    let (start, inpaint) = given.facts();
    settings["start"] = start;
    settings["inpaint"] = inpaint;
    settings["labels_in_turn"] = embeddings.map(|_| classes.labels.as_slice()).into();
    if args.precision != Precision::F32 {
        settings["precision"] = args.precision.name().into();
    }
    settings["class_names"] = classes.names.as_slice().into();
    settings["guidance"] = guidance.map_or(Value::Null, |GuidanceOptions { weight, interval, null_label }| {
        json!({ "weight": weight, "interval": [interval.0, interval.1], "null_label": null_label })
    });
    let settings = settings.as_object().cloned().unwrap_or_default();
    let output = Output {
        folder: args.out.clone(),
        kind: match (args.grid_only, args.format) {
            (true, _) => Kind::Grid,
            (false, Format::Png) => Kind::Png,
            (false, Format::Npz) => Kind::Npz,
        },
        count: args.n,
        shape: [height, width, channels],
        with_labels: embeddings.is_some(),
        classes,
    };
    let (extent, drawn) = (output.extent(args.n), output.drawn());
    if extent.shown == 0 {
        return Err(
            format!("pictures of {height} x {width} pixels are too large for a PNG of this program").into()
        );
    }
    let mut found = output.survey(&settings)?;
    if found.complete {
        println!("nothing to do: {} holds the {} picture(s) already", args.out.display(), args.n);
        return Ok(ExitCode::SUCCESS);
    }
    let there = found.present.iter().filter(|&&present| present).count();
    if there > 0 {
        println!("going on        {there} of {drawn} picture(s) are there");
    }

    // 2. Draw, unless an interruption has left everything but the last files.
    let batch = args.batch.min(drawn);
    let missing: Vec<usize> = (0..drawn)
        .step_by(batch)
        .filter(|&i| found.present[i..drawn.min(i + batch)].contains(&false))
        .collect();
    let mut record = Record {
        inkwash: env!("CARGO_PKG_VERSION").into(),
        device: String::new(),
        batch,
        count: args.n,
        finished: found.record.as_ref().map_or(0, |record| record.finished),
        settings,
    };
    let mut writer;
    if missing.is_empty() {
        let before = found.record.as_ref();
        record.device = before.map_or_else(String::new, |before| before.device.clone());
        record.batch = before.map_or(batch, |before| before.batch);
        writer = output.begin(&found, &record)?;
    } else {
        let device = device.open()?;
        let store = Store::new(&device);
        let state = unet.parameters.state("weights");
        store.write(&state, weights)?;
        let mut sampler = PictureSampler::new(&store, unet, &state, batch, trajectory).block_on()?;
        if let Some(options) = guidance {
            sampler = sampler.guided_by(unet, &state, options).block_on()?;
        }
        record.device = format!("{} ({}, {})", device.info.name, device.info.backend, device.info.driver);
        if let Some(before) = found.record.as_ref().filter(|_| there > 0) {
            if before.device != record.device {
                eprintln!(
                    "note: the pictures that are there were drawn by {}, which may round otherwise",
                    before.device
                );
            } else if before.batch != batch {
                let before = before.batch;
                eprintln!(
                    "note: the pictures that are there were drawn {before} at a time, which may round otherwise than {batch}"
                );
            }
        }
        let interrupted = interruption("keeping the pictures drawn so far");
        writer = output.begin(&found, &record)?;
        let bar = Bar::new(missing.len() as u64, "step");
        for (number, &first) in missing.iter().enumerate() {
            let count = batch.min(drawn - first);
            let (labels, of_batch) = (output.classes.of_pictures(first, count), given.of_batch(first, count));
            let drawing = Drawing {
                first,
                start: given.start(&of_batch),
                inpaint: given.inpaint(&of_batch),
                ..Drawing::new(count, args.seed, &labels)
            };
            let pictures = sampler
                .draw(&drawing, async |progress| {
                    // Wait now and then, so that the bar tells the truth and the queue stays short.
                    if progress.done % 10 == 0 {
                        device.idle().await?;
                    }
                    bar.set_length((missing.len() * progress.total) as u64);
                    bar.set_position((number * progress.total + progress.done) as u64);
                    if interrupted.load(Ordering::Relaxed) {
                        bar.finish();
                        stopped(found.present.iter().filter(|&&present| present).count(), drawn);
                    }
                    Ok::<(), RunError>(())
                })
                .block_on()?;
            writer.add(first..first + count, &pictures, &mut found.present)?;
        }
    }

    // 3. What is made of all pictures.
    let device = record.device.clone();
    writer.finish(&found.present)?;
    print!("{}", output.classes.described(drawn));
    println!("{drawn} picture(s) by {} steps of {} on {device}", args.steps, value_name(&scheduler.sampler));
    if output.kind == Kind::Npz {
        println!("{}", output.npz_path().display());
    }
    println!("{}", output.grid_path().display());
    if extent.shown < args.n {
        let others = if args.grid_only { "; the others are not drawn" } else { "" };
        println!("{GRID} shows the first {} of {} pictures{others}", extent.shown, args.n);
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the program after Ctrl-C. What is drawn is on the disk.
fn stopped(there: usize, drawn: usize) -> ! {
    let command: Vec<String> = std::env::args().skip(1).map(|argument| in_shell(&argument)).collect();
    eprintln!("stopped early with {there} of {drawn} picture(s); go on with: inkwash {}", command.join(" "));
    std::process::exit(130)
}

/// An argument as a shell takes it.
fn in_shell(argument: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./,:=+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.into();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}
