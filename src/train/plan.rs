//! What a run does to a device, before it is asked for; and what the loop wants of a task on pictures.

use super::evaluation::evaluation_plan;
use super::grid::GridSampler;
use super::step::{Task, TrainPlans, Trainer};
use super::{Classification, Diffusion, NetworkKind, PictureBatch, TrainConfig, TrainError, TrainStates};
use crate::classifier::Classifier;
use crate::diffusion::UNet;
use crate::graph::{Caps, Launch, Plan};
use crate::nn::{ConfigError, Parameters};

/// What a run will do to a device, before it is asked for.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The network's.
    pub parameters: Parameters,
    /// What outlives a step.
    pub states: TrainStates,
    /// The plans of a training step.
    pub plans: TrainPlans,
    /// The plan of the held-out loss.
    pub evaluation: Plan,
    /// The plans of sample grids, if the network draws.
    pub grids: Vec<Plan>,
    /// Device bytes to train, evaluate and sample.
    pub bytes: u64,
}

impl RunPlan {
    /// Plans a run whose configuration has the network in full ([`TrainConfig::with_network`]).
    pub fn new(config: &TrainConfig, caps: &Caps) -> Result<Self, TrainError> {
        match config.network {
            NetworkKind::Unet => Self::of(&diffusion(config)?, config, caps),
            NetworkKind::Classifier => Self::of(&classification(config)?, config, caps),
        }
    }

    pub(super) fn of(task: &impl PictureTask, config: &TrainConfig, caps: &Caps) -> Result<Self, TrainError> {
        let parameters = task.network().parameters().clone();
        let caps = &caps.clone().with_fusion(caps.fusion && config.fusion);
        let plans = TrainPlans::new(task, &config.step_options(), caps)?;
        let states = TrainStates::of(&parameters, config.log_every as usize);
        let evaluation = evaluation_plan(task, &states, config.batch, caps)?;
        let grids = task.grid_plans(&states, caps)?;
        let all: Vec<&Plan> = [&plans.micro, &plans.update, &evaluation].into_iter().chain(&grids).collect();
        let bytes = Plan::bytes_together(&all);
        Ok(Self { parameters, states, plans, evaluation, grids, bytes })
    }

    /// Every launch of every plan.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        let of_step = [&self.plans.micro, &self.plans.update];
        of_step.into_iter().chain([&self.evaluation]).chain(&self.grids).flat_map(|plan| &plan.launches)
    }
}

pub(super) fn diffusion(config: &TrainConfig) -> Result<Diffusion, ConfigError> {
    Ok(Diffusion::new(UNet::new(&config.unet_config(0))?, config))
}

pub(super) fn classification(config: &TrainConfig) -> Result<Classification, ConfigError> {
    Ok(Classification(Classifier::new(&config.classifier_config(0))?.in_precision(config.precision)))
}

/// A task on pictures of a data set, as the loop runs it.
pub(super) trait PictureTask: Task<Batch = PictureBatch> + Sized {
    /// What the loss is, on its chart.
    #[cfg(feature = "charts")]
    const LOSS: &'static str;

    /// Draws sample grids, if the network draws.
    fn grids(trainer: &Trainer<Self>) -> Result<Option<GridSampler>, TrainError>;

    /// The plans of the grids, to know their memory.
    fn grid_plans(&self, states: &TrainStates, caps: &Caps) -> Result<Vec<Plan>, TrainError>;
}

impl PictureTask for Diffusion {
    #[cfg(feature = "charts")]
    const LOSS: &'static str = "mean squared error";

    fn grids(trainer: &Trainer<Self>) -> Result<Option<GridSampler>, TrainError> {
        Ok(Some(GridSampler::new(trainer)?))
    }

    fn grid_plans(&self, states: &TrainStates, caps: &Caps) -> Result<Vec<Plan>, TrainError> {
        Ok(GridSampler::plans(self, states, caps)?.into())
    }
}

impl PictureTask for Classification {
    #[cfg(feature = "charts")]
    const LOSS: &'static str = "cross-entropy";

    fn grids(_trainer: &Trainer<Self>) -> Result<Option<GridSampler>, TrainError> {
        Ok(None)
    }

    fn grid_plans(&self, _states: &TrainStates, _caps: &Caps) -> Result<Vec<Plan>, TrainError> {
        Ok(Vec::new())
    }
}
