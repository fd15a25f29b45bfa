//! Courses of degradations, and the degradation of a batch of pictures.

use super::{COUNT, SIDE};
use crate::gpu::{Blocking as _, Executable, RunError, Store};
use crate::graph::{Graph, Plan, ValueId};
use crate::ops::{Degrade, blur_matrices, downsample_matrices};
use crate::tensor::{Array, Spec};

/// A course of degradations from severity 0, which does nothing, to the last, which leaves one grey.
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// (last + 1, SIDE, SIDE), for [`Degrade`].
    pub(super) matrices: Array,
    /// What leads from severity s - 1 to s, at s.
    pub(super) steps: Array,
    /// Severities at which walks are shown.
    pub(super) shown: Vec<usize>,
    /// Severities from which restored pictures are shown.
    pub(super) restored: [usize; 4],
}

impl Chain {
    /// Blurs whose standard deviation grows by the same factor at every step, from 0.4 pixels to one and a half sides:
    /// there the slowest wave in a picture keeps exp(-½ (1.5 π)²) = 1.5e-5 of its height.
    pub(super) fn blur() -> Self {
        const LAST: u32 = 10;
        let (first, end) = (0.4, 1.5 * SIDE as f64);
        let variance = |s: u32| match s {
            0 => 0.0,
            s => (first * (end / first).powf(f64::from(s - 1) / f64::from(LAST - 1))).powi(2),
        };
        let variances: Vec<f64> = (0..=LAST).map(variance).collect();
        let increments: Vec<f64> = (0..=LAST).map(|s| variance(s) - variance(s.saturating_sub(1))).collect();
        Self {
            name: "blur",
            matrices: blur_matrices(SIDE, &variances),
            steps: blur_matrices(SIDE, &increments),
            shown: (0..=LAST as usize).collect(),
            restored: [3, 5, 7, 10],
        }
    }

    /// Blocks of 2, 4, 8 and 16 pixels. A step from one to the next is the next itself.
    pub(super) fn downsample() -> Self {
        let matrices = downsample_matrices(SIDE, 5);
        let steps = matrices.clone();
        Self { name: "downsample", matrices, steps, shown: (0..5).collect(), restored: [1, 2, 3, 4] }
    }

    pub(super) fn last(&self) -> usize {
        self.matrices.shape[0] - 1
    }
}

pub(super) fn pictures(batch: usize) -> Spec {
    Spec::f32([batch, SIDE, SIDE, 1])
}

/// D(x, s) of COUNT pictures at once.
pub(super) struct Degrader {
    executable: Executable,
    x: ValueId,
    severity: ValueId,
    y: ValueId,
}

impl Degrader {
    pub(super) fn new(store: &Store, matrices: &Array) -> Result<Self, RunError> {
        let mut graph = Graph::new();
        let x = graph.input("pictures", pictures(COUNT));
        let severity = graph.input("severity", Spec::f32([COUNT]));
        let matrices = graph.constant("matrices", matrices.clone());
        let y = graph.apply(Degrade, &[x, severity, matrices, matrices])?;
        graph.output("degraded", y);
        let executable = Executable::new(store, Plan::new(graph, store.caps())?).block_on()?;
        Ok(Self { executable, x, severity, y })
    }

    pub(super) fn apply(&self, x: &[f32], severity: usize) -> Result<Vec<f32>, RunError> {
        self.executable.write(self.x, x);
        self.executable.write(self.severity, &[severity as f32; COUNT]);
        self.executable.run().block_on()?;
        Ok(self.executable.read(self.y).block_on()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cold::ELEMENTS;

    #[test]
    fn chains_begin_with_nothing_and_end_in_one_grey() {
        for chain in [Chain::blur(), Chain::downsample()] {
            let matrices: Vec<&[f64]> = chain.matrices.data.chunks_exact(ELEMENTS).collect();
            let steps: Vec<&[f64]> = chain.steps.data.chunks_exact(ELEMENTS).collect();
            let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
                let entry =
                    |e: usize| (0..SIDE).map(|k| a[e / SIDE * SIDE + k] * b[k * SIDE + e % SIDE]).sum();
                (0..ELEMENTS).map(entry).collect()
            };
            for s in 1..=chain.last() {
                let stepped = product(steps[s], matrices[s - 1]);
                assert!(stepped.iter().zip(matrices[s]).all(|(a, b)| (a - b).abs() < 1e-13), "{s}");
            }
            assert!((0..ELEMENTS).all(|e| matrices[0][e] == f64::from(u8::from(e / SIDE == e % SIDE))));
            // The slowest wave is as high as the mean at 2 · 1.5e-5 · √2 at most.
            assert!(matrices[chain.last()].iter().all(|w| (w * SIDE as f64 - 1.0).abs() < 5e-5));
            assert!(chain.shown.iter().chain(&chain.restored).all(|&s| s <= chain.last()));
        }
    }
}
