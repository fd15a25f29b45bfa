//! 2-D convolution and its gradients, channels last (`shaders/conv2d.wgsl`).

use super::sum_rows::{SumRows, add_splits};
use super::{Case, conv2d_tiled, expect_f32};
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, Program, ShapeError,
};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Shape, Spec};

static SHADER: Source = crate::wgsl!("conv2d");

/// Invocations of a workgroup: two of the subgroups of eight that lavapipe computes at once. 8, 16 and 32
/// were equally fast; few leave more workgroups to share among cores.
const INVOCATIONS: usize = 16;

/// Below this many operations a convolution takes about a millisecond on a CPU with any tile, and its
/// tile is chosen small for the sake of the compiler (0.3 s on lavapipe instead of 2 s).
const SMALL_FLOPS: u64 = 4_000_000;

/// Invocations that the splits of the weights' gradient aim at. With 1024, adding the splits took up to a
/// third of the time; 256 was no different within the noise, and leaves less to share among cores.
const SPLIT_INVOCATIONS: usize = 512;

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
    pub(super) fn before(self) -> usize {
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

/// `y[n,oy,ox,co] = b[co] + Σ_{ky,kx,ci} x[n, oy s + ky - p, ox s + kx - p, ci] w[ky,kx,ci,co]`, from (x, w, b).
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
pub(super) struct Extent {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub in_channels: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub out_channels: usize,
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

/// What is computed: each is an entry point of the shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    BackwardInput,
    BackwardWeight,
}

/// The part of a result that one invocation computes. Channels are counted in numbers here.
#[derive(Debug, Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    channels: usize,
}

