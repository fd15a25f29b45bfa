//! Convolutions as implicit products of matrices in tiles staged in workgroup memory
//! (`shaders/conv2d_tiled.wgsl`): the launches for GPUs.

use super::gemm::{Gemm, Splits};
use crate::graph::{Dispatch, Operand, Program};
use crate::shader::{Source, Variant};

static SHADER: Source = crate::wgsl!("conv2d_tiled");

/// The sizes of a convolution of x (batch, height, width, in) with w (kernel, kernel, in, out).
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Zeros above and left of the picture; those below and right follow from the other sizes.
    pub pad: usize,
}

impl Geometry {
    fn launch(&self, pass: u32, gemm: Gemm, splits: Splits) -> Dispatch {
        let mut variant = Variant::base().with("PASS", format!("{pass}u"));
        if pass != 0 {
            variant = variant.link("lib/bias", "lib/no_bias");
        }
        gemm.dispatch(&SHADER, "convolution", variant, splits)
            .param("height", self.height)
            .param("width", self.width)
            .param("out_height", self.out_height)
            .param("out_width", self.out_width)
            .param("in_channels", self.in_channels)
            .param("out_channels", self.out_channels)
            .param("kernel", self.kernel)
            .param("stride", self.stride)
            .param("pad_top", self.pad)
            .param("pad_left", self.pad)
    }
}

/// y from x = input 0, w = input 1, b = input 2.
pub(super) fn forward(g: &Geometry) -> Program {
    let gemm = Gemm {
        rows: g.batch * g.out_height * g.out_width,
        columns: g.out_channels,
        depth: g.kernel * g.kernel * g.in_channels,
        a_along_depth: true,
        b_along_columns: true,
    };
    g.launch(0, gemm, Splits::none(gemm.depth))
        .bind("a", Operand::Input(0))
        .bind("b", Operand::Input(1))
        .bind("bias", Operand::Input(2))
        .bind("c", Operand::Output(0))
        .into()
}

/// dx from dy = input 0, w = input 1.
pub(super) fn backward_input(g: &Geometry) -> Program {
    let gemm = Gemm {
        rows: g.batch * g.height * g.width,
        columns: g.in_channels,
        depth: g.kernel * g.kernel * g.out_channels,
        a_along_depth: true,
        b_along_columns: false,
    };
    g.launch(1, gemm, Splits::none(gemm.depth))
        .bind("a", Operand::Input(0))
        .bind("b", Operand::Input(1))
        .bind("c", Operand::Output(0))
        .into()
}

