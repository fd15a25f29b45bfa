//! Products of f16 matrices on matrix units (`shaders/lib/gemm_matrix.wgsl`): the forms of the kernel that a device has.

use super::gemm::{Gemm, Splits, number};
use crate::graph::{Candidate, Caps, Program};
use crate::shader::{Extension, Variant};
use crate::tensor::DType;

/// Parts of a workgroup's sums, one for each subgroup: `UNITS` of the shader.
const UNITS: usize = 4;

/// Tiles of a unit along rows, and along columns.
const UNIT_TILES: usize = 4;

/// Numbers of A, and of B, that an invocation stages at once.
const STAGED: usize = 32;

/// What every depth of a stage is a multiple of.
const DEPTH_STEP: usize = 16;

/// Numbers of padding behind each row that is staged.
const PADDING: usize = 8;

/// A form of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MatrixTile {
    /// Rows, columns and depth of what a subgroup multiplies at once.
    tile: usize,
    /// Invocations of a workgroup.
    invocations: usize,
}

/// A variant that multiplies tiles of so many rows and columns on matrix units: 8, or 16.
pub(super) fn with_tiles(variant: Variant, side: usize) -> Variant {
    let variant = [Extension::F16, Extension::Subgroups, Extension::CooperativeMatrix]
        .into_iter()
        .fold(variant, Variant::enable);
    if side == 16 { variant.link("lib/matrix8", "lib/matrix16") } else { variant }
}

impl MatrixTile {
    /// The forms that a device has for factors of this type, the largest tiles first.
    pub fn all(caps: &Caps, dtype: DType) -> Vec<Self> {
        if dtype != DType::F16 {
            return Vec::new();
        }
        [16, 8].into_iter().filter_map(|tile| Self::of(caps, tile)).collect()
    }

    /// A candidate for each form that suits a product of factors of this type.
    pub fn candidates<P: Into<Program>>(
        caps: &Caps,
        dtype: DType,
        product: &Gemm,
        program: impl Fn(Self) -> P,
    ) -> Vec<Candidate> {
        let forms = Self::all(caps, dtype).into_iter().filter(|form| form.suits(product));
        forms.map(|form| Candidate::new(form.algorithm(), program(form))).collect()
    }

    /// Four divides what lies side by side along rows and columns, and the depth of a stage what lies side by side along the depth.
    fn suits(self, product: &Gemm) -> bool {
        let along_depth = product.a_along_depth || !product.b_along_columns;
        product.column_run.is_multiple_of(4)
            && (product.a_along_depth || product.rows.is_multiple_of(4))
            && (!along_depth || product.depth_run.is_multiple_of(self.depth()))
    }

    /// One subgroup for each unit, if all have the largest size: smaller ones leave some idle. Where the device does not launch so
    /// many, each has several units, one after the other.
    fn of(caps: &Caps, tile: usize) -> Option<Self> {
        let largest = caps.features.subgroups?.1 as usize;
        let offered = caps.features.multiplies_f16(tile);
        let fits = |form: &Self| {
            form.depth().is_multiple_of(DEPTH_STEP)
                && form.invocations <= caps.limits.workgroup_invocations as usize
                && form.workgroup_bytes() <= caps.limits.workgroup_bytes as usize
        };
        let forms =
            [UNITS, 2 * UNITS, UNITS / 2, 1].map(|subgroups| Self { tile, invocations: subgroups * largest });
        forms.into_iter().find(|form| offered && fits(form))
    }

