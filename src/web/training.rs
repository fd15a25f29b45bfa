//! Training in slices of steps, between which the page draws and listens.

use super::painter::{Painter, PainterOptions};
use super::{Engine, Failure, PictureModel, Result, json, parsed, plan};
use crate::data::{AugmentOptions, Dataset, batch_at, glyphs, to_unit};
use crate::diffusion::{Sampler, UNet};
use crate::gpu::Executable;
use crate::io::{disk, jsonl, read_single, save_single};
use crate::model::Model;
use crate::train::{Checkpoint, Diffusion, ModelFolder, Pictures, TrainConfig, Trainer, read_config};
use js_sys::Date;
use serde_json::{Value, json as object};
use std::path::Path;
use std::sync::Arc;
use wasm_bindgen::prelude::wasm_bindgen;

/// The pictures of a run that are not built in, in its folder: a folder for each class, or the pictures themselves.
const PICTURES: &str = "pictures";
/// Its log, as `inkwash train` writes it.
const LOG: &str = "log.jsonl";

/// A run under way.
#[wasm_bindgen]
pub struct Training {
    trainer: Trainer<Diffusion>,
    config: TrainConfig,
    training: Arc<Dataset>,
    /// All pictures where the run brings its own, to be kept with it.
    own: Option<Arc<Dataset>>,
    pictures: Pictures,
    log: Vec<Value>,
    skipped: u32,
    /// Steps and seconds of this page, for the speed in the log.
    steps: u32,
    seconds: f64,
}

/// The pictures of a run: those to train on, those held out, and all where they are the run's own.
struct Data {
    training: Arc<Dataset>,
    own: Option<Arc<Dataset>>,
    pictures: Pictures,
}

/// Splits as `inkwash train` does; `config` has the network in full.
fn split(config: &TrainConfig, all: Dataset, own: bool) -> Result<Data> {
    let kept = own.then(|| Arc::new(all.clone()));
    let (training, held_out) = all.split(config.held_out, config.seed);
    if training.is_empty() {
        return Err(Failure::input("there is no picture to train on"));
    }
    let pictures = Pictures {
        training: training.len(),
        held_out: held_out.len(),
        class_names: config.class_names.clone(),
    };
    Ok(Data { training: Arc::new(training), own: kept, pictures })
}

fn augment(config: &TrainConfig) -> AugmentOptions {
    AugmentOptions { flip: config.flip, crop_padding: config.crop_padding }
}

fn task(config: &TrainConfig) -> Result<Diffusion> {
    Ok(Diffusion::new(UNet::new(&config.unet_config(0))?, config))
}

/// The glyphs. `Dataset::open` would bring the readers of every kind of picture along, which are half a megabyte.
fn built_in(config: &TrainConfig) -> Result<Dataset> {
    if config.data == "builtin:glyphs" {
        return Ok(glyphs::dataset(&config.data_options())?);
    }
    Err(Failure::input(format!(
        "found data {:?}; a page has builtin:glyphs and what is drawn in it",
        config.data
    )))
}

/// The step of a record of the log.
fn step_of(record: &Value) -> Option<u64> {
    record.get("step")?.as_u64()
}

#[wasm_bindgen]
impl Training {
    /// Begins a run. `config` is an object with fields of `config.toml`. `pixels` are the run's own pictures (N, H, W, C) with a
    /// label for each and an array of the names of the classes; without any, the run is trained on the built-in glyphs.
    ///
    /// # Errors
    /// A configuration that cannot be, pictures of another size, or what the device says.
    pub async fn begin(
        engine: &Engine,
        config: &str,
        pixels: Vec<u8>,
        labels: Vec<u32>,
        class_names: &str,
    ) -> Result<Training> {
        let config: TrainConfig = parsed("configuration", config)?;
        config.validate()?;
        let own = !pixels.is_empty();
        let all = if own {
            Dataset::from_pictures(&config.data_options(), parsed("classes", class_names)?, pixels, labels)?
        } else {
            built_in(&config)?
        };
        let data = if own { PICTURES.into() } else { config.data.clone() };
        let config = TrainConfig { data, ..config.with_network(&all.class_names) };
        let data = split(&config, all, own)?;
        let weights = task(&config)?.unet.parameters.initial(config.seed);
        let log = vec![object!({
            "training_pictures": data.pictures.training,
            "held_out_pictures": data.pictures.held_out,
            "class_names": data.pictures.class_names,
        })];
        Self::at(engine, config, data, &Checkpoint::at_the_beginning(weights), log).await
    }

