//! The device's own ceilings: what fused multiply-adds and copies reach here, measured and not looked up.

use super::{Device, Executable, GpuError, Store};
use crate::graph::{Graph, Plan};
use crate::ops::{CopyCeiling, FmaCeiling};
use crate::tensor::Spec;
use std::sync::Arc;

/// What the device reaches in the two simplest kernels there are.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Ceilings {
    /// Floating-point operations per second of independent f32 multiply-adds in registers.
    pub flops_per_s: f64,
    /// Bytes per second of a vec4 copy, read plus written.
    pub bytes_per_s: f64,
}

/// Runs both kernels a few times and keeps the best.
pub fn measure_ceilings(device: &Arc<Device>) -> Result<Ceilings, GpuError> {
    let cpu = device.info.kind == "cpu";
    // Long enough to swamp the launch (a few ms), short enough for a CPU driver.
    let fma = FmaCeiling {
        invocations: if cpu { 1 << 12 } else { 1 << 18 },
        rounds: if cpu { 2_000 } else { 8_000 },
    };
    let elements = if cpu { 8 << 20 } else { 32 << 20 };
    let best = |mut graph: Graph, value, invalid: &str| -> Result<f64, GpuError> {
        graph.output("y", value);
        let plan = Plan::new(graph, &device.caps)?;
        let executable = Executable::new(&Store::new(device), plan)?;
        let mut best = f64::INFINITY;
        for _ in 0..6 {
            best = best.min(executable.profile()?.iter().sum());
        }
        if best > 0.0 { Ok(best) } else { Err(GpuError::Device(format!("{invalid}: the timer stood still"))) }
    };
    let failed = |e: crate::graph::GraphError| GpuError::Device(e.to_string());
    let flops = fma.flops() as f64;
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([1]));
    let y = graph.apply(fma, &[x]).map_err(failed)?;
    let flops_per_s = flops / best(graph, y, "multiply-adds")?;
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([elements]));
    let y = graph.apply(CopyCeiling, &[x]).map_err(failed)?;
    let bytes_per_s = 8.0 * elements as f64 / best(graph, y, "copy")?;
    Ok(Ceilings { flops_per_s, bytes_per_s })
}
