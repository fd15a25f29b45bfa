//! The linear layer and its gradients: register tiles (`shaders/matmul.wgsl`) for CPU drivers, tiles staged in
//! workgroup memory (`shaders/matmul_tiled.wgsl`) for GPUs.

use super::addend::Addend;
use super::gemm::{Gemm, Splits, weight_results, with_bias_gradient};
use super::{Case, SumRows, expect_activations, expect_float, stored};
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, Program, ShapeError,
};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, DType, Shape, Spec};
use std::sync::Arc;

static REGISTERS: Source = crate::wgsl!("matmul");
static TILED: Source = crate::wgsl!("matmul_tiled");

/// Invocations of one workgroup of `matmul.wgsl`: one subgroup of lavapipe. Larger workgroups are loops over
/// subgroups there and cost a third of the speed (1024 x 256 x 256: 17 GFLOP/s with 8, 11 with 16 and 64).
const INVOCATIONS: usize = 8;

/// Invocations that a product should be divided into: eight workgroups of eight.
const BUSY_INVOCATIONS: usize = 64;

/// Rows m, inputs K and outputs N of y (m, N) = x (m, K) w (K, N).
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Sizes {
    fn of(rows: &Shape, weight: &Shape) -> Self {
        Self { rows: rows.rows(), inputs: weight[0], outputs: weight[1] }
    }

    /// Every product of the three passes has as many terms: 2 m K N operations.
    fn flops(self) -> u64 {
        2 * (self.rows * self.inputs) as u64 * self.outputs as u64
    }

    /// Elements per load along K and along N.
    fn widths(self) -> (usize, usize) {
        let width = |n: usize| if n.is_multiple_of(4) { 4 } else { 1 };
        (width(self.inputs), width(self.outputs))
    }

    /// A launch of `matmul.wgsl` with tiles of `tile_rows` by `tile_columns`, `invocations` of them, on operands of this
    /// type.
    fn registers(
        self,
        entry: &'static str,
        dtype: DType,
        (tile_rows, tile_columns): (usize, usize),
        invocations: usize,
    ) -> Dispatch {
        let (input_width, output_width) = self.widths();
        let mut variant = stored(Variant::base(), dtype)
            .with("ROWS", format!("{tile_rows}u"))
            .with("COLUMNS", format!("{tile_columns}u"))
            .with("INVOCATIONS", format!("{INVOCATIONS}u"));
        if input_width == 1 {
            variant = variant.link("lib/in4", "lib/in1");
        }
        if output_width == 1 {
            variant = variant.link("lib/out4", "lib/out1");
        }
        Dispatch::new(&REGISTERS, entry)
            .variant(variant)
            .param("rows", self.rows)
            .param("inputs", self.inputs / input_width)
            .param("outputs", self.outputs / output_width)
            .linear(invocations, INVOCATIONS)
    }

    /// The largest number of rows per invocation, of 8, 4, 2 and 1, that leaves enough invocations: eight
    /// rows share each load of a weight, but sixteen rows of a time embedding would make two of them.
    fn tile_rows(self, column_tiles: usize) -> usize {
        [8, 4, 2].into_iter().find(|r| self.rows.div_ceil(*r) * column_tiles >= BUSY_INVOCATIONS).unwrap_or(1)
    }

    /// A launch of `matmul_tiled.wgsl`; `types` are those of the factors and of the result.
    fn tiled(
        self,
        gemm: Gemm,
        types: [DType; 2],
        a_strides: (usize, usize),
        b_strides: (usize, usize),
        splits: Splits,
    ) -> Dispatch {
        gemm.dispatch(&TILED, "product", Variant::base(), types, splits)
            .param("a_row", a_strides.0)
            .param("a_column", a_strides.1)
            .param("b_row", b_strides.0)
            .param("b_column", b_strides.1)
    }
}

/// Vectors per invocation: at most eight numbers, in shares as equal as they can be.
fn vectors_per_tile(vectors: usize, width: usize) -> usize {
    let tiles = vectors.div_ceil(8 / width);
    vectors.div_ceil(tiles.max(1))
}

