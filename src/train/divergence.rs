//! Steps that were skipped because their gradient was not finite: how many are too many, and where the first number that is
//! not finite appears.

use super::step::{Task, Trainer};
use super::{LogRow, Skipped};
use crate::gpu::RunError;
use crate::graph::{Aliasing, Origin, Phase, Plan};
use crate::nn::Parameters;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// The last so many steps are looked at.
const RECENT: usize = 100;
/// More of them than this end the run: a tenth. What a step that changes nothing has cost is lost.
const MOST_SKIPPED: usize = RECENT / 10;

/// The steps of a run that were skipped.
#[derive(Debug, Default)]
pub(super) struct Skips {
    /// Since the beginning of the run.
    pub total: Skipped,
    /// The last steps, from 1, and whether their gradients were finite, or the scale of the loss was what made them not so; at
    /// most [`RECENT`].
    recent: VecDeque<(u32, bool)>,
}

impl Skips {
    /// Those of a run that goes on, of which `total` steps were skipped; `steps` are those that were logged.
    pub fn before(total: Skipped, steps: &[(u32, bool)]) -> Self {
        let mut skips = Self { total, ..Self::default() };
        steps.iter().for_each(|&(step, is_sound)| skips.look_at(step, is_sound));
        skips
    }

    /// Counts a step.
    pub fn count(&mut self, row: &LogRow) {
        let by_scale = row.is_skipped_by_scale();
        self.total.by_scale += u32::from(by_scale);
        self.total.not_finite += u32::from(!row.finite && !by_scale);
        self.look_at(row.step + 1, row.finite || by_scale);
    }

    fn look_at(&mut self, step: u32, is_sound: bool) {
        self.recent.push_back((step, is_sound));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// Whether more than a tenth of the last hundred steps were skipped; of fewer than a hundred, as many.
    pub fn are_too_many(&self) -> bool {
        self.recent_skipped().count() > MOST_SKIPPED
    }

    /// The steps among the last that were skipped, the newest first.
    pub fn recent_skipped(&self) -> impl Iterator<Item = u32> {
        self.recent.iter().rev().filter(|(_, is_sound)| !is_sound).map(|&(step, _)| step)
    }

    /// How many steps are looked at.
    pub fn recent(&self) -> usize {
        self.recent.len()
    }
}

/// Takes a step (from 1) once more, launch by launch, without changing the weights, and says in a sentence where the first
/// number appears that is not finite. `None` if there is none with the weights as they are now. The gradients are spoilt.
pub(super) async fn first_not_finite<T: Task>(
    trainer: &Trainer<T>,
    step: u32,
    batches: impl Iterator<Item = T::Batch>,
) -> Result<Option<String>, RunError> {
    let parameters = trainer.task.network().parameters();
    let weights = trainer.store.read(&trainer.states.parameters).await?;
    if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
        let name = at(parameters, index);
        return Ok(Some(format!("Before step {step}, {name} already had a weight that is not finite")));
    }

