//! What every product of matrices shares: the choice of tiles for `shaders/lib/gemm_tile.wgsl`, the split of
//! long sums over workgroups, and the pass that adds the splits (`shaders/sum_rows.wgsl`).

use super::stored;
use super::sum_rows::in_splits;
use crate::graph::{Dispatch, Operand, Program};
use crate::shader::{Source, Variant};
use crate::tensor::DType;

/// Workgroups that keep a large GPU busy: some four for each of 128 multiprocessors.
const BUSY_WORKGROUPS: usize = 512;

/// Scratch elements that splits may take: 16 MiB.
const SPLIT_ELEMENTS: usize = 1 << 22;

/// A range of a long sum for each of several workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Splits {
    /// Number of ranges, none of them empty.
    pub count: usize,
    /// Terms in each range but the last.
    pub depth: usize,
}

impl Splits {
    /// The whole sum in one range.
    pub(super) fn none(depth: usize) -> Self {
        Self { count: 1, depth }
    }

    /// Splits sums of `depth` terms, for each of `results` results computed in `tiles` tiles, until there are
    /// `wanted` of tile times split; but no range gets fewer than `least` terms, and each a multiple of it.
    pub(super) fn new(depth: usize, results: usize, tiles: usize, wanted: usize, least: usize) -> Self {
        let most = (SPLIT_ELEMENTS / results.max(1)).min(depth.div_ceil(least)).max(1);
        let count = (wanted / tiles.max(1)).clamp(1, most);
        let depth_each = depth.div_ceil(count).next_multiple_of(least).max(1);
        Self { count: depth.div_ceil(depth_each).max(1), depth: depth_each }
    }

    /// The launches of sums so split: see [`in_splits`].
    pub(super) fn program(self, results: &[usize], first: impl FnOnce(&[Operand]) -> Dispatch) -> Program {
        in_splits(self.count, results, first)
    }
}

/// Has the gradient of a weight give that of the bias too, into the operand behind its own.
pub(super) fn with_bias_gradient(mut dispatch: Dispatch, bias: bool, results: &[Operand]) -> Dispatch {
    if !bias {
        return dispatch;
    }
    dispatch.variant = dispatch.variant.link("lib/no_bias_gradient", "lib/bias_gradient");
    dispatch.bind("db", results[1])
}

/// Elements of the gradient of a weight, and of the bias's if that is given too.
pub(super) fn weight_results(weight: usize, bias: bool, outputs: usize) -> Vec<usize> {
    if bias { vec![weight, outputs] } else { vec![weight] }
}

/// C (rows, columns) = A (rows, depth) B (depth, columns) in staged tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gemm {
    /// Rows of A and C.
    pub rows: usize,
    /// Columns of B and C.
    pub columns: usize,
    /// Columns of A and rows of B.
    pub depth: usize,
    /// Whether neighbours of A in memory are neighbours along the depth (else along the rows).
    pub a_along_depth: bool,
    /// Whether neighbours of B in memory are neighbours along the columns (else along the depth).
    pub b_along_columns: bool,
}

/// A tile of C, the depth staged at once, and the side of an invocation's square share.
struct Tile {
    rows: usize,
    columns: usize,
    depth: usize,
    thread: usize,
}

impl Gemm {
    /// Large tiles read less memory per product, 64 products per 4 vec4 loads from workgroup memory instead
    /// of 16 per 2; small tiles make more workgroups. The large ones need enough workgroups of their own, in all of so many
    /// products of these sizes.
    fn tile(&self, products: usize) -> Tile {
        let wide = Tile { rows: 128, columns: 128, depth: 8, thread: 8 };
        let tall = Tile { rows: 128, columns: 64, depth: 16, thread: 8 };
        let small = Tile { rows: 64, columns: 64, depth: 16, thread: 4 };
        let enough = |t: &Tile| products * self.tiles(t) >= BUSY_WORKGROUPS / 2;
        // A last column of tiles that is mostly empty would waste what the wide tile gains.
        let fits = |t: &Tile| self.columns.next_multiple_of(t.columns) <= self.columns.next_multiple_of(64);
        [wide, tall].into_iter().find(|t| enough(t) && fits(t)).unwrap_or(small)
    }

    fn tiles(&self, tile: &Tile) -> usize {
        self.rows.div_ceil(tile.rows) * self.columns.div_ceil(tile.columns)
    }

    /// Splits of the depth for products with few results, such as the gradients of weights.
    pub(super) fn splits(&self) -> Splits {
        let tile = self.tile(1);
        // 64 terms: at least four stages of 16 between reading the splits and writing them.
        Splits::new(self.depth, self.rows * self.columns, self.tiles(&tile), BUSY_WORKGROUPS, 64)
    }

    /// A launch of an entry point that calls `gemm`, with the tile's variant and its parameters. A and B are stored in the
    /// type `factors`, C in the type `result`.
    pub(super) fn dispatch(
        &self,
        shader: &'static Source,
        entry: &'static str,
        variant: Variant,
        [factors, result]: [DType; 2],
        splits: Splits,
    ) -> Dispatch {
        self.in_tiles(&self.tile(1), shader, entry, variant, [factors, result], splits)
    }

    /// A launch of so many products of other factors. They are the splits of one product, whose depth goes through all of theirs
    /// one after the other.
    pub(super) fn batch(
        &self,
        products: usize,
        shader: &'static Source,
        entry: &'static str,
        variant: Variant,
        types: [DType; 2],
    ) -> Dispatch {
        let all = Self { depth: products * self.depth, ..*self };
        let splits = Splits { count: products, depth: self.depth };
        all.in_tiles(&self.tile(products), shader, entry, variant, types, splits)
    }

    fn in_tiles(
        &self,
        tile: &Tile,
        shader: &'static Source,
        entry: &'static str,
        variant: Variant,
        [factors, result]: [DType; 2],
        splits: Splits,
    ) -> Dispatch {
        let number = |n: usize| format!("{n}u");
        let mut variant = stored(variant, factors);
        if result != factors {
            variant = variant.with("Result", result.name());
        }
        let variant = variant
            .with("TILE_M", number(tile.rows))
            .with("TILE_N", number(tile.columns))
            .with("TILE_K", number(tile.depth))
            .with("THREAD_M", number(tile.thread))
            .with("THREAD_N", number(tile.thread))
            .with("A_ALONG_K", self.a_along_depth)
            .with("B_ALONG_N", self.b_along_columns);
        Dispatch::new(shader, entry)
            .variant(variant)
            .param("rows", self.rows)
            .param("columns", self.columns)
            .param("depth", self.depth)
            .param("splits", splits.count)
            .param("split_depth", splits.depth)
            .workgroups(self.tiles(tile) * splits.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_sum_without_an_empty_range() {
        for depth in [1, 15, 64, 65, 1000, 131_072] {
            for tiles in [1, 3, 600] {
                let s = Splits::new(depth, 4096, tiles, 512, 64);
                assert!(s.count * s.depth >= depth && (s.count - 1) * s.depth < depth, "{depth}: {s:?}");
            }
        }
    }
}