/// Channels in one element of a buffer: four where four divides their number.
fn channel_width(channels: usize) -> usize {
    if channels.is_multiple_of(4) { 4 } else { 1 }
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

    /// Tiles for a CPU driver, where the number of loads is what costs: a larger tile needs fewer per
    /// multiply-add, but longer to compile. Measured with 8x32x32 pixels, 64 to 64 channels, in GFLOP/s of
    /// two cores' time, as rows x columns by channels. forward: 1x8 by 8 15, 2x8 by 8 20, 2x8 by 16 23, 4x8
    /// by 8 24; backward_input: 18, 25, 27, 31; backward_weight: 4 channels 24, 8 36, 16 42, though 16 is
    /// slower on the small pictures.
    fn tile(&self, pass: Pass, e: &Extent) -> Tile {
        let small = self.flops(e) < SMALL_FLOPS;
        if pass == Pass::BackwardWeight {
            // One element of x's channels by so many of dy's, for every kernel position.
            let channels = match (self.kernel, small) {
                (1, _) => 16,
                (3, false) => 8,
                _ => 4,
            };
            return Tile { rows: 1, columns: 1, channels };
        }
        let (rows, columns, channels) = match (self.kernel, small) {
            (_, true) => (1, 8, 4),
            (1, _) => (2, 8, 16),
            _ => (4, 8, 8),
        };
        let (height, width) = match pass {
            Pass::BackwardInput => (e.height.div_ceil(self.stride), e.width),
            Pass::Forward | Pass::BackwardWeight => (e.out_height, e.out_width),
        };
        Tile {
            rows: rows.min(height.next_power_of_two()),
            columns: columns.min(width.next_power_of_two().max(Self::MAX_STRIDE)),
            channels,
        }
    }

    fn in_registers(&self, pass: Pass, e: &Extent) -> (Dispatch, usize) {
        let tile = self.tile(pass, e);
        let (in_width, out_width) = (channel_width(e.in_channels), channel_width(e.out_channels));
        let (in_vectors, out_vectors) = (e.in_channels / in_width, e.out_channels / out_width);
        let (tile_channels, channel_tiles) = {
            let (width, vectors) = match pass {
                Pass::BackwardInput => (in_width, in_vectors),
                Pass::Forward | Pass::BackwardWeight => (out_width, out_vectors),
            };
            let tile = (tile.channels / width).min(vectors);
            (tile, vectors.div_ceil(tile))
        };
        let rows = e.batch * e.out_height;
        let mut rows_per_split = rows;
        let (entry, work) = match pass {
            Pass::Forward => {
                let tiles = e.out_height.div_ceil(tile.rows) * e.out_width.div_ceil(tile.columns);
                ("forward", e.batch * tiles * channel_tiles)
            }
            Pass::BackwardInput => {
                let tiles = e.height.div_ceil(tile.rows * self.stride) * e.width.div_ceil(tile.columns);
                ("backward_input", e.batch * tiles * self.stride * channel_tiles)
            }
            Pass::BackwardWeight => {
                let tiles = in_vectors * channel_tiles;
                rows_per_split = rows.div_ceil(SPLIT_INVOCATIONS.div_ceil(tiles).min(rows));
                ("backward_weight", rows.div_ceil(rows_per_split) * tiles)
            }
        };
        let mut variant = Variant::base()
            .with("KERNEL", format!("{}u", self.kernel))
            .with("STRIDE", format!("{}u", self.stride))
            .with("PADDING", format!("{}u", self.padding.before()))
            .with("TILE_ROWS", format!("{}u", tile.rows))
            .with("TILE_COLUMNS", format!("{}u", tile.columns))
            .with("TILE_CHANNELS", format!("{tile_channels}u"));
        if in_width == 1 {
            variant = variant.link("lib/in4", "lib/in1");
        }
        if out_width == 1 {
            variant = variant.link("lib/out4", "lib/out1");
        }
        let dispatch = Dispatch::new(&SHADER, entry)
            .variant(variant)
            .linear(work, INVOCATIONS)
            .param("batch", e.batch)
            .param("height", e.height)
            .param("width", e.width)
            .param("in_vectors", in_vectors)
            .param("out_height", e.out_height)
            .param("out_width", e.out_width)
            .param("out_vectors", out_vectors)
            .param("rows_per_split", rows_per_split);
        (dispatch, rows.div_ceil(rows_per_split))
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const OP: &str = "conv2d";
        expect_f32(OP, x, 3)?;
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
        Ok(vec![Spec::f32(self.output_shape(x, w[3]).axes())])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (x, w, b) = (&x[0], &x[1], &x[2]);
        let channels = b.data.len();
        let shape = self.output_shape(&x.shape, channels);
        let mut y = Array::from_fn(&shape, |i| b.data[i % channels]);
        self.for_each_product(&Extent::new(&x.shape, &shape), |i, j, k| y.data[k] += x.data[i] * w.data[j]);
        vec![y]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let e = Extent::new(&x[0].shape, &y[0].shape);
        Cost { other_flops: y[0].shape.elements() as u64, ..self.matrix_cost(&e, x, y) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let e = Extent::new(&x[0].shape, &y[0].shape);
            if caps.kernels == Kernels::Workgroup {
                return conv2d_tiled::forward(self, &e);
            }
            let (dispatch, _) = self.in_registers(Pass::Forward, &e);
            dispatch
                .bind("x", Operand::Input(0))
                .bind("w", Operand::Input(1))
                .bind("b", Operand::Input(2))
                .bind("y", Operand::Output(0))
                .into()
        })
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (x, w, dy) = (g.input(0), g.input(1), g.gradient(0));
        if g.needs(0) {
            let (height, width) = (g.shape(x)[1], g.shape(x)[2]);
            let dx = g.apply(Conv2dBackwardInput { conv: self.clone(), height, width }, &[dy, w])?;
            g.accumulate(0, dx)?;
        }
        if g.needs(1) {
            let dw = g.apply(Conv2dBackwardWeight { conv: self.clone() }, &[x, dy])?;
            g.accumulate(1, dw)?;
        }
        if g.needs(2) {
            let db = g.apply(SumRows, &[dy])?;
            g.accumulate(2, db)?;
        }
        Ok(())
    }
}

/// dx = Σ dy w over the products in which x takes part, from (dy, w).
#[derive(Debug, Clone)]
pub struct Conv2dBackwardInput {
    /// The convolution.
    pub conv: Conv2d,
    /// Height of x, which a stride of 2 leaves open.
    pub height: usize,
    /// Width of x.
    pub width: usize,
}

impl Conv2dBackwardInput {
    fn input_shape(&self, dy: &Shape, w: &Shape) -> Shape {
        Shape::new([dy[0], self.height, self.width, w[2]])
    }
}

