//! Every kernel on every platform, without any of them: each launch of the catalogue and of whole training
//! steps lives within WebGPU's default limits, and each shader becomes SPIR-V (Vulkan), MSL (Metal) and HLSL
//! (Direct3D 12). Where `spirv-val` and `tint` are installed they judge the result too; tint is what browsers
//! compile WGSL with, and its uniformity check refuses barriers that naga lets pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::diffusion::{Preset, UNet, UNetConfig};
use inkwash::graph::{Caps, Dispatch, Graph, Kernels, MAX_GROUPS, Op, Plan, Scalar};
use inkwash::ops;
use inkwash::shader::{self, Access, Interface, ParamKind, Source, Target, Variant};
use inkwash::tensor::Spec;
use inkwash::train::{TrainConfig, evaluation_graph, micro_graph, update_graph};
use naga::back::{hlsl, msl, spv};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// WebGPU's default limits; the last is for each dimension of a workgroup.
const STORAGE_BUFFERS: usize = 8;
const WORKGROUP_BYTES: usize = 16_384;
const INVOCATIONS: u32 = 256;
const WORKGROUP_SIDES: [u32; 3] = [256, 256, 64];

/// Fewer would mean that the collection has gone wrong: there were 300 launches in one tiny-gray step alone
/// when this was written.
const FEWEST_LAUNCHES: usize = 2000;
const FEWEST_KERNELS: usize = 60;

type Key = (&'static str, &'static str, Variant);

/// A launch, and where it comes from.
struct Launch {
    of: String,
    dispatch: Dispatch,
}

/// All launches of all candidates of an operator.
fn of_op(label: &str, op: &dyn Op, x: &[Spec], caps: &Caps, launches: &mut Vec<Launch>) {
    let y = op.infer(x).unwrap_or_else(|e| panic!("{label}: {e}"));
    for candidate in op.candidates(x, &y, caps) {
        for dispatch in candidate.program.dispatches {
            launches.push(Launch { of: format!("{label}, {}", candidate.algorithm), dispatch });
        }
    }
}

fn of_graph(label: &str, graph: &Graph, caps: &Caps, launches: &mut Vec<Launch>) {
    for node in &graph.nodes {
        let label = format!("{label}, {}", graph.label(node));
        of_op(&label, &*node.op, &graph.node_specs(node).0, caps, launches);
    }
}

/// What every platform can be asked for.
fn caps() -> Caps {
    Caps::webgpu(Kernels::Registers).with_f16()
}

/// Every launch of every case, and of training steps and evaluations of every preset.
fn launches() -> Vec<Launch> {
    let mut launches = Vec::new();
    for case in ops::catalogue() {
        let x: Vec<Spec> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
        of_op(&case.title(), &*case.op, &x, &caps(), &mut launches);
    }
    for caps in caps().variants() {
        for (preset, batch, accumulate) in [
            (Preset::TinyGray, 2, 1),
            (Preset::TinyGray, 3, 2),
            (Preset::TinyGray, 4, 1),
            (Preset::Small32, 2, 2),
            (Preset::Small32, 3, 1),
            (Preset::Cifar, 2, 1),
            (Preset::Cifar, 4, 2),
        ] {
            let config = TrainConfig { preset, batch, accumulate, ..TrainConfig::default() };
            let unet = UNet::new(&UNetConfig::preset(preset)).unwrap();
            let label = format!("{preset:?} {batch} x {accumulate}");
            of_graph(&label, &micro_graph(&unet, &config).unwrap().0, &caps, &mut launches);
            of_graph(&label, &update_graph(&unet, &config).unwrap().0, &caps, &mut launches);
            of_graph(&label, &evaluation_graph(&unet, &config).unwrap().0, &caps, &mut launches);
        }
    }
    launches
}

fn key(dispatch: &Dispatch) -> Key {
    (dispatch.shader.name, dispatch.entry, dispatch.variant.clone())
}

