//! The only place that names wgpu: devices, buffers, pipelines, running a plan, reading back, timing.

mod executable;

pub use executable::{Executable, Store};

use crate::graph::{Caps, Features, GraphError, Kernels, Limits, PlanError};
use crate::shader::{self, Access, Interface, ShaderError, Source, Variant};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What goes wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no adapter at all.
    #[error("no graphics adapter was found. {0}")]
    NoAdapter(String),
    /// There are adapters, but not the one that was asked for.
    #[error(
        "no adapter matches {wanted}; this machine has: {found}. Choose one of these with --device NAME|INDEX"
    )]
    NoMatch {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A backend name that wgpu does not have.
    #[error("unknown backend `{0}`: expected vulkan, metal, dx12 or gl")]
    UnknownBackend(String),
    /// The driver refused to make a device.
    #[error(
        "adapter {adapter} did not give a device: {message}. Update its driver, or choose another with --device"
    )]
    Request {
        /// The adapter.
        adapter: String,
        /// The driver's words.
        message: String,
    },
    /// Not enough device memory.
    #[error(
        "the device could not allocate {bytes} bytes for `{name}`: {message}. Use a smaller batch (with \
         --accumulate to keep the effective batch) or a narrower model"
    )]
    OutOfMemory {
        /// The buffer.
        name: String,
        /// Its size.
        bytes: u64,
        /// The driver's words.
        message: String,
    },
    /// A shader that does not compile or does not fit its operator.
    #[error(transparent)]
    Shader(#[from] ShaderError),
    /// A plan that does not fit the device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// wgpu rejected a call, or the device was lost.
    #[error("the device failed: {0}")]
    Device(String),
    /// A tensor whose memory others have taken by the end of the run.
    #[error("`{tensor}` is not kept: make it an output of the graph to read it")]
    NotKept {
        /// The tensor.
        tensor: String,
    },
    /// Two plans disagree on the size of a state, or it was given other data.
    #[error("state `{name}` has {found} bytes, but {needed} are needed")]
    StateSize {
        /// The state.
        name: String,
        /// Its size.
        found: u64,
        /// The size that is needed.
        needed: u64,
    },
}

/// What stops a graph on its way through plan and device.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A defect in the network's graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Too large for the device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Which device to use.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Part of an adapter's name (any case), or its number in the list of `inkwash doctor`.
    pub device: Option<String>,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: Option<String>,
    /// Overrides the algorithms that suit the device.
    pub kernels: Option<Kernels>,
}

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
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

