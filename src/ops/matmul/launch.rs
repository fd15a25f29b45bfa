//! The launches of `shaders/matmul.wgsl` (register tiles, for CPU drivers), and for GPUs those of tiles in workgroup memory:
//! `shaders/matmul_vectors.wgsl` where they can be staged four numbers at a time, else `shaders/matmul_tiled.wgsl`.

use crate::graph::{Caps, Dispatch, Kernels, Operand, Program};
use crate::ops::gemm::{Gemm, Splits, Tiling, weight_results, with_bias_gradient};
use crate::ops::gemm_matrix::MatrixTile;
use crate::ops::stored;
use crate::shader::{Source, Variant};
use crate::tensor::{DType, Shape};

static REGISTERS: Source = crate::wgsl!("matmul");
static ELEMENTS: Source = crate::wgsl!("matmul_tiled");
static VECTORS: Source = crate::wgsl!("matmul_vectors");

/// Invocations of one workgroup of `matmul.wgsl`: one subgroup of lavapipe. Larger workgroups are loops over
/// subgroups there and cost a third of the speed (1024 x 256 x 256: 17 GFLOP/s with 8, 11 with 16 and 64).
const INVOCATIONS: usize = 8;

/// Invocations that a product should be divided into: eight workgroups of eight.
const BUSY_INVOCATIONS: usize = 64;

/// Rows m, inputs K and outputs N of y (m, N) = x (m, K) w (K, N), for each of some layers that share x.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub layers: usize,
}

/// Where the gradient of the bias goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BiasGradient {
    /// Nowhere.
    None,
    /// To the second output.
    Beside,
    /// Behind that of each layer's weight.
    Behind,
}

impl BiasGradient {
    /// Has a gradient of weights that is written to these operands give that of the bias too.
    pub(super) fn into_results(self, mut dispatch: Dispatch, to: &[Operand]) -> Dispatch {
        if self == Self::Behind {
            dispatch.variant = dispatch.variant.link("lib/no_bias_gradient", "lib/bias_behind_weight");
        }
        with_bias_gradient(dispatch, self == Self::Beside, to)
    }
}

/// A pass as a product c = a b of matrices that are reached by strides (`shaders/lib/linear_params.wgsl`).
pub(super) struct Product {
    /// Its sizes.
    pub gemm: Gemm,
    /// Elements from row to row and from column to column of a and of b, and from row to row of c.
    strides: [usize; 5],
    /// Elements from layer to layer in a, b and c.
    layers: [usize; 3],
    /// What goes through several layers.
    layered: Option<&'static str>,
    /// Outputs of a layer.
    outputs: usize,
}

impl Product {
    /// A launch of `matmul_vectors.wgsl` or `matmul_tiled.wgsl`; `types` are those of the factors and of the result.
    fn tiled(&self, types: [DType; 2], (tiling, c_split): (Tiling, usize), bias_start: usize) -> Dispatch {
        let shader = if self.gemm.in_vectors() { &VECTORS } else { &ELEMENTS };
        let dispatch = self.gemm.dispatch(shader, "product", Variant::base(), types, tiling);
        self.with_strides(dispatch, c_split, bias_start)
    }

    /// The launch of a product of these sizes, with its strides: c has `c_split` elements of a split, and the first bias is the
    /// element `bias_start`.
    pub fn with_strides(&self, mut dispatch: Dispatch, c_split: usize, bias_start: usize) -> Dispatch {
        if let Some(axis) = self.layered {
            dispatch.variant = dispatch.variant.with(axis, true);
        }
        let [a_row, a_column, b_row, b_column, c_row] = self.strides;
        let [a_layer, b_layer, c_layer] = self.layers;
        dispatch
            .param("a_row", a_row)
            .param("a_column", a_column)
            .param("b_row", b_row)
            .param("b_column", b_column)
            .param("c_row", c_row)
            .param("c_split", c_split)
            .param("outputs", self.outputs)
            .param("a_layer", a_layer)
            .param("b_layer", b_layer)
            .param("c_layer", c_layer)
            .param("bias_start", bias_start)
    }
}

impl Sizes {
    pub fn of(rows: &Shape, weight: &Shape) -> Self {
        Self { rows: rows.rows(), inputs: weight[0], outputs: weight[1], layers: 1 }
    }

    /// Every product of the three passes has as many terms: 2 m K N operations.
    pub fn flops(self) -> u64 {
        2 * (self.rows * self.inputs) as u64 * (self.layers * self.outputs) as u64
    }