/// dw from x = input 0, dy = input 1. The sum over pixels is split, and a second launch adds the splits.
pub(super) fn backward_weight(g: &Geometry) -> Program {
    let gemm = Gemm {
        rows: g.kernel * g.kernel * g.in_channels,
        columns: g.out_channels,
        depth: g.batch * g.out_height * g.out_width,
        a_along_depth: false,
        b_along_columns: true,
    };
    let splits = gemm.splits();
    splits.program(gemm.rows * gemm.columns, |dw| {
        g.launch(2, gemm, splits).bind("a", Operand::Input(0)).bind("b", Operand::Input(1)).bind("c", dw)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;
    use crate::gpu::{Choice, Device, Store};
    use crate::graph::{Caps, Cost, Kernels, Op, ShapeError};
    use crate::ops::Case;
    use crate::tensor::{Array, Shape, Spec};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Pass {
        Forward,
        BackwardInput,
        BackwardWeight,
    }

    /// One pass of a convolution, by the plainest loop over all products.
    #[derive(Clone, Debug)]
    struct Convolution(Pass, Geometry);

    impl Convolution {
        fn specs(&self) -> [Spec; 3] {
            let g = self.1;
            [
                Spec::f32([g.batch, g.height, g.width, g.in_channels]),
                Spec::f32([g.kernel, g.kernel, g.in_channels, g.out_channels]),
                Spec::f32([g.batch, g.out_height, g.out_width, g.out_channels]),
            ]
        }

        fn case(self) -> Case {
            let [x, w, y] = self.specs();
            let inputs = match self.0 {
                Pass::Forward => vec![x, w, Spec::f32([self.1.out_channels])],
                Pass::BackwardInput => vec![y, w],
                Pass::BackwardWeight => vec![x, y],
            };
            Case::new(format!("{:?}", self.1), self, &inputs)
        }
    }

    impl Op for Convolution {
        fn name(&self) -> &'static str {
            match self.0 {
                Pass::Forward => "conv2d",
                Pass::BackwardInput => "conv2d_backward_input",
                Pass::BackwardWeight => "conv2d_backward_weight",
            }
        }

        fn infer(&self, _x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
            let [x, w, y] = self.specs();
            Ok(vec![match self.0 {
                Pass::Forward => y,
                Pass::BackwardInput => x,
                Pass::BackwardWeight => w,
            }])
        }

        fn reference(&self, x: &[Array]) -> Vec<Array> {
            let g = self.1;
            let [x_spec, w_spec, y_spec] = self.specs();
            let at = |shape: &Shape, i: [usize; 4]| {
                i.iter().zip(shape.axes()).fold(0, |index, (i, extent)| index * extent + i)
            };
            let out = self.infer(&[]).unwrap()[0].shape.clone();
            let mut out = match self.0 {
                Pass::Forward => Array::from_fn(&out, |i| x[2].data[i % g.out_channels]),
                _ => Array::zeros(&out),
            };
            for n in 0..g.batch {
                for (oy, ox) in (0..g.out_height).flat_map(|y| (0..g.out_width).map(move |x| (y, x))) {
                    for (ky, kx) in (0..g.kernel).flat_map(|y| (0..g.kernel).map(move |x| (y, x))) {
                        let (iy, ix) = (oy * g.stride + ky, ox * g.stride + kx);
                        let inside = |i: usize, extent: usize| i >= g.pad && i - g.pad < extent;
                        if !inside(iy, g.height) || !inside(ix, g.width) {
                            continue;
                        }
                        for (ci, co) in
                            (0..g.in_channels).flat_map(|i| (0..g.out_channels).map(move |o| (i, o)))
                        {
                            let i = at(&x_spec.shape, [n, iy - g.pad, ix - g.pad, ci]);
                            let k = at(&w_spec.shape, [ky, kx, ci, co]);
                            let o = at(&y_spec.shape, [n, oy, ox, co]);
                            match self.0 {
                                Pass::Forward => out.data[o] += x[0].data[i] * x[1].data[k],
                                Pass::BackwardInput => out.data[i] += x[0].data[o] * x[1].data[k],
                                Pass::BackwardWeight => out.data[k] += x[0].data[i] * x[1].data[o],
                            }
                        }
                    }
                }
            }
            vec![out]
        }

        fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
            Cost::of_traffic(x, y)
        }

        fn dispatch(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Program {
            match self.0 {
                Pass::Forward => forward(&self.1),
                Pass::BackwardInput => backward_input(&self.1),
                Pass::BackwardWeight => backward_weight(&self.1),
            }
        }
    }

    /// (batch, height, width), (in, out), kernel, stride, pad, and whether one more row and column of zeros
    /// lies below and right of the picture than above and left.
    fn geometry(
        (batch, height, width): (usize, usize, usize),
        (in_channels, out_channels): (usize, usize),
        (kernel, stride, pad, more): (usize, usize, usize, usize),
    ) -> Geometry {
        let out = |extent: usize| (extent + 2 * pad + more - kernel) / stride + 1;
        let (out_height, out_width) = (out(height), out(width));
        Geometry {
            batch,
            height,
            width,
            out_height,
            out_width,
            in_channels,
            out_channels,
            kernel,
            stride,
            pad,
        }
    }

    #[test]
    fn tiles_agree_with_plain_loops() {
        let device = match Device::open(&Choice::default()) {
            Ok(device) => device,
            Err(e) => {
                assert!(std::env::var_os("INKWASH_REQUIRE_DEVICE").is_none(), "a device is required: {e}");
                eprintln!("SKIPPED, no device: {e}");
                return;
            }
        };
        let caps = Caps { kernels: Kernels::Workgroup, ..device.caps.clone() };
        let geometries = [
            geometry((1, 1, 1), (1, 1), (1, 1, 0, 0)),
            geometry((2, 1, 1), (4, 3), (3, 1, 1, 0)),
            geometry((1, 5, 7), (3, 5), (3, 1, 1, 0)),
            geometry((2, 8, 8), (8, 16), (3, 1, 1, 0)),
            geometry((2, 7, 6), (5, 4), (3, 2, 1, 0)),
            // Zeros below and right only, even and odd sizes.
            geometry((2, 8, 8), (4, 8), (3, 2, 0, 1)),
            geometry((1, 7, 5), (6, 7), (3, 2, 0, 1)),
            // No padding at all, and a kernel whose taps skip pixels.
            geometry((1, 9, 6), (4, 4), (3, 1, 0, 0)),
            geometry((1, 11, 8), (2, 3), (2, 3, 0, 0)),
            geometry((1, 47, 41), (9, 12), (5, 1, 2, 0)),
            geometry((3, 6, 5), (70, 66), (1, 1, 0, 0)),
            // Enough rows for the large tiles, and many splits of the weight gradient.
            geometry((8, 64, 64), (3, 5), (3, 1, 1, 0)),
        ];
        for geometry in geometries {
            for pass in [Pass::Forward, Pass::BackwardInput, Pass::BackwardWeight] {
                let case = Convolution(pass, geometry).case();
                let outcome = check::on_device(&case, &Store::new(&device), &caps).unwrap();
                assert!(outcome.passed(), "{}: {outcome:?}", case.title());
            }
        }
    }
}
