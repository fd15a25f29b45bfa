//! The launches of `shaders/group_norm.wgsl`.

use super::GroupNorm;
use crate::graph::{Caps, Dispatch, Kernels, Operand};
use crate::ops::channels::{
    Extent, RUN_INVOCATIONS, RUN_PIXELS, column_workgroup, columns_each, each_variant, run_variant, sharers,
};
use crate::ops::{reducing, stored, vector_width};
use crate::shader::{Source, Variant};
use crate::tensor::DType;

static SHADER: Source = crate::wgsl!("group_norm");

/// Vectors side by side that invocations of `backward` take: `SIDE` of the shader, a SIMD register of a CPU driver.
const SIDE: usize = 8;

/// How the kernels see the shapes, and the type in which activations and the modulation are stored.
pub(super) struct Launch<'a> {
    norm: &'a GroupNorm,
    caps: &'a Caps,
    pub extent: Extent,
    pub width: usize,
    variant: Variant,
    dtype: DType,
}

impl<'a> Launch<'a> {
    pub fn new(norm: &'a GroupNorm, extent: Extent, dtype: DType, caps: &'a Caps) -> Self {
        let (width, variant) = vector_width(&[extent.channels / norm.groups]);
        Self { norm, caps, extent, width, variant, dtype }
    }

    fn vectors(&self) -> usize {
        self.extent.channels / self.width
    }

    /// The variant of a kernel that takes activations and no modulation.
    pub fn stored(&self) -> Variant {
        stored(self.variant.clone(), self.dtype)
    }

    /// The variant of a kernel that takes the modulation, if there is one, and no activations.
    pub fn modulated(&self) -> Variant {
        if self.norm.scale_shift {
            self.stored().link("lib/unmodulated", "lib/modulated")
        } else {
            self.variant.clone()
        }
    }

    /// The variant of a kernel that takes activations and their affine transform.
    fn transformed(&self) -> Variant {
        stored(self.modulated(), self.dtype).with("SILU", self.norm.silu)
    }

    fn on_pixels(&self, entry: &'static str, variant: Variant, count: usize) -> Dispatch {
        Dispatch::new(&SHADER, entry)
            .variant(variant)
            .param("pixels", self.extent.pixels)
            .param("vectors", self.vectors())
            .param("groups", self.norm.groups)
            .param("count", count)
    }

    fn on_images(&self, entry: &'static str, variant: Variant, count: usize) -> Dispatch {
        Dispatch::new(&SHADER, entry)
            .variant(variant)
            .param("images", self.extent.images)
            .param("vectors", self.vectors())
            .param("count", count)
    }

    /// One invocation per run of pixels.
    pub fn over_runs(&self, entry: &'static str) -> Dispatch {
        let runs = self.extent.runs(self.width);
        self.on_pixels(entry, run_variant(self.transformed(), RUN_PIXELS), runs).linear(runs, RUN_INVOCATIONS)
    }

    /// One invocation per run of images.
    pub fn over_image_runs(&self, entry: &'static str) -> Dispatch {
        let Extent { images, channels, .. } = self.extent;
        let runs = Extent { images: 1, pixels: images, channels }.runs(self.width);
        self.on_images(entry, run_variant(self.stored(), RUN_PIXELS), runs).linear(runs, RUN_INVOCATIONS)
    }

    /// One workgroup of `lanes` per group of each of the images.
    pub fn over_groups(&self, entry: &'static str, variant: Variant, lanes: usize) -> Dispatch {
        let count = self.extent.images * self.norm.groups;
        self.on_pixels(entry, reducing(variant, lanes, self.caps), count).workgroups(count)
    }

    /// One workgroup for so many groups side by side, and perhaps more of them, of `lanes` invocations for each.
    pub fn over_whole_groups(&self, entry: &'static str, groups: usize, lanes: usize) -> Dispatch {
        let count = self.extent.images * self.norm.groups;
        let each = columns_each(self.extent.images, self.norm.groups, groups, self.caps);
        let variant = each_variant(self.transformed(), each)
            .with("SIDE_BY_SIDE", true)
            .with("COLUMNS", format!("{groups}u"))
            .with("ROWS", format!("{lanes}u"))
            .with("LANES", format!("{lanes}u"));
        self.on_pixels(entry, variant, count).workgroups(count.div_ceil(groups * each))
    }

    /// One workgroup per block of channels of each of the images, whose rows share the pixels.
    pub fn over_pixels(&self, entry: &'static str) -> Dispatch {
        let Extent { images, pixels, .. } = self.extent;
        let (variant, blocks) =
            column_workgroup(self.transformed(), images, pixels, self.vectors(), self.caps);
        self.on_pixels(entry, variant, images * blocks).workgroups(images * blocks)
    }

    /// One invocation per run of so many pixels, of one Vector or on a CPU driver up to 4, behind workgroups of several Vectors of channels, whose rows share the images.
    pub fn over_runs_and_parameters(&self, entry: &'static str, pixels: usize) -> Dispatch {
        let each = columns_each(self.extent.images, self.vectors(), SIDE, self.caps);
        let runs = self.extent.runs_of(pixels, each * self.width);
        // One row, and with it no barrier, for CPU drivers, unless the sum is longer than their loops.
        let rows = match self.caps.kernels {
            Kernels::Registers => sharers(self.extent.images, 1).min(RUN_INVOCATIONS),
            Kernels::Workgroup => 8,
        };
        let columns = RUN_INVOCATIONS / rows;
        let parameter_groups = self.vectors().div_ceil(columns);
        let variant = run_variant(each_variant(self.transformed(), each), pixels)
            .with("COLUMNS", format!("{columns}u"))
            .with("ROWS", format!("{rows}u"));
        Dispatch::new(&SHADER, entry)
            .variant(variant)
            .param("images", self.extent.images)
            .param("pixels", self.extent.pixels)
            .param("vectors", self.vectors())
            .param("groups", self.norm.groups)
            .param("parameter_groups", parameter_groups)
            .param("count", runs)
            .workgroups(parameter_groups + runs.div_ceil(RUN_INVOCATIONS))
    }

    /// Binds the optional input.
    pub fn bind_scale_shift(&self, dispatch: Dispatch, input: usize) -> Dispatch {
        if self.norm.scale_shift { dispatch.bind("scale_shift", Operand::Input(input)) } else { dispatch }
    }
}