/// `y[m,n] = b[n] + Σ_k x[m,k] w[k,n]`. Inputs x (…, K), w (K, N), b (N), and perhaps as many rows of N as y has, which are
/// added to it; output (…, N).
///
/// x and w are f32 or f16, and y and what is added with them; b is f32.
#[derive(Debug, Clone)]
pub struct Linear;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let dtype = expect_activations("linear", x, x.len().clamp(3, 4), &[2])?;
        let (input, weight, bias) = (&x[0].shape, &x[1].shape, &x[2].shape);
        ensure_shape!("linear", input.rank() >= 1, "x must have at least one axis");
        ensure_shape!("linear", weight.rank() == 2, "w must be (K, N), found {weight}");
        ensure_shape!("linear", input.last() == weight[0], "x is {input}, but w is {weight}");
        ensure_shape!("linear", bias.axes() == [weight[1]], "b must be ({}), found {bias}", weight[1]);
        let y = with_last(input, weight[1]);
        Addend::check("linear", x, 3, &y, &[Addend::Same])?;
        Ok(vec![Spec::new(y, dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Sizes { rows, inputs, outputs } = Sizes::of(&x[0].shape, &x[1].shape);
        let mut y = Array::zeros(&Shape::new(with_last(&x[0].shape, outputs)));
        for m in 0..rows {
            let y = &mut y.data[m * outputs..][..outputs];
            y.copy_from_slice(&x[2].data);
            for k in 0..inputs {
                let w = &x[1].data[k * outputs..][..outputs];
                let x = x[0].data[m * inputs + k];
                y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
            }
        }
        Addend::add(x, 3, &mut y);
        vec![y]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let additions = y[0].shape.elements() as u64 + Addend::flops(x, 3, &y[0]);
        Cost { other_flops: additions, ..Cost::matrix(x, y, Sizes::of(&x[0].shape, &x[1].shape).flops()) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let sizes @ Sizes { rows, inputs, outputs } = Sizes::of(&x[0].shape, &x[1].shape);
            let dispatch = match caps.kernels {
                Kernels::Registers => {
                    let width = sizes.widths().1;
                    let columns = vectors_per_tile(outputs / width, width);
                    let column_tiles = (outputs / width).div_ceil(columns);
                    let tile_rows = sizes.tile_rows(column_tiles);
                    let invocations = rows.div_ceil(tile_rows) * column_tiles;
                    sizes
                        .registers("forward", x[0].dtype, (tile_rows, columns), invocations)
                        .bind("x", Operand::Input(0))
                        .bind("w", Operand::Input(1))
                        .bind("b", Operand::Input(2))
                        .bind("y", Operand::Output(0))
                }
                Kernels::Workgroup => {
                    let gemm = Gemm {
                        rows,
                        columns: outputs,
                        depth: inputs,
                        a_along_depth: true,
                        b_along_columns: true,
                    };
                    sizes
                        .tiled(gemm, [x[0].dtype; 2], (inputs, 1), (outputs, 1), Splits::none(inputs))
                        .bind("a", Operand::Input(0))
                        .bind("b", Operand::Input(1))
                        .bind("bias", Operand::Input(2))
                        .bind("c", Operand::Output(0))
                }
            };
            Addend::bind(dispatch, "added", x, 3, &y[0]).into()
        })
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 3
            && *addend == y.with_shape(addend.shape.axes())
            && Addend::of(&addend.shape, &y.shape) == Some(Addend::Same)
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (x, w, dy) = (g.input(0), g.input(1), g.gradient(0));
        if g.needs(0) {
            let dx = g.apply(MatmulBackwardInput, &[dy, w])?;
            g.accumulate(0, dx)?;
        }
        if g.needs(1) {
            let dw = g.apply(MatmulBackwardWeight { bias: false }, &[x, dy])?;
            g.accumulate(1, dw)?;
        }
        if g.needs(2) {
            let db = g.apply(SumRows, &[dy])?;
            g.accumulate(2, db)?;
        }
        Addend::backward(g, 3)
    }
}

/// The axes of a shape with another innermost one.
fn with_last(shape: &Shape, last: usize) -> Vec<usize> {
    let mut axes = shape.axes().to_vec();
    if let Some(axis) = axes.last_mut() {
        *axis = last;
    }
    axes
}

/// `dx[m,k] = Σ_n dy[m,n] w[k,n]`. Inputs dy (…, N), w (K, N), and perhaps as many rows of K as dx has, which are added to it;
/// output (…, K), of their type.
#[derive(Debug, Clone)]
pub struct MatmulBackwardInput;

