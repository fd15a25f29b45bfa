//! What the layers of a network give for one noisy picture.

use super::{Engine, Failure, PictureModel, Result, json, plan};
use crate::gpu::{Executable, Store};
use crate::graph::{Graph, Plan, ValueId};
use crate::tensor::Spec;
use serde_json::json as object;
use wasm_bindgen::prelude::wasm_bindgen;

/// A network that keeps what each of its modules gives.
#[wasm_bindgen]
pub struct Activations {
    executable: Executable,
    x: ValueId,
    t: ValueId,
    labels: Option<ValueId>,
    prediction: ValueId,
    modules: Vec<(String, ValueId)>,
}

#[wasm_bindgen]
impl Activations {
    /// For one picture at a time.
    ///
    /// # Errors
    /// What the device says.
    pub async fn open(engine: &Engine, model: &PictureModel) -> Result<Activations> {
        let (unet, weights) = (&model.model.unet, &model.model.weights);
        let store = Store::new(&engine.device);
        let state = unet.parameters.state("weights");
        store.write(&state, weights)?;
        let mut graph = Graph::new();
        let (height, width) = unet.config.sample_size.get();
        let x = graph.input("x", Spec::f32([1, height, width, unet.config.in_channels]));
        let t = graph.input("timestep", Spec::f32([1]));
        let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([1])));
        let flat = graph.state(&state);
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let (prediction, modules) = unet.forward_recorded(&mut graph, &parameters, x, t, labels)?;
        graph.output("prediction", prediction);
        // Those that are pictures.
        let modules: Vec<(String, ValueId)> =
            modules.into_iter().filter(|(_, value)| graph.shape(*value).rank() == 4).collect();
        for (name, value) in &modules {
            graph.output(name, *value);
        }
        let executable = Executable::new(&store, Plan::new(graph, store.caps())?).await?;
        Ok(Self { executable, x, t, labels, prediction, modules })
    }

    /// An array of the modules: name and shape [N, H, W, C].
    pub fn modules(&self) -> String {
        let graph = &self.executable.plan().graph;
        let module = |(name, value): &(String, ValueId)| object!([name, graph.shape(*value).axes()]);
        json(&self.modules.iter().map(module).collect::<Vec<_>>())
    }

    /// Asks the network about x_t, and returns its answer.
    ///
    /// # Errors
    /// A picture of another size, or what the device says.
    pub async fn look(&self, x_t: &[f32], t: f32, label: u32) -> Result<Vec<f32>> {
        let expected = self.executable.plan().graph.shape(self.x).elements();
        if x_t.len() != expected {
            return Err(Failure::input(format!("the picture has {} numbers, not {expected}", x_t.len())));
        }
        self.executable.write(self.x, x_t);
        self.executable.write(self.t, &[t]);
        if let Some(labels) = self.labels {
            self.executable.write_u32(labels, &[label]);
        }
        self.executable.run().await?;
        Ok(self.executable.read(self.prediction).await?)
    }

    /// What a module, by its number, gave: (1, H, W, C).
    ///
    /// # Errors
    /// A number that no module has, or what the device says.
    pub async fn of_module(&self, number: usize) -> Result<Vec<f32>> {
        let (_, value) = self.modules.get(number).ok_or_else(|| {
            Failure::input(format!("there are {} modules, and none of number {number}", self.modules.len()))
        })?;
        Ok(self.executable.read(*value).await?)
    }

    /// Its launches, in order.
    pub fn plan(&self) -> String {
        json(&plan::rows(self.executable.plan()))
    }
}
