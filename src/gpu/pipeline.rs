//! Kernels compiled for a device: the embedded files without checks at run time, a user's with them.

use super::device::lock;
use super::faults::Call;
use super::{Device, GpuError};
use crate::graph::Dispatch;
use crate::shader::{self, Access, Expanded, Interface, Kernel, ShaderError, Source, Switched, Variant};
use std::borrow::Cow;
use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use {
    super::Blocking as _,
    std::collections::HashSet,
    std::sync::atomic::{AtomicUsize, Ordering},
};

/// What a pipeline is found by: shader, entry point and variant.
pub(super) type PipelineKey = (&'static str, &'static str, Variant);

/// A compiled entry point.
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// `shader:entry`, as tools outside see it.
    pub label: String,
    pub interface: Arc<Interface>,
    /// The interface of the embedded file, which launches are made for; a user's file may leave a binding unused.
    pub expected: Arc<Interface>,
    /// What it was compiled from, where that is a user's file.
    pub edited: Option<Expanded>,
}

impl Device {
    /// The kernels of launches, in their order: compiled by all the host's processors together, or found compiled.
    pub(super) async fn pipelines<'a>(
        &self,
        launches: impl Iterator<Item = &'a Dispatch> + Clone,
    ) -> Result<Vec<Arc<Pipeline>>, GpuError> {
        #[cfg(not(target_arch = "wasm32"))]
        self.compile_together(launches.clone());
        let mut pipelines = Vec::new();
        for launch in launches {
            pipelines.push(self.pipeline(launch.shader, launch.entry, &launch.variant).await?);
        }
        if let Some(cache) = &self.pipeline_cache {
            cache.save();
        }
        Ok(pipelines)
    }

    /// Compiles what is not compiled yet. What fails is left to [`Device::pipeline`], which then meets the first failure in the
    /// order of launches, whatever thread was faster.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn compile_together<'a>(&self, launches: impl Iterator<Item = &'a Dispatch>) {
        let mut seen = HashSet::new();
        let missing: Vec<&Dispatch> = {
            let compiled = lock(&self.pipelines);
            let mut is_new = |key: PipelineKey| !compiled.contains_key(&key) && seen.insert(key);
            launches.filter(|d| is_new((d.shader.name, d.entry, d.variant.clone()))).collect()
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..processors.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(d) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.pipeline(d.shader, d.entry, &d.variant).block_on().is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }

    /// Compiles a kernel, as every plan that launches it would.
    ///
    /// # Errors
    /// The device or its driver does not take it.
    pub async fn compile(&self, kernel: &Kernel) -> Result<(), GpuError> {
        self.pipeline(kernel.source, kernel.entry, &kernel.variant).await.map(drop)
    }

    /// Compiles an entry point, or finds it compiled.
    pub(super) async fn pipeline(
        &self,
        source: &'static Source,
        entry: &'static str,
        variant: &Variant,
    ) -> Result<Arc<Pipeline>, GpuError> {
        let key = (source.name, entry, variant.clone());
        if let Some(found) = lock(&self.pipelines).get(&key) {
            return Ok(found.clone());
        }
        let expected = shader::interface(source, entry, variant)?;
        let edited = match &self.shaders {
            Some(folder) => folder.edited(source, entry, variant)?,
            None => None,
        };
        self.before(Call::Pipeline);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let label = format!("{}:{entry}", source.name);
        let (module, interface, edited) = match edited {
            Some((expanded, interface)) => {
                let module = self.device.create_shader_module(descriptor(&label, wgsl(&expanded.text)));
                (module, Arc::new(interface), Some(expanded))
            }
            None => {
                let expanded = shader::expand(source, variant, shader::Target::Native)?;
                (self.trusted(&label, wgsl(&expanded.text)), expected.clone(), None)
            }
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
        let pipeline = self.compute_pipeline(&label, &module, entry, &[Some(&layout)]);
        let failure = scope.pop();
        if let Some(e) = failure.await {
            if let Some(Expanded { file, .. }) = edited {
                let message = format!("{} does not take it: {e}", self.info.name);
                return Err(ShaderError::Interface { file: file.to_string(), entry, message }.into());
            }
            return Err(self.failed(&format!("{label} ({}): {e}", variant.describe())));
        }
        self.check()?;
        let made = Arc::new(Pipeline { pipeline, layout, label, interface, expected, edited });
        lock(&self.pipelines).insert(key, made.clone());
        Ok(made)
    }

    fn compute_pipeline(
        &self,
        label: &str,
        module: &wgpu::ShaderModule,
        entry: &str,
        groups: &[Option<&wgpu::BindGroupLayout>],
    ) -> wgpu::ComputePipeline {
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: groups,
            immediate_size: 0,
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&layout),
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: self.pipeline_cache.as_ref().map(|kept| &kept.cache),
        })
    }

    /// Compiles a launch's kernel with parts of it behind a switch, whose group has this layout, as the kernel itself was
    /// compiled: a user's with wgpu's checks, an embedded one without.
    pub(super) async fn switched(
        &self,
        kernel: &Pipeline,
        entry: &str,
        switched: &Switched,
        switch: &wgpu::BindGroupLayout,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        self.before(Call::Pipeline);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let label = format!("{} in parts", kernel.label);
        let source = wgpu::ShaderSource::Naga(Cow::Owned(switched.module.clone()));
        let module = match &kernel.edited {
            Some(_) => self.device.create_shader_module(descriptor(&label, source)),
            None => self.trusted(&label, source),
        };
        let groups = [Some(&kernel.layout), Some(switch)];
        let pipeline = self.compute_pipeline(&label, &module, entry, &groups);
        let failure = scope.pop();
        match failure.await {
            Some(e) => Err(self.failed(&format!("{label}: {e}"))),
            None => self.check().map(|()| pipeline),
        }
    }

    /// The layout of a group that holds one uniform, at binding 0.
    pub(super) fn uniform_layout(&self, label: &str) -> wgpu::BindGroupLayout {
        let ty = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let visibility = wgpu::ShaderStages::COMPUTE;
        let entries = &[wgpu::BindGroupLayoutEntry { binding: 0, visibility, ty, count: None }];
        let label = Some(label);
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries })
    }

    /// The module of an embedded file, without checks at run time.
    fn trusted(&self, label: &str, source: wgpu::ShaderSource) -> wgpu::ShaderModule {
        // SAFETY: the source is one of the files embedded in this program, never a user's, which are compiled with wgpu's
        // checks. Every loop in the embedded ones is bounded by a parameter, and every kernel is run against its reference with
        // guard words behind its outputs on every case of the catalogue. They clamp what they read as an index, whatever an
        // edited kernel wrote. Where parts of one are behind a switch, all conditions and indices are still computed
        // (`shader::parts`), so that loops end and accesses stay where they were. The checks cost 20 % in tight loops on
        // lavapipe.
        #[expect(unsafe_code, reason = "the only way to leave out checks that our own tests make")]
        unsafe {
            self.device.create_shader_module_trusted(
                descriptor(label, source),
                wgpu::ShaderRuntimeChecks::unchecked(),
            )
        }
    }
}

fn wgsl(text: &str) -> wgpu::ShaderSource<'_> {
    wgpu::ShaderSource::Wgsl(text.into())
}

fn descriptor<'a>(label: &'a str, source: wgpu::ShaderSource<'a>) -> wgpu::ShaderModuleDescriptor<'a> {
    wgpu::ShaderModuleDescriptor { label: Some(label), source }
}
