//! Folders of diffusers (tests/python/make_folders.py): opened, computed and compared with PyTorch in f64, written
//! back byte for byte, and every way in which one is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::diffusion::{Sampler, SchedulerConfig, VarianceType};
use inkwash::graph::{Graph, interpret};
use inkwash::io::tensor_file::{self, Tensor, TensorFile};
use inkwash::model::{Model, ModelError, diffusers, json};
use inkwash::tensor::{Array, Spec};
use inkwash::train::open_model;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const UNET: &str = "unet/config.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const INDEX: &str = "model_index.json";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/folders").join(name)
}

fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_into(&path, &to) } else { assert!(std::fs::copy(&path, &to).is_ok()) }
    }
}

/// A copy of a fixture that may be changed.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_into(&fixture(name), folder.path());
    folder
}

/// Sets or removes a key of a JSON file.
fn set(path: &Path, key: &str, value: Option<Value>) {
    let mut all = json::read(path).unwrap();
    match value {
        Some(value) => all[key] = value,
        None => drop(all.as_object_mut().unwrap().remove(key).unwrap()),
    }
    std::fs::write(path, json::to_text(&all).unwrap()).unwrap();
}

/// The refusal must hold all of the words, and be one paragraph.
#[track_caller]
fn refuses(opened: Result<Model, ModelError>, words: &[&str]) {
    let message = opened.err().unwrap_or_else(|| panic!("opened, but should say {words:?}")).to_string();
    assert!(!message.contains('\n') && message.len() < 1000, "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

/// (N, C, H, W) to (N, H, W, C).
fn channels_last(tensor: &Tensor) -> Array {
    let &[n, c, h, w] = tensor.shape.as_slice() else { panic!("{:?}", tensor.shape) };
    let at = |b, y, x, k| f64::from(tensor.data[((b * c + k) * h + y) * w + x]);
    let mut data = Vec::with_capacity(tensor.data.len());
    for b in 0..n {
        for y in 0..h {
            for x in 0..w {
                data.extend((0..c).map(|k| at(b, y, x, k)));
            }
        }
    }
    Array::new([n, h, w, c], data)
}

/// What a model computes of the inputs in a fixture's `expected.safetensors`, by the f64 references, against the
/// output that stands there: relative L2.
fn error(model: &Model, expected: &TensorFile) -> f64 {
    let of = |name: &str| &expected.tensors[name];
    let plain = |t: &Tensor| Array::new([t.data.len()], t.data.iter().map(|&v| v.into()).collect());
    let mut graph = Graph::new();
    let mut given = HashMap::new();
    let flat = graph.input("flat", Spec::f32([model.unet.parameters.flat_elements()]));
    given.insert(flat, Array::new([model.weights.len()], model.weights.iter().map(|&w| w.into()).collect()));
    let sample = channels_last(of("sample"));
    let x = graph.input("x", Spec::f32(sample.shape.axes()));
    let t = graph.input("t", Spec::f32([sample.shape[0]]));
    given.insert(x, sample);
    given.insert(t, plain(of("timestep")));
    let labels = expected.tensors.get("class_labels").map(|labels| {
        let value = graph.input("labels", Spec::u32([labels.data.len()]));
        given.insert(value, plain(labels));
        value
    });
    let parameters = model.unet.parameters.views(&mut graph, flat).unwrap();
    let output = model.unet.forward(&mut graph, &parameters, x, t, labels).unwrap();
    let got = &interpret(&graph, &given)[output.0].data;
    let want = channels_last(of("output")).data;
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
}

/// Weights are exact once widened, and the expected output is stored in f32: 6e-8 of each element. ε and the shift
/// of the time embedding pass through f32, which moves 1e-5 by 2e-8 of itself.
#[test]
fn every_fixture_computes_what_diffusers_computes() {
    for name in ["plain", "scale-shift", "dpm", "old-names", "root-layout"] {
        let model = diffusers::open(&fixture(name)).unwrap();
        let expected = tensor_file::read(&fixture(name).join("expected.safetensors")).unwrap();
        let error = error(&model, &expected);
        println!("{name}: {error:.1e}");
        assert!(error < 5e-7, "{name}: {error}");
        assert_eq!(model.warnings.len(), usize::from(name == "old-names"), "{:?}", model.warnings);
    }
}

/// A difference that the comparison must see, so that it can fail.
#[test]
fn a_wrong_option_is_seen_in_the_output() {
    let expected = tensor_file::read(&fixture("plain").join("expected.safetensors")).unwrap();
    for (key, value) in [
        ("downsample_padding", json!(0)),
        ("flip_sin_to_cos", json!(false)),
        ("freq_shift", json!(1)),
        ("attention_head_dim", Value::Null),
        ("norm_eps", json!(1e-4)),
        ("mid_block_scale_factor", json!(1.25)),
        ("norm_num_groups", json!(1)),
    ] {
        let folder = copy("plain");
        set(&folder.path().join(UNET), key, Some(value));
        let error = error(&diffusers::open(folder.path()).unwrap(), &expected);
        assert!(error > 1e-5, "{key}: {error}");
    }
}

/// An absent option has diffusers' default: 8 channels per head, and the network's own for what `plain` has else.
#[test]
fn absent_options_have_the_defaults_of_diffusers() {
    let folder = copy("plain");
    let path = folder.path().join(UNET);
    for key in ["attention_head_dim", "norm_num_groups"] {
        set(&path, key, None);
    }
    // 32 groups do not divide 4 channels: the default is in force.
    refuses(diffusers::open(folder.path()), &["unet/config.json", "norm_num_groups = 32"]);
    set(&path, "norm_num_groups", Some(json!(2)));
    let before = diffusers::open(folder.path()).unwrap();
    assert_eq!(before.unet.config.attention_head_dim, Some(8));
    for key in [
        "add_attention",
        "attn_norm_num_groups",
        "center_input_sample",
        "class_embed_type",
        "downsample_padding",
        "downsample_type",
        "dropout",
        "flip_sin_to_cos",
        "freq_shift",
        "mid_block_scale_factor",
        "mid_block_type",
        "norm_eps",
        "num_class_embeds",
        "num_train_timesteps",
        "resnet_time_scale_shift",
        "time_embedding_dim",
        "time_embedding_type",
        "upsample_type",
        "act_fn",
    ] {
        set(&path, key, None);
    }
    let after = diffusers::open(folder.path()).unwrap();
    assert_eq!(before.unet.config, after.unet.config);
    let model = diffusers::open(&fixture("old-names")).unwrap();
    assert_eq!(
        model.scheduler,
        SchedulerConfig { variance_type: VarianceType::FixedLarge, ..SchedulerConfig::new(Sampler::Ddpm) }
    );
}

#[test]
fn what_diffusers_saved_is_saved_again_byte_for_byte() {
    for name in ["plain", "scale-shift", "dpm"] {
        let model = diffusers::open(&fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("deep/out");
        diffusers::save(&out, &model).unwrap();
        for file in [INDEX, UNET, WEIGHTS, SCHEDULER] {
            let (before, after) = (fixture(name).join(file), out.join(file));
            assert!(std::fs::read(before).unwrap() == std::fs::read(after).unwrap(), "{name}/{file} differs");
        }
        // A folder that holds something is left alone.
        let error = diffusers::save(&out, &model).unwrap_err().to_string();
        assert!(error.contains("already holds files") && error.contains("deep/out"), "{error}");
    }
}

/// Each class with its defaults and with something else; the defaults are also those of our own configuration.
#[test]
fn schedulers_are_saved_again_byte_for_byte() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixture("schedulers")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = copy("plain");
        std::fs::copy(&path, folder.path().join(SCHEDULER)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let class = text.split('"').nth(3).unwrap();
        set(&folder.path().join(INDEX), "scheduler", Some(json!(["diffusers", class])));
        let model = diffusers::open(folder.path()).unwrap();
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
        let defaults = SchedulerConfig::new(model.scheduler.sampler);
        assert_eq!(model.scheduler == defaults, name.ends_with("-defaults"), "{name}");
        let out = folder.path().join("out");
        diffusers::save(&out, &model).unwrap();
        assert_eq!(std::fs::read_to_string(out.join(SCHEDULER)).unwrap(), text, "{name}");
        assert!(diffusers::open(&out).unwrap().scheduler == model.scheduler);
        seen += 1;
    }
    assert_eq!(seen, 8);
    assert!(diffusers::open(&fixture("dpm")).unwrap().scheduler == SchedulerConfig::new(Sampler::DpmSolver));
    assert!(diffusers::open(&fixture("plain")).unwrap().scheduler == SchedulerConfig::new(Sampler::Ddpm));
}

/// One option changed, and what is said: the file, the option, what was found and what was expected.
#[test]
fn options_that_are_not_supported_are_refused() {
    let cases: Vec<(&str, &str, &str, Value, &[&str])> = vec![
        // The network.
        (
            "plain",
            UNET,
            "_class_name",
            json!("UNet2DConditionModel"),
            &["UNet2DConditionModel", "UNet2DModel"],
        ),
        ("plain", UNET, "_class_name", json!(3), &["found 3", "name of a class"]),
        ("plain", UNET, "center_input_sample", json!(true), &["found true", "expected false", "[-1, 1]"]),
        ("plain", UNET, "time_embedding_type", json!("fourier"), &["\"fourier\"", "\"positional\""]),
        ("plain", UNET, "time_embedding_type", json!("learned"), &["\"learned\"", "\"positional\""]),
        ("plain", UNET, "act_fn", json!("gelu"), &["\"gelu\"", "\"silu\""]),
        ("plain", UNET, "dropout", json!(0.1), &["found 0.1", "training alone", "set it to 0"]),
        ("plain", UNET, "class_embed_type", json!("timestep"), &["\"timestep\"", "null", "num_class_embeds"]),
        ("plain", UNET, "class_embed_type", json!("identity"), &["\"identity\"", "null"]),
        ("plain", UNET, "mid_block_type", Value::Null, &["found null", "\"UNetMidBlock2D\""]),
        (
            "plain",
            UNET,
            "mid_block_type",
            json!("UNetMidBlock2DCrossAttn"),
            &["CrossAttn", "\"UNetMidBlock2D\""],
        ),
        ("plain", UNET, "sample_size", Value::Null, &["no size", "[height, width]", "trained on"]),
        ("plain", UNET, "sample_size", json!("4"), &["one number, or [height, width]"]),
        ("plain", UNET, "sample_size", json!([4, 4, 4]), &["one number, or [height, width]"]),
        ("plain", UNET, "sample_size", json!(5), &["5x5", "multiples of 2"]),
        ("plain", UNET, "sample_size", json!(-4), &["one number"]),
        (
            "plain",
            UNET,
            "down_block_types",
            json!(["DownBlock2D", "SkipDownBlock2D"]),
            &["[1]", "SkipDownBlock2D", "AttnDownBlock2D"],
        ),
        (
            "plain",
            UNET,
            "down_block_types",
            json!(["DownBlock2D", "UNetResX"]),
            &["[1]", "`X`", "AttnDownBlock2D"],
        ),
        (
            "plain",
            UNET,
            "up_block_types",
            json!(["CrossAttnUpBlock2D", "UpBlock2D"]),
            &["[0]", "CrossAttnUpBlock2D", "AttnUpBlock2D"],
        ),
        ("plain", UNET, "up_block_types", json!(["UpBlock2D"]), &["found 1", "2 levels"]),
        ("plain", UNET, "resnet_time_scale_shift", json!("ada_group"), &["ada_group", "scale_shift"]),
        ("plain", UNET, "upsample_type", json!("resnet"), &["\"resnet\"", "\"conv\""]),
        ("plain", UNET, "block_out_channels", json!([4, "6"]), &["block_out_channels[1]", "\"6\"", "usize"]),
        ("plain", UNET, "block_out_channels", json!([4, 7]), &["7 channels", "norm_num_groups = 2"]),
        ("plain", UNET, "block_out_channels", json!([]), &["0 levels"]),
        ("plain", UNET, "layers_per_block", json!(1.0), &["floating point", "usize"]),
        ("plain", UNET, "layers_per_block", json!([1, 1]), &["sequence", "usize"]),
        (
            "plain",
            UNET,
            "layers_per_block",
            json!(200),
            &["804 residual blocks", "the file belongs to another"],
        ),
        ("plain", UNET, "layers_per_block", json!(60_000), &["found 60000", "between 1 and 256"]),
        ("plain", UNET, "norm_num_groups", Value::Null, &["null", "usize"]),
        ("plain", UNET, "norm_num_groups", json!(0), &["found 0", "between 1 and 65536"]),
        ("plain", UNET, "norm_eps", json!(1.0), &["found 1", "below 1"]),
        ("plain", UNET, "freq_shift", json!(2), &["found 2", "half of the finest"]),
        ("plain", UNET, "mid_block_scale_factor", json!(0), &["found 0", "1e-6"]),
        ("plain", UNET, "attn_norm_num_groups", json!(3), &["3", "8 channels"]),
        ("plain", UNET, "attention_head_dim", json!([8, 8]), &["sequence"]),
        ("plain", UNET, "attention_head_dim", json!(9), &["9 channels per head", "8 channels of level 1"]),
        ("plain", UNET, "time_embedding_dim", json!(0), &["found 0", "between 1 and"]),
        ("plain", UNET, "downsample_padding", json!(2), &["found 2", "0 or 1"]),
        ("plain", UNET, "cross_attention_dim", json!(768), &["unknown option", "0.42.1"]),
        // Variance and channels.
        (
            "plain",
            UNET,
            "out_channels",
            json!(2),
            &["scheduler_config.json", "variance_type", "learned_range", "twice"],
        ),
        ("scale-shift", UNET, "out_channels", json!(3), &["variance_type", "out_channels = 2", "found 3"]),
        (
            "scale-shift",
            SCHEDULER,
            "variance_type",
            json!("fixed_small"),
            &["variance_type", "learned_range", "twice"],
        ),
        ("plain", SCHEDULER, "variance_type", json!("learned_range"), &["out_channels = 2", "found 1"]),
        // The scheduler.
        (
            "plain",
            SCHEDULER,
            "_class_name",
            json!("PNDMScheduler"),
            &["PNDMScheduler", "DDPMScheduler", "HeunDiscreteScheduler"],
        ),
        ("plain", SCHEDULER, "variance_type", json!("learned"), &["`learned`", "fixed_small"]),
        ("plain", SCHEDULER, "variance_type", json!("fixed_large_log"), &["fixed_large_log", "fixed_small"]),
        ("plain", SCHEDULER, "beta_schedule", json!("laplace"), &["laplace", "squaredcos_cap_v2"]),
        ("plain", SCHEDULER, "beta_end", json!(2.0), &["found 2", "between 0 and 1"]),
        ("plain", SCHEDULER, "trained_betas", json!([0.1]), &["1 numbers", "1000"]),
        ("plain", SCHEDULER, "trained_betas", json!([0.1, "x"]), &["trained_betas[1]", "\"x\""]),
        ("plain", SCHEDULER, "num_train_timesteps", json!(0), &["found 0", "between 1 and 1000000"]),
        ("plain", SCHEDULER, "prediction_type", json!("flow"), &["`flow`", "v_prediction"]),
        ("plain", SCHEDULER, "clip_sample", json!("yes"), &["clip_sample", "\"yes\"", "boolean"]),
        (
            "plain",
            SCHEDULER,
            "predict_epsilon",
            json!(false),
            &["found false", "prediction_type", "\"sample\""],
        ),
        ("plain", SCHEDULER, "zeta", json!(1), &["unknown option", "DDPMScheduler"]),
        (
            "dpm",
            SCHEDULER,
            "algorithm_type",
            json!("sde-dpmsolver++"),
            &["\"sde-dpmsolver++\"", "\"dpmsolver++\""],
        ),
        ("dpm", SCHEDULER, "use_exponential_sigmas", json!(true), &["found true", "another scheduler"]),
        ("dpm", SCHEDULER, "use_beta_sigmas", json!(true), &["found true"]),
        ("dpm", SCHEDULER, "use_lu_lambdas", json!(true), &["found true"]),
        ("dpm", SCHEDULER, "use_flow_sigmas", json!(true), &["found true"]),
        ("dpm", SCHEDULER, "use_dynamic_shifting", json!(true), &["found true"]),
        ("dpm", SCHEDULER, "flow_shift", json!(3.0), &["found 3", "expected 1"]),
        ("dpm", SCHEDULER, "time_shift_type", json!("linear"), &["\"linear\"", "\"exponential\""]),
        ("dpm", SCHEDULER, "solver_order", json!(3), &["found 3", "1 and 2"]),
        ("dpm", SCHEDULER, "solver_type", json!("bh2"), &["`bh2`", "midpoint"]),
        ("dpm", SCHEDULER, "variance_type", json!("fixed_small"), &["\"fixed_small\"", "null"]),
        ("dpm", SCHEDULER, "lambda_min_clipped", json!("NaN"), &["\"NaN\"", "-Infinity"]),
        ("dpm", SCHEDULER, "lambda_min_clipped", Value::Null, &["a number or -Infinity"]),
        // The pipeline.
        (
            "plain",
            INDEX,
            "_class_name",
            json!("StableDiffusionPipeline"),
            &["StableDiffusionPipeline", "DDPMPipeline or DDIMPipeline"],
        ),
        ("plain", INDEX, "unet", json!(["diffusers", "UNet1DModel"]), &["UNet1DModel", "UNet2DModel"]),
        ("plain", INDEX, "unet", json!(["mine", "UNet2DModel"]), &["\"mine\"", "[\"diffusers\", CLASS]"]),
        (
            "plain",
            INDEX,
            "scheduler",
            json!(["diffusers", "UniPCMultistepScheduler"]),
            &["UniPCMultistepScheduler", "EulerDiscreteScheduler"],
        ),
        ("plain", INDEX, "scheduler", json!([null, null]), &["null", "[\"diffusers\", CLASS]"]),
        (
            "plain",
            INDEX,
            "vae",
            json!(["diffusers", "AutoencoderKL"]),
            &["`vae`", "AutoencoderKL", "no part but"],
        ),
    ];
    for (name, file, key, value, words) in cases {
        let folder = copy(name);
        set(&folder.path().join(file), key, Some(value));
        let opened = diffusers::open(folder.path());
        let message = opened.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(message.contains(key) && message.contains(".json"), "{file}, {key}: {message}");
        refuses(opened, words);
    }
    for (key, words) in [
        ("interpolation_type", ["\"other\"", "another scheduler"]),
        ("timestep_type", ["\"other\"", "another scheduler"]),
        ("final_sigmas_type", ["`other`", "`sigma_min`"]),
    ] {
        let folder = copy("plain");
        std::fs::copy(fixture("schedulers/euler.json"), folder.path().join(SCHEDULER)).unwrap();
        set(&folder.path().join(INDEX), "scheduler", Some(json!(["diffusers", "EulerDiscreteScheduler"])));
        assert!(diffusers::open(folder.path()).is_ok());
        set(&folder.path().join(SCHEDULER), key, Some(json!("other")));
        refuses(diffusers::open(folder.path()), &[key, words[0], words[1]]);
    }
    // What a terminal would act on is not shown to it.
    let folder = copy("plain");
    set(&folder.path().join(UNET), "wi\u{1b}dth", Some(json!(768)));
    refuses(diffusers::open(folder.path()), &["wi\u{fffd}dth", "unknown option"]);
    // Nor are a hundred thousand letters.
    for (file, key) in [
        (INDEX, "_class_name"),
        (INDEX, "unet"),
        (INDEX, "scheduler"),
        (UNET, "_class_name"),
        (UNET, "act_fn"),
    ] {
        let long = json!("x".repeat(100_000));
        let folder = copy("plain");
        let value = if key.len() > 9 || file == UNET { long } else { json!(["diffusers", long]) };
        set(&folder.path().join(file), key, Some(value));
        refuses(diffusers::open(folder.path()), &["xxx", "bytes"]);
    }
}

/// What diffusers passes over in silence is opened with a warning, and computes as before.
#[test]
fn options_that_have_no_effect_are_warned_of() {
    let cases: Vec<(&str, &str, &str, Value, &[&str])> = vec![
        // The one attention level on the way down is the last, which does not resample.
        (
            "plain",
            UNET,
            "downsample_type",
            json!("resnet"),
            &["config.json", "downsample_type", "\"resnet\"", "no block"],
        ),
        ("dpm", UNET, "downsample_type", json!("resnet"), &["downsample_type"]),
        ("dpm", UNET, "upsample_type", json!("resnet"), &["upsample_type"]),
        ("plain", UNET, "num_train_timesteps", json!(1000), &["num_train_timesteps", "1000", "positional"]),
        (
            "plain",
            SCHEDULER,
            "tensor_format",
            json!("pt"),
            &["scheduler_config.json", "`tensor_format`", "DDPMScheduler"],
        ),
        ("plain", SCHEDULER, "timesteps", json!(4000), &["`timesteps`"]),
        ("plain", SCHEDULER, "skip_prk_steps", json!(true), &["`skip_prk_steps`"]),
        ("plain", SCHEDULER, "set_alpha_to_one", json!(false), &["`set_alpha_to_one`"]),
        ("plain", SCHEDULER, "use_flow_sigmas", json!(true), &["`use_flow_sigmas`"]),
        ("plain", SCHEDULER, "predict_epsilon", json!(true), &["`predict_epsilon`"]),
        ("dpm", SCHEDULER, "clip_sample", json!(true), &["`clip_sample`", "DPMSolverMultistepScheduler"]),
        (
            "plain",
            SCHEDULER,
            "_class_name",
            json!("EulerDiscreteScheduler"),
            &["EulerDiscreteScheduler", "DDPMScheduler, which counts"],
        ),
        (
            "plain",
            INDEX,
            "_class_name",
            json!("DDIMPipeline"),
            &["model_index.json", "DDIMScheduler", "DDPMScheduler"],
        ),
    ];
    for (name, file, key, value, words) in cases {
        let plain = diffusers::open(&fixture(name)).unwrap();
        let folder = copy(name);
        set(&folder.path().join(file), key, Some(value));
        let model = diffusers::open(folder.path()).unwrap();
        assert_eq!(model.warnings.len(), 1, "{key}: {:?}", model.warnings);
        for word in words {
            assert!(model.warnings[0].contains(word), "no `{word}` in: {}", model.warnings[0]);
        }
        assert!(model.weights == plain.weights && model.unet.config == plain.unet.config, "{key}");
        let ddim = if file == INDEX { plain.scheduler.with_sampler(Sampler::Ddim) } else { plain.scheduler };
        assert_eq!(model.scheduler, ddim, "{key}");
    }
}

/// Other words for the same thing, without a warning.
#[test]
fn synonyms_are_taken() {
    for (name, file, key, value) in [
        ("plain", UNET, "act_fn", json!("swish")),
        ("plain", UNET, "dropout", json!(0)),
        ("plain", UNET, "norm_eps", json!(0.00001)),
        ("plain", UNET, "upsample_type", Value::Null),
        ("plain", UNET, "sample_size", json!(4)),
        ("plain", UNET, "_note", json!({"any": ["thing"]})),
        ("plain", UNET, "down_block_types", json!(["UNetResDownBlock2D", "UNetResAttnDownBlock2D"])),
        ("plain", SCHEDULER, "variance_type", json!("fixed_small_log")),
        ("plain", SCHEDULER, "clip_sample_range", json!(1)),
        ("dpm", SCHEDULER, "use_karras_sigmas", Value::Null),
        ("dpm", SCHEDULER, "use_lu_lambdas", Value::Null),
        ("dpm", SCHEDULER, "flow_shift", json!(1)),
        ("plain", INDEX, "_name_or_path", json!("google/ddpm")),
    ] {
        let plain = diffusers::open(&fixture(name)).unwrap();
        let folder = copy(name);
        set(&folder.path().join(file), key, Some(value));
        let model = diffusers::open(folder.path()).unwrap();
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
        assert!(model.weights == plain.weights && model.unet.config == plain.unet.config, "{key}");
        assert_eq!(model.scheduler, plain.scheduler, "{key}");
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let folder = copy("plain");
    let path = folder.path().join(WEIGHTS);
    let whole = tensor_file::read(&path).unwrap();
    let name = "mid_block.attentions.0.to_q.weight";
    let old = "mid_block.attentions.0.query.weight";
    let square = Tensor { shape: vec![8, 8], data: vec![0.5; 64] };
    let change = |edit: &dyn Fn(&mut TensorFile), words: &[&str]| {
        let mut file = whole.clone();
        edit(&mut file);
        tensor_file::write(&path, &file).unwrap();
        refuses(diffusers::open(folder.path()), &[&["diffusion_pytorch_model.safetensors"], words].concat());
    };
    change(&|f| drop(f.tensors.remove(name)), &[name, "missing"]);
    change(
        &|f| drop(f.tensors.insert("time_proj.weight".into(), square.clone())),
        &["time_proj.weight", "not a parameter"],
    );
    change(&|f| f.tensors.get_mut(name).unwrap().shape = vec![4, 16], &[name, "[4, 16]", "[8, 8]"]);
    change(&|f| f.tensors.get_mut(name).unwrap().shape = vec![8, 8, 1, 1], &[name, "[8, 8, 1, 1]", "[8, 8]"]);
    change(&|f| drop(f.tensors.insert(old.into(), square.clone())), &[name, old, "twice"]);
    change(
        &|f| {
            f.tensors.remove(name);
            f.tensors.insert(old.into(), Tensor { shape: vec![8, 8, 1, 1], ..square.clone() });
        },
        &[name, "[8, 8, 1, 1]", "[8, 8]"],
    );
    // Another thing's old name is no name.
    change(
        &|f| drop(f.tensors.insert("mid_block.query.weight".into(), square.clone())),
        &["mid_block.query.weight"],
    );
    // The last four bytes are one weight.
    tensor_file::write(&path, &whole).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    refuses(diffusers::open(folder.path()), &["up_blocks.1.resnets.1.time_emb_proj.weight", "NaN"]);
    bytes.truncate(end - 1000);
    std::fs::write(&path, &bytes).unwrap();
    refuses(diffusers::open(folder.path()), &["diffusion_pytorch_model.safetensors", "a range within"]);
}

#[test]
fn files_that_are_not_there_are_named_with_the_remedy() {
    let folder = copy("plain");
    let at = folder.path();
    std::fs::rename(at.join(WEIGHTS), at.join("kept")).unwrap();
    let missing = ["unet has no diffusion_pytorch_model.safetensors", "save_pretrained"];
    refuses(diffusers::open(at), &[&missing[..], &["nothing of the kind"]].concat());
    std::fs::write(at.join("unet/diffusion_pytorch_model.bin"), "pickled").unwrap();
    refuses(
        diffusers::open(at),
        &[&missing[..], &["pickle", "run any program", "load it with diffusers"]].concat(),
    );
    std::fs::write(at.join("unet/diffusion_pytorch_model.safetensors.index.json"), "{}").unwrap();
    refuses(diffusers::open(at), &[&missing[..], &["several files", "max_shard_size"]].concat());
    std::fs::rename(at.join("kept"), at.join(WEIGHTS)).unwrap();
    assert!(diffusers::open(at).is_ok());
    std::fs::remove_file(at.join(SCHEDULER)).unwrap();
    refuses(diffusers::open(at), &["scheduler_config.json", "Check the spelling"]);
    std::fs::write(at.join(SCHEDULER), "[]").unwrap();
    refuses(diffusers::open(at), &["scheduler_config.json", "no object"]);
    std::fs::write(at.join(SCHEDULER), "{\"beta_end\": 0.02").unwrap();
    refuses(diffusers::open(at), &["scheduler_config.json", "EOF", "line 1"]);
    std::fs::remove_file(at.join(UNET)).unwrap();
    refuses(diffusers::open(at), &["unet has no config.json"]);
    let error = open_model(at.join("scheduler").as_path()).unwrap_err().to_string();
    for word in ["scheduler", "config.toml", "model_index.json", "config.json"] {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

/// A network alone has no scheduler, unless one lies beside it.
#[test]
fn a_network_alone_is_opened_with_a_warning() {
    let model = open_model(&fixture("plain/unet")).unwrap();
    let whole = open_model(&fixture("plain")).unwrap();
    assert!(model.weights == whole.weights);
    assert_eq!(model.scheduler, SchedulerConfig::new(Sampler::Ddpm));
    assert_eq!(model.warnings.len(), 1);
    for word in ["plain/unet", "without a scheduler", "DDPMScheduler", "model_index.json"] {
        assert!(model.warnings[0].contains(word), "{:?}", model.warnings);
    }
    let folder = copy("root-layout");
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    let model = open_model(folder.path()).unwrap();
    assert_eq!((model.scheduler.sampler, model.warnings.len()), (Sampler::Ddim, 0));
}

/// `EMAModel.save_pretrained` writes seven settings of the average into the network's configuration.
#[test]
fn an_averaged_network_is_opened_with_a_note() {
    let folder = copy("plain");
    let path = folder.path().join(UNET);
    let average = [
        ("decay", json!(0.9999)),
        ("inv_gamma", json!(1.0)),
        ("min_decay", json!(0.0)),
        ("optimization_step", json!(500)),
        ("power", json!(0.75)),
        ("update_after_step", json!(0)),
        ("use_ema_warmup", json!(true)),
    ];
    for (key, value) in average {
        set(&path, key, Some(value));
    }
    let (model, plain) =
        (diffusers::open(folder.path()).unwrap(), diffusers::open(&fixture("plain")).unwrap());
    assert!(model.weights == plain.weights && model.unet.config == plain.unet.config);
    assert_eq!(model.warnings.len(), 1);
    for word in ["unet/config.json", "EMAModel", "(7)"] {
        assert!(model.warnings[0].contains(word), "{:?}", model.warnings);
    }
    set(&path, "decay_rate", Some(json!(1)));
    refuses(diffusers::open(folder.path()), &["`decay_rate`", "unknown option"]);
}

/// A checkpoint of diffusers' training scripts has its networks in folders of their own, and no index.
#[test]
fn a_checkpoint_with_one_network_is_opened() {
    for name in ["unet", "unet_ema"] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint-500");
        copy_into(&fixture("plain/unet"), &checkpoint.join(name));
        std::fs::write(checkpoint.join("optimizer.bin"), "").unwrap();
        let model = open_model(&checkpoint).unwrap();
        assert!(model.weights == open_model(&fixture("plain")).unwrap().weights);
        assert!(
            model.warnings.iter().any(|w| w.contains(&format!("checkpoint-500/{name}"))),
            "{:?}",
            model.warnings
        );
    }
    // Where it lies beside a finished model, that is opened as ever.
    let folder = copy("plain");
    copy_into(&fixture("plain/unet"), &folder.path().join("checkpoint-500/unet"));
    assert!(open_model(folder.path()).unwrap().warnings.is_empty());
}

#[test]
fn a_variant_of_the_weights_is_taken_where_there_is_one() {
    let folder = copy("plain");
    let unet = folder.path().join("unet");
    let variant = |name: &str| unet.join(format!("diffusion_pytorch_model.{name}.safetensors"));
    std::fs::rename(folder.path().join(WEIGHTS), variant("fp16")).unwrap();
    let plain = diffusers::open(&fixture("plain")).unwrap();
    let model = diffusers::open(folder.path()).unwrap();
    assert!(model.weights == plain.weights);
    assert!(
        model.warnings.len() == 1 && model.warnings[0].contains("model.fp16.safetensors"),
        "{:?}",
        model.warnings
    );
    // Of two, nobody knows which is meant.
    std::fs::copy(variant("fp16"), variant("non_ema")).unwrap();
    refuses(
        diffusers::open(folder.path()),
        &["model.fp16.safetensors, ", "model.non_ema.safetensors", "give the one"],
    );
    // Nor is a part of one the whole.
    std::fs::remove_file(variant("fp16")).unwrap();
    std::fs::rename(variant("non_ema"), variant("fp16-00001-of-00002")).unwrap();
    refuses(diffusers::open(folder.path()), &["nothing of the kind"]);
    std::fs::write(unet.join("diffusion_pytorch_model.safetensors.incomplete"), "").unwrap();
    refuses(diffusers::open(folder.path()), &["safetensors.incomplete", "did not end", "download it again"]);
}

/// In place of a file, what a clone without Git LFS or a failed download leaves there.
#[test]
fn files_that_only_stand_for_others_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 143194380\n";
    for file in [INDEX, UNET, SCHEDULER, WEIGHTS] {
        let folder = copy("plain");
        let name = file.rsplit('/').next().unwrap();
        std::fs::write(folder.path().join(file), pointer).unwrap();
        refuses(diffusers::open(folder.path()), &[name, "Git LFS pointer", "git lfs pull"]);
        std::fs::write(folder.path().join(file), "<!DOCTYPE html>\n<html>Log in").unwrap();
        refuses(diffusers::open(folder.path()), &[name, "a web page", "download it again"]);
    }
    // As some editors and shells save it.
    for encoded in [
        |text: &str| format!("\u{feff}{text}").into_bytes(),
        |text: &str| format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect(),
    ] {
        let folder = copy("plain");
        let text = std::fs::read_to_string(folder.path().join(UNET)).unwrap();
        std::fs::write(folder.path().join(UNET), encoded(&text)).unwrap();
        assert!(diffusers::open(folder.path()).unwrap().warnings.is_empty());
    }
}

/// Names of classes go into notes, which diffusers keeps and does not heed (scripts/interop), and come back.
#[test]
fn class_names_are_saved_and_opened() {
    let names = ["10", "猫 \"a\""].map(String::from).to_vec();
    let model = || diffusers::open(&fixture("scale-shift")).unwrap();
    let labels = model().unet.config.num_class_embeds.unwrap();
    assert_eq!((labels, model().class_names.len(), model().null_label), (3, 0, None));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let named = Model { class_names: names.clone(), null_label: Some(2), ..model() };
    diffusers::save(&out, &named).unwrap();
    let opened = diffusers::open(&out).unwrap();
    assert_eq!((opened.class_names, opened.null_label, opened.warnings), (names, Some(2), vec![]));
    // Beside the notes, not a byte differs from a model without names.
    let lines = |path: PathBuf| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!(lines(out.join(UNET)), lines(fixture("scale-shift").join(UNET)) + 5);
    for key in ["_class_names", "_null_label"] {
        set(&out.join(UNET), key, None);
    }
    let text = std::fs::read_to_string(out.join(UNET)).unwrap() + "\n";
    assert_eq!(text, std::fs::read_to_string(fixture("scale-shift").join(UNET)).unwrap());
    for (key, value, words) in [
        ("_class_names", json!("cat"), ["found \"cat\"", "a list of at most"]),
        ("_class_names", json!(["a", 3]), ["found [\"a\",3]", "names"]),
        ("_class_names", json!(["a", "b", "c", "d"]), ["num_class_embeds = 3", "a list"]),
        ("_null_label", json!(3), ["found 3", "below num_class_embeds = 3"]),
        ("_null_label", json!(-1), ["found -1", "a label"]),
    ] {
        let folder = copy("scale-shift");
        set(&folder.path().join(UNET), key, Some(value));
        refuses(diffusers::open(folder.path()), &[&[key][..], &words].concat());
    }
}
