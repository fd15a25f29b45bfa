//! Bindings, parameter struct and workgroup size of an entry point, read from the compiled module.

use super::{Expanded, ShaderError, Source, Variant};

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
    pub fn of(
        source: &'static Source,
        entry: &'static str,
        variant: &Variant,
        expanded: &Expanded,
    ) -> Result<Self, ShaderError> {
        let (module, info) = super::parse(source, variant, expanded)?;
        let fail = |message: String| ShaderError::Interface { shader: source.name, entry, message };
        let (index, point) = module
            .entry_points
            .iter()
            .enumerate()
            .find(|(_, e)| e.name == entry)
            .ok_or_else(|| fail("the file has no such entry point".into()))?;
        let usage = info.get_entry_point(index);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|e| fail(e.to_string()))?;

        let mut interface = Self {
            bindings: Vec::new(),
            params: Vec::new(),
            params_size: 0,
            workgroup_size: point.workgroup_size,
            workgroup_bytes: 0,
        };
        for (handle, variable) in module.global_variables.iter() {
            if usage[handle].is_empty() {
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
                _ => continue,
            };
            let name = variable.name.clone().unwrap_or_default();
            let Some(place) = &variable.binding else {
                return Err(fail(format!("`{name}` has no @binding")));
            };
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
}
