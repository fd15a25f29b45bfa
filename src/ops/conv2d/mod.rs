//! 2-D convolution, channels last. Its gradients, the launches of `shaders/conv2d.wgsl` and `conv2d_subgroup.wgsl` (register tiles,
//! for CPU drivers), of `shaders/conv2d_vectors.wgsl` and its companions (tiles in workgroup memory, for GPUs), of
//! `shaders/conv2d_narrow.wgsl` and its companion (few channels, for GPUs) and of `shaders/lib/gemm_matrix.wgsl` (matrix units), and
//! the cases have a file each.

mod backward;
mod cases;
mod matrix;
mod narrow;
mod registers;
mod subgroup;
mod tiled;

pub use backward::{Conv2dBackwardInput, Conv2dBackwardWeight};
pub(super) use cases::cases;

use super::addend::Addend;
use super::{SumRows, expect_activations};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, ShapeError};
use crate::tensor::{Array, Shape, Spec};

/// Zeros around a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// So many on every side.
    Symmetric(usize),
    /// One on the right and at the bottom: diffusers' `downsample_padding=0`.
    BottomRight,
}

impl Padding {
    /// Zeros at the top and at the left.
    fn before(self) -> usize {
        match self {
            Self::Symmetric(p) => p,
            Self::BottomRight => 0,
        }
    }

    /// Zeros on both sides together.
    fn total(self) -> usize {
        match self {
            Self::Symmetric(p) => 2 * p,
            Self::BottomRight => 1,
        }
    }
}

/// `y[n,oy,ox,co] = b[co] + Σ_{ky,kx,ci} x[n, oy s + ky - p, ox s + kx - p, ci] w[ky,kx,ci,co]`, from (x, w, b), and
/// perhaps a tensor that is added to y: as large as y, or one row of channels for each image (batch, output channels).
///
/// x and w are f32 or f16, and y and what is added with them; b is f32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conv2d {
    /// Height and width of the kernel; odd.
    pub kernel: usize,
    /// Step between neighbouring outputs, in inputs: s.
    pub stride: usize,
    /// Zeros around the input; p of them at the top and at the left.
    pub padding: Padding,
}

/// The sizes of one convolution.
#[derive(Debug, Clone, Copy)]
struct Extent {
    batch: usize,
    height: usize,
    width: usize,
    in_channels: usize,
    out_height: usize,
    out_width: usize,
    out_channels: usize,
}

impl Extent {
    /// From the shapes of x and y.
    fn new(x: &Shape, y: &Shape) -> Self {
        Self {
            batch: x[0],
            height: x[1],
            width: x[2],
            in_channels: x[3],
            out_height: y[1],
            out_width: y[2],
            out_channels: y[3],
        }
    }
}

impl Conv2d {
    /// The largest stride: the columns of a tile of backward_input must be a multiple of the stride.
    const MAX_STRIDE: usize = 2;

    /// Height or width of the output.
    pub fn output_size(&self, input: usize) -> usize {
        (input + self.padding.total()).saturating_sub(self.kernel) / self.stride + 1
    }

    fn check(&self, op: &'static str, height: usize, width: usize) -> Result<(), ShapeError> {
        let (k, s, p) = (self.kernel, self.stride, self.padding);
        ensure_shape!(op, k % 2 == 1, "the kernel size must be odd, found {k}");
        ensure_shape!(op, (1..=Self::MAX_STRIDE).contains(&s), "the stride must be 1 or 2, found {s}");
        ensure_shape!(op, p.before() < k, "padding {p:?} must be less than the kernel size {k}");
        ensure_shape!(
            op,
            height > 0 && width > 0 && height + p.total() >= k && width + p.total() >= k,
            "a {height}x{width} picture with padding {p:?} is smaller than the {k}x{k} kernel"
        );
        Ok(())
    }

    fn output_shape(&self, x: &Shape, output: usize) -> Shape {
        Shape::new([x[0], self.output_size(x[1]), self.output_size(x[2]), output])
    }

    /// A launch of a product of matrices with the sizes that `shaders/lib/conv2d_params.wgsl` has beside those of the product;
    /// `channels` are those of its left factor.
    fn with_sizes(&self, dispatch: Dispatch, e: &Extent, channels: usize) -> Dispatch {
        dispatch
            .param("height", e.height)
            .param("width", e.width)
            .param("out_height", e.out_height)
            .param("out_width", e.out_width)
            .param("channels", channels)
            .param("kernel", self.kernel)
            .param("stride", self.stride)
            .param("padding", self.padding.before())
    }

    fn weight_elements(&self, e: &Extent) -> usize {
        self.kernel * self.kernel * e.in_channels * e.out_channels
    }

    /// The input coordinate under kernel position `k` of output `o`, unless it is padding.
    fn source(&self, o: usize, k: usize, size: usize) -> Option<usize> {
        (o * self.stride + k).checked_sub(self.padding.before()).filter(|&i| i < size)
    }