    /// Elements from the weight of a layer to that of the next: its bias lies between.
    pub fn stride(self) -> usize {
        (self.inputs + 1) * self.outputs
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
        bias_start: usize,
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
        if self.layers > 1 {
            variant = variant.with("LAYERED", true);
        }
        Dispatch::new(&REGISTERS, entry)
            .variant(variant)
            .param("rows", self.rows)
            .param("inputs", self.inputs / input_width)
            .param("outputs", self.outputs / output_width)
            .param("layers", self.layers)
            .param("weight_stride", self.stride() / output_width)
            .param("bias_start", bias_start / output_width)
            .linear(invocations, INVOCATIONS)
    }

    /// The largest number of rows per invocation, of 8, 4, 2 and 1, that leaves enough invocations: eight
    /// rows share each load of a weight, but sixteen rows of a time embedding would make two of them.
    fn tile_rows(self, column_tiles: usize) -> usize {
        [8, 4, 2].into_iter().find(|r| self.rows.div_ceil(*r) * column_tiles >= BUSY_INVOCATIONS).unwrap_or(1)
    }

    /// y = x w.
    pub(super) fn forward_product(self) -> Product {
        let Self { rows, inputs, outputs, layers } = self;
        let gemm = Gemm {
            rows,
            columns: layers * outputs,
            depth: inputs,
            column_run: outputs,
            depth_run: inputs,
            a_along_depth: true,
            b_along_columns: true,
        };
        Product {
            gemm,
            strides: [inputs, 1, outputs, 1, outputs],
            layers: [0, self.stride(), rows * outputs],
            layered: (layers > 1).then_some("LAYERED_COLUMNS"),
            outputs,
        }
    }

    /// dx = dy wᵀ.
    pub(super) fn backward_input_product(self) -> Product {
        let Self { rows, inputs, outputs, layers } = self;
        let gemm = Gemm {
            rows,
            columns: inputs,
            depth: layers * outputs,
            column_run: inputs,
            depth_run: outputs,
            a_along_depth: true,
            b_along_columns: false,
        };
        Product {
            gemm,
            strides: [outputs, 1, 1, outputs, inputs],
            layers: [rows * outputs, self.stride(), 0],
            layered: (layers > 1).then_some("LAYERED_DEPTH"),
            outputs,
        }
    }

    /// dw = xᵀ dy.
    pub(super) fn backward_weight_product(self) -> Product {
        let Self { rows, inputs, outputs, layers } = self;
        let gemm = Gemm {
            rows: inputs,
            columns: layers * outputs,
            depth: rows,
            column_run: outputs,
            depth_run: 1,
            a_along_depth: false,
            b_along_columns: true,
        };
        Product {
            gemm,
            strides: [1, inputs, outputs, 1, outputs],
            layers: [0, rows * outputs, self.stride()],
            layered: (layers > 1).then_some("LAYERED_COLUMNS"),
            outputs,
        }
    }

    /// The elements of dw, and db if it is given beside; and where in a layer its bias begins.
    pub(super) fn weight_results(self, bias: BiasGradient) -> (Vec<usize>, usize) {
        match bias {
            BiasGradient::Behind => (vec![self.layers * self.stride()], self.inputs * self.outputs),
            beside => {
                let weight = self.inputs * self.outputs;
                (weight_results(weight, beside == BiasGradient::Beside, self.outputs), 0)
            }
        }
    }

    /// The variant whose depth or columns go through several layers.
    pub(super) fn layered(self, mut dispatch: Dispatch, axis: &'static str) -> Dispatch {
        if self.layers > 1 {
            dispatch.variant = dispatch.variant.with(axis, true);
        }
        dispatch
    }

    /// y from x = input 0, w = input 1, and the bias in an input from an element on.
    pub fn forward(self, dtype: DType, caps: &Caps, (bias, bias_start): (usize, usize)) -> Dispatch {
        if let Some(lanes) = self.sharing(caps) {
            return self.shared_forward(dtype, lanes, (bias, bias_start));
        }
        let all = self.layers * self.outputs;
        match caps.kernels {
            Kernels::Registers => {
                let width = self.widths().1;
                let columns = vectors_per_tile(all / width, width);
                let column_tiles = (all / width).div_ceil(columns);
                let tile_rows = self.tile_rows(column_tiles);
                let invocations = self.rows.div_ceil(tile_rows) * column_tiles;
                self.registers("forward", dtype, (tile_rows, columns), invocations, bias_start)
                    .bind("x", Operand::Input(0))
                    .bind("w", Operand::Input(1))
                    .bind("b", Operand::Input(bias))
                    .bind("y", Operand::Output(0))
            }
            Kernels::Workgroup => self.tiled_forward(dtype, (bias, bias_start), None),
        }
    }

    /// The same in staged tiles.
    pub fn tiled_forward(
        self,
        dtype: DType,
        (bias, bias_start): (usize, usize),
        units: Option<MatrixTile>,
    ) -> Dispatch {
        let product = self.forward_product();
        product
            .tiled([dtype; 2], (product.gemm.whole(units), 0), bias_start)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("bias", Operand::Input(bias))
            .bind("c", Operand::Output(0))
    }

