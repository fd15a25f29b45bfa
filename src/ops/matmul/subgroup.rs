//! The launches of `shaders/matmul_subgroup.wgsl`: products in register tiles whose operands the invocations of a subgroup load
//! for each other, for CPU drivers with subgroups.

use super::launch::Sizes;
use crate::graph::{Caps, Dispatch, Kernels, Operand};
use crate::ops::gemm::Splits;
use crate::ops::stored;
use crate::shader::{Extension, Source, Variant};
use crate::tensor::DType;

static SHADER: Source = crate::wgsl!("matmul_subgroup");

/// Rows of a tile: as many sums fit into the registers of a CPU beside two operands.
const ROWS: usize = 8;

/// Vectors of columns of a tile. 1024 rows, 64 to 64 channels, in GFLOP/s of one thread on Mesa 22.3 and 26.1: 4 vectors 17 and
/// 21 to 26, 8 19 and 29, 16 19 and 24.
const VECTORS: usize = 8;

/// Rows that the weights' gradient takes at once: of the same layer, 8 rows 16 and 18 to 22 GFLOP/s, 4 19 and 24.
const WEIGHT_ROWS: usize = 4;

/// Vectors of k of a tile of the weights' gradient.
const IN_VECTORS: usize = 8;

/// Workgroups that the splits of the weights' gradient aim at.
const BUSY_WORKGROUPS: usize = 32;

impl Sizes {
    /// The size of the subgroups, where the device has such, channels come in fours, and there are rows for a whole tile.
    pub(super) fn sharing(self, caps: &Caps) -> Option<usize> {
        let vectors = self.inputs.is_multiple_of(4) && self.outputs.is_multiple_of(4);
        let registers = caps.kernels == Kernels::Registers;
        caps.subgroup().filter(|lanes| registers && vectors && self.rows >= lanes * ROWS)
    }

    fn shared(
        self,
        entry: &'static str,
        dtype: DType,
        lanes: usize,
        rows: usize,
        bias_start: usize,
    ) -> Dispatch {
        let variant = stored(Variant::base(), dtype)
            .enable(Extension::Subgroups)
            .with("LANES", format!("{lanes}u"))
            .with("ROWS", format!("{rows}u"));
        let dispatch = Dispatch::new(&SHADER, entry)
            .variant(variant)
            .param("rows", self.rows)
            .param("inputs", self.inputs / 4)
            .param("outputs", self.outputs / 4)
            .param("layers", self.layers)
            .param("weight_stride", self.stride() / 4)
            .param("bias_start", bias_start / 4);
        self.layered(dispatch, "LAYERED")
    }

    /// A launch of a product with so many columns.
    fn shared_product(
        self,
        entry: &'static str,
        dtype: DType,
        lanes: usize,
        columns: usize,
        bias_start: usize,
    ) -> Dispatch {
        let vectors = VECTORS.min(columns / 4);
        let mut dispatch = self.shared(entry, dtype, lanes, ROWS, bias_start);
        dispatch.variant = dispatch.variant.with("VECTORS", format!("{vectors}u"));
        dispatch
            .workgroups(self.rows.div_ceil(lanes * ROWS) * (columns / 4).div_ceil(vectors))
            .bind("x", Operand::Input(0))
            .bind("w", Operand::Input(1))
            .bind("y", Operand::Output(0))
    }

    /// As [`Sizes::forward`].
    pub(super) fn shared_forward(self, dtype: DType, lanes: usize, bias: (usize, usize)) -> Dispatch {
        self.shared_product("forward", dtype, lanes, self.layers * self.outputs, bias.1)
            .bind("b", Operand::Input(bias.0))
    }

    /// As [`Sizes::backward_input`].
    pub(super) fn shared_backward_input(self, dtype: DType, lanes: usize) -> Dispatch {
        self.shared_product("backward_input", dtype, lanes, self.inputs, 0)
    }

    /// As [`Sizes::backward_weight`], without its results: the launch for some splits of so many results each.
    pub(super) fn shared_backward_weight(
        self,
        dtype: DType,
        lanes: usize,
        results: usize,
        bias_start: usize,
    ) -> (Splits, Dispatch) {
        let vectors = IN_VECTORS.min(self.inputs / 4);
        let tiles = (self.inputs / 4).div_ceil(vectors) * (self.layers * self.outputs / 4).div_ceil(lanes);
        let splits = Splits::new(self.rows, results, tiles, BUSY_WORKGROUPS, 8 * WEIGHT_ROWS);
        let mut dispatch = self.shared("backward_weight", dtype, lanes, WEIGHT_ROWS, bias_start);
        dispatch.variant = dispatch.variant.with("IN_VECTORS", format!("{vectors}u"));
        let dispatch = dispatch
            .param("splits", splits.count)
            .param("split_rows", splits.depth)
            .param("split_stride", results / 4)
            .workgroups(tiles * splits.count);
        (splits, dispatch)
    }
}