fn interfaces(launches: &[Launch]) -> BTreeMap<Key, Arc<Interface>> {
    let mut interfaces = BTreeMap::new();
    for Launch { of, dispatch: d } in launches {
        interfaces.entry(key(d)).or_insert_with(|| {
            shader::interface(d.shader, d.entry, &d.variant).unwrap_or_else(|e| panic!("{of}: {e}"))
        });
    }
    interfaces
}

/// What is wrong with a launch, if anything.
fn complaints(d: &Dispatch, interface: &Interface) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut expect = |holds: bool, message: String| {
        if !holds {
            complaints.push(message);
        }
    };
    // 1. Limits.
    let storage: BTreeSet<&str> =
        interface.bindings.iter().filter(|b| b.access != Access::Uniform).map(|b| b.name.as_str()).collect();
    expect(storage.len() <= STORAGE_BUFFERS, format!("{} storage buffers", storage.len()));
    let bytes = interface.workgroup_bytes;
    expect(bytes <= WORKGROUP_BYTES, format!("{bytes} bytes of workgroup memory"));
    let size = interface.workgroup_size;
    let sides = size.iter().zip(WORKGROUP_SIDES).all(|(&side, limit)| (1..=limit).contains(&side));
    expect(sides && size.iter().product::<u32>() <= INVOCATIONS, format!("workgroups of {size:?}"));
    expect(d.groups.iter().all(|g| (1..=MAX_GROUPS).contains(g)), format!("{:?} workgroups", d.groups));

    // 2. Bindings: all that the entry point uses, each once, and no others.
    let given: BTreeSet<&str> = d.operands.iter().map(|(name, ..)| *name).collect();
    expect(given.len() == d.operands.len(), "a binding is given twice".into());
    expect(given == storage, format!("binds {given:?}, but the shader uses {storage:?}"));
    let numbers: BTreeSet<u32> = interface.bindings.iter().map(|b| b.binding).collect();
    expect(numbers.len() == interface.bindings.len(), "two bindings share a number".into());

    // 3. Parameters: every field with its type, and no others.
    let kind = |value: &Scalar| match value {
        Scalar::U32(_) => ParamKind::U32,
        Scalar::F32(_) => ParamKind::F32,
    };
    let given: BTreeMap<&str, ParamKind> = d.params.iter().map(|(name, v)| (*name, kind(v))).collect();
    let fields: BTreeMap<&str, ParamKind> =
        interface.params.iter().map(|f| (f.name.as_str(), f.kind)).collect();
    expect(given.len() == d.params.len(), "a parameter is given twice".into());
    expect(given == fields, format!("parameters {given:?}, but the shader has {fields:?}"));
    complaints
}

