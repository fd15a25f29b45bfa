//! What every product of matrices shares: whether it is staged four numbers at a time (`shaders/lib/gemm_vectors.wgsl`), so for matrix
//! units (`shaders/lib/gemm_matrix.wgsl`), or one at a time (`shaders/lib/gemm_tile.wgsl`), the choice of tiles, the split of long
//! sums over workgroups, and the pass that adds the splits (`shaders/sum_rows.wgsl`).

use super::gemm_matrix::MatrixTile;
use super::stored;
use super::sum_rows::in_splits;
use crate::graph::{Dispatch, Operand, Program};
use crate::shader::{Source, Variant};
use crate::tensor::DType;

/// Workgroups that keep a large GPU busy: some four for each of 128 multiprocessors.
const BUSY_WORKGROUPS: usize = 512;

/// Of large tiles, whose workgroups are 256 invocations with 64 sums each: two for each multiprocessor, and no fewer than three for
/// two. The gradients of 3x3 weights of 128 to 256 channels come to 216 to 252 tiles of 128 x 128 with the splits that
/// [`SPLIT_ELEMENTS`] allows.
const BUSY_LARGE_WORKGROUPS: usize = 256;
const ENOUGH_LARGE_WORKGROUPS: usize = 192;

/// Scratch elements that splits may take: 16 MiB.
const SPLIT_ELEMENTS: usize = 1 << 22;

/// The fewest terms of a split: at least four stages of 16 between reading the splits and writing them.
const SPLIT_TERMS: usize = 64;

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
        let count = (wanted / tiles.max(1)).clamp(1, Self::most(depth, results, least));
        let depth_each = depth.div_ceil(count).next_multiple_of(least).max(1);
        Self { count: depth.div_ceil(depth_each).max(1), depth: depth_each }
    }

    /// The most ranges of such sums.
    fn most(depth: usize, results: usize, least: usize) -> usize {
        (SPLIT_ELEMENTS / results.max(1)).min(depth.div_ceil(least)).max(1)
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
    /// Columns of C that lie side by side in memory.
    pub column_run: usize,
    /// Terms of the depth that lie side by side in memory, in an operand whose neighbours are neighbours along the depth.
    pub depth_run: usize,
    /// Whether neighbours of A in memory are neighbours along the depth (else along the rows).
    pub a_along_depth: bool,
    /// Whether neighbours of B in memory are neighbours along the columns (else along the depth).
    pub b_along_columns: bool,
}

/// A tile of C, and the depth staged at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: usize,
    columns: usize,
    depth: usize,
}

/// What multiplies the tiles of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Invocations(Tile),
    MatrixUnits(MatrixTile),
}

/// The tiles of a product, and the splits of its depth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    by: By,
    /// The splits.
    pub splits: Splits,
}

impl Gemm {
    /// Whether `lib/gemm_vectors` computes it: four divides what lies side by side along rows and columns, and the depth of a stage
    /// divides what lies side by side along the depth.
    pub(super) fn in_vectors(&self) -> bool {
        self.column_run.is_multiple_of(4)
            && (self.a_along_depth || self.rows.is_multiple_of(4))
            && (!self.along_depth() || self.depth_run.is_multiple_of(16))
    }

    /// Whether neighbours of a factor in memory are neighbours along the depth.
    fn along_depth(&self) -> bool {
        self.a_along_depth || !self.b_along_columns
    }

    /// Large tiles read less memory per product, 64 products per 4 vec4 loads from workgroup memory instead
    /// of 32 per 3 or 16 per 2; small tiles make more workgroups. The large ones need enough workgroups of their own, with as many
    /// splits as there may be or in all of so many products.
    fn tile(&self, times: usize) -> Tile {
        // Of single numbers, 16 of depth would take more workgroup memory than WebGPU grants: their rows are padded.
        let depth = if self.in_vectors() { 16 } else { 8 };
        let wide = Tile { rows: 128, columns: 128, depth };
        let tall = Tile { rows: 128, columns: 64, depth: 16 };
        let small = Tile { rows: 64, columns: 64, depth: 16 };
        let enough = |t: &Tile| self.tiles(t) * times >= ENOUGH_LARGE_WORKGROUPS;
        let area = |t: &Tile| self.rows.next_multiple_of(t.rows) * self.columns.next_multiple_of(t.columns);
        // Last tiles that are mostly empty would waste what large ones gain.
        let fits = |t: &Tile| 8 * area(t) <= 9 * area(&small);
        [wide, tall].into_iter().find(|t| enough(t) && fits(t)).unwrap_or(small)
    }

    fn tiles(&self, tile: &Tile) -> usize {
        self.rows.div_ceil(tile.rows) * self.columns.div_ceil(tile.columns)
    }

    /// How so many products like this one are multiplied, with matrix units if a form of theirs is given.
    fn by(&self, units: Option<MatrixTile>, times: usize) -> By {
        units.map_or_else(|| By::Invocations(self.tile(times)), By::MatrixUnits)
    }

    /// Tiles over the whole depth.
    pub(super) fn whole(&self, units: Option<MatrixTile>) -> Tiling {
        Tiling { by: self.by(units, 1), splits: Splits::none(self.depth) }
    }

    /// Tiles of `count` products, whose depths are this one together.
    pub(super) fn in_parts(&self, count: usize, units: Option<MatrixTile>) -> Tiling {
        let depth = self.depth.div_ceil(count).next_multiple_of(16);
        Tiling { by: self.by(units, count), splits: Splits { count, depth } }
    }

