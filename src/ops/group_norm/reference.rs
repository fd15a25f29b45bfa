//! Group normalization in f64.

use super::GroupNorm;
use crate::ops::channels::Extent;
use crate::ops::elementwise::silu_derivative;
use crate::tensor::Array;

/// The tensors of the operator and its gradients on the host, indexed as in the formula.
pub(super) struct Reference<'a> {
    norm: &'a GroupNorm,
    pub extent: Extent,
    pub gamma: &'a [f64],
    beta: &'a [f64],
    scale_shift: Option<&'a [f64]>,
}

impl<'a> Reference<'a> {
    /// `scale_shift` is the list of inputs left over, one or none.
    pub fn new(
        norm: &'a GroupNorm,
        x: &Array,
        gamma: &'a Array,
        beta: &'a Array,
        scale_shift: &'a [Array],
    ) -> Self {
        let scale_shift = scale_shift.first().map(|a| a.data.as_slice());
        Self { norm, extent: Extent::of(&x.shape), gamma: &gamma.data, beta: &beta.data, scale_shift }
    }

    pub fn scale(&self, n: usize, c: usize) -> f64 {
        self.scale_shift.map_or(0.0, |s| s[2 * n * self.extent.channels + c])
    }

    pub fn shift(&self, n: usize, c: usize) -> f64 {
        self.scale_shift.map_or(0.0, |s| s[(2 * n + 1) * self.extent.channels + c])
    }

    /// (n, c) of a flat index of x.
    pub fn place(&self, i: usize) -> (usize, usize) {
        (i / self.extent.channels / self.extent.pixels, i % self.extent.channels)
    }

    /// Index of the group of channel c of image n.
    pub fn group(&self, n: usize, c: usize) -> usize {
        n * self.norm.groups + c / (self.extent.channels / self.norm.groups)
    }

    /// The mean of `f` over each group of each image.
    pub fn group_means(&self, f: impl Fn(usize) -> f64) -> Vec<f64> {
        let Extent { images, pixels, channels } = self.extent;
        let size = (pixels * channels / self.norm.groups) as f64;
        let mut means = vec![0.0; images * self.norm.groups];
        for i in 0..images * pixels * channels {
            let (n, c) = self.place(i);
            means[self.group(n, c)] += f(i) / size;
        }
        means
    }

    /// x̂ from the statistics.
    pub fn normalized(&self, x: &Array, statistics: &[f64], i: usize) -> f64 {
        let (n, c) = self.place(i);
        let g = self.group(n, c);
        (x.data[i] - statistics[2 * g]) * statistics[2 * g + 1]
    }

    /// v from x̂.
    pub fn modulated(&self, xh: f64, i: usize) -> f64 {
        let (n, c) = self.place(i);
        (xh * self.gamma[c] + self.beta[c]) * (1.0 + self.scale(n, c)) + self.shift(n, c)
    }

    /// dv from x̂ and dy.
    pub fn gradient_of_v(&self, xh: f64, dy: f64, i: usize) -> f64 {
        if self.norm.silu { dy * silu_derivative(self.modulated(xh, i)) } else { dy }
    }
}