    /// dx from dy = input 0, w = input 1; and the name of what may be added.
    pub fn backward_input(self, dtype: DType, caps: &Caps) -> (Dispatch, &'static str) {
        if let Some(lanes) = self.sharing(caps) {
            return (self.shared_backward_input(dtype, lanes), "added");
        }
        match caps.kernels {
            Kernels::Registers => {
                let columns = vectors_per_tile(self.inputs, 1);
                let column_tiles = self.inputs.div_ceil(columns);
                let tile_rows = self.tile_rows(column_tiles);
                let invocations = self.rows.div_ceil(tile_rows) * column_tiles;
                let dispatch = self
                    .registers("backward_input", dtype, (tile_rows, columns), invocations, 0)
                    .bind("dy", Operand::Input(0))
                    .bind("w", Operand::Input(1))
                    .bind("dx", Operand::Output(0));
                (dispatch, "added_elements")
            }
            Kernels::Workgroup => (self.tiled_backward_input(dtype, None), "added"),
        }
    }

    /// dx in staged tiles.
    pub fn tiled_backward_input(self, dtype: DType, units: Option<MatrixTile>) -> Dispatch {
        let product = self.backward_input_product();
        let mut dispatch = product.tiled([dtype; 2], (product.gemm.whole(units), 0), 0);
        dispatch.variant = dispatch.variant.link("lib/bias", "lib/no_bias");
        dispatch.bind("a", Operand::Input(0)).bind("b", Operand::Input(1)).bind("c", Operand::Output(0))
    }

    /// dw, and db if asked, from x = input 0, dy = input 1. The sum runs over all rows, so it is split among workgroups, and a
    /// second launch adds the splits.
    pub fn backward_weight(self, dtype: DType, caps: &Caps, bias: BiasGradient) -> Program {
        let Self { rows, inputs, outputs, layers } = self;
        let (results, bias_start) = self.weight_results(bias);
        let with_bias = |dispatch, to: &[Operand]| bias.into_results(dispatch, to);
        if let Some(lanes) = self.sharing(caps) {
            let (splits, dispatch) = self.shared_backward_weight(dtype, lanes, results[0], bias_start);
            return splits.program(&results, |to| {
                let dispatch =
                    dispatch.bind("x", Operand::Input(0)).bind("dy", Operand::Input(1)).bind("dw", to[0]);
                with_bias(dispatch, to)
            });
        }
        match caps.kernels {
            Kernels::Registers => {
                let (input_width, output_width) = self.widths();
                let (inputs, columns_all) = (inputs / input_width, layers * outputs / output_width);
                let tile_rows = vectors_per_tile(inputs, input_width);
                let columns = vectors_per_tile(columns_all, output_width);
                let tiles = inputs.div_ceil(tile_rows) * columns_all.div_ceil(columns);
                // 32 rows: the tile is then 32 times as much work to compute as to write and add.
                let splits = Splits::new(rows, results[0], tiles, 2 * BUSY_INVOCATIONS, 32);
                let invocations = tiles * splits.count;
                splits.program(&results, |to| {
                    let tile = (tile_rows, columns);
                    let dispatch = self
                        .registers("backward_weight", dtype, tile, invocations, bias_start)
                        .param("splits", splits.count)
                        .param("split_rows", splits.depth)
                        .param("split_stride", results[0] / output_width)
                        .bind("x", Operand::Input(0))
                        .bind("dy", Operand::Input(1))
                        .bind("dw", to[0]);
                    with_bias(dispatch, to)
                })
            }
            Kernels::Workgroup => self.tiled_backward_weight(dtype, bias, None),
        }
    }

    /// The same in staged tiles.
    pub fn tiled_backward_weight(
        self,
        dtype: DType,
        bias: BiasGradient,
        units: Option<MatrixTile>,
    ) -> Program {
        let (results, bias_start) = self.weight_results(bias);
        let product = self.backward_weight_product();
        let tiling = product.gemm.split(units);
        tiling.splits.program(&results, |to| {
            let mut dispatch = product.tiled([dtype, DType::F32], (tiling, results[0]), bias_start);
            dispatch.variant = dispatch.variant.link("lib/bias", "lib/no_bias");
            let dispatch =
                dispatch.bind("a", Operand::Input(0)).bind("b", Operand::Input(1)).bind("c", to[0]);
            bias.into_results(dispatch, to)
        })
    }
}

/// Vectors per invocation: at most eight numbers, in shares as equal as they can be.
fn vectors_per_tile(vectors: usize, width: usize) -> usize {
    let tiles = vectors.div_ceil(8 / width);
    vectors.div_ceil(tiles.max(1))
}