    /// Tiles with splits of the depth, for products with few results, such as the gradients of weights.
    pub(super) fn split(&self, units: Option<MatrixTile>) -> Tiling {
        let results = self.rows * self.columns;
        let by = self.by(units, Splits::most(self.depth, results, SPLIT_TERMS));
        let (tiles, stage, wanted) = match by {
            By::Invocations(tile) if tile.rows == 128 => (self.tiles(&tile), 0, BUSY_LARGE_WORKGROUPS),
            By::Invocations(tile) => (self.tiles(&tile), 0, BUSY_WORKGROUPS),
            By::MatrixUnits(units) => (units.tiles(self), units.depth(), BUSY_WORKGROUPS),
        };
        let splits = Splits::new(self.depth, results, tiles, wanted, stage.max(SPLIT_TERMS));
        Tiling { by, splits }
    }

    /// A launch of so many products of other factors. They are the splits of one product, whose depth goes through all of theirs
    /// one after the other.
    pub(super) fn batch(
        &self,
        products: usize,
        shader: &'static Source,
        variant: Variant,
        types: [DType; 2],
        units: Option<MatrixTile>,
    ) -> Dispatch {
        let splits = Splits { count: products, depth: self.depth };
        let all = Self { depth: products * self.depth, ..*self };
        all.dispatch(shader, "product", variant, types, Tiling { by: self.by(units, products), splits })
    }

    /// A launch of an entry point that computes a tile, with the tile's variant and its parameters. A and B are stored in the
    /// type `factors`, C in the type `result`.
    pub(super) fn dispatch(
        &self,
        shader: &'static Source,
        entry: &'static str,
        variant: Variant,
        [factors, result]: [DType; 2],
        Tiling { by, splits }: Tiling,
    ) -> Dispatch {
        let mut variant = stored(variant, factors);
        if result != factors {
            variant = variant.with("Result", result.name());
        }
        let (variant, tiles) = match by {
            By::MatrixUnits(units) => (units.variant(variant, self, splits), units.tiles(self)),
            By::Invocations(tile) if self.in_vectors() => {
                (self.in_vectors_of(variant, tile, splits), self.tiles(&tile))
            }
            By::Invocations(tile) => (self.in_elements_of(variant, tile), self.tiles(&tile)),
        };
        Dispatch::new(shader, entry)
            .variant(variant)
            .param("rows", self.rows)
            .param("columns", self.columns)
            .param("depth", self.depth)
            .param("splits", splits.count)
            .param("split_depth", splits.depth)
            .workgroups(tiles * splits.count)
    }

    fn in_vectors_of(&self, variant: Variant, tile: Tile, splits: Splits) -> Variant {
        let mut variant = tile.sizes(variant);
        // Along the depth, stages are whole always.
        if !self.along_depth() && self.in_whole_stages(splits, tile.depth) {
            variant = variant.with("WHOLE_STAGES", true);
        }
        if !self.a_along_depth {
            variant = variant.link("lib/a_along_k", "lib/a_along_m");
        }
        if !self.b_along_columns {
            variant = variant.link("lib/b_along_n", "lib/b_along_k");
        }
        variant
    }

    fn in_elements_of(&self, variant: Variant, tile: Tile) -> Variant {
        let thread = if tile.rows == 64 { 4 } else { 8 };
        tile.sizes(variant)
            .with("THREAD_M", number(thread))
            .with("THREAD_N", number(thread))
            .with("A_ALONG_K", self.a_along_depth)
            .with("B_ALONG_N", self.b_along_columns)
    }

    /// Whether stages of this depth divide every split's.
    pub(super) fn in_whole_stages(&self, splits: Splits, stage: usize) -> bool {
        self.depth.is_multiple_of(stage) && splits.depth.is_multiple_of(stage)
    }
}

impl Tile {
    fn sizes(self, variant: Variant) -> Variant {
        variant
            .with("TILE_M", number(self.rows))
            .with("TILE_N", number(self.columns))
            .with("TILE_K", number(self.depth))
    }
}

/// A u32 of a shader.
pub(super) fn number(n: usize) -> String {
    format!("{n}u")
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

    /// Of 3x3 convolutions at batch 128: the splits are counted with the tiles.
    #[test]
    fn gradients_of_weights_get_large_tiles() {
        let tiling = |channels: usize, pixels: usize, columns: usize| {
            let gemm = Gemm {
                rows: 9 * channels,
                columns,
                depth: 128 * pixels,
                column_run: columns,
                depth_run: 1,
                a_along_depth: false,
                b_along_columns: true,
            };
            let Tiling { by: By::Invocations(tile), splits } = gemm.split(None) else { unreachable!() };
            (tile.rows, tile.columns, gemm.tiles(&tile) * splits.count)
        };
        assert_eq!(tiling(128, 32 * 32, 128), (128, 128, 9 * 28));
        assert_eq!(tiling(256, 16 * 16, 256), (128, 128, 36 * 7));
        assert_eq!(tiling(512, 16 * 16, 256), (128, 128, 72 * 3));
        assert_eq!(tiling(64, 32 * 32, 64), (128, 64, 5 * 50));
        assert_eq!(tiling(3, 32 * 32, 128), (64, 64, 2 * 256));
        // Pictures of one pixel have two splits.
        assert_eq!(tiling(256, 1, 256), (64, 64, 144 * 2));
    }
}
