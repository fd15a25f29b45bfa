//! Bindings, parameter struct and workgroup size of an entry point, read from the compiled module.

use super::{Expanded, ShaderError, Variant};
use naga::valid::ModuleInfo;

/// How a shader uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<uniform>`: the parameter struct.
    Uniform,
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Read => "storage, read",
            Self::ReadWrite => "storage, read_write",
        })
    }
}

/// One `@binding` that an entry point uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingInfo {
    /// The variable's name.
    pub name: String,
    /// Its `@binding` number in group 0.
    pub binding: u32,
    /// How it is used.
    pub access: Access,
}

/// The type of a parameter field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// `u32`
    U32,
    /// `f32`
    F32,
}

impl std::fmt::Display for ParamKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::U32 => "u32",
            Self::F32 => "f32",
        })
    }
}

/// One field of the parameter struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamField {
    /// Its name.
    pub name: String,
    /// Byte offset in the struct.
    pub offset: usize,
    /// Its type.
    pub kind: ParamKind,
}

/// What an entry point asks of its caller.
#[derive(Clone, Debug)]
pub struct Interface {
    /// The bindings it uses, by binding number.
    pub bindings: Vec<BindingInfo>,
    /// The storage buffers that the file declares and the entry point leaves alone.
    pub unused: Vec<String>,
    /// The fields of its uniform struct, if it has one.
    pub params: Vec<ParamField>,
    /// Bytes of that struct.
    pub params_size: usize,
    /// Invocations in one workgroup, per dimension.
    pub workgroup_size: [u32; 3],
    /// Bytes of workgroup memory that the entry point uses.
    pub workgroup_bytes: usize,
}

impl Interface {
    /// Reads the interface of `entry`.
    pub fn of(entry: &'static str, variant: &Variant, expanded: &Expanded) -> Result<Self, ShaderError> {
        let (module, info) = super::parse(variant, expanded)?;
        Self::read(entry, expanded, &module, &info)
    }

    /// Reads the interface of `entry` from what [`super::parse`] made of `expanded`.
    pub fn read(
        entry: &'static str,
        expanded: &Expanded,
        module: &naga::Module,
        info: &ModuleInfo,
    ) -> Result<Self, ShaderError> {
        let fail =
            |message: String| ShaderError::Interface { file: expanded.file.to_string(), entry, message };
        let (index, point) =
            module.entry_points.iter().enumerate().find(|(_, e)| e.name == entry).ok_or_else(|| {
                let names: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
                fail(format!("the file has no such entry point; it has: {}", names.join(", ")))
            })?;
        let usage = info.get_entry_point(index);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|e| fail(e.to_string()))?;

        let mut interface = Self {
            bindings: Vec::new(),
            unused: Vec::new(),
            params: Vec::new(),
            params_size: 0,
            workgroup_size: point.workgroup_size,
            workgroup_bytes: 0,
        };
        for (handle, variable) in module.global_variables.iter() {
            if usage[handle].is_empty() {
                if let naga::AddressSpace::Storage { .. } = variable.space {
                    interface.unused.extend(variable.name.clone());
                }
                continue;
            }
            let access = match variable.space {
                naga::AddressSpace::Uniform => Access::Uniform,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    Access::ReadWrite
                }
                naga::AddressSpace::Storage { .. } => Access::Read,
                naga::AddressSpace::WorkGroup => {
                    interface.workgroup_bytes += layouter[variable.ty].size as usize;
                    continue;
                }
                naga::AddressSpace::Handle => {
                    let name = variable.name.clone().unwrap_or_default();
                    return Err(fail(format!(
                        "`{name}` is a texture or a sampler; kernels have buffers alone"
                    )));
                }
                _ => continue,
            };
            let name = variable.name.clone().unwrap_or_default();
            let Some(place) = &variable.binding else {
                return Err(fail(format!("`{name}` has no @binding")));
            };
            if place.group != 0 {
                return Err(fail(format!(
                    "`{name}` is in @group({}); all bindings are in @group(0)",
                    place.group
                )));
            }
            if access == Access::Uniform {
                let naga::TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
                    return Err(fail(format!("uniform `{name}` must be a struct of u32 and f32")));
                };
                interface.params_size = *span as usize;
                for member in members {
                    let name = member.name.clone().unwrap_or_default();
                    let kind = match &module.types[member.ty].inner {
                        naga::TypeInner::Scalar(s) if *s == naga::Scalar::U32 => ParamKind::U32,
                        naga::TypeInner::Scalar(s) if *s == naga::Scalar::F32 => ParamKind::F32,
                        _ => return Err(fail(format!("parameter `{name}` must be u32 or f32"))),
                    };
                    interface.params.push(ParamField { name, offset: member.offset as usize, kind });
                }
            }
            interface.bindings.push(BindingInfo { name, binding: place.binding, access });
        }
        interface.bindings.sort_by_key(|b| b.binding);
        Ok(interface)
    }

    /// Whether launches made for `expected` can run an entry point with this interface; if not, what differs. The order of
    /// parameters and the numbers of bindings are free, and a buffer that is declared need not be used.
    pub fn fits(&self, expected: &Self) -> Result<(), String> {
        if self.workgroup_size != expected.workgroup_size {
            let (found, made) = (self.workgroup_size, expected.workgroup_size);
            return Err(format!("its @workgroup_size is {found:?}, but its launches are made for {made:?}"));
        }
        let storage = |b: &&BindingInfo| b.access != Access::Uniform;
        for wanted in expected.bindings.iter().filter(storage) {
            let BindingInfo { name, access, .. } = wanted;
            match self.bindings.iter().find(|b| b.name == *name) {
                Some(found) if found.access == *access => {}
                Some(found) => {
                    return Err(format!("`{name}` is {}, but the operator needs {}", found.access, access));
                }
                None if self.unused.contains(name) => {}
                None => {
                    return Err(format!("binding `{name}` is missing, which the operator gives as {access}"));
                }
            }
        }
        for found in self.bindings.iter().filter(storage) {
            if !expected.bindings.iter().any(|b| b.name == found.name) {
                let given: Vec<&str> =
                    expected.bindings.iter().filter(storage).map(|b| b.name.as_str()).collect();
                return Err(format!(
                    "it uses binding `{}`, which the operator does not give; it gives {}",
                    found.name,
                    given.join(", ")
                ));
            }
        }
        let named =
            |params: &[ParamField], name: &str| params.iter().find(|f| f.name == name).map(|f| f.kind);
        for ParamField { name, kind, .. } in &expected.params {
            match named(&self.params, name) {
                Some(found) if found == *kind => {}
                Some(found) => {
                    return Err(format!("parameter `{name}` is {found}, but the operator gives {kind}"));
                }
                None => return Err(format!("parameter `{name}: {kind}` is missing in its uniform struct")),
            }
        }
        match self.params.iter().find(|f| named(&expected.params, &f.name).is_none()) {
            Some(field) => {
                Err(format!("its uniform struct has `{}`, which the operator does not give", field.name))
            }
            None => Ok(()),
        }
    }
}