    /// Goes on with the run of a mounted folder.
    ///
    /// # Errors
    /// A folder that is no run or lacks its pictures, or what the device says.
    pub async fn resume(engine: &Engine, folder: &str) -> Result<Training> {
        let path = Path::new(folder);
        let config = read_config(&path.join("config.toml"))?;
        config.validate()?;
        let run = ModelFolder::new(path);
        let unet = run.unet(&config)?;
        let checkpoint = run.load_checkpoint(&unet.parameters)?;
        let own = !config.data.starts_with("builtin:");
        let all = if own { own_pictures(&config, path)? } else { built_in(&config)? };
        let data = split(&config, all, own)?;
        let log = path.join(LOG);
        let mut log = if disk::is_file(&log) { jsonl::read(&log)? } else { Vec::new() };
        log.retain(|record| step_of(record).is_none_or(|step| step <= u64::from(checkpoint.next_step)));
        Self::at(engine, config, data, &checkpoint, log).await
    }

    /// The same run on another device, such as one with edited shaders.
    ///
    /// # Errors
    /// What either device says.
    pub async fn moved(&self, engine: &Engine) -> Result<Training> {
        let checkpoint = self.trainer.checkpoint().await?;
        let data =
            Data { training: self.training.clone(), own: self.own.clone(), pictures: self.pictures.clone() };
        Self::at(engine, self.config.clone(), data, &checkpoint, self.log.clone()).await
    }

    /// An object of the configuration in full, the steps done, the parameters and the bytes on the device.
    pub fn facts(&self) -> String {
        json(&object!({
            "config": self.config,
            "step": self.trainer.next_step(),
            "pictures": self.pictures.training,
            "class_names": self.pictures.class_names,
            "shape": self.config.picture_shape(),
            "parameters": self.trainer.task.unet.parameters.count(),
            "bytes": self.trainer.allocated_bytes(),
            "log": self.log.iter().filter_map(logged).collect::<Vec<_>>(),
        }))
    }

    /// Takes so many steps, as many as the configuration's log holds at most, and waits for them. Of each: its number from 1,
    /// the loss, the norm of the gradient, and 1 where that was finite.
    ///
    /// # Errors
    /// What the device says.
    pub async fn advance(&mut self, steps: u32) -> Result<Vec<f64>> {
        let start = Date::now();
        let steps = steps.clamp(1, self.config.log_every);
        for _ in 0..steps {
            let hyper = self.config.hyper(self.trainer.next_step());
            let mut batch = self.batches();
            self.trainer.step(&hyper, &mut batch).await?;
        }
        let rows = self.trainer.read_log().await?;
        self.steps += steps;
        self.seconds += (Date::now() - start) / 1e3;
        let images = f64::from(self.steps) * self.config.effective_batch() as f64;
        let images_per_s = images / self.seconds.max(1e-3);
        for row in &rows {
            self.skipped += u32::from(!row.finite);
            self.log.push(object!({
                "step": row.step + 1,
                "loss": row.loss,
                "gradient_norm": row.gradient_norm,
                "finite": row.finite,
                "skipped": self.skipped,
                "learning_rate": self.config.learning_rate_at(row.step),
                "images_per_s": images_per_s,
            }));
        }
        let told = rows.iter().flat_map(|row| {
            let finite = f64::from(u8::from(row.finite));
            [f64::from(row.step) + 1.0, row.loss.into(), row.gradient_norm.into(), finite]
        });
        Ok(told.collect())
    }

    /// Prepares to draw from the averaged weights, as they are whenever something is drawn.
    ///
    /// # Errors
    /// Options that cannot be, or what the device says.
    pub async fn painter(&self, options: &str) -> Result<Painter> {
        let (unet, ema) = (&self.trainer.task.unet, &self.trainer.states.ema);
        let scheduler = self.config.scheduler(Sampler::Ddim);
        let options: PainterOptions = parsed("options", options)?;
        Painter::of(&self.trainer.store, unet, ema, &scheduler, self.config.null_label(), &options).await
    }

    /// The model of the averaged weights as they are now.
    ///
    /// # Errors
    /// What the device says.
    pub async fn model(&self) -> Result<PictureModel> {
        let weights = self.trainer.store.read(&self.trainer.states.ema).await?;
        let model = Model {
            unet: UNet::new(&self.config.unet_config(0))?,
            weights,
            scheduler: self.config.scheduler(Sampler::Ddim),
            null_label: self.config.null_label(),
            class_names: self.config.class_names.clone(),
            warnings: Vec::new(),
        };
        Ok(PictureModel { model })
    }

    /// Writes the run into a folder of the page, as `inkwash train` leaves one.
    ///
    /// # Errors
    /// A weight that is not finite, or what the device says.
    pub async fn save(&self, folder: &str) -> Result<()> {
        disk::remove_folder(Path::new(folder));
        let path = Path::new(folder);
        disk::put(&path.join("config.toml"), toml::to_string(&self.config)?.into_bytes());
        let lines: String = self.log.iter().map(|record| format!("{record}\n")).collect();
        disk::put(&path.join(LOG), lines.into_bytes());
        if let Some(own) = &self.own {
            keep_pictures(own, path)?;
        }
        let checkpoint = self.trainer.checkpoint().await?;
        let checkpoint = Checkpoint { pictures: Some(self.pictures.clone()), ..checkpoint };
        ModelFolder::new(path).save_checkpoint(&self.trainer.task.unet.parameters, &checkpoint)?;
        Ok(())
    }