impl Op for Conv2dBackwardInput {
    fn name(&self) -> &'static str {
        "conv2d_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const OP: &str = "conv2d_backward_input";
        expect_f32(OP, x, 2)?;
        let (dy, w) = (&x[0].shape, &x[1].shape);
        ensure_shape!(OP, dy.rank() == 4, "dy must be (batch, height, width, channels), found {dy}");
        ensure_shape!(
            OP,
            w.rank() == 4 && w[0] == self.conv.kernel && w[1] == self.conv.kernel && w[3] == dy[3],
            "w must be ({k}, {k}, input channels, {}), found {w}",
            dy[3],
            k = self.conv.kernel
        );
        self.conv.check(OP, self.height, self.width)?;
        let dx = self.input_shape(dy, w);
        let y = self.conv.output_shape(&dx, w[3]);
        ensure_shape!(OP, *dy == y, "an input of shape {dx} gives an output of {y}, but dy is {dy}");
        Ok(vec![Spec::f32(dx.axes())])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (dy, w) = (&x[0], &x[1]);
        let mut dx = Array::zeros(&self.input_shape(&dy.shape, &w.shape));
        let e = Extent::new(&dx.shape, &dy.shape);
        self.conv.for_each_product(&e, |i, j, k| dx.data[i] += dy.data[k] * w.data[j]);
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        self.conv.matrix_cost(&Extent::new(&y[0].shape, &x[0].shape), x, y)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let e = Extent::new(&y[0].shape, &x[0].shape);
            if caps.kernels == Kernels::Workgroup {
                return conv2d_tiled::backward_input(&self.conv, &e);
            }
            let (dispatch, _) = self.conv.in_registers(Pass::BackwardInput, &e);
            dispatch
                .bind("dy", Operand::Input(0))
                .bind("w", Operand::Input(1))
                .bind("dx", Operand::Output(0))
                .into()
        })
    }
}

/// dw = Σ x dy over the products in which w takes part, from (x, dy). The bias's gradient is [`SumRows`] of dy.
#[derive(Debug, Clone)]
pub struct Conv2dBackwardWeight {
    /// The convolution.
    pub conv: Conv2d,
}

