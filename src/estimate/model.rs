//! How long a launch takes on a GPU that is not at hand. The model is a roofline with few constants, each calibrated on an estimate
//! that was made by hand, row by row, of a training step of `cifar` at batch 128: `tests/cifar_128.csv` holds its launches, and the
//! tests beside it the figures.

use super::gpu::{Gpu, Tiles};
use super::mix::InstructionMix;
use super::work::Work;
use crate::isa::Mix;
use serde::Serialize;

/// Products reach this part of the peak, times the part of multiply-adds in the time of their hottest loop: each vector instruction
/// and each load or store takes one turn there, those of workgroup memory [`WORKGROUP_TURNS`], and products of matrix units as many
/// as they need at their own peak.
pub const ISSUE_SHARE: f64 = 0.7;
/// Turns of a load or store of four numbers in workgroup memory, whose bandwidth is an eighth of what vector instructions read.
pub const WORKGROUP_TURNS: f64 = 8.0;
/// The part of the peak for products whose instructions nobody recorded: what the convolutions reach together.
pub const UNKNOWN_SHARE: f64 = 0.25;
/// The part of the bandwidth that launches reach.
pub const BANDWIDTH_SHARE: f64 = 0.8;
/// Bytes of spilled registers that caches move while the peak does one operation.
pub const SPILLED_BYTES_PER_FLOP: f64 = 0.07;
/// Bytes that an invocation loads at once.
pub const LOAD_BYTES: f64 = 16.0;
/// Seconds from one load of an invocation to its next, where it makes one after the other.
pub const LOAD_SECONDS: f64 = 80e-9;
/// Seconds of a launch at the least.
pub const LEAST_SECONDS: f64 = 2e-6;
/// Seconds between the end of a launch and the begin of the next.
pub const GAP_SECONDS: f64 = 4e-6;

/// What bounds a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Multiply-adds, at the rate that the instructions beside them leave.
    Arithmetic,
    /// Spilled registers, which caches move.
    Spills,
    /// Bytes that memory moves.
    Bandwidth,
    /// One load after another of an invocation, or a launch that does next to nothing.
    Latency,
}

impl Bound {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arithmetic => "arithmetic",
            Self::Spills => "spills",
            Self::Bandwidth => "bandwidth",
            Self::Latency => "latency",
        }
    }
}

/// Turns that vector instructions would need at their peak for the operations of a matrix product; and those that matrix units
/// need, which are faster.
fn matrix_turns(gpu: &Gpu) -> Option<(f64, f64)> {
    let (peak, tiles) = gpu.matrix_flops_per_s.zip(gpu.tiles)?;
    let of_vectors = f64::from(Tiles::SIDE.pow(3) / tiles.subgroups.1);
    Some((of_vectors, of_vectors * gpu.flops_per_s / (peak * tiles.share)))
}

/// Operations per second that a product's instructions allow: the peak outside matrix units times [`ISSUE_SHARE`], and times the
/// turns that its operations would take there in all turns of its loop.
pub fn product_flops_per_s(mix: Option<InstructionMix>, gpu: &Gpu) -> f64 {
    let Some(Mix { matrix, fma, other, workgroup, memory, .. }) =
        mix.map(|mix| mix.hottest).filter(|mix| mix.fma + mix.matrix > 0)
    else {
        return gpu.flops_per_s * UNKNOWN_SHARE;
    };
    let [matrix, fma, other, workgroup, memory] = [matrix, fma, other, workgroup, memory].map(f64::from);
    let all = fma + other + WORKGROUP_TURNS * workgroup + memory;
    let (useful, all) = match matrix_turns(gpu) {
        Some((of_vectors, turns)) if matrix > 0.0 => (matrix * of_vectors, matrix * turns + all),
        _ => (fma, all),
    };
    gpu.flops_per_s * ISSUE_SHARE * useful / all
}

/// Bytes of scratch memory that an invocation moves in a pass of the hottest loop: as many as it has loads and stores for, and at
/// most all of it in and out.
fn spilled_bytes(mix: InstructionMix) -> f64 {
    (LOAD_BYTES * f64::from(mix.hottest.memory)).min(2.0 * f64::from(mix.scratch))
}