    let executable = trainer.micro();
    let plan = executable.plan();
    for (micro, batch) in (0..).zip(batches) {
        trainer.upload(step - 1, micro, batch);
        let found = executable
            .run_by_launch(async |number, _| {
                let node = plan.launches[number].node;
                let done = plan.launches.get(number + 1).is_none_or(|next| next.node != node);
                for &output in plan.graph.nodes[node].outputs.iter().filter(|_| done) {
                    let values = executable.read_now(output).await?;
                    if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                        return Ok(ControlFlow::Break((node, value)));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        if let Some((node, value)) = found {
            return Ok(Some(format!(
                "In step {step}, the first number that is not finite ({value}) appeared {}, in {}",
                phase(plan, node),
                layer(plan, node, parameters)
            )));
        }
    }

    let gradients = trainer.store.read(&trainer.states.gradients).await?;
    let squares: f32 = gradients.iter().map(|g| g * g).sum();
    let largest = (0..gradients.len()).max_by(|&a, &b| gradients[a].abs().total_cmp(&gradients[b].abs()));
    Ok(largest.filter(|_| !squares.is_finite()).map(|index| {
        format!(
            "In step {step}, every number is finite but the norm of the gradient, whose largest element is {:e}, of {}",
            gradients[index],
            at(parameters, index)
        )
    }))
}

/// The parameter that has this element of the flat vector.
fn at(parameters: &Parameters, index: usize) -> &str {
    let before = parameters.iter().filter(|p| p.offset <= index);
    before.max_by_key(|p| p.offset).map_or("a parameter", |p| &p.name)
}

fn phase(plan: &Plan, node: usize) -> &'static str {
    match plan.graph.nodes[node].phase {
        Phase::Forward => "in the forward pass",
        Phase::Backward | Phase::Recompute => "in the backward pass",
        Phase::Loss => "in the loss",
        Phase::Noise | Phase::Data => "where the pictures are made ready",
        Phase::Update | Phase::Sample => "in the update",
    }
}

/// The layer whose parameters a node reads, or else the module that it belongs to; and its operator.
fn layer(plan: &Plan, node: usize, parameters: &Parameters) -> String {
    let graph = &plan.graph;
    let node = &graph.nodes[node];
    let of_parameter = node.inputs.iter().find_map(|input| {
        let Origin::Node(view, _) = graph.values[input.0].origin else { return None };
        let Aliasing::View { offset } = graph.nodes[view].op.aliasing() else { return None };
        let whole = graph.nodes[view].inputs[0];
        let is_state = matches!(graph.values[whole.0].origin, Origin::State);
        let parameter = parameters.iter().find(|p| is_state && p.offset == offset)?;
        Some(parameter.name.rsplit_once('.').map_or(parameter.name.as_str(), |(layer, _)| layer))
    });
    let name = of_parameter.unwrap_or(&node.scope);
    format!("{name} ({})", node.op.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps from 1.
    fn count(skips: &mut Skips, step: u32, finite: bool, loss_scale: Option<f32>) {
        skips.count(&LogRow { step: step - 1, loss: 0.5, gradient_norm: 1.0, finite, loss_scale });
    }

    #[test]
    fn more_than_a_tenth_of_the_last_hundred_are_too_many() {
        // Of fewer than a hundred, as many.
        let mut skips = Skips::default();
        (1..=10).for_each(|step| count(&mut skips, step, false, None));
        assert!(!skips.are_too_many() && skips.total.not_finite == 10);
        count(&mut skips, 11, false, None);
        assert!(skips.are_too_many());
        assert_eq!(skips.recent_skipped().next(), Some(11));
        // They are forgotten after a hundred, but counted.
        (12..=101).for_each(|step| count(&mut skips, step, true, None));
        assert!(!skips.are_too_many() && skips.total.not_finite == 11 && skips.recent() == 100);
        // A run that goes on knows of those before.
        let before: Vec<(u32, bool)> = (1..=50).map(|step| (step, step > 10)).collect();
        let mut resumed = Skips::before(Skipped { not_finite: 10, by_scale: 0 }, &before);
        assert!(!resumed.are_too_many() && resumed.total.not_finite == 10);
        count(&mut resumed, 51, false, None);
        assert!(resumed.are_too_many() && resumed.total.not_finite == 11);
    }

    /// A scale that is too large makes good for itself; at 1 there is none.
    #[test]
    fn what_the_scale_of_the_loss_skips_is_no_divergence() {
        let mut skips = Skips::default();
        (1..=40).for_each(|step| count(&mut skips, step, false, Some(2.0)));
        assert!(!skips.are_too_many() && skips.total == Skipped { not_finite: 0, by_scale: 40 });
        (41..=51).for_each(|step| count(&mut skips, step, false, Some(1.0)));
        assert!(skips.are_too_many() && skips.total == Skipped { not_finite: 11, by_scale: 40 });
    }
}