fn backends(name: Option<&str>) -> Result<wgpu::Backends, GpuError> {
    Ok(match name.map(str::to_ascii_lowercase).as_deref() {
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

fn adapters(backend: Option<&str>) -> Result<Vec<wgpu::Adapter>, GpuError> {
    let found = adapters_of(backends(backend)?);
    // OpenGL only where there is nothing better: it has fewer limits, and asking for it makes some drivers
    // complain on the terminal.
    Ok(if found.is_empty() && backend.is_none() { adapters_of(wgpu::Backends::GL) } else { found })
}

fn adapters_of(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut found = pollster::block_on(instance(backends).enumerate_adapters(backends));
    found.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    found.sort_by_key(rank);
    found
}

fn describe(adapter: &wgpu::Adapter) -> Info {
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
        name: info.name,
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

fn plan_limits(limits: &wgpu::Limits) -> Limits {
    Limits {
        binding_bytes: limits.max_storage_buffer_binding_size,
        buffer_bytes: limits.max_buffer_size,
        offset_alignment: limits.min_storage_buffer_offset_alignment.into(),
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        workgroup_invocations: limits.max_compute_invocations_per_workgroup,
    }
}

fn plan_features(adapter: &wgpu::Adapter) -> Features {
    let (has, info) = (adapter.features(), adapter.get_info());
    Features {
        f16: has.contains(wgpu::Features::SHADER_F16),
        subgroups: has
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        // No kernel uses them yet, and asking for an experimental feature is unsafe.
        cooperative: Vec::new(),
        timestamps: has.contains(wgpu::Features::TIMESTAMP_QUERY),
    }
}

/// Every adapter of this machine, in the order in which `--device INDEX` counts.
pub fn list(backend: Option<&str>) -> Result<Vec<Info>, GpuError> {
    Ok(adapters(backend)?.iter().map(describe).collect())
}

/// What to install on this system to get an adapter.
fn remedy() -> String {
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

/// An open device with its compiled pipelines.
pub struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// What plans for this device may ask for.
    pub caps: Caps,
    /// What the adapter says of itself.
    pub info: Info,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({}, {})", self.info.name, self.info.backend)
    }
}

type PipelineKey = (&'static str, &'static str, Variant);

/// A compiled entry point.
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub interface: Arc<Interface>,
}

/// Locks whatever state a panicking thread may have left: our maps are valid at every await point.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Opens the chosen device, or the most capable one.
    pub fn open(choice: &Choice) -> Result<Arc<Self>, GpuError> {
        let mut found = adapters(choice.backend.as_deref())?;
        if found.is_empty() {
            return Err(GpuError::NoAdapter(remedy()));
        }
        let index = match &choice.device {
            None => 0,
            Some(wanted) => {
                let by_index = wanted.parse::<usize>().ok().filter(|&i| i < found.len());
                let by_name = || {
                    let wanted = wanted.to_lowercase();
                    found.iter().position(|a| a.get_info().name.to_lowercase().contains(&wanted))
                };
                by_index.or_else(by_name).ok_or_else(|| GpuError::NoMatch {
                    wanted: format!("`{wanted}`"),
                    found: found
                        .iter()
                        .enumerate()
                        .map(|(i, a)| format!("{i}: {}", a.get_info().name))
                        .collect::<Vec<_>>()
                        .join("; "),
                })?
            }
        };
        let adapter = found.swap_remove(index);
        let limits = adapter.limits();
        Self::request(&adapter, limits, choice.kernels)
    }

    /// A device of wgpu's noop backend at WebGPU's default limits: it validates every call and computes
    /// nothing.
    pub fn noop(kernels: Kernels) -> Result<Arc<Self>, GpuError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop.enable = true;
        let instance = wgpu::Instance::new(descriptor);
        let adapter = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::NOOP))
            .into_iter()
            .next()
            .ok_or_else(|| GpuError::NoAdapter("wgpu was built without its noop backend".into()))?;
        Self::request(&adapter, wgpu::Limits::default(), Some(kernels))
    }

    fn request(
        adapter: &wgpu::Adapter,
        limits: wgpu::Limits,
        kernels: Option<Kernels>,
    ) -> Result<Arc<Self>, GpuError> {
        let info = describe(adapter);
        let kernels =
            kernels.unwrap_or(if info.kind == "cpu" { Kernels::Registers } else { Kernels::Workgroup });
        let caps = Caps { kernels, limits: plan_limits(&limits), features: plan_features(adapter) };
        let wanted = [
            (caps.features.timestamps, wgpu::Features::TIMESTAMP_QUERY),
            (caps.features.f16, wgpu::Features::SHADER_F16),
            (caps.features.subgroups.is_some(), wgpu::Features::SUBGROUP),
        ];
        let features = wanted.into_iter().filter(|(has, _)| *has).map(|(_, feature)| feature);
        let features = features.fold(wgpu::Features::empty(), |all, feature| all | feature);
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("inkwash"),
            required_features: features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        }))
        .map_err(|e| GpuError::Request { adapter: info.name.clone(), message: e.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&slot).get_or_insert(e.to_string());
        }));
        Ok(Arc::new(Self { device, queue, caps, info, pipelines: Mutex::default(), failure }))
    }

    /// Fails if wgpu has reported an error since the device was opened.
    pub fn check(&self) -> Result<(), GpuError> {
        match lock(&self.failure).clone() {
            Some(message) => Err(GpuError::Device(message)),
            None => Ok(()),
        }
    }

    /// Waits until everything submitted has run.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| GpuError::Device(e.to_string()))?;
        self.check()
    }

    pub(crate) fn buffer(
        &self,
        name: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size: bytes,
            usage,
            mapped_at_creation: false,
        });
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(memory.pop())];
        match errors.into_iter().flatten().next() {
            Some(e) => Err(GpuError::OutOfMemory { name: name.into(), bytes, message: e.to_string() }),
            None => Ok(buffer),
        }
    }

    /// Compiles an entry point, or finds it compiled.
    pub(crate) fn pipeline(
        &self,
        source: &'static Source,
        entry: &'static str,
        variant: &Variant,
    ) -> Result<Arc<Pipeline>, GpuError> {
        let key = (source.name, entry, variant.clone());
        if let Some(found) = lock(&self.pipelines).get(&key) {
            return Ok(found.clone());
        }
        let expanded = shader::expand(source, variant, shader::Target::Native)?;
        let interface = shader::interface(source, entry, variant)?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let label = format!("{}:{entry}", source.name);
        // SAFETY: the text is one of the files embedded in this program, never a user's. Every loop in them
        // is bounded by a parameter, and every kernel is run against its reference with guard words behind
        // its outputs on every case of the catalogue. The checks cost 20 % in tight loops on lavapipe.
        #[expect(unsafe_code, reason = "the only way to leave out checks that our own tests make")]
        let module = unsafe {
            self.device.create_shader_module_trusted(
                wgpu::ShaderModuleDescriptor {
                    label: Some(&label),
                    source: wgpu::ShaderSource::Wgsl(expanded.text.as_str().into()),
                },
                wgpu::ShaderRuntimeChecks::unchecked(),
            )
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = interface
            .bindings
            .iter()
            .map(|b| wgpu::BindGroupLayoutEntry {
                binding: b.binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match b.access {
                        Access::Uniform => wgpu::BufferBindingType::Uniform,
                        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&label),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        if let Some(e) = pollster::block_on(scope.pop()) {
            return Err(GpuError::Device(format!("{label} ({}): {e}", variant.describe())));
        }
        let made = Arc::new(Pipeline { pipeline, layout, interface });
        lock(&self.pipelines).insert(key, made.clone());
        Ok(made)
    }
}