    /// What a step launches, micro-batch and update: an array of objects, in order. Takes a step.
    ///
    /// # Errors
    /// What the device says.
    pub async fn plan(&mut self) -> Result<String> {
        let mut rows = Vec::new();
        self.step_by(async |executable| {
            rows.extend(plan::rows(executable.plan()));
            executable.run().await
        })
        .await?;
        Ok(json(&rows))
    }

    /// Takes a step, and gives the nanoseconds of each of its launches in the order of the plan.
    ///
    /// # Errors
    /// What the device says.
    pub async fn times(&mut self) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        self.step_by(async |executable| {
            times.extend(plan::times(executable).await?);
            Ok(())
        })
        .await?;
        Ok(times)
    }
}

impl Training {
    async fn at(
        engine: &Engine,
        config: TrainConfig,
        data: Data,
        checkpoint: &Checkpoint,
        log: Vec<Value>,
    ) -> Result<Training> {
        let mut trainer = Trainer::new(&engine.device, task(&config)?, config.step_options()).await?;
        trainer.restore(checkpoint)?;
        let Data { training, own, pictures } = data;
        let skipped = checkpoint.next_step - checkpoint.steps_taken;
        Ok(Self { trainer, config, training, own, pictures, log, skipped, steps: 0, seconds: 0.0 })
    }

    /// The micro-batches of the next step, one after another, as `inkwash train` draws them.
    fn batches(&self) -> impl FnMut() -> (Vec<f32>, Vec<u32>) + use<> {
        let (data, config) = (self.training.clone(), self.config.clone());
        let mut k = u64::from(self.trainer.next_step()) * u64::from(config.accumulate);
        move || {
            let batch = batch_at(&data, config.batch, config.seed, augment(&config), k);
            k += 1;
            (batch.images, batch.labels)
        }
    }

    /// A step by `run`, which is given each plan.
    async fn step_by(
        &mut self,
        run: impl AsyncFnMut(&Executable) -> std::result::Result<(), crate::gpu::GpuError>,
    ) -> Result<()> {
        let hyper = self.config.hyper(self.trainer.next_step());
        let batches = self.batches();
        Ok(self.trainer.step_by(&hyper, batches, run).await?)
    }
}

/// Step and loss of a record, if it is of a step.
fn logged(record: &Value) -> Option<[f64; 2]> {
    Some([record.get("step")?.as_f64()?, record.get("loss")?.as_f64()?])
}

/// Where a picture of a run lies.
fn file_of(data: &Dataset, number: usize) -> String {
    match data.class_names.get(data.label(number) as usize) {
        Some(class) => format!("{PICTURES}/{class}/{number:05}.png"),
        None => format!("{PICTURES}/{number:05}.png"),
    }
}

fn keep_pictures(data: &Dataset, folder: &Path) -> Result<()> {
    for number in 0..data.len() {
        let values: Vec<f32> = data.image(number).iter().map(|&byte| to_unit(byte)).collect();
        let path = folder.join(file_of(data, number));
        save_single(&path, &values, data.height, data.width, data.channels)?;
    }
    Ok(())
}

/// The number of a class.
fn label_of(class_names: &[String], class: &str) -> Result<u32> {
    (0u32..).zip(class_names).find_map(|(label, name)| (name == class).then_some(label)).ok_or_else(|| {
        Failure::input(format!(
            "{PICTURES}/{class}: the run has no such class; its config.toml has {}",
            class_names.join(", ")
        ))
    })
}

/// The pictures that [`keep_pictures`] wrote.
fn own_pictures(config: &TrainConfig, folder: &Path) -> Result<Dataset> {
    let [height, width, channels] = config.picture_shape();
    let files = disk::below(&folder.join(PICTURES));
    if files.is_empty() {
        return Err(Failure::input(format!(
            "the run was trained on {:?}, which is not in its folder; a page can go on with a run on builtin:glyphs, or one that \
             it has saved itself",
            config.data
        )));
    }
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (path, _) in &files {
        pixels.extend(read_single(&folder.join(PICTURES).join(path), height, width, channels)?);
        let class = path.parent().map(|class| class.to_string_lossy().into_owned()).unwrap_or_default();
        if !config.class_names.is_empty() {
            labels.push(label_of(&config.class_names, &class)?);
        }
    }
    Ok(Dataset::from_pictures(&config.data_options(), config.class_names.clone(), pixels, labels)?)
}
