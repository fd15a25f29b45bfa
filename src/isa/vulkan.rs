//! A Vulkan driver that is asked what its compiler makes of a shader. wgpu does not show it, so that this names Vulkan itself.
#![expect(unsafe_code, reason = "every call of Vulkan is; each is made by the rules of its specification")]

use super::{Executable, IsaError, Statistic};
use crate::shader::{Access, Interface};
use ash::{khr, vk};
use std::ffi::{CStr, CString};

/// The extension that tells.
const EXTENSION: &CStr = khr::pipeline_executable_properties::NAME;

/// A device that is opened to compile; nothing is ever run on it, so that a driver on a stub of a GPU will do.
pub struct Compiler {
    /// The device's name.
    pub device: String,
    /// Driver name and version.
    pub driver: String,
    executables: khr::pipeline_executable_properties::Device,
    logical: ash::Device,
    instance: ash::Instance,
    /// The loader, which the others call into.
    _entry: ash::Entry,
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: what was made of the device is gone, and so is the device before its instance.
        unsafe {
            self.logical.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

fn failed(call: &'static str) -> impl Fn(vk::Result) -> IsaError {
    move |result| IsaError::Vulkan { call, message: result.to_string() }
}

/// The text of an array that Vulkan filled.
fn text(name: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|&c| c.cast_unsigned()).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A Vulkan device before it is opened.
struct Candidate {
    handle: vk::PhysicalDevice,
    kind: vk::PhysicalDeviceType,
    api: u32,
    name: String,
    driver: String,
    extensions: Vec<String>,
}

impl Candidate {
    fn offers(&self, extension: &CStr) -> bool {
        self.extensions.iter().any(|name| name.as_bytes() == extension.to_bytes())
    }

    /// GPUs before what stands in for one, as `--device` counts.
    fn rank(&self) -> u8 {
        match self.kind {
            vk::PhysicalDeviceType::DISCRETE_GPU => 0,
            vk::PhysicalDeviceType::INTEGRATED_GPU => 1,
            vk::PhysicalDeviceType::VIRTUAL_GPU => 2,
            vk::PhysicalDeviceType::CPU => 4,
            _ => 3,
        }
    }
}

impl Compiler {
    /// Opens the Vulkan device that `wanted` names, by a part of its name or by its number; the first if left out.
    pub fn open(wanted: Option<&str>) -> Result<Self, IsaError> {
        // SAFETY: the system's Vulkan loader is trusted, as it is by wgpu.
        let entry = unsafe { ash::Entry::load() }.map_err(|e| IsaError::NoVulkan(e.to_string()))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `info` asks for no layers and no extensions.
        let instance = unsafe { entry.create_instance(&info, None) }.map_err(failed("vkCreateInstance"))?;
        match choose(&instance, wanted).and_then(|chosen| Ok((open(&instance, &chosen)?, chosen))) {
            Ok((logical, chosen)) => Ok(Self {
                device: chosen.name,
                driver: chosen.driver,
                executables: khr::pipeline_executable_properties::Device::new(&instance, &logical),
                logical,
                instance,
                _entry: entry,
            }),
            Err(e) => {
                // SAFETY: nothing is left that was made of it.
                unsafe { instance.destroy_instance(None) };
                Err(e)
            }
        }
    }

    /// What the driver makes of one entry point: SPIR-V of [`crate::shader::to_spirv`], and what it binds. Most drivers make one
    /// executable of it, some one for each size of a subgroup.
    pub fn compile(
        &self,
        spirv: &[u32],
        entry: &str,
        interface: &Interface,
    ) -> Result<Vec<Executable>, IsaError> {
        let name = CString::new(entry)
            .map_err(|e| IsaError::Vulkan { call: "vkCreateComputePipelines", message: e.to_string() })?;
        let bindings: Vec<vk::DescriptorSetLayoutBinding<'_>> = interface
            .bindings
            .iter()
            .map(|b| {
                let kind = match b.access {
                    Access::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                    Access::Read | Access::ReadWrite => vk::DescriptorType::STORAGE_BUFFER,
                };
                vk::DescriptorSetLayoutBinding::default()
                    .binding(b.binding)
                    .descriptor_type(kind)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let mut made = Made::new(&self.logical);
        // SAFETY: naga has validated what `spirv` was made of; the layout has what the entry point binds; `name` is one of its
        // entry points, or the driver says that it is not. All that is made lives until `made` is dropped.
        unsafe {
            let device = &self.logical;
            let info = vk::ShaderModuleCreateInfo::default().code(spirv);
            made.module = device.create_shader_module(&info, None).map_err(failed("vkCreateShaderModule"))?;
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            made.set = device
                .create_descriptor_set_layout(&info, None)
                .map_err(failed("vkCreateDescriptorSetLayout"))?;
            let sets = [made.set];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            made.layout =
                device.create_pipeline_layout(&info, None).map_err(failed("vkCreatePipelineLayout"))?;
            let info = vk::ComputePipelineCreateInfo::default()
                .flags(
                    vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                        | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                )
                .stage(
                    vk::PipelineShaderStageCreateInfo::default()
                        .stage(vk::ShaderStageFlags::COMPUTE)
                        .module(made.module)
                        .name(&name),
                )
                .layout(made.layout);
            let pipelines = device
                .create_compute_pipelines(vk::PipelineCache::null(), &[info], None)
                .map_err(|(_, result)| failed("vkCreateComputePipelines")(result))?;
            made.pipeline = pipelines.into_iter().next().unwrap_or_default();
        }
        self.describe(made.pipeline)
    }

    fn describe(&self, pipeline: vk::Pipeline) -> Result<Vec<Executable>, IsaError> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline was made of this device, with both flags to capture.
        let properties = unsafe { self.executables.get_pipeline_executable_properties(&info) }
            .map_err(failed("vkGetPipelineExecutablePropertiesKHR"))?;
        if properties.is_empty() {
            return Err(IsaError::Vulkan {
                call: "vkGetPipelineExecutablePropertiesKHR",
                message: "the driver describes no executable of this pipeline".into(),
            });
        }
        (0..).zip(&properties).map(|(index, p)| self.executable(pipeline, index, p)).collect()
    }

    fn executable(
        &self,
        pipeline: vk::Pipeline,
        index: u32,
        properties: &vk::PipelineExecutablePropertiesKHR<'_>,
    ) -> Result<Executable, IsaError> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index);
        // SAFETY: as above, and the pipeline has an executable of this index.
        let found = unsafe { self.executables.get_pipeline_executable_statistics(&info) }
            .map_err(failed("vkGetPipelineExecutableStatisticsKHR"))?;
        let statistics = found.iter().map(|s| Statistic {
            name: text(&s.name),
            description: text(&s.description),
            value: value(s),
        });
        Ok(Executable {
            name: text(&properties.name),
            subgroup_size: properties.subgroup_size,
            statistics: statistics.collect(),
            assembly: self.assembly(&info)?,
        })
    }

    /// The text that the driver calls assembly, if there is one: RADV's `Assembly`, NVK's `NAK assembly`. The others are what
    /// the compiler thinks in between.
    fn assembly(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Option<String>, IsaError> {
        let failed = failed("vkGetPipelineExecutableInternalRepresentationsKHR");
        // SAFETY: as above. Without a place for data, the driver gives sizes.
        let mut found = unsafe { self.executables.get_pipeline_executable_internal_representations(info) }
            .map_err(&failed)?;
        let mut texts: Vec<Vec<u8>> = found.iter().map(|r| vec![0; r.data_size]).collect();
        for (representation, text) in found.iter_mut().zip(&mut texts) {
            representation.p_data = text.as_mut_ptr().cast();
        }
        let mut count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        // SAFETY: `found` has `count` elements, each with a place of the size that the driver asked for.
        unsafe {
            (self.executables.fp().get_pipeline_executable_internal_representations_khr)(
                self.logical.handle(),
                info,
                &raw mut count,
                found.as_mut_ptr(),
            )
        }
        .result()
        .map_err(failed)?;
        Ok(found.iter().zip(texts).find_map(|(representation, mut bytes)| {
            let assembly = text(&representation.name).to_lowercase().contains("assembly");
            if representation.is_text == vk::FALSE || !assembly {
                return None;
            }
            bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }))
    }
}

/// What a pipeline is made of, destroyed with it.
struct Made<'a> {
    device: &'a ash::Device,
    module: vk::ShaderModule,
    set: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
}

impl<'a> Made<'a> {
    fn new(device: &'a ash::Device) -> Self {
        Self {
            device,
            module: vk::ShaderModule::null(),
            set: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            pipeline: vk::Pipeline::null(),
        }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // SAFETY: all of it was made of this device, nothing uses it, and what was not made is null, which Vulkan ignores.
        unsafe {
            self.device.destroy_pipeline(self.pipeline, None);
            self.device.destroy_pipeline_layout(self.layout, None);
            self.device.destroy_descriptor_set_layout(self.set, None);
            self.device.destroy_shader_module(self.module, None);
        }
    }
}

fn value(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> serde_json::Value {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    // SAFETY: the driver says which of the union's fields it has set.
    unsafe {
        match statistic.format {
            Format::BOOL32 => (statistic.value.b32 != 0).into(),
            Format::INT64 => statistic.value.i64.into(),
            Format::UINT64 => statistic.value.u64.into(),
            _ => statistic.value.f64.into(),
        }
    }
}

fn choose(instance: &ash::Instance, wanted: Option<&str>) -> Result<Candidate, IsaError> {
    // SAFETY: the instance lives.
    let handles =
        unsafe { instance.enumerate_physical_devices() }.map_err(failed("vkEnumeratePhysicalDevices"))?;
    let mut found = handles.into_iter().map(|h| candidate(instance, h)).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        return Err(IsaError::NoVulkan("there is no Vulkan device".into()));
    }
    found.sort_by_key(Candidate::rank);
    let index = match wanted {
        None => 0,
        Some(wanted) => {
            let by_number = wanted.parse().ok().filter(|&i: &usize| i < found.len());
            let lower = wanted.to_lowercase();
            let by_name = || found.iter().position(|c| c.name.to_lowercase().contains(&lower));
            by_number.or_else(by_name).ok_or_else(|| {
                let names = found.iter().enumerate().map(|(i, c)| format!("{i}: {}", c.name));
                IsaError::NoMatch { wanted: wanted.into(), found: names.collect::<Vec<_>>().join("; ") }
            })?
        }
    };
    let chosen = found.swap_remove(index);
    if !chosen.offers(EXTENSION) || chosen.api < vk::API_VERSION_1_1 {
        return Err(IsaError::Silent { device: chosen.name, driver: chosen.driver });
    }
    Ok(chosen)
}

fn candidate(instance: &ash::Instance, handle: vk::PhysicalDevice) -> Result<Candidate, IsaError> {
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    // SAFETY: the handle comes from this instance. A device of Vulkan 1.0 is asked nothing that it does not know.
    let (properties, extensions) = unsafe {
        let mut properties = instance.get_physical_device_properties(handle);
        if properties.api_version >= vk::API_VERSION_1_2 {
            let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(handle, &mut all);
            properties = all.properties;
        }
        let extensions = instance
            .enumerate_device_extension_properties(handle)
            .map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
        (properties, extensions)
    };
    let driver = [text(&driver.driver_name), text(&driver.driver_info)];
    let told: Vec<&str> = driver.iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
    Ok(Candidate {
        handle,
        kind: properties.device_type,
        api: properties.api_version,
        name: text(&properties.device_name),
        driver: told.join(" "),
        extensions: extensions.iter().map(|e| text(&e.extension_name)).collect(),
    })
}

/// Opens a device with what wgpu would switch on for our kernels where it is offered: f16, matrix units, and checks of bounds in
/// hardware, which change what some compilers make.
fn open(instance: &ash::Instance, chosen: &Candidate) -> Result<ash::Device, IsaError> {
    let mut executables = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
    let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
    let mut storage = vk::PhysicalDevice16BitStorageFeatures::default();
    let mut halves = vk::PhysicalDeviceShaderFloat16Int8Features::default();
    let mut memory = vk::PhysicalDeviceVulkanMemoryModelFeatures::default();
    let mut extensions = vec![EXTENSION.as_ptr()];
    let mut features =
        vk::PhysicalDeviceFeatures2::default().push_next(&mut executables).push_next(&mut storage);
    if chosen.offers(ash::ext::robustness2::NAME) {
        extensions.push(ash::ext::robustness2::NAME.as_ptr());
        features = features.push_next(&mut robustness);
    }
    if chosen.api >= vk::API_VERSION_1_2 {
        features = features.push_next(&mut halves).push_next(&mut memory);
        if chosen.offers(khr::cooperative_matrix::NAME) {
            extensions.push(khr::cooperative_matrix::NAME.as_ptr());
            features = features.push_next(&mut matrices);
        }
    }
    let queue = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
    // SAFETY: the device offers the extensions, and is asked for the features that it has said to have. Every Vulkan device has
    // queues of the first family.
    unsafe {
        instance.get_physical_device_features2(chosen.handle, &mut features);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queue)
            .enabled_extension_names(&extensions)
            .push_next(&mut features);
        instance.create_device(chosen.handle, &info, None).map_err(failed("vkCreateDevice"))
    }
}