impl Op for MatmulBackwardInput {
    fn name(&self) -> &'static str {
        "linear_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const NAME: &str = "linear_backward_input";
        let dtype = expect_float(NAME, x, x.len().clamp(2, 3))?;
        let (gradient, weight) = (&x[0].shape, &x[1].shape);
        ensure_shape!(NAME, gradient.rank() >= 1, "dy must have at least one axis");
        ensure_shape!(NAME, weight.rank() == 2, "w must be (K, N), found {weight}");
        ensure_shape!(NAME, gradient.last() == weight[1], "dy is {gradient}, but w is {weight}");
        let dx = with_last(gradient, weight[0]);
        Addend::check(NAME, x, 2, &dx, &[Addend::Same])?;
        Ok(vec![Spec::new(dx, dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Sizes { rows, inputs, outputs } = Sizes::of(&x[0].shape, &x[1].shape);
        let (dy, w) = (&x[0], &x[1]);
        let mut dx = Array::zeros(&Shape::new(with_last(&dy.shape, inputs)));
        for m in 0..rows {
            for k in 0..inputs {
                for n in 0..outputs {
                    dx.data[m * inputs + k] += dy.data[m * outputs + n] * w.data[k * outputs + n];
                }
            }
        }
        Addend::add(x, 2, &mut dx);
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let additions = Addend::flops(x, 2, &y[0]);
        Cost { other_flops: additions, ..Cost::matrix(x, y, Sizes::of(&x[0].shape, &x[1].shape).flops()) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let sizes @ Sizes { rows, inputs, outputs } = Sizes::of(&x[0].shape, &x[1].shape);
            match caps.kernels {
                Kernels::Registers => {
                    let columns = vectors_per_tile(inputs, 1);
                    let column_tiles = inputs.div_ceil(columns);
                    let tile_rows = sizes.tile_rows(column_tiles);
                    let invocations = rows.div_ceil(tile_rows) * column_tiles;
                    let dispatch = sizes
                        .registers("backward_input", x[0].dtype, (tile_rows, columns), invocations)
                        .bind("dy", Operand::Input(0))
                        .bind("w", Operand::Input(1))
                        .bind("dx", Operand::Output(0));
                    Addend::bind(dispatch, "added_elements", x, 2, &y[0])
                }
                Kernels::Workgroup => {
                    let gemm = Gemm {
                        rows,
                        columns: inputs,
                        depth: outputs,
                        a_along_depth: true,
                        b_along_columns: false,
                    };
                    let splits = Splits::none(outputs);
                    let mut dispatch = sizes.tiled(gemm, [x[0].dtype; 2], (outputs, 1), (1, outputs), splits);
                    dispatch.variant = dispatch.variant.link("lib/bias", "lib/no_bias");
                    let dispatch = dispatch
                        .bind("a", Operand::Input(0))
                        .bind("b", Operand::Input(1))
                        .bind("c", Operand::Output(0));
                    Addend::bind(dispatch, "added", x, 2, &y[0])
                }
            }
            .into()
        })
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 2
            && *addend == y.with_shape(addend.shape.axes())
            && Addend::of(&addend.shape, &y.shape) == Some(Addend::Same)
    }
}

/// `dw[k,n] = Σ_m x[m,k] dy[m,n]`, and perhaps `db[n] = Σ_m dy[m,n]`. Inputs x (…, K), dy (…, N), f32 or f16; outputs (K, N), and
/// (N), in f32.
///
/// The sum runs over all rows, so it is split among workgroups, and a second launch adds the splits.
#[derive(Debug, Clone)]
pub struct MatmulBackwardWeight {
    /// Whether db is given too.
    pub bias: bool,
}

impl Op for MatmulBackwardWeight {
    fn name(&self) -> &'static str {
        "linear_backward_weight"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const NAME: &str = "linear_backward_weight";
        expect_float(NAME, x, 2)?;
        let (input, gradient) = (&x[0].shape, &x[1].shape);
        ensure_shape!(NAME, input.rank() >= 1, "x must have at least one axis");
        let same = gradient.axes() == with_last(input, gradient.last());
        ensure_shape!(NAME, same, "x is {input}, but dy is {gradient}");
        let mut outputs = vec![Spec::f32([input.last(), gradient.last()])];
        outputs.extend(self.bias.then(|| Spec::f32([gradient.last()])));
        Ok(outputs)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (x, dy) = (&x[0], &x[1]);
        let (rows, inputs, outputs) = (x.shape.rows(), x.shape.last(), dy.shape.last());
        let mut dw = Array::zeros(&Shape::new([inputs, outputs]));
        for m in 0..rows {
            for k in 0..inputs {
                for n in 0..outputs {
                    dw.data[k * outputs + n] += x.data[m * inputs + k] * dy.data[m * outputs + n];
                }
            }
        }
        let mut gradients = vec![dw];
        if self.bias {
            gradients.extend(SumRows.reference(std::slice::from_ref(dy)));
        }
        gradients
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let sums = if self.bias { x[1].shape.elements() as u64 } else { 0 };
        Cost { other_flops: sums, ..Cost::matrix(x, y, Sizes::of(&x[0].shape, &y[0].shape).flops()) }
    }

