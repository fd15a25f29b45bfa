//! Every kernel on every platform, without any of them: each launch of the catalogue and of whole training
//! steps lives within WebGPU's default limits, and each shader becomes SPIR-V (Vulkan), MSL (Metal) and HLSL
//! (Direct3D 12). Where `spirv-val`, `tint` and `dxc` are installed they judge the result too; tint is what browsers
//! compile WGSL with, and its uniformity check refuses barriers that naga lets pass. `INKWASH_DXC` names another dxc,
//! such as `scripts/dxc`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::classifier::{Architecture, Classifier, ClassifierConfig};
use inkwash::diffusion::{Preset, UNet, UNetConfig};
use inkwash::graph::{Caps, Dispatch, Graph, Kernels, MAX_GROUPS, Op, Scalar};
use inkwash::nn::{Precision, Weights};
use inkwash::ops;
use inkwash::shader::{
    self, Access, Extension, Interface, Kernel, ParamKind, ShaderModel, Source, Target, Variant,
};
use inkwash::tensor::Spec;
use inkwash::train::{
    Classification, Diffusion, LossGraph, NetworkKind, RunPlan, Task, TrainConfig, TrainStates,
    gradient_graph, update_graph,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

mod common;

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

/// What every platform can be asked for, and subgroups: operators offer what does without them as well.
fn caps() -> Caps {
    Caps::webgpu(Kernels::Registers).with_f16().with_subgroups(8)
}

/// Every launch of every case, and of training steps and evaluations of every preset.
fn launches() -> Vec<Launch> {
    let mut launches = Vec::new();
    for case in ops::catalogue() {
        let x: Vec<Spec> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
        of_op(&case.title(), &*case.op, &x, &caps(), &mut launches);
    }
    let both = |caps: Caps| [Precision::F32, Precision::F16].map(|precision| (caps.clone(), precision));
    for (caps, precision) in caps().variants().into_iter().flat_map(both) {
        for (preset, batch, accumulate) in [
            (Preset::TinyGray, 2, 1),
            (Preset::TinyGray, 3, 2),
            (Preset::TinyGray, 4, 1),
            (Preset::Small32, 2, 2),
            (Preset::Small32, 3, 1),
            (Preset::Cifar, 2, 1),
            (Preset::Cifar, 4, 2),
            (Preset::Faces64, 2, 1),
            (Preset::Photos128, 2, 1),
        ] {
            let config = TrainConfig { preset, batch, accumulate, precision, ..TrainConfig::default() };
            let unet = UNet::new(&UNetConfig::preset(preset)).unwrap();
            let label = format!("{preset:?} {batch} x {accumulate} {precision:?}");
            for graph in graphs(&Diffusion::new(unet, &config), &config) {
                of_graph(&label, &graph, &caps, &mut launches);
            }
            let config = TrainConfig { network: NetworkKind::Classifier, ..config };
            for architecture in Architecture::ALL {
                let network = ClassifierConfig { architecture, ..config.classifier_config(10) };
                let classifier = Classifier::new(&network).unwrap().in_precision(precision);
                for graph in graphs(&Classification(classifier), &config) {
                    of_graph(&format!("classifier {architecture:?} {label}"), &graph, &caps, &mut launches);
                }
            }
        }
    }
    launches
}

/// The graphs of a step, and that of the held-out loss.
fn graphs(task: &impl Task, config: &TrainConfig) -> Vec<Graph> {
    let options = config.step_options();
    let parameters = task.network().parameters();
    let states = TrainStates::of(parameters, config.log_every as usize);
    let loss = task.loss_graph(&states.weights(), config.batch).unwrap();
    let micro = gradient_graph(loss, parameters, &states, config.accumulate, false, options.checkpointing)
        .unwrap()
        .graph;
    let (update, _) = update_graph(&states, &options.optimizer).unwrap();
    let LossGraph { mut graph, loss, .. } =
        task.loss_graph(&Weights::from(&states.ema), config.batch).unwrap();
    graph.output("held_out_loss", loss);
    vec![micro, update, graph]
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

/// Whole steps also keep to the default limits on bindings and buffers, at the batch, GFLOP per picture and MiB that are
/// stated for the preset: even photos-128, whose 59 M parameters are a vector of 235 MB, bound in ranges of 128 MiB at
/// most.
#[test]
fn every_preset_plans_within_webgpu_as_stated() {
    for (preset, batch, gflop, mib) in [
        (Preset::TinyGray, 16, 0.4, 40.7),
        (Preset::Small32, 16, 6.5, 282.2),
        (Preset::Cifar, 16, 37.3, 1.22 * 1024.0),
        (Preset::Faces64, 16, 140.8, 2.55 * 1024.0),
        (Preset::Photos128, 8, 364.5, 3.97 * 1024.0),
    ] {
        let config = TrainConfig { preset, batch, ..TrainConfig::default() };
        for caps in caps().variants() {
            let plan = RunPlan::new(&config, &caps).unwrap();
            let plans = &plan.plans;
            assert!(plans.micro.launches.len() > 100 && plans.update.launches.len() >= 4, "{preset:?}");
            let found = plans.model_flops_per_picture(batch) as f64 * 1e-9;
            assert!((found - gflop).abs() < 0.05, "{preset:?}: {found} GFLOP");
        }
        // As a GPU's kernels need it, and --dry-run prints it.
        let fused = RunPlan::new(&config, &Caps::webgpu(Kernels::Workgroup)).unwrap();
        let found = fused.bytes as f64 / 1024.0 / 1024.0;
        assert!((found / mib - 1.0).abs() < 0.005, "{preset:?}: {found} MiB");
        // Fusions take two of five launches away, but for the gradients of the biases of the first and the last convolution, each a
        // launch of its own beside a narrow weight; and no more memory than the parts of a bias's gradient.
        let unfused = RunPlan::new(&config, &Caps::webgpu(Kernels::Workgroup).with_fusion(false)).unwrap();
        let [with, without] = [&fused, &unfused].map(|plan| (plan.plans.micro.launches.len(), plan.bytes));
        println!("{preset:?}: {with:?} launches and bytes, without fusion {without:?}");
        assert!(
            with.1 <= without.1 + without.1 / 1000 && 5 * (with.0 - 2) < 3 * without.0,
            "{preset:?}: {with:?}, {without:?}"
        );
    }
}

/// Runs a checker with each of these lists of arguments, whose last is the file, on all processors; the words of
/// those that it refuses. Empty, and said aloud, if the checker is missing.
fn judge(program: &OsStr, calls: &[Vec<OsString>]) -> Vec<String> {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    if let Err(e) = Command::new(program).arg("--version").output() {
        assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{name}: {e}");
        common::skip(format_args!("{} was not found", program.display()));
        return Vec::new();
    }
    let refusal = |arguments: &Vec<OsString>| {
        let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = arguments.last().and_then(|file| Path::new(file).file_stem()).unwrap_or_default();
        (!output.status.success()).then(|| {
            format!(
                "{name} on {}: {}{}",
                file.display(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let refusals: Vec<String> = std::thread::scope(|scope| {
        let parts = calls.chunks(calls.len().div_ceil(threads).max(1));
        let running: Vec<_> =
            parts.map(|part| scope.spawn(|| part.iter().filter_map(refusal).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{name}: {} of {} files accepted", calls.len() - refusals.len(), calls.len());
    refusals
}

/// Arguments for [`judge`].
fn call(arguments: &[&str], file: &Path) -> Vec<OsString> {
    arguments.iter().map(OsString::from).chain([file.into()]).collect()
}

/// HLSL of one entry point for DXC, and the arguments that wgpu gives it.
///
/// wgpu asks for shader model 6.0 where it finds DXC (6.2 for f16), and for 5.1 where there is only FXC, which nothing
/// outside Windows stands in for. The text for both is the same, so that what DXC says of grammar and types holds for 5.1
/// too. That FXC gets along with its loops, barriers and registers is not proven.
fn to_direct3d(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    entry: &str,
    f16: bool,
) -> Result<(String, Vec<String>), String> {
    let (model, profile) = if f16 { (ShaderModel::V6_2, "cs_6_2") } else { (ShaderModel::V6_0, "cs_6_0") };
    let (text, name) = shader::to_hlsl(module, info, entry, model, false)?;
    if !f16 && shader::to_hlsl(module, info, entry, ShaderModel::V5_1, false)? != (text.clone(), name.clone())
    {
        return Err("HLSL: the text for shader model 5.1 is another than for 6.0".into());
    }
    // No validation, for which DXC needs a library that is for Windows alone.
    let options = ["-T", profile, "-HV", "2018", "-no-warnings", "-Ges", "-Vd", "-E", &name];
    let types = f16.then_some("-enable-16bit-types");
    Ok((text, options.into_iter().chain(types).map(String::from).collect()))
}

/// One entry point in SPIR-V, which is written for spirv-val, and in MSL.
fn translate(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    entry: &str,
    spirv: &Path,
) -> Result<(), String> {
    let words = shader::to_spirv(module, info, entry, false)?;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    std::fs::write(spirv, bytes).map_err(|e| e.to_string())?;
    shader::to_msl(module, info, entry, false).map(drop)
}

#[test]
fn every_kernel_translates_to_every_platform() {
    let folder = tempfile::tempdir().unwrap();
    let mut modules: BTreeMap<(&str, Variant), (&'static Source, BTreeSet<&str>)> = BTreeMap::new();
    for Launch { dispatch: d, .. } in launches() {
        let module = modules.entry((d.shader.name, d.variant)).or_insert((d.shader, BTreeSet::new()));
        module.1.insert(d.entry);
    }
    let (mut spirv, mut wgsl, mut hlsl, mut failures) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, ((name, variant), (source, entries))) in modules.iter().enumerate() {
        let expanded = shader::expand(source, variant, Target::Native).unwrap();
        let (module, info) = shader::parse(variant, &expanded).unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join(format!("{number}-{name}.wgsl"));
        // tint judges for browsers.
        let browser = shader::expand(source, variant, Target::Browser).unwrap();
        std::fs::write(&path, &browser.text).unwrap();
        wgsl.push(call(&["--format", "wgsl", "--output-name", "/dev/null"], &path));
        for entry in entries {
            let what = format!("{name}.wgsl:{entry} [{}]", variant.describe());
            let path = folder.path().join(format!("{number}-{name}-{entry}.spv"));
            if let Err(message) = translate(&module, &info, entry, &path) {
                failures.push(format!("{what}: {message}"));
            }
            spirv.push(call(&["--target-env", "vulkan1.1"], &path));
            match to_direct3d(&module, &info, entry, expanded.text.contains("enable f16;")) {
                Ok((text, arguments)) => {
                    let path = path.with_extension("hlsl");
                    std::fs::write(&path, format!("// {what}\n{text}")).unwrap();
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    hlsl.push(call(&arguments, &path));
                }
                Err(message) => failures.push(format!("{what}: {message}")),
            }
        }
    }
    println!("{} kernels of {} modules to SPIR-V, MSL and HLSL", spirv.len(), modules.len());
    assert!(spirv.len() >= FEWEST_KERNELS, "only {} kernels were found", spirv.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let dxc = std::env::var_os("INKWASH_DXC").unwrap_or("dxc".into());
    failures.extend(judge("spirv-val".as_ref(), &spirv));
    failures.extend(judge("tint".as_ref(), &wgsl));
    failures.extend(judge(&dxc, &hlsl));
    assert!(failures.is_empty(), "{} refused\n{}", failures.len(), failures.join("\n"));
}

/// Kernels of matrix units, which Direct3D and browsers lack, to SPIR-V and MSL.
#[test]
fn kernels_of_matrix_units_translate_to_vulkan_and_metal() {
    let folder = tempfile::tempdir().unwrap();
    let on_matrix_units: Vec<Kernel> = ops::kernels()
        .into_iter()
        .filter(|kernel| kernel.variant.extensions().any(|e| e == Extension::CooperativeMatrix))
        .collect();
    for shader in ["attention_vectors", "conv2d_vectors", "conv2d_weight_vectors", "matmul_vectors"] {
        for larger in [false, true] {
            let of_tile = |k: &&Kernel| k.variant.links().any(|(_, to)| to == "lib/matrix16") == larger;
            let found = on_matrix_units.iter().filter(|k| k.source.name == shader).find(of_tile);
            assert!(found.is_some(), "no case launches {shader} with tiles of 16: {larger}");
        }
    }
    let mut spirv = Vec::new();
    for (number, Kernel { source, variant, entry }) in on_matrix_units.iter().enumerate() {
        let expanded = shader::expand(source, variant, Target::Native).unwrap();
        let (module, info) = shader::parse(variant, &expanded).unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join(format!("{number}-{}.spv", source.name));
        translate(&module, &info, entry, &path)
            .unwrap_or_else(|e| panic!("{}.wgsl [{}]: {e}", source.name, variant.describe()));
        spirv.push(call(&["--target-env", "vulkan1.3"], &path));
    }
    let failures = judge("spirv-val".as_ref(), &spirv);
    if failures.iter().any(|refusal| refusal.contains("Invalid capability operand: 6022")) {
        common::skip("this spirv-val is older than matrix units");
        return;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Run once more as a process of its own, whose output is looked at as that of `cargo test` is.
#[test]
fn what_is_skipped_is_seen() {
    const AGAIN: &str = "INKWASH_SKIP_AGAIN";
    if std::env::var_os(AGAIN).is_some() {
        common::skip("there is nothing to test");
        return;
    }
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["what_is_skipped_is_seen", "--exact"])
        .env(AGAIN, "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && errors.contains("SKIPPED"), "{errors}");
    assert!(errors.contains("what_is_skipped_is_seen: there is nothing to test"), "{errors}");
}

/// Functions of shaders that nothing calls. Where one is linked in place of another they have one name.
#[test]
fn every_function_of_the_shaders_is_called() {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut text = String::new();
    for folder in [shaders.clone(), shaders.join("lib")] {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "wgsl") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let name = |definition: &str| definition.split('(').next().map(str::to_owned);
    // An entry point stands below its attribute, or behind it.
    let defined: BTreeSet<String> = code
        .iter()
        .enumerate()
        .filter(|(i, _)| *i == 0 || !code[i - 1].trim_start().starts_with('@'))
        .filter_map(|(_, line)| line.strip_prefix("fn ").and_then(name))
        .collect();
    let called = |function: &str| {
        code.iter().any(|line| {
            line.match_indices(&format!("{function}(")).any(|(at, _)| {
                let before = &line[..at];
                !before.ends_with("fn ") && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        })
    };
    assert!(defined.len() > 20, "only {} functions were found", defined.len());
    let dead: Vec<&String> = defined.iter().filter(|function| !called(function)).collect();
    assert!(dead.is_empty(), "nothing calls {dead:?}");
}