    /// The name of the algorithm.
    pub fn algorithm(self) -> &'static str {
        if self.tile == 16 { "cooperative 16" } else { "cooperative 8" }
    }

    /// Rows and columns of a workgroup's sums: `TILE_M` and `TILE_N` of the shader.
    fn side(self) -> usize {
        2 * UNIT_TILES * self.tile
    }

    /// Depth that is staged at once: `TILE_K` of the shader.
    pub fn depth(self) -> usize {
        STAGED * self.invocations / self.side()
    }

    /// With both factors along the depth, which takes the most.
    fn workgroup_bytes(self) -> usize {
        let staged = self.side() * (self.depth() + PADDING);
        let sums = (UNITS * UNIT_TILES * self.tile * self.tile).max(4 * self.invocations);
        2 * staged * DType::F16.bytes() + sums * DType::F32.bytes()
    }

    /// Workgroups for all results of a product.
    pub fn tiles(self, product: &Gemm) -> usize {
        product.rows.div_ceil(self.side()) * product.columns.div_ceil(self.side())
    }

    /// The values of a shader of `lib/gemm_vectors` for this form, with `lib/gemm_matrix` in its place.
    pub fn variant(self, variant: Variant, product: &Gemm, splits: Splits) -> Variant {
        let variant = with_tiles(variant, self.tile)
            .link("lib/gemm_vectors", "lib/gemm_matrix")
            .with("INVOCATIONS", number(self.invocations))
            .with("TILE_M", number(self.side()))
            .with("TILE_N", number(self.side()))
            .with("TILE_K", number(self.depth()))
            .with("A_ALONG_K", product.a_along_depth)
            .with("B_ALONG_K", !product.b_along_columns);
        if product.in_whole_stages(splits, self.depth()) {
            variant.with("WHOLE_STAGES", true)
        } else {
            variant
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{CooperativeShape, Kernels};

    fn caps(tile: u32, subgroups: (u32, u32), workgroup_bytes: u32, workgroup_invocations: u32) -> Caps {
        let mut caps = Caps::webgpu(Kernels::Workgroup).with_f16();
        caps.features.subgroups = Some(subgroups);
        let shape = CooperativeShape { m: tile, n: tile, k: tile, factors: DType::F16, sum: DType::F32 };
        caps.features.cooperative = vec![shape];
        (caps.limits.workgroup_bytes, caps.limits.workgroup_invocations) =
            (workgroup_bytes, workgroup_invocations);
        caps
    }

    /// (tile, invocations, side, depth, bytes), as devices have them.
    #[test]
    fn forms_follow_the_device() {
        let form = |caps: &Caps| {
            let all = MatrixTile::all(caps, DType::F16);
            all.first().map(|f| (f.tile, f.invocations, f.side(), f.depth(), f.workgroup_bytes()))
        };
        // NVIDIA, AMD's RDNA, Apple, lavapipe.
        assert_eq!(form(&caps(16, (32, 32), 48 << 10, 1024)), Some((16, 128, 128, 32, 36_864)));
        assert_eq!(form(&caps(16, (32, 64), 64 << 10, 1024)), Some((16, 256, 128, 64, 53_248)));
        assert_eq!(form(&caps(8, (32, 32), 32 << 10, 1024)), Some((8, 128, 64, 64, 22_528)));
        assert_eq!(form(&caps(8, (8, 8), 32 << 10, 1024)), Some((8, 32, 64, 16, 10_240)));
        // A stage is 16 deep at least, so that subgroups of four are more than there are units.
        assert_eq!(form(&caps(8, (4, 4), 32 << 10, 1024)), Some((8, 32, 64, 16, 10_240)));
        // Devices with too little: half the invocations and half the depth, a quarter, or none.
        assert_eq!(form(&caps(16, (32, 64), 40 << 10, 1024)), Some((16, 128, 128, 32, 36_864)));
        assert_eq!(form(&caps(16, (32, 64), 32 << 10, 1024)), Some((16, 64, 128, 16, 28_672)));
        assert_eq!(form(&caps(16, (32, 32), 16 << 10, 256)), None);
        assert_eq!(form(&Caps::webgpu(Kernels::Workgroup).with_f16()), None);
        assert!(MatrixTile::all(&caps(16, (32, 32), 48 << 10, 1024), DType::F32).is_empty());
    }
}
