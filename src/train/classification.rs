//! The task of a classifier: to tell the class of a picture.

use super::PictureBatch;
use super::{LossGraph, Task};
use crate::classifier::Classifier;
use crate::gpu::Executable;
use crate::graph::{Graph, GraphError, Phase, ValueId};
use crate::nn::{Network, Weights};
use crate::ops::SoftmaxCrossEntropy;
use crate::tensor::Spec;

/// A classifier trained by the cross-entropy of its scores.
#[derive(Debug)]
pub struct Classification(pub Classifier);

/// Inputs of the loss, and what it is taken of.
#[derive(Clone, Copy, Debug)]
pub struct ClassificationInputs {
    /// Pictures (B, H, W, C) in [-1, 1].
    pub pictures: ValueId,
    /// Labels u32 (B).
    pub labels: ValueId,
    /// Scores (B, classes).
    pub logits: ValueId,
}

impl Task for Classification {
    type Inputs = ClassificationInputs;
    type Batch = PictureBatch;

    fn network(&self) -> &dyn Network {
        &self.0
    }

    fn loss_graph(
        &self,
        weights: &Weights,
        batch: usize,
    ) -> Result<LossGraph<ClassificationInputs>, GraphError> {
        let Self(classifier) = self;
        let (height, width) = classifier.config.sample_size.get();
        let mut graph = Graph::new();
        let shape = [batch, height, width, classifier.config.in_channels];
        let pictures = graph.input("pictures", Spec::f32(shape));
        let labels = graph.input("labels", Spec::u32([batch]));
        let parameters = classifier.parameters.views_of_weights(&mut graph, weights)?;
        let logits = classifier.forward(&mut graph, &parameters, pictures)?;
        graph.set_phase(Phase::Loss);
        graph.enter("loss");
        let loss = graph.apply(SoftmaxCrossEntropy, &[logits, labels])?;
        graph.leave();
        let inputs = ClassificationInputs { pictures, labels, logits };
        Ok(LossGraph { graph, parameters, step: None, loss, inputs })
    }

    fn upload(
        &self,
        executable: &Executable,
        inputs: &ClassificationInputs,
        (pictures, labels): &PictureBatch,
    ) {
        executable.write(inputs.pictures, pictures);
        executable.write_u32(inputs.labels, labels);
    }

    fn logits(&self, inputs: &ClassificationInputs) -> Option<ValueId> {
        Some(inputs.logits)
    }
}
