//! Trained models, and pictures drawn from them.

use super::{Engine, Failure, Result, json, parsed, plan};
use crate::diffusion::{Sampler, SchedulerConfig, Trajectory, UNet};
use crate::gpu::{Executable, RunError, Store};
use crate::graph::State;
use crate::model::Model;
use crate::sample::{Drawing, GuidanceOptions, PictureSampler};
use crate::train::open_model;
use js_sys::{Float32Array, Function, Promise};
use serde::Deserialize;
use serde_json::json as object;
use std::path::Path;
use std::sync::Arc;
use wasm_bindgen::prelude::{JsCast as _, JsValue, wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

/// A trained network with the way to sample it.
#[wasm_bindgen]
pub struct PictureModel {
    pub(super) model: Model,
}

#[wasm_bindgen]
impl PictureModel {
    /// Opens a mounted folder: a run of inkwash or a model of diffusers.
    ///
    /// # Errors
    /// Whatever is wrong with the folder, and what to give instead.
    pub fn open(folder: &str) -> Result<PictureModel> {
        let model = open_model(Path::new(folder))?;
        let channels = model.unet.config.in_channels;
        if ![1, 3].contains(&channels) || !model.unet.config.out_channels.is_multiple_of(channels) {
            return Err(Failure::input(format!(
                "this network takes {channels} channels and gives {}; only pictures of 1 or 3 channels can be drawn",
                model.unet.config.out_channels
            )));
        }
        Ok(Self { model })
    }

    /// An object of its shape [H, W, C], classes, parameters, sampler and warnings.
    pub fn facts(&self) -> String {
        let Model { unet, scheduler, null_label, class_names, warnings, .. } = &self.model;
        let (height, width) = unet.config.sample_size.get();
        json(&object!({
            "shape": [height, width, unet.config.in_channels],
            "labels": unet.config.num_class_embeds,
            "class_names": class_names,
            "null_label": null_label,
            "parameters": unet.parameters.count(),
            "scheduler": scheduler,
            "warnings": warnings,
        }))
    }
}

/// How pictures are drawn.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PainterOptions {
    /// The model's own if there is none.
    sampler: Option<Sampler>,
    steps: usize,
    #[serde(default)]
    eta: f64,
    /// 1 for none.
    #[serde(default = "one")]
    guidance: f64,
    /// Pictures at once.
    #[serde(default = "single")]
    batch: usize,
}

fn one() -> f64 {
    1.0
}

fn single() -> usize {
    1
}

/// A network and a sampler ready to draw.
#[wasm_bindgen]
pub struct Painter {
    sampler: PictureSampler,
    steps: usize,
}

impl Painter {
    /// For weights that are a state of the store.
    pub(super) async fn of(
        store: &Arc<Store>,
        unet: &UNet,
        weights: &State,
        scheduler: &SchedulerConfig,
        null_label: Option<u32>,
        options: &PainterOptions,
    ) -> Result<Painter> {
        if options.batch == 0 {
            return Err(Failure::input("batch must be at least 1"));
        }
        let scheduler = scheduler.with_sampler(options.sampler.unwrap_or(scheduler.sampler));
        let trajectory = Trajectory::new(&scheduler, options.steps, options.eta)?;
        let steps = trajectory.steps.len();
        let mut sampler = PictureSampler::new(store, unet, weights, options.batch, trajectory).await?;
        if options.guidance != 1.0 {
            let null_label = null_label.ok_or_else(|| {
                Failure::input(
                    "guidance needs a model that was trained with labels left out (--label-dropout)",
                )
            })?;
            let interval = (0.0, f64::INFINITY);
            let guidance = GuidanceOptions { weight: options.guidance, interval, null_label };
            sampler = sampler.guided_by(unet, weights, guidance).await?;
        }
        Ok(Self { sampler, steps })
    }
}

#[wasm_bindgen]
impl Painter {
    /// Prepares a model. `options` is an object: sampler, steps, eta, guidance, batch.
    ///
    /// # Errors
    /// Options that cannot be, or what the device says.
    pub async fn open(engine: &Engine, model: &PictureModel, options: &str) -> Result<Painter> {
        let Model { unet, weights, scheduler, null_label, .. } = &model.model;
        let store = Store::new(&engine.device);
        let state = unet.parameters.state("weights");
        store.write(&state, weights)?;
        Self::of(&store, unet, &state, scheduler, *null_label, &parsed("options", options)?).await
    }

    /// Steps of a picture.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Draws a picture for each label: numbers in about [-1, 1], channels-last. Before the first step and after each,
    /// `watch(done, total, pictures)` is called and awaited; if it gives `false`, the drawing ends.
    ///
    /// # Errors
    /// `Stopped`, or what the device says.
    pub async fn draw(&self, seed: u64, labels: &[u32], watch: &Function) -> Result<Vec<f32>> {
        let drawing = Drawing::new(labels.len(), seed, labels);
        let pictures = self.sampler.draw(&drawing, async |progress| {
            let pictures = Float32Array::from(progress.read().await?.as_slice());
            let told = watch.call3(
                &JsValue::NULL,
                &(progress.done as f64).into(),
                &(progress.total as f64).into(),
                &pictures,
            );
            let answer = match told.map(|told| told.dyn_into::<Promise>()) {
                Ok(Ok(promise)) => JsFuture::from(promise).await,
                Ok(Err(answer)) => Ok(answer),
                Err(thrown) => Err(thrown),
            };
            if answer.is_ok_and(|answer| answer != JsValue::FALSE) { Ok(()) } else { Err(RunError::Stopped) }
        });
        Ok(pictures.await?)
    }

    /// What its first step launches: an array of objects, in order ([`plan::Row`]).
    ///
    /// # Errors
    /// What the device says.
    pub async fn plan(&self) -> Result<String> {
        let mut rows = Vec::new();
        let see = async |executable: &Executable| {
            rows = plan::rows(executable.plan());
            Ok(())
        };
        self.sampler.step_by(0, see).await?;
        Ok(json(&rows))
    }

    /// Nanoseconds that each launch of the first step took, in the order of the plan.
    ///
    /// # Errors
    /// What the device says.
    pub async fn times(&self) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        self.sampler
            .step_by(0, async |executable| {
                times = plan::times(executable).await?;
                Ok(())
            })
            .await?;
        Ok(times)
    }
}