    /// Calls `f` with the indices into x, w and y of every product in the convolution.
    fn for_each_product(&self, e: &Extent, mut f: impl FnMut(usize, usize, usize)) {
        for n in 0..e.batch {
            for oy in 0..e.out_height {
                for ox in 0..e.out_width {
                    for ky in 0..self.kernel {
                        let Some(iy) = self.source(oy, ky, e.height) else { continue };
                        for kx in 0..self.kernel {
                            let Some(ix) = self.source(ox, kx, e.width) else { continue };
                            for ci in 0..e.in_channels {
                                for co in 0..e.out_channels {
                                    f(
                                        ((n * e.height + iy) * e.width + ix) * e.in_channels + ci,
                                        ((ky * self.kernel + kx) * e.in_channels + ci) * e.out_channels + co,
                                        ((n * e.out_height + oy) * e.out_width + ox) * e.out_channels + co,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Two operations per product; those with padding count too, as everywhere in the literature.
    fn flops(&self, e: &Extent) -> u64 {
        let pixels = e.batch * e.out_height * e.out_width;
        2 * pixels as u64 * self.weight_elements(e) as u64
    }

    fn matrix_cost(&self, e: &Extent, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::matrix(x, y, self.flops(e))
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const OP: &str = "conv2d";
        let dtype = expect_activations(OP, x, x.len().clamp(3, 4), &[2])?;
        let operands = x;
        let (x, w, b) = (&x[0].shape, &x[1].shape, &x[2].shape);
        ensure_shape!(OP, x.rank() == 4, "x must be (batch, height, width, channels), found {x}");
        ensure_shape!(
            OP,
            w.rank() == 4 && w[0] == self.kernel && w[1] == self.kernel && w[2] == x[3],
            "w must be ({k}, {k}, {}, output channels), found {w}",
            x[3],
            k = self.kernel
        );
        ensure_shape!(OP, b.axes() == [w[3]], "b must be ({}), found {b}", w[3]);
        self.check(OP, x[1], x[2])?;
        let y = self.output_shape(x, w[3]);
        Addend::check(OP, operands, 3, y.axes(), &[Addend::Same, Addend::PerImage])?;
        Ok(vec![Spec::new(y.axes(), dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (w, b) = (&x[1], &x[2]);
        let channels = b.data.len();
        let shape = self.output_shape(&x[0].shape, channels);
        let mut y = Array::from_fn(&shape, |i| b.data[i % channels]);
        let extent = Extent::new(&x[0].shape, &shape);
        self.for_each_product(&extent, |i, j, k| y.data[k] += x[0].data[i] * w.data[j]);
        Addend::add(x, 3, &mut y);
        vec![y]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let e = Extent::new(&x[0].shape, &y[0].shape);
        let additions = y[0].shape.elements() as u64 + Addend::flops(x, 3, &y[0]);
        Cost { other_flops: additions, ..self.matrix_cost(&e, x, y) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let (e, dtype) = (Extent::new(&x[0].shape, &y[0].shape), x[0].dtype);
        let mut candidates = caps.both(|caps| {
            let dispatch = match (caps.kernels, caps.subgroup()) {
                (Kernels::Registers, Some(lanes)) if subgroup::suits(self, &e) => {
                    subgroup::forward(self, &e, dtype, lanes)
                }
                (Kernels::Registers, _) => registers::forward(self, &e, dtype),
                (Kernels::Workgroup, _) if narrow::suits_forward(&e) => narrow::forward(self, &e, dtype),
                (Kernels::Workgroup, _) => tiled::forward(self, &e, dtype, None),
            };
            Addend::bind(dispatch, "added", x, 3, &y[0]).into()
        });
        candidates.extend(matrix::forward(self, &e, x, &y[0], caps));
        candidates
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 3 && Addend::fits(addend, y, &[Addend::Same, Addend::PerImage])
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (x, w, dy) = (g.input(0), g.input(1), g.gradient(0));
        if g.needs(0) {
            let (height, width) = (g.shape(x)[1], g.shape(x)[2]);
            let dx = g.apply(Conv2dBackwardInput { conv: self.clone(), height, width }, &[dy, w])?;
            g.accumulate(0, dx)?;
        }
        if g.needs(1) {
            let dw = g.apply(Conv2dBackwardWeight { conv: self.clone(), bias: false }, &[x, dy])?;
            g.accumulate(1, dw)?;
        }
        if g.needs(2) {
            let db = g.apply(SumRows, &[dy])?;
            g.accumulate(2, db)?;
        }
        Addend::backward(g, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than 2^32, which `usize` cannot count on every host.
    #[test]
    fn operations_are_counted_in_64_bits() {
        let conv = Conv2d { kernel: 3, stride: 1, padding: Padding::Symmetric(1) };
        let x = [Spec::f32([64, 64, 64, 512]), Spec::f32([3, 3, 512, 512]), Spec::f32([512])];
        let y = conv.infer(&x).expect("the shapes fit");
        let products: u64 = 64 * 64 * 64 * 9 * 512 * 512;
        assert_eq!(conv.cost(&x, &y).matrix_flops, 2 * products);
        // A count in `usize` would not compile here.
        let _: fn(&Conv2d, &Extent) -> u64 = Conv2d::flops;
    }
}