    fn with_row_sums(&self) -> Option<Arc<dyn Op>> {
        (!self.bias).then(|| Arc::new(Self { bias: true }) as _)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let sizes @ Sizes { rows, inputs, outputs } = Sizes::of(&x[0].shape, &y[0].shape);
            let results = weight_results(inputs * outputs, self.bias, outputs);
            match caps.kernels {
                Kernels::Registers => {
                    let (input_width, output_width) = sizes.widths();
                    let (inputs, outputs) = (inputs / input_width, outputs / output_width);
                    let tile_rows = vectors_per_tile(inputs, input_width);
                    let columns = vectors_per_tile(outputs, output_width);
                    let tiles = inputs.div_ceil(tile_rows) * outputs.div_ceil(columns);
                    // 32 rows: the tile is then 32 times as much work to compute as to write and add.
                    let splits = Splits::new(rows, results[0], tiles, 2 * BUSY_INVOCATIONS, 32);
                    splits.program(&results, |to| {
                        let dispatch = sizes
                            .registers(
                                "backward_weight",
                                x[0].dtype,
                                (tile_rows, columns),
                                tiles * splits.count,
                            )
                            .param("splits", splits.count)
                            .param("split_rows", splits.depth)
                            .bind("x", Operand::Input(0))
                            .bind("dy", Operand::Input(1))
                            .bind("dw", to[0]);
                        with_bias_gradient(dispatch, self.bias, to)
                    })
                }
                Kernels::Workgroup => {
                    let gemm = Gemm {
                        rows: inputs,
                        columns: outputs,
                        depth: rows,
                        a_along_depth: false,
                        b_along_columns: true,
                    };
                    let splits = gemm.splits();
                    splits.program(&results, |to| {
                        let types = [x[0].dtype, DType::F32];
                        let mut dispatch = sizes.tiled(gemm, types, (1, inputs), (outputs, 1), splits);
                        dispatch.variant = dispatch.variant.link("lib/bias", "lib/no_bias");
                        let dispatch = dispatch
                            .bind("a", Operand::Input(0))
                            .bind("b", Operand::Input(1))
                            .bind("c", to[0]);
                        with_bias_gradient(dispatch, self.bias, to)
                    })
                }
            }
        })
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |rows: &[usize], inputs: usize, outputs: usize, large: bool| {
        let tensor = |last: usize| Spec::f32([rows, &[last]].concat());
        let (x, dy) = (tensor(inputs), tensor(outputs));
        let (w, b) = (Spec::f32([inputs, outputs]), Spec::f32([outputs]));
        let name = format!("{rows:?} rows, {inputs} to {outputs}");
        let (x, w, b, dy) = (&x, &w, &b, &dy);
        let of = |op: &str| format!("{name}, {op} added");
        let weight = |name: &str, bias: bool| {
            Case::new(name, MatmulBackwardWeight { bias }, &[x, dy].map(Spec::clone)).no_gradient()
        };
        let mut all = vec![
            (Case::new(&name, Linear, &[x, w, b].map(Spec::clone)), vec![0, 1]),
            (Case::new(&name, MatmulBackwardInput, &[dy, w].map(Spec::clone)).no_gradient(), vec![0, 1]),
            (weight(&name, false), vec![0, 1]),
        ];
        if x.shape.rows() <= 1000 {
            all.extend([
                (Case::new(of("rows"), Linear, &[x, w, b, dy].map(Spec::clone)), vec![0, 1, 3]),
                (
                    Case::new(of("rows"), MatmulBackwardInput, &[dy, w, x].map(Spec::clone)).no_gradient(),
                    vec![0, 1, 2],
                ),
                (weight(&format!("{name}, with the bias"), true), vec![0, 1]),
            ]);
        }
        let all = all.into_iter().map(|(c, half)| (if large { c.large() } else { c }, half));
        cases.extend(all.flat_map(|(c, half)| c.and_in_f16(&half)));
    };
    // Both, one and none of the channel counts divisible by four; tiles that hang over every edge.
    case(&[1], 1, 1, false);
    case(&[5], 7, 3, false);
    case(&[3, 5], 8, 6, false);
    case(&[41], 9, 20, false);
    case(&[2, 3, 3], 12, 16, false);
    case(&[16], 128, 128, false);
    case(&[47], 67, 130, false);
    case(&[], 12, 5, false);
    // Splits of the weight gradient, the last of them short.
    case(&[1000], 20, 12, true);
    case(&[2, 1537], 6, 9, true);
    // Enough tiles of 128 x 64 and of 128 x 128 for the large tiles.
    case(&[32_769], 4, 33, true);
    case(&[16_500], 5, 180, true);
    cases
}
