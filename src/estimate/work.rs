//! What the launches of a step do, counted from the plan.

use crate::graph::{Cost, Launch, Phase, Plan, Scalar};
use crate::shader::{ShaderError, interface};
use serde::Serialize;

/// A launch of a step. Where a step runs it several times (`accumulate`), all of them together.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// The part of the step.
    pub phase: Phase,
    /// The module, as in `mid_block.attentions.0`.
    pub module: String,
    /// The operator.
    pub op: String,
    /// `shader:entry`.
    pub kernel: String,
    /// What was put in place of the file's defaults.
    pub variant: String,
    /// Workgroups of a call, in all dimensions together.
    pub workgroups: u64,
    /// Invocations of a workgroup.
    pub invocations: u64,
    /// Times that a step runs it.
    pub calls: u64,
    /// Operations in convolutions and products of matrices ([`Plan::launch_costs`]).
    pub matrix_flops: u64,
    /// All other arithmetic.
    pub other_flops: u64,
    /// Bytes that must be read.
    pub bytes_read: u64,
    /// Bytes that must be written.
    pub bytes_written: u64,
    /// Operations that the tiles of a product execute: edges that stand beyond the matrices and zeros between the pixels of a
    /// strided gradient are among them. `matrix_flops` where no tiles are known.
    pub executed_flops: u64,
    /// Bytes that the launch reads and writes once each: what must move, and in an operator of several launches also scratch memory
    /// and what an earlier launch has read already.
    pub moved_bytes: u64,
}

impl Work {
    /// Every launch of a step of these plans, each run so many times.
    ///
    /// # Errors
    /// A shader that naga refuses.
    pub fn of(plans: &[(&Plan, u64)]) -> Result<Vec<Self>, ShaderError> {
        let mut works = Vec::new();
        for &(plan, calls) in plans {
            let costs = plan.launch_costs();
            for (number, (launch, cost)) in plan.launches.iter().zip(costs).enumerate() {
                let neighbour = |other: Option<&Launch>| other.is_some_and(|other| other.node == launch.node);
                let several = neighbour(plan.launches.get(number + 1))
                    || neighbour(number.checked_sub(1).and_then(|before| plan.launches.get(before)));
                works.push(Self::of_launch(plan, launch, cost, several, calls)?);
            }
        }
        Ok(works)
    }

    fn of_launch(
        plan: &Plan,
        launch: &Launch,
        cost: Cost,
        several: bool,
        calls: u64,
    ) -> Result<Self, ShaderError> {
        let (node, dispatch) = (&plan.graph.nodes[launch.node], &launch.dispatch);
        let must_move = cost.bytes_read + cost.bytes_written;
        let bound: u64 = launch.bindings.iter().map(|binding| binding.size - binding.guard).sum();
        let moved = if several { must_move.max(bound) } else { must_move };
        let executed =
            if cost.matrix_flops > 0 { tile_flops(launch).unwrap_or(cost.matrix_flops) } else { 0 };
        let product = |sizes: [u32; 3]| sizes.iter().map(|&n| u64::from(n)).product();
        Ok(Self {
            phase: node.phase,
            module: node.scope.clone(),
            op: node.op.name().into(),
            kernel: format!("{}:{}", dispatch.shader.name, dispatch.entry),
            variant: dispatch.variant.describe(),
            workgroups: product(dispatch.groups),
            invocations: product(
                interface(dispatch.shader, dispatch.entry, &dispatch.variant)?.workgroup_size,
            ),
            calls,
            matrix_flops: cost.matrix_flops * calls,
            other_flops: cost.other_flops * calls,
            bytes_read: cost.bytes_read * calls,
            bytes_written: cost.bytes_written * calls,
            executed_flops: executed * calls,
            moved_bytes: moved * calls,
        })
    }

    /// All arithmetic.
    pub fn flops(&self) -> u64 {
        self.matrix_flops + self.other_flops
    }
}

/// Operations of the tiles of `shaders/lib/gemm_tile.wgsl`; nothing of other kernels.
fn tile_flops(launch: &Launch) -> Option<u64> {
    let dispatch = &launch.dispatch;
    let tile = |name| {
        let (_, value) = dispatch.variant.values().find(|(known, _)| *known == name)?;
        value.trim_end_matches('u').parse::<u64>().ok().filter(|&n| n > 0)
    };
    let param = |name| match dispatch.params.iter().find(|(known, _)| *known == name)?.1 {
        Scalar::U32(value) => Some(u64::from(value)),
        Scalar::F32(_) => None,
    };
    let padded = |name, side| Some(param(name)?.next_multiple_of(tile(side)?));
    let (rows, columns) = (padded("rows", "TILE_M")?, padded("columns", "TILE_N")?);
    let (depth, each, splits) = (param("depth")?, param("split_depth")?, param("splits")?);
    let staged = tile("TILE_K")?;
    let ranges =
        (0..splits).map(|split| each.min(depth.saturating_sub(split * each)).next_multiple_of(staged));
    Some(2 * rows * columns * ranges.sum::<u64>())
}