/// The seconds of all calls of a launch without the gaps before them, and what bounds it.
pub fn seconds(work: &Work, mix: Option<InstructionMix>, gpu: &Gpu) -> (f64, Bound) {
    let is_product = work.matrix_flops > 0;
    let calls = work.calls as f64;
    let invocations = calls * work.workgroups as f64 * work.invocations as f64;
    let moved = work.moved_bytes as f64;
    // Each unit runs at its own part of the peak: a launch of few workgroups leaves the others idle.
    let busy = (work.workgroups as f64 / f64::from(gpu.units)).min(1.0);
    let arithmetic = if is_product {
        work.executed_flops as f64 / (busy * product_flops_per_s(mix, gpu))
    } else {
        work.other_flops as f64 / gpu.flops_per_s
    };
    let spilled = mix.filter(|mix| is_product && mix.hottest.fma > 0).map_or(0.0, |mix| {
        let passes = work.executed_flops as f64 / (2.0 * f64::from(mix.hottest.fma));
        passes * spilled_bytes(mix)
    });
    // A product's loads are staged far ahead of its sums.
    let loads = if is_product { 0.0 } else { moved / (LOAD_BYTES * invocations.max(1.0)) };
    [
        (arithmetic, Bound::Arithmetic),
        (spilled / (SPILLED_BYTES_PER_FLOP * gpu.flops_per_s), Bound::Spills),
        (moved / (BANDWIDTH_SHARE * gpu.bytes_per_s), Bound::Bandwidth),
        (calls * (loads * LOAD_SECONDS).max(LEAST_SECONDS), Bound::Latency),
    ]
    .into_iter()
    .fold((0.0, Bound::Latency), |longest, next| if next.0 > longest.0 { next } else { longest })
}

/// What the model takes for granted, a sentence each.
pub fn assumptions(gpu: &Gpu) -> Vec<String> {
    let Gpu { name, flops_per_s, bytes_per_s, units, source, .. } = gpu;
    let mut assumptions = vec![
        format!(
            "{name}: {:.1} TFLOP/s of f32 multiply-adds outside matrix units, {:.0} GB/s, {units} units ({source})",
            flops_per_s * 1e-12,
            bytes_per_s * 1e-9
        ),
        "No kernel was timed on it. Constants are calibrated on an estimate made by hand for H100 and RTX 4090, 356 and 302 ms \
         for a step of cifar at batch 128, which is itself of guessed shares of the peak"
            .into(),
        format!(
            "products (convolutions, linear layers, attention; both ways): {ISSUE_SHARE} of the peak times the part of \
             multiply-adds in their hottest loop as Mesa's RADV compiles it, where every vector instruction, load and store takes \
             one turn and those of workgroup memory {WORKGROUP_TURNS}; calibrated on the three passes of convolution, 299 and \
             225 ms together. Where a loop within that loop was not unrolled, the instructions around it are left out"
        ),
        format!("products whose instructions are not recorded: {UNKNOWN_SHARE} of the peak, as convolutions reach together"),
        "products execute whole tiles: edges beyond the matrices and the zeros of a strided gradient take their time".into(),
        "a launch of fewer workgroups than there are units leaves the others idle".into(),
        format!(
            "registers that do not fit move once for each load and store of the hottest loop, {LOAD_BYTES} bytes each, at \
             {SPILLED_BYTES_PER_FLOP} bytes for each operation of the peak; calibrated on attention with a head of 256, 25 ms on \
             both"
        ),
        format!(
            "everything else: bytes at {BANDWIDTH_SHARE} of the bandwidth, inputs read once and outputs written once by every \
             launch; calibrated on group norm and additions, 10.2 and 30 ms together"
        ),
        format!(
            "one load of {LOAD_BYTES} bytes after another in an invocation: {:.0} ns each; calibrated on the bias gradients, \
             2.3 ms on an H100",
            LOAD_SECONDS * 1e9
        ),
        format!("a launch: {:.0} us at the least", LEAST_SECONDS * 1e6),
        format!("between two launches: {:.0} us", GAP_SECONDS * 1e6),
        "the host keeps ahead of the device, and making and uploading the batch takes no time of it".into(),
    ];
    if let Some((peak, tiles)) = gpu.matrix_flops_per_s.zip(gpu.tiles) {
        assumptions.push(format!(
            "products of f16 tensors are computed on matrix units where they have such an algorithm, as where a trial on the device \
             (--tune) finds it faster and right: {:.1} TFLOP/s of f16 with f32 sums, not sparse, of which products within a subgroup \
             reach {}. Their loops are those that RADV of Mesa 26.1 makes for GFX1201, whose loads of tiles are as few as NVIDIA's \
             (RDNA 3 has four times as many); a matrix product takes the turns that its operations need at that peak. Published \
             kernels of this kind reach 123 to 198 TFLOP/s on an RTX 5090",
            peak * 1e-12,
            tiles.share
        ));
    }
    assumptions
}
