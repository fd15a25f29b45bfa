//! A plan as a list, and how long its launches take.

use crate::gpu::{Clock, Executable, GpuError};
use crate::graph::Plan;
use serde::Serialize;

/// A launch.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// The part of the step.
    phase: &'static str,
    /// The module of the network.
    module: String,
    op: &'static str,
    /// The shader's name, its entry point, and what its variant sets.
    shader: &'static str,
    entry: &'static str,
    variant: String,
    /// Shapes of what it reads and writes.
    inputs: Vec<String>,
    outputs: Vec<String>,
    groups: [u32; 3],
    /// Floating-point operations, and bytes that must move.
    flops: u64,
    bytes: u64,
}

/// The launches of a plan, in order.
pub(super) fn rows(plan: &Plan) -> Vec<Row> {
    let costs = plan.launch_costs();
    let row = |(launch, cost): (&crate::graph::Launch, &crate::graph::Cost)| {
        let node = &plan.graph.nodes[launch.node];
        let (inputs, outputs) = plan.graph.node_specs(node);
        let shapes = |specs: &[crate::tensor::Spec]| specs.iter().map(|s| format!("{s:?}")).collect();
        Row {
            phase: node.phase.name(),
            module: node.scope.clone(),
            op: node.op.name(),
            shader: launch.dispatch.shader.name,
            entry: launch.dispatch.entry,
            variant: launch.dispatch.variant.describe(),
            inputs: shapes(&inputs),
            outputs: shapes(&outputs),
            groups: launch.dispatch.groups,
            flops: cost.flops(),
            bytes: cost.bytes_read + cost.bytes_written,
        }
    };
    plan.launches.iter().zip(&costs).map(row).collect()
}

/// Runs it once, and gives the nanoseconds of each launch: by the device's timestamps where there are any.
pub(super) async fn times(executable: &Executable) -> Result<Vec<f64>, GpuError> {
    let features = &executable.device().caps.features;
    let clock = Clock::ALL.into_iter().find(|clock| clock.suits(features)).unwrap_or(Clock::Waiting);
    let (ticks, tick) = executable.run_timed(clock).await?.read().await?;
    Ok(ticks.into_iter().map(|[begin, end]| end.saturating_sub(begin) as f64 * tick * 1e9).collect())
}
