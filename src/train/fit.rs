//! A run made to fit: into the limits of a device, and into a memory budget. The effective batch stays what was asked for.

use super::{ByteCount, RunPlan, TrainConfig, TrainError};
use crate::gpu::RunError;
use crate::graph::{Caps, Checkpointing, PlanError};
use crate::nn::ConfigError;

/// A micro-batch below this is a last resort: products of so few pictures leave most of a GPU idle, and to compute activations
/// again costs less.
const LEAST_BATCH: usize = 16;

/// A run that fits.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// With batch, accumulation and checkpointing as chosen.
    pub config: TrainConfig,
    /// Its plan.
    pub plan: RunPlan,
    /// What was chosen, and why: sentences without their full stops.
    pub notes: Vec<String>,
}

/// Device bytes of a run that computes so many pictures at a time.
#[derive(Clone, Debug)]
pub struct BytesOfBatch {
    /// Pictures at a time.
    pub batch: usize,
    /// By [`Checkpointing::ALL`]; none where the limits of the device forbid it.
    pub bytes: [Option<u64>; 3],
}

/// A plan, or the reason why there is none.
type Planned = Result<RunPlan, PlanError>;

impl TrainConfig {
    /// The same run with this checkpointing and so many pictures at a time.
    fn with_steps_of(&self, batch: usize, checkpointing: Checkpointing) -> Self {
        let times = self.effective_batch() / batch.max(1);
        Self {
            batch,
            accumulate: u32::try_from(times).unwrap_or(u32::MAX),
            checkpointing: checkpointing.into(),
            ..self.clone()
        }
    }

    /// Micro-batches of which a step can be made, the largest first: divisors of the effective batch, up to `batch`.
    fn micro_batches(&self) -> Vec<usize> {
        let all = self.effective_batch();
        (1..=self.batch).rev().filter(|&batch| all.is_multiple_of(batch)).collect()
    }

    /// Plans it with this checkpointing and so many pictures at a time.
    fn planned(
        &self,
        batch: usize,
        checkpointing: Checkpointing,
        caps: &Caps,
    ) -> Result<Planned, TrainError> {
        match RunPlan::new(&self.with_steps_of(batch, checkpointing), caps) {
            Ok(plan) => Ok(Ok(plan)),
            Err(TrainError::Step(RunError::Plan(
                e @ (PlanError::BindingTooLarge { .. } | PlanError::BufferTooLarge { .. }),
            ))) => Ok(Err(e)),
            Err(e) => Err(e),
        }
    }

    /// The run with the network in full ([`TrainConfig::with_network`]), as it fits a device and its memory budget: with the
    /// least recomputation, and then the largest micro-batch.
    ///
    /// # Errors
    /// A network that cannot be built, a picture that is too large by itself, and a budget that is too small.
    pub fn fitted(&self, caps: &Caps) -> Result<Fitted, TrainError> {
        let budget = self.memory_budget.map_or(u64::MAX, |budget| budget.0);
        let modes = self.checkpointing.allowed(self.memory_budget.is_some());
        let sizes = self.micro_batches();
        let (large, small) =
            sizes.split_at(sizes.partition_point(|&size| size >= LEAST_BATCH.min(self.batch)));
        let first = modes.iter().flat_map(|&mode| large.iter().map(move |&size| (size, mode)));
        let then = small.iter().flat_map(|&size| modes.iter().map(move |&mode| (size, mode)));
        let (mut refused, mut least) = (None, None);
        for (size, mode) in first.chain(then) {
            match self.planned(size, mode, caps)? {
                Ok(plan) if plan.bytes <= budget => {
                    let config = self.with_steps_of(size, mode);
                    let notes = self.notes(&config, &plan, mode, refused.as_ref(), caps)?;
                    return Ok(Fitted { config, plan, notes });
                }
                Ok(plan) => least = least.into_iter().chain([(plan.bytes, size, mode)]).min_by_key(|of| of.0),
                Err(e) => refused = Some(e),
            }
        }
        match (least, refused) {
            (Some((bytes, size, mode)), _) => Err(ConfigError {
                field: "memory_budget",
                message: format!(
                    "found {}, but this run needs {} at least, with {size} pictures at a time and --checkpointing {}; give it \
                     more, or choose a smaller picture or network, or --precision f16",
                    ByteCount(budget),
                    ByteCount(bytes),
                    mode.name()
                ),
            }
            .into()),
            (None, Some(e)) => Err(RunError::from(e).into()),
            (None, None) => Err(ConfigError { field: "batch", message: "found 0; it must be at least 1".into() }.into()),
        }
    }

    /// What was chosen.
    fn notes(
        &self,
        chosen: &Self,
        plan: &RunPlan,
        mode: Checkpointing,
        refused: Option<&PlanError>,
        caps: &Caps,
    ) -> Result<Vec<String>, TrainError> {
        let steps =
            |of: &Self| format!("{} x {} = {} pictures", of.batch, of.accumulate, of.effective_batch());
        let mut notes = Vec::new();
        if let Some(
            PlanError::BindingTooLarge { tensor, bytes, limit }
            | PlanError::BufferTooLarge { tensor, bytes, limit },
        ) = refused.filter(|_| chosen.batch < self.batch)
        {
            notes.push(format!(
                "{} pictures at a time are too many for this device: `{tensor}` of more than {} would need {}, and it allows {}. A \
                 step is taken as {}, the same effective batch",
                self.batch,
                chosen.batch,
                ByteCount(*bytes),
                ByteCount(*limit),
                steps(chosen)
            ));
        }
        let Some(budget) = self.memory_budget else { return Ok(notes) };
        let more = 100.0 * plan.plans.recomputed_share();
        let mut note = format!(
            "memory budget {budget}: {} planned, with checkpointing {} and {} per step",
            ByteCount(plan.bytes),
            mode.name(),
            steps(chosen)
        );
        if mode != Checkpointing::None {
            note += &format!("; what is computed again adds {more:.0} % to the FLOPs of a step");
            let mut without = None;
            for size in self.micro_batches() {
                if let Ok(plan) = self.planned(size, Checkpointing::None, caps)?
                    && plan.bytes <= budget.0
                {
                    without = Some((size, plan.bytes));
                    break;
                }
            }
            note += &match without {
                Some((size, bytes)) => {
                    format!(
                        ". Without, {size} pictures at a time would fit, with {} planned",
                        ByteCount(bytes)
                    )
                }
                None => ". Without, not even one picture at a time would fit".into(),
            };
        }
        notes.push(note);
        Ok(notes)
    }

    /// Bytes planned to train, evaluate and sample by pictures at a time, the effective batch and quarters of it, without
    /// recomputation and with it.
    ///
    /// # Errors
    /// A network that cannot be built.
    pub fn bytes_by_batch(&self, caps: &Caps) -> Result<Vec<BytesOfBatch>, TrainError> {
        let sizes = std::iter::successors(Some(self.effective_batch()), |size| {
            Some(size / 4).filter(|&size| size > 0)
        });
        let mut rows = Vec::new();
        for batch in sizes {
            let alone = Self { batch, accumulate: 1, ..self.clone() };
            let mut bytes = [None; 3];
            for (bytes, mode) in bytes.iter_mut().zip(Checkpointing::ALL) {
                *bytes = alone.planned(batch, mode, caps)?.ok().map(|plan| plan.bytes);
            }
            rows.push(BytesOfBatch { batch, bytes });
        }
        Ok(rows)
    }
}
