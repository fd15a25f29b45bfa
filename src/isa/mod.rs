//! What a driver's compiler makes of a kernel: registers, spills, and what its hottest loop is made of. Nothing runs.

mod assembly;
mod vulkan;

pub use assembly::{Mix, hottest_loop};
pub use vulkan::Compiler;

use crate::shader::{self, Folder, Kernel, ShaderError, Target};

/// A number that a driver tells of an executable.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Statistic {
    /// As the driver calls it.
    pub name: String,
    /// The driver's words for what it is.
    pub description: String,
    /// A number, or true or false.
    pub value: serde_json::Value,
}

/// What a driver tells of the code that it has made.
#[derive(Clone, Debug)]
pub struct Executable {
    /// As the driver calls it.
    pub name: String,
    /// Invocations that run in step.
    pub subgroup_size: u32,
    /// All that the driver tells.
    pub statistics: Vec<Statistic>,
    /// Its instructions, where the driver prints them.
    pub assembly: Option<String>,
}

/// A property of code that drivers have different names for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Vector registers of an invocation.
    Registers,
    /// Scalar registers of a subgroup.
    ScalarRegisters,
    /// Vector registers that did not fit and are kept in memory.
    Spills,
    /// Scalar registers that did not fit and are kept in vector registers.
    ScalarSpills,
    /// Bytes of private memory of an invocation: spills, and arrays that did not fit into registers.
    Scratch,
    /// Bytes of workgroup memory.
    Workgroup,
    /// Subgroups that fit onto a SIMD unit or a multiprocessor at once.
    Occupancy,
    /// Bytes of code.
    Code,
}

impl Property {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Registers,
        Self::ScalarRegisters,
        Self::Spills,
        Self::ScalarSpills,
        Self::Scratch,
        Self::Workgroup,
        Self::Code,
        Self::Occupancy,
    ];

    /// Its head in a table and its key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::ScalarRegisters => "scalar_registers",
            Self::Spills => "spills",
            Self::ScalarSpills => "scalar_spills",
            Self::Scratch => "scratch",
            Self::Workgroup => "workgroup_bytes",
            Self::Occupancy => "occupancy",
            Self::Code => "code_bytes",
        }
    }

    /// What it is called by RADV, NVIDIA, NVK, and Intel's driver in Mesa.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Registers => &["VGPRs", "Register Count", "Number of GPRs"],
            Self::ScalarRegisters => &["SGPRs"],
            Self::Spills => &["Spilled VGPRs", "Spills to memory", "Spill Count"],
            Self::ScalarSpills => &["Spilled SGPRs"],
            Self::Scratch => &["Scratch size", "Local Memory Size", "SLM Size", "Scratch Memory Size"],
            Self::Workgroup => &["LDS size", "Workgroup Memory Size"],
            Self::Occupancy => &["Subgroups per SIMD", "Max warps/SM"],
            Self::Code => &["Code size", "Binary Size", "Code Size"],
        }
    }
}

impl Executable {
    /// A property, where the driver tells it.
    pub fn property(&self, property: Property) -> Option<u64> {
        let names = property.names();
        let found = self.statistics.iter().find(|s| names.contains(&s.name.as_str()))?;
        let mut value = found.value.as_u64()?;
        if found.name == "Local Memory Size" {
            // NVIDIA's driver 580.159.04 has 16 in the upper half for every kernel, whether it uses such memory or not.
            value &= u64::from(u32::MAX);
        }
        // RADV counts the private memory of a whole subgroup.
        let shared_by = if found.name == "Scratch size" { u64::from(self.subgroup_size.max(1)) } else { 1 };
        Some(value / shared_by)
    }

    /// What the hottest loop is made of: nothing where no loop multiplies and adds floats, `None` where the driver prints no
    /// assembly that is understood.
    pub fn hottest_loop(&self) -> Option<Mix> {
        let assembly = self.assembly.as_ref().filter(|text| text.trim_start().starts_with("BB0:"))?;
        Some(hottest_loop(assembly).unwrap_or_default())
    }
}

impl Compiler {
    /// What the driver makes of a kernel, as wgpu would hand it over; of the folder's text where that is another.
    pub fn kernel(&self, kernel: &Kernel, folder: Option<&Folder>) -> Result<Vec<Executable>, IsaError> {
        let Kernel { source, variant, entry } = kernel;
        let edited = folder.map(|folder| folder.edited(source, entry, variant)).transpose()?.flatten();
        let checked = edited.is_some();
        let (expanded, interface) = match edited {
            Some((expanded, interface)) => (expanded, interface.into()),
            None => {
                (shader::expand(source, variant, Target::Native)?, shader::interface(source, entry, variant)?)
            }
        };
        let (module, info) = shader::parse(variant, &expanded)?;
        let spirv = shader::to_spirv(&module, &info, entry, checked)
            .map_err(|message| ShaderError::Interface { file: expanded.file.to_string(), entry, message })?;
        self.compile(&spirv, entry, &interface)
    }
}

/// What stands in the way of asking a driver.
#[derive(Debug, thiserror::Error)]
pub enum IsaError {
    /// No loader, or no device.
    #[error(
        "Vulkan was not found ({0}): only its drivers tell what they make of a shader. Install a Vulkan driver"
    )]
    NoVulkan(String),
    /// There are devices, but not the one that was asked for.
    #[error(
        "no Vulkan device matches `{wanted}`; there are: {found}. Choose one of these with --device NAME|INDEX"
    )]
    NoMatch {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A driver without the extension.
    #[error(
        "{device} does not tell what it makes of a shader: its driver ({driver}) has no VK_KHR_pipeline_executable_properties. \
         Choose another device with --device, or ask Mesa's RADV, which needs no GPU for it: scripts/shader-isa"
    )]
    Silent {
        /// The device.
        device: String,
        /// Driver name and version.
        driver: String,
    },
    /// A call that failed.
    #[error("{call} failed: {message}. Update the driver, or choose another device with --device")]
    Vulkan {
        /// The call.
        call: &'static str,
        /// The driver's words.
        message: String,
    },
    /// A shader that does not compile.
    #[error(transparent)]
    Shader(#[from] ShaderError),
}