impl Op for Conv2dBackwardWeight {
    fn name(&self) -> &'static str {
        "conv2d_backward_weight"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const OP: &str = "conv2d_backward_weight";
        expect_f32(OP, x, 2)?;
        let (x, dy) = (&x[0].shape, &x[1].shape);
        ensure_shape!(
            OP,
            x.rank() == 4 && dy.rank() == 4,
            "x and dy must be (batch, height, width, channels), found {x} and {dy}"
        );
        self.conv.check(OP, x[1], x[2])?;
        let y = self.conv.output_shape(x, dy[3]);
        ensure_shape!(OP, *dy == y, "an input of shape {x} gives an output of {y}, but dy is {dy}");
        let k = self.conv.kernel;
        Ok(vec![Spec::f32([k, k, x[3], dy[3]])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (x, dy) = (&x[0], &x[1]);
        let (k, e) = (self.conv.kernel, Extent::new(&x.shape, &dy.shape));
        let mut dw = Array::zeros(&Shape::new([k, k, e.in_channels, e.out_channels]));
        self.conv.for_each_product(&e, |i, j, k| dw.data[j] += x.data[i] * dy.data[k]);
        vec![dw]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        self.conv.matrix_cost(&Extent::new(&x[0].shape, &x[1].shape), x, y)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let e = Extent::new(&x[0].shape, &x[1].shape);
            if caps.kernels == Kernels::Workgroup {
                return conv2d_tiled::backward_weight(&self.conv, &e);
            }
            let (dispatch, splits) = self.conv.in_registers(Pass::BackwardWeight, &e);
            let dispatch = dispatch.bind("x", Operand::Input(0)).bind("dy", Operand::Input(1));
            if splits == 1 {
                return dispatch.bind("dw", Operand::Output(0)).into();
            }
            let elements = self.conv.weight_elements(&e);
            Program {
                scratch: vec![Spec::f32([splits * elements])],
                dispatches: vec![
                    dispatch.bind("dw", Operand::Scratch(0)),
                    add_splits(Operand::Scratch(0), Operand::Output(0), splits, elements),
                ],
            }
        })
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    use Padding::{BottomRight, Symmetric};
    // kernel, stride, padding; batch, height, width, input and output channels
    let convolutions = [
        (1, 1, Symmetric(0), [1, 1, 1, 1, 1]),
        (1, 1, Symmetric(0), [2, 5, 7, 5, 12]),
        (1, 1, Symmetric(0), [3, 9, 11, 32, 8]),
        (1, 2, Symmetric(0), [2, 7, 5, 4, 3]),
        (3, 1, Symmetric(1), [1, 1, 1, 4, 4]),
        (3, 1, Symmetric(1), [2, 5, 7, 3, 4]),
        (3, 1, Symmetric(1), [1, 41, 3, 8, 12]),
        (3, 1, Symmetric(1), [3, 3, 9, 1, 8]),
        (3, 1, Symmetric(1), [1, 9, 18, 32, 1]),
        (3, 1, Symmetric(1), [2, 8, 16, 12, 32]),
        (3, 1, Symmetric(0), [2, 5, 7, 5, 5]),
        (3, 1, Symmetric(2), [1, 4, 6, 4, 8]),
        (3, 1, BottomRight, [1, 6, 5, 3, 4]),
        (3, 2, Symmetric(1), [1, 1, 1, 5, 3]),
        (3, 2, Symmetric(1), [2, 5, 7, 4, 8]),
        (3, 2, Symmetric(1), [1, 16, 20, 12, 12]),
        (3, 2, Symmetric(1), [1, 3, 41, 8, 1]),
        (3, 2, BottomRight, [2, 7, 5, 8, 4]),
        (3, 2, BottomRight, [1, 10, 18, 4, 32]),
        (3, 2, BottomRight, [2, 2, 3, 1, 5]),
        (5, 1, Symmetric(2), [1, 6, 5, 4, 4]),
        (5, 2, Symmetric(2), [1, 7, 9, 3, 8]),
        // Past SMALL_FLOPS, so with the large tiles, whole and cut.
        (1, 1, Symmetric(0), [2, 19, 23, 52, 68]),
        (3, 1, Symmetric(1), [1, 13, 21, 32, 36]),
        (3, 1, Symmetric(1), [3, 5, 7, 36, 68]),
        (3, 1, Symmetric(1), [2, 17, 41, 13, 18]),
        (3, 2, Symmetric(1), [1, 33, 29, 36, 32]),
        (3, 2, BottomRight, [2, 26, 22, 20, 60]),
    ];
    let mut cases = Vec::new();
    for (kernel, stride, padding, [batch, height, width, input, output]) in convolutions {
        let conv = Conv2d { kernel, stride, padding };
        let name = format!(
            "{kernel}x{kernel} stride {stride}, {padding:?}, {batch}x{height}x{width}, {input} to {output}"
        );
        let x = Spec::f32([batch, height, width, input]);
        let w = Spec::f32([kernel, kernel, input, output]);
        let y = Spec::f32(conv.output_shape(&x.shape, output).axes());
        let backward_input = Conv2dBackwardInput { conv: conv.clone(), height, width };
        let backward_weight = Conv2dBackwardWeight { conv: conv.clone() };
        cases.push(Case::new(&name, conv, &[x.clone(), w.clone(), Spec::f32([output])]));
        cases.push(Case::new(&name, backward_input, &[y.clone(), w]).no_gradient());
        cases.push(Case::new(&name, backward_weight, &[x, y]).no_gradient());
    }

    // One invocation per picture, or per weight: past the limit of one dimension.
    const MANY: usize = 65_536 * INVOCATIONS + 1;
    let conv = Conv2d { kernel: 1, stride: 1, padding: Symmetric(0) };
    let (pictures, one) = (Spec::f32([MANY, 1, 1, 1]), Spec::f32([1, 1, 1, 1]));
    let backward_input = Conv2dBackwardInput { conv: conv.clone(), height: 1, width: 1 };
    let backward_weight = Conv2dBackwardWeight { conv: conv.clone() };
    let name = "past 65535 workgroups";
    cases.push(Case::new(name, conv, &[pictures.clone(), one.clone(), Spec::f32([1])]).large());
    cases.push(Case::new(name, backward_input, &[pictures, one.clone()]).no_gradient().large());
    let many_weights = [Spec::f32([1, 1, 1, MANY]), one];
    cases.push(Case::new(name, backward_weight, &many_weights).no_gradient().large());
    cases
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
