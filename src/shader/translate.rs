//! What naga makes of a module for each platform, with the options that wgpu gives it for compute shaders: of embedded files
//! without checks at run time, of a user's (`checked`) with them.

pub use naga::back::hlsl::ShaderModel;
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use std::borrow::Cow;

const STAGE: naga::ShaderStage = naga::ShaderStage::Compute;

/// As wgpu does: what other entry points alone use is left out.
fn of_entry<'a>(
    module: &'a naga::Module,
    info: &'a ModuleInfo,
    entry: &str,
) -> Result<(Cow<'a, naga::Module>, Cow<'a, ModuleInfo>), String> {
    let constants = naga::back::PipelineConstants::default();
    naga::back::pipeline_constants::process_overrides(module, info, Some((STAGE, entry)), &constants)
        .map_err(|e| e.to_string())
}

fn bounds(checked: bool) -> BoundsCheckPolicies {
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    BoundsCheckPolicies { index: policy, buffer: policy, ..BoundsCheckPolicies::default() }
}

/// SPIR-V of one entry point, for Vulkan. `Err` holds naga's words.
pub fn to_spirv(
    module: &naga::Module,
    info: &ModuleInfo,
    entry: &str,
    checked: bool,
) -> Result<Vec<u32>, String> {
    let options = spv::Options {
        lang_version: (1, 3),
        bounds_check_policies: bounds(checked),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: STAGE, entry_point: entry.into() };
    let (module, info) = of_entry(module, info, entry)?;
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| format!("SPIR-V: {e}"))
}

/// Metal's language for one entry point. `Err` holds naga's words.
pub fn to_msl(
    module: &naga::Module,
    info: &ModuleInfo,
    entry: &str,
    checked: bool,
) -> Result<String, String> {
    // Matrix units came with Metal 2.3; wgpu takes the newest version that the system has.
    let is_matrix = |ty: &naga::Type| matches!(ty.inner, naga::TypeInner::CooperativeMatrix { .. });
    let lang_version = if module.types.iter().any(|(_, ty)| is_matrix(ty)) { (2, 3) } else { (2, 0) };
    let options = msl::Options {
        lang_version,
        bounds_check_policies: bounds(checked),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..msl::Options::default()
    };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((STAGE, entry.into())), ..msl::PipelineOptions::default() };
    let (module, info) = of_entry(module, info, entry)?;
    let (text, names) =
        msl::write_string(&module, &info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    names.entry_point_names.iter().try_for_each(|n| n.as_ref().map(drop)).map_err(|e| format!("MSL: {e}"))?;
    if !text.contains("kernel void") {
        return Err("MSL: no kernel came out".into());
    }
    Ok(text)
}

/// Direct3D's language for one entry point, and the entry point's name in it. `Err` holds naga's words.
pub fn to_hlsl(
    module: &naga::Module,
    info: &ModuleInfo,
    entry: &str,
    shader_model: ShaderModel,
    checked: bool,
) -> Result<(String, String), String> {
    let options = hlsl::Options {
        shader_model,
        restrict_indexing: checked,
        force_loop_bounding: checked,
        zero_initialize_workgroup_memory: false,
        ..hlsl::Options::default()
    };
    let (module, info) = of_entry(module, info, entry)?;
    let pipeline = hlsl::PipelineOptions { entry_point: Some((STAGE, entry.into())) };
    let mut text = String::new();
    let mut names = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .map_err(|e| format!("HLSL: {e}"))?
        .entry_point_names;
    let name = names.pop().ok_or("HLSL: no entry point came out")?.map_err(|e| format!("HLSL: {e}"))?;
    if !names.is_empty() || !text.contains("[numthreads(") {
        return Err("HLSL: not one kernel came out".into());
    }
    Ok((text, name))
}
