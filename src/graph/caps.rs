//! What a device can do, as the operators need to know it. Plain data: no device is needed to plan.

use super::{Candidate, Choices, Program};
use crate::tensor::DType;
use std::fmt;
use std::sync::Arc;

/// Which algorithms suit the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Register tiles and vector loads, no barriers: CPU drivers, where workgroup memory is ordinary
    /// memory and a barrier is a loop split (lavapipe: 19 GFLOP/s against 5 to 10 for staged tiles).
    Registers,
    /// Tiles staged in workgroup memory: GPUs, where a load from it is some ten times cheaper.
    Workgroup,
}

impl Kernels {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Registers, Self::Workgroup];

    /// The algorithm's name in tables, flags and `doctor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Workgroup => "workgroup",
        }
    }

    /// The same where its shaders use subgroup operations.
    pub fn name_with_subgroups(self) -> &'static str {
        match self {
            Self::Registers => "registers, subgroups",
            Self::Workgroup => "workgroup, subgroups",
        }
    }
}

/// The limits that bound a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest range of a buffer that one binding may cover, in bytes.
    pub binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub buffer_bytes: u64,
    /// Start of a bound range must be a multiple of this, in bytes.
    pub offset_alignment: u64,
    /// Storage buffers that one entry point may use.
    pub storage_buffers: u32,
    /// Memory that the invocations of a workgroup share, in bytes.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations: u32,
}

impl Limits {
    /// WebGPU's default limits: what every base shader must live within.
    pub const WEBGPU: Self = Self {
        binding_bytes: 128 << 20,
        buffer_bytes: 256 << 20,
        offset_alignment: 256,
        storage_buffers: 8,
        workgroup_bytes: 16 << 10,
        workgroup_invocations: 256,
    };
}

/// A product of matrices that a subgroup computes together: (m, k) times (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeShape {
    /// Rows of the result.
    pub m: u32,
    /// Columns of the result.
    pub n: u32,
    /// Terms of each sum.
    pub k: u32,
    /// Type of the factors.
    pub factors: DType,
    /// Type of the sum.
    pub sum: DType,
}

/// What a device has beyond WebGPU's core. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Tensors of f16 in storage buffers, and f16 in shaders.
    pub f16: bool,
    /// Smallest and largest size of a subgroup, where shaders may use subgroup operations.
    pub subgroups: Option<(u32, u32)>,
    /// Products that matrix units compute.
    pub cooperative: Vec<CooperativeShape>,
    /// Timestamps at the beginning and the end of a pass.
    pub timestamps: bool,
    /// Timestamps between the launches of a pass too.
    pub timestamps_in_passes: bool,
}

impl Features {
    /// Whether shaders may multiply f16 tiles of so many rows and columns into sums of f32.
    pub fn multiplies_f16(&self, side: usize) -> bool {
        let offers = |shape: &CooperativeShape| {
            [shape.m, shape.n, shape.k].iter().all(|&n| n as usize == side)
                && (shape.factors, shape.sum) == (DType::F16, DType::F32)
        };
        self.f16 && self.subgroups.is_some() && self.cooperative.iter().any(offers)
    }
}

/// What operators and plans may ask of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// The algorithms that are preferred.
    pub kernels: Kernels,
    /// What bounds a launch.
    pub limits: Limits,
    /// What shaders may use.
    pub features: Features,
    /// Whether plans fuse operators ([`super::rewrite`]).
    pub fusion: bool,
    /// Algorithms that were found to be faster than the rule's.
    pub choices: Arc<Choices>,
}

impl Caps {
    /// WebGPU's default limits without any optional feature.
    pub fn webgpu(kernels: Kernels) -> Self {
        Self {
            kernels,
            limits: Limits::WEBGPU,
            features: Features::default(),
            fusion: true,
            choices: Arc::default(),
        }
    }

    /// The same with or without fusions.
    #[must_use]
    pub fn with_fusion(mut self, fusion: bool) -> Self {
        self.fusion = fusion;
        self
    }

    /// The same with the features whose variants wgpu compiles for every platform: f16.
    #[must_use]
    pub fn with_f16(mut self) -> Self {
        self.features.f16 = true;
        self
    }

    /// The same where all subgroups have this size.
    #[must_use]
    pub fn with_subgroups(mut self, size: u32) -> Self {
        self.features.subgroups = Some((size, size));
        self
    }

    /// The same with all that any operator asks for: f16, subgroups of 8, matrix units for tiles of 8 and 16, and the workgroup
    /// memory that kernels of matrix units need.
    #[must_use]
    pub fn with_every_feature(self) -> Self {
        let mut caps = self.with_f16().with_subgroups(8);
        let shape =
            |side| CooperativeShape { m: side, n: side, k: side, factors: DType::F16, sum: DType::F32 };
        caps.features.cooperative = [8, 16].map(shape).to_vec();
        caps.limits.workgroup_bytes = 32 << 10;
        caps
    }

    /// All that must be proven on a device of these capabilities: each preference of algorithms.
    /// Every loop over variants of a whole step (tests, `doctor`, `verify`) runs over this list.
    pub fn variants(&self) -> Vec<Self> {
        Kernels::ALL.into_iter().map(|kernels| Self { kernels, ..self.clone() }).collect()
    }

    /// Whether tensors of this type can be bound.
    pub fn stores(&self, dtype: DType) -> bool {
        dtype != DType::F16 || self.features.f16
    }

    /// The size of every subgroup, where shaders may use subgroup operations and all have one size.
    pub fn subgroup(&self) -> Option<usize> {
        let (least, greatest) = self.features.subgroups?;
        (least == greatest).then_some(least as usize)
    }

    /// A candidate for each kind of kernels, with subgroups and without them, the preferred one first; one alone where the launches
    /// are the same.
    pub fn both(&self, program: impl Fn(&Self) -> Program) -> Vec<Candidate> {
        let mut variants = self.variants();
        variants.sort_by_key(|caps| caps.kernels != self.kernels);
        let mut candidates: Vec<Candidate> = Vec::new();
        for caps in variants {
            let (kernels, with) = (caps.kernels, program(&caps));
            let features = Features { subgroups: None, ..caps.features.clone() };
            let without = program(&Self { features, ..caps });
            if with != without {
                candidates.push(Candidate::new(kernels.name_with_subgroups(), with));
            }
            candidates.push(Candidate::new(kernels.name(), without));
        }
        candidates.dedup_by(|other, preferred| other.program == preferred.program);
        candidates
    }
}

impl fmt::Display for Caps {
    /// As tests and `doctor` name it: `workgroup, f16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kernels.name(), if self.features.f16 { ", f16" } else { "" })
    }
}