#[test]
fn every_launch_lives_within_webgpu_and_fits_its_shader() {
    let launches = launches();
    let interfaces = interfaces(&launches);
    assert!(launches.len() >= FEWEST_LAUNCHES, "only {} launches were found", launches.len());
    let mut failures = BTreeSet::new();
    for Launch { of, dispatch } in &launches {
        for complaint in complaints(dispatch, &interfaces[&key(dispatch)]) {
            failures.insert(format!("{of}: {}.wgsl:{}: {complaint}", dispatch.shader.name, dispatch.entry));
        }
    }
    println!("{} launches of {} kernels", launches.len(), interfaces.len());
    assert!(failures.is_empty(), "{}", failures.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Whole steps also keep to the default limits on bindings and buffers: even cifar, whose 36 M parameters are a
/// vector of 143 MB, bound in ranges of 128 MiB at most.
#[test]
fn every_preset_plans_within_webgpu() {
    for caps in caps().variants() {
        for preset in [Preset::TinyGray, Preset::Small32, Preset::Cifar] {
            let config = TrainConfig { preset, batch: 4, ..TrainConfig::default() };
            let unet = UNet::new(&UNetConfig::preset(preset)).unwrap();
            let micro = Plan::new(micro_graph(&unet, &config).unwrap().0, &caps).unwrap();
            let update = Plan::new(update_graph(&unet, &config).unwrap().0, &caps).unwrap();
            assert!(micro.launches.len() > 100 && update.launches.len() >= 4, "{preset:?}");
        }
    }
}

/// Runs a checker on every file of a folder; the words of those that it refuses. `None` if it is missing.
fn judge(program: &str, arguments: &[&str], files: &[std::path::PathBuf]) -> Option<Vec<String>> {
    let mut refusals = Vec::new();
    for file in files {
        match Command::new(program).args(arguments).arg(file).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => refusals.push(format!(
                "{program} on {}: {}{}",
                file.file_stem().unwrap_or_default().to_string_lossy(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                println!("SKIPPED: {program} not found");
                return None;
            }
            Err(e) => panic!("{program}: {e}"),
        }
    }
    println!("{program}: {} of {} files accepted", files.len() - refusals.len(), files.len());
    Some(refusals)
}

/// The three translations of one entry point; SPIR-V is written to `folder` for spirv-val.
fn translate(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    entry: &str,
    spirv: &Path,
) -> Result<(), String> {
    let stage = naga::ShaderStage::Compute;
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.into() };
    let words =
        spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| format!("SPIR-V: {e}"))?;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    std::fs::write(spirv, bytes).map_err(|e| e.to_string())?;

    let options = msl::Options { lang_version: (2, 0), ..msl::Options::default() };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((stage, entry.into())), ..msl::PipelineOptions::default() };
    let (text, names) =
        msl::write_string(module, info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    names.entry_point_names.iter().try_for_each(|n| n.as_ref().map(drop)).map_err(|e| format!("MSL: {e}"))?;
    if !text.contains("kernel void") {
        return Err("MSL: no kernel came out".into());
    }

    // Shader model 6.0 is what Direct3D 12 asks for at least.
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..hlsl::Options::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((stage, entry.into())) };
    let mut text = String::new();
    let names = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    names
        .entry_point_names
        .iter()
        .try_for_each(|n| n.as_ref().map(drop))
        .map_err(|e| format!("HLSL: {e}"))?;
    if !text.contains("[numthreads(") {
        return Err("HLSL: no kernel came out".into());
    }
    Ok(())
}

#[test]
fn every_kernel_translates_to_every_platform() {
    let folder = tempfile::tempdir().unwrap();
    let mut modules: BTreeMap<(&str, Variant), (&'static Source, BTreeSet<&str>)> = BTreeMap::new();
    for Launch { dispatch: d, .. } in launches() {
        let module = modules.entry((d.shader.name, d.variant)).or_insert((d.shader, BTreeSet::new()));
        module.1.insert(d.entry);
    }
    let (mut spirv, mut wgsl, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (number, ((name, variant), (source, entries))) in modules.iter().enumerate() {
        let expanded = shader::expand(source, variant, Target::Native).unwrap();
        let (module, info) = shader::parse(source, variant, &expanded).unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join(format!("{number}-{name}.wgsl"));
        // tint judges for browsers.
        let browser = shader::expand(source, variant, Target::Browser).unwrap();
        std::fs::write(&path, &browser.text).unwrap();
        wgsl.push(path);
        for entry in entries {
            let path = folder.path().join(format!("{number}-{name}-{entry}.spv"));
            if let Err(message) = translate(&module, &info, entry, &path) {
                failures.push(format!("{name}.wgsl:{entry} [{}]: {message}", variant.describe()));
            }
            spirv.push(path);
        }
    }
    println!("{} kernels of {} modules to SPIR-V, MSL and HLSL", spirv.len(), modules.len());
    assert!(spirv.len() >= FEWEST_KERNELS, "only {} kernels were found", spirv.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    failures.extend(judge("spirv-val", &["--target-env", "vulkan1.1"], &spirv).unwrap_or_default());
    failures.extend(
        judge("tint", &["--format", "wgsl", "--output-name", "/dev/null"], &wgsl).unwrap_or_default(),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
