//! The adapters of this machine: what they say of themselves, and what to do where there is none.

use super::GpuError;
use crate::graph::{CooperativeShape, Features, Limits};
use crate::tensor::DType;

/// What an adapter says of itself.
#[derive(Clone, Debug)]
pub struct Info {
    /// The adapter's name.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `noop`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: &'static str,
    /// Smallest and largest subgroup.
    pub subgroup: (u32, u32),
    /// Optional features that inkwash has or may come to have a use for.
    pub features: Vec<&'static str>,
    /// The limits that bound a plan: name and value.
    pub limits: Vec<(&'static str, u64)>,
}

fn instance(backends: wgpu::Backends) -> wgpu::Instance {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // With DEBUG, Vulkan is told the names of groups, kernels and buffers, which the debuggers of all vendors show; the other
    // backends always are. WGPU_DEBUG=0 leaves it out.
    let flags = (descriptor.flags | wgpu::InstanceFlags::DEBUG).with_env();
    wgpu::Instance::new(wgpu::InstanceDescriptor { backends, flags, ..descriptor })
}

fn backends(name: Option<&str>) -> Result<wgpu::Backends, GpuError> {
    Ok(match name.map(str::to_ascii_lowercase).as_deref() {
        None if cfg!(target_arch = "wasm32") => wgpu::Backends::BROWSER_WEBGPU,
        None => wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        Some("vulkan" | "vk") => wgpu::Backends::VULKAN,
        Some("metal") => wgpu::Backends::METAL,
        Some("dx12") => wgpu::Backends::DX12,
        Some("gl" | "gles") => wgpu::Backends::GL,
        Some(other) => return Err(GpuError::UnknownBackend(other.into())),
    })
}

/// Real GPUs first, a CPU driver last.
fn rank(adapter: &wgpu::Adapter) -> u8 {
    match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// How many of the adapters, the best of which come first, are of the first one's kind.
pub(super) fn of_best_kind(found: &[wgpu::Adapter]) -> usize {
    let best = found.first().map(rank);
    found.iter().take_while(|adapter| Some(rank(adapter)) == best).count().max(1)
}

pub(super) async fn adapters(backend: Option<&str>) -> Result<Vec<wgpu::Adapter>, GpuError> {
    let found = adapters_of(backends(backend)?).await;
    // OpenGL only where there is nothing better: it has fewer limits, and asking for it makes some drivers
    // complain on the terminal.
    let nothing = found.is_empty() && backend.is_none() && !cfg!(target_arch = "wasm32");
    Ok(if nothing { adapters_of(wgpu::Backends::GL).await } else { found })
}

async fn adapters_of(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut found = instance(backends).enumerate_adapters(backends).await;
    found.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    found.sort_by_key(rank);
    found
}

pub(super) fn describe(adapter: &wgpu::Adapter) -> Info {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let has = adapter.features();
    let features = [
        (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
        (wgpu::Features::SHADER_F16, "shader-f16"),
        (wgpu::Features::SUBGROUP, "subgroups"),
        (wgpu::Features::IMMEDIATES, "immediates"),
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
    ];
    Info {
        // A browser may keep it to itself.
        name: if info.name.is_empty() { "of no name".into() } else { info.name },
        backend: format!("{:?}", info.backend).to_lowercase(),
        driver: [info.driver, info.driver_info]
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "cpu",
            wgpu::DeviceType::Other => "other",
        },
        subgroup: (info.subgroup_min_size, info.subgroup_max_size),
        features: features.into_iter().filter(|(f, _)| has.contains(*f)).map(|(_, name)| name).collect(),
        limits: vec![
            ("max_buffer_size", limits.max_buffer_size),
            ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
            ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage.into()),
            ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size.into()),
            ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup.into()),
            ("max_compute_workgroups_per_dimension", limits.max_compute_workgroups_per_dimension.into()),
        ],
    }
}

pub(super) fn plan_limits(limits: &wgpu::Limits) -> Limits {
    Limits {
        binding_bytes: limits.max_storage_buffer_binding_size,
        buffer_bytes: limits.max_buffer_size,
        offset_alignment: limits.min_storage_buffer_offset_alignment.into(),
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        workgroup_invocations: limits.max_compute_invocations_per_workgroup,
    }
}

pub(super) fn plan_features(adapter: &wgpu::Adapter) -> Features {
    let (has, info) = (adapter.features(), adapter.get_info());
    Features {
        f16: has.contains(wgpu::Features::SHADER_F16),
        subgroups: has
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        cooperative: if has.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            adapter.cooperative_matrix_properties().iter().filter_map(cooperative_shape).collect()
        } else {
            Vec::new()
        },
        timestamps: has.contains(wgpu::Features::TIMESTAMP_QUERY),
        timestamps_in_passes: has
            .contains(wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
    }
}

/// What of the matrix units WGSL can name: floats.
fn cooperative_shape(offered: &wgpu::CooperativeMatrixProperties) -> Option<CooperativeShape> {
    let dtype = |scalar| match scalar {
        wgpu::CooperativeScalarType::F32 => Some(DType::F32),
        wgpu::CooperativeScalarType::F16 => Some(DType::F16),
        wgpu::CooperativeScalarType::I32 | wgpu::CooperativeScalarType::U32 => None,
    };
    Some(CooperativeShape {
        m: offered.m_size,
        n: offered.n_size,
        k: offered.k_size,
        factors: dtype(offered.ab_type)?,
        sum: dtype(offered.cr_type)?,
    })
}

/// Every adapter of this machine, in the order in which `--device INDEX` counts.
pub async fn list(backend: Option<&str>) -> Result<Vec<Info>, GpuError> {
    Ok(adapters(backend).await?.iter().map(describe).collect())
}

/// What to install on this system to get an adapter.
pub(super) fn remedy() -> String {
    if cfg!(target_arch = "wasm32") {
        return "The browser has WebGPU and no adapter for it: its GPU, driver or system is on the browser's list of those \
                that it does not use"
            .into();
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default().to_lowercase();
    let like =
        |names: &[&str]| names.iter().any(|n| release.lines().any(|l| l.starts_with("id") && l.contains(n)));
    let command = if cfg!(target_os = "macos") {
        "Metal needs macOS 10.14 or later on a machine with a supported GPU"
    } else if cfg!(target_os = "windows") {
        "Install your GPU vendor's driver; without a GPU, Windows 10 and later carry a software adapter (WARP)"
    } else if like(&["debian", "ubuntu"]) {
        "Install a Vulkan driver: `sudo apt-get install mesa-vulkan-drivers` (AMD, Intel, and any CPU), or \
         NVIDIA's driver package"
    } else if like(&["fedora", "rhel", "centos"]) {
        "Install a Vulkan driver: `sudo dnf install mesa-vulkan-drivers vulkan-loader`, or NVIDIA's driver package"
    } else if like(&["arch"]) {
        "Install a Vulkan driver: `sudo pacman -S vulkan-icd-loader` and vulkan-radeon, vulkan-intel, \
         nvidia-utils or vulkan-swrast (any CPU)"
    } else if like(&["suse"]) {
        "Install a Vulkan driver: `sudo zypper install libvulkan1 libvulkan_lvp` (any CPU) or your GPU's"
    } else {
        "Install your GPU's Vulkan driver, or Mesa's lavapipe, which runs on any CPU"
    };
    format!("{command}; then `inkwash doctor` lists what is there")
}
