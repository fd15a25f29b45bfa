//! The command as its user meets it: help, and every refusal. A refusal names the thing and the remedy, ends
//! with a status that is not zero, and leaves every file as it was. Most of this needs no device.
//!
//! Help texts are snapshots; after a change to the flags: `INSTA_UPDATE=always cargo test --test cli`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;
#[path = "cli/measuring.rs"]
mod measuring;

use assert_cmd::Command;
use common::training::run_config;
use inkwash::data::glyphs::CLASS_NAMES;
use inkwash::diffusion::{Prediction, Preset, Sampler, ScheduleKind, SchedulerConfig, UNet, UNetConfig};
use inkwash::train::{Checkpoint, ModelFolder, TrainConfig, built_in_model, open_model};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The command without the user's own choice of device.
fn inkwash(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inkwash"));
    command.env("INKWASH_CACHE", "none");
    command.current_dir(folder);
    for name in ["INKWASH_DEVICE", "INKWASH_BACKEND", "INKWASH_KERNELS"] {
        command.env_remove(name);
    }
    command
}

/// The same where there is no Vulkan driver at all.
fn without_driver(folder: &Path) -> Command {
    let mut command = inkwash(folder);
    command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
    command
}

/// Every file below a folder with its contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// Runs a command line that must be refused with all of `words` in its message, and touch nothing.
fn refused(mut command: Command, folder: &Path, arguments: &[&str], words: &[&str]) {
    let before = contents(folder);
    let output = command.args(arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was not refused");
    assert!(message.starts_with("error: ") || message.contains("\nerror: "), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: no `{word}` in: {message}");
    }
    assert!(contents(folder) == before, "{arguments:?} was refused, but changed files");
}

fn stdout(mut command: Command, arguments: &[&str]) -> String {
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace("inkwash.exe", "inkwash");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn help() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help_train", &["train", "--help"]),
        ("help_data_check", &["data", "check", "--help"]),
        ("help_sample", &["sample", "--help"]),
        ("help_export", &["export", "--help"]),
        ("help_doctor", &["doctor", "--help"]),
        ("help_profile", &["profile", "--help"]),
        ("help_profile_diff", &["profile", "diff", "--help"]),
        ("help_profile_page", &["profile", "page", "--help"]),
        ("help_bench", &["bench", "--help"]),
        ("help_bench_step", &["bench", "step", "--help"]),
        ("help_bench_op", &["bench", "op", "--help"]),
        ("help_bench_memory", &["bench", "memory", "--help"]),
        ("help_bench_device", &["bench", "device", "--help"]),
        ("help_shaders_show", &["shaders", "show", "--help"]),
        ("help_demo", &["demo", "--help"]),
    ] {
        insta::assert_snapshot!(name, stdout(without_driver(folder.path()), arguments));
    }
    let version = stdout(without_driver(folder.path()), &["--version"]);
    assert_eq!(version.trim(), concat!("inkwash ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn unknown_words_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    refused(without_driver(at), at, &["train", "--out", "run", "--stpes", "3"], &["--stpes", "--steps"]);
    refused(without_driver(at), at, &["trian"], &["trian", "train"]);
    refused(without_driver(at), at, &["train", "--out", "run", "--preset", "big"], &["big", "tiny-gray"]);
    refused(without_driver(at), at, &["train", "--out", "run", "--batch", "x"], &["--batch", "x"]);
    refused(without_driver(at), at, &["train"], &["--out"]);
    refused(without_driver(at), at, &["train", "--dry-run", "--batch", "0"], &["batch", "between 1 and"]);
    refused(without_driver(at), at, &["bench", "op", "conv2d", "--shape", "3x3"], &["3x3", "8x32x32x64"]);
    refused(without_driver(at), at, &["bench", "op", "conv3d"], &["conv3d", "conv2d", "adamw"]);
    refused(
        without_driver(at),
        at,
        &["bench", "op", "adamw", "--case", "zzz"],
        &["zzz", "adamw", "not finite"],
    );
    refused(
        without_driver(at),
        at,
        &["bench", "op", "adamw", "--shape", "3x3"],
        &["adamw", "linear", "--case"],
    );
    refused(without_driver(at), at, &["--backend", "glide", "doctor"], &["glide", "vulkan"]);
}

#[test]
fn a_dry_run_needs_no_device() {
    let folder = tempfile::tempdir().unwrap();
    for kernels in ["registers", "workgroup"] {
        let text = stdout(without_driver(folder.path()), &["--kernels", kernels, "train", "--dry-run"]);
        for words in
            ["701,345 parameters", "16x16x1", "launches", "model FLOPs", "adamw.wgsl:", "conv2d", "fused  "]
        {
            assert!(text.contains(words), "no `{words}` in the dry run with {kernels}");
        }
        let unfused = stdout(
            without_driver(folder.path()),
            &["--kernels", kernels, "train", "--dry-run", "--no-fusion"],
        );
        assert!(!unfused.contains("fused  ") && unfused.lines().count() > text.lines().count() + 100);
    }
    let half = stdout(without_driver(folder.path()), &["train", "--dry-run", "--precision", "f16"]);
    for words in [
        "Element=f16",
        "loss_scale.wgsl:adjust",
        "precision       f16",
        "in f32          ",
        "of which f16 needs",
    ] {
        assert!(half.contains(words), "no `{words}` in the dry run in f16");
    }
    let arguments = ["train", "--dry-run", "--preset", "small-32", "--batch", "8"];
    assert!(stdout(without_driver(folder.path()), &arguments).contains("32x32x3"));
    assert!(contents(folder.path()).is_empty(), "a dry run wrote files");
}

#[test]
fn configurations_are_checked_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let unet = "[unet]\nin_channels = 1\nout_channels = 1\nblock_out_channels = [32, 64]\nlayers_per_block = 1\n\
                down_block_types = [\"DownBlock2D\", \"AttnDownBlock2D\"]\n\
                up_block_types = [\"AttnUpBlock2D\", \"UpBlock2D\"]\nnorm_num_groups = 8\n";
    std::fs::write(at.join("good.toml"), format!("batch = 4\n{unet}sample_size = 16\n")).unwrap();
    std::fs::write(at.join("odd.toml"), format!("{unet}sample_size = 15\n")).unwrap();
    std::fs::write(at.join("key.toml"), "batch = 4\nlearning_rat = 1e-3\n").unwrap();
    std::fs::write(at.join("unet_key.toml"), format!("{unet}sample_size = 16\nwidth = 3\n")).unwrap();
    std::fs::write(at.join("type.toml"), "batch = \"many\"\n").unwrap();
    std::fs::write(at.join("range.toml"), "beta1 = 1.5\n").unwrap();
    std::fs::write(at.join("groups.toml"), format!("{unet}sample_size = 16\n").replace("64]", "60]"))
        .unwrap();
    let dry = |file: &'static str| ["train", "--dry-run", "--config", file];
    assert!(stdout(without_driver(at), &dry("good.toml")).contains("701,345 parameters"));
    refused(without_driver(at), at, &dry("odd.toml"), &["sample_size", "15x15", "multiples of 2"]);
    refused(without_driver(at), at, &dry("key.toml"), &["key.toml", "learning_rat", "line 2"]);
    refused(without_driver(at), at, &dry("unet_key.toml"), &["unet_key.toml", "width"]);
    refused(without_driver(at), at, &dry("type.toml"), &["type.toml", "batch"]);
    refused(without_driver(at), at, &dry("range.toml"), &["beta1", "1.5", "below 1"]);
    refused(without_driver(at), at, &dry("groups.toml"), &["block_out_channels", "60", "norm_num_groups"]);
    refused(without_driver(at), at, &dry("none.toml"), &["none.toml"]);
}

/// A PNG whose header is right and whose body is cut.
fn broken_picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::GrayImage::from_fn(40, 40, |x, y| image::Luma([((x * 7) ^ (y * 13)) as u8]));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let mut bytes = bytes.into_inner();
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// Data sets that cannot be read. A dry run looks at the pictures only where it must know the classes; where
/// there is a device, the run itself is tried as well.
#[test]
fn data_that_cannot_be_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("empty/a")).unwrap();
    std::fs::create_dir_all(at.join("broken/a")).unwrap();
    std::fs::create_dir_all(at.join("texts/a")).unwrap();
    std::fs::write(at.join("broken/a/cut.png"), broken_picture()).unwrap();
    std::fs::write(at.join("texts/a/notes.txt"), "no picture").unwrap();
    let device = common::open_device().is_some();
    for (data, words) in [
        ("nowhere", &["nowhere", "nothing at this path", "check the spelling"][..]),
        ("empty", &["empty", "holds no file", "put some there"]),
        ("texts", &["texts", "is a picture", "convert"]),
        ("broken", &["cut.png"]),
        ("builtin:letters", &["letters", "builtin:glyphs"]),
    ] {
        let arguments = ["train", "--dry-run", "--class-conditional", "--data", data];
        refused(without_driver(at), at, &arguments, words);
        if device {
            refused(inkwash(at), at, &["train", "--out", "run", "--data", data], words);
        }
    }
}

#[test]
fn folders_that_hold_no_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("pictures")).unwrap();
    std::fs::write(at.join("pictures/a.txt"), "mine").unwrap();
    for name in ["pictures", "nowhere"] {
        let words = [name, "config.toml", "model_index.json"];
        refused(without_driver(at), at, &["sample", "--model", name, "--out", "drawn"], &words);
        let words = [name, "config.toml", "not a run"];
        refused(without_driver(at), at, &["train", "--resume", name], &words);
        refused(without_driver(at), at, &["export", name, "out"], &words);
    }
}

fn preset(preset: Preset) -> UNet {
    UNet::new(&UNetConfig::preset(preset)).unwrap()
}

#[test]
fn weights_of_another_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // A run that says `tiny-gray`, and files of a network with one level less.
    let other = UNet::new(&UNetConfig {
        block_out_channels: vec![32],
        down_block_types: UNetConfig::preset(Preset::TinyGray).down_block_types[..1].to_vec(),
        up_block_types: UNetConfig::preset(Preset::TinyGray).up_block_types[1..].to_vec(),
        ..UNetConfig::preset(Preset::TinyGray)
    })
    .unwrap();
    let run = ModelFolder::new(at.join("run"));
    std::fs::create_dir_all(at.join("run/checkpoints")).unwrap();
    std::fs::write(at.join("run/config.toml"), "preset = \"tiny-gray\"\n").unwrap();
    let flat = vec![0.25; other.parameters.flat_elements()];
    let states = [(); 4].map(|()| flat.clone());
    run.save_checkpoint(
        &other.parameters,
        &Checkpoint { next_step: 7, steps_taken: 7, loss_scale: None, pictures: None, states },
    )
    .unwrap();
    let words = ["model.safetensors", "another configuration"];
    refused(without_driver(at), at, &["sample", "--model", "run", "--out", "drawn"], &words);
    if common::open_device().is_some() {
        let words = ["step-000007.safetensors", "another configuration"];
        refused(inkwash(at), at, &["train", "--resume", "run"], &words);
    }
    // A file cut short, as by a full disk.
    let unet = preset(Preset::TinyGray);
    run.save_weights(&unet.parameters, &unet.parameters.initial(0), 7).unwrap();
    let path = at.join("run/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    refused(without_driver(at), at, &["sample", "--model", "run", "--out", "drawn"], &["model.safetensors"]);
    // Options that the model cannot follow, with the file whole again.
    std::fs::write(&path, &bytes).unwrap();
    let sample = ["sample", "--model", "run", "--out", "drawn"];
    for (more, words) in [
        (&["--steps", "5000"][..], &["5000", "1000"][..]),
        (&["--class", "3"], &["--class", "without classes"]),
        (&["--eta", "2"], &["--eta", "between 0 and 1"]),
        (&["--n", "0"], &["--n", "at least 1"]),
        (&["--guidance", "2"], &["--guidance", "trained without classes"]),
        (&["--guidance-interval", "1,2"], &["--guidance-interval", "--guidance"]),
        (&["--sampler", "ddpm", "--karras-sigmas"], &["--karras-sigmas", "ddpm"]),
    ] {
        refused(without_driver(at), at, &[&sample[..], more].concat(), words);
    }
    std::fs::create_dir(at.join("drawn")).unwrap();
    std::fs::write(at.join("drawn/grid.png"), "mine").unwrap();
    refused(without_driver(at), at, &sample, &["grid.png", "already holds", "--out"]);
}

/// A combination that makes no sense is refused with the reason, before anything runs.
#[test]
fn combinations_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (flags, words) in [
        ("--noise-schedule flow", &["prediction", "epsilon with flow", "v_prediction"][..]),
        ("--zero-terminal-snr", &["prediction", "epsilon with zero_terminal_snr", "flow"]),
        ("--noise-schedule edm --zero-terminal-snr --prediction edm", &["rescale_betas_zero_snr", "edm"]),
        ("--noise-schedule flow --objective previous", &["objective", "continuous", "squaredcos_cap_v2"]),
        ("--objective last-noise --prediction sample", &["objective", "leave --prediction out"]),
        ("--objective last-noise --weighting p2", &["weighting", "p2 with the objective last-noise"]),
        ("--objective previous --zero-terminal-snr", &["zero_terminal_snr", "objective previous"]),
        (
            "--objective previous --timestep-sampling logit-normal",
            &["timestep_sampling", "logit-normal", "merged-noise"],
        ),
        (
            "--noise-schedule edm --prediction edm --timestep-sampling logit-normal",
            &["timestep_sampling", "edm", "leave it out"],
        ),
        ("--weighting min-snr --min-snr-gamma 0", &["min_snr_gamma", "positive"]),
        ("--timestep-sampling logit-normal --logit-deviation 0", &["logit_mean", "deviation 0"]),
        ("--label-dropout 0.1", &["label_dropout", "--class-conditional"]),
        ("--label-dropout 1 --class-conditional", &["label_dropout", "below 1"]),
    ] {
        let arguments: Vec<&str> = ["train", "--dry-run"].into_iter().chain(flags.split(' ')).collect();
        refused(without_driver(at), at, &arguments, words);
    }
    // A model of flow matching, and how it cannot be sampled or exported.
    let unet = preset(Preset::TinyGray);
    let run = ModelFolder::new(at.join("run"));
    std::fs::create_dir(at.join("run")).unwrap();
    let config = "preset = \"tiny-gray\"\nnoise_schedule = \"flow\"\nprediction = \"flow\"\n";
    std::fs::write(at.join("run/config.toml"), config).unwrap();
    run.save_weights(&unet.parameters, &unet.parameters.initial(0), 7).unwrap();
    for (flags, words) in [
        ("--timestep-spacing leading", &["timestep_spacing", "flow", "trailing or quadratic"]),
        ("--timestep-spacing linspace", &["timestep_spacing", "continuous", "trailing or quadratic"]),
    ] {
        let sample = ["sample", "--model", "run", "--out", "drawn"];
        let arguments: Vec<&str> = sample.into_iter().chain(flags.split(' ')).collect();
        refused(without_driver(at), at, &arguments, words);
    }
    refused(without_driver(at), at, &["export", "run", "out"], &["noise schedule is flow", "four chains"]);
}

/// What a step costs is told without a device, and how long it would take on one that is not here.
#[test]
fn a_dry_run_tells_the_cost() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let dry = ["train", "--dry-run", "--batch", "2"];
    let json = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stdout(without_driver(at), &[&dry[..], &["--json"], more].concat())).unwrap()
    };
    let (without, on) = (json(&[]), json(&["--on", "h100"]));
    assert!(without["on"].is_null() && without["totals"]["seconds"].is_null());
    assert_eq!(without["config"]["batch"], 2);
    let sum = |list: &serde_json::Value, field: &str| -> f64 {
        list.as_array().unwrap().iter().map(|row| row[field].as_f64().unwrap()).sum()
    };
    for field in ["matrix_flops", "other_flops", "bytes_read", "bytes_written", "moved_bytes", "seconds"] {
        let total = on["totals"][field].as_f64().unwrap();
        for list in ["phases", "operators", "kernels", "launches"] {
            assert!((sum(&on[list], field) / total - 1.0).abs() < 1e-9, "{list}: {field}");
        }
        assert!(
            total > 0.0 && (field == "seconds" || on["totals"][field] == without["totals"][field]),
            "{field}"
        );
    }
    let seconds = on["totals"]["seconds"].as_f64().unwrap() + on["on"]["gap_seconds"].as_f64().unwrap();
    assert_eq!(on["on"]["step_seconds"].as_f64().unwrap(), seconds);
    assert_eq!(on["on"]["gpu"]["name"], "H100");
    let text = stdout(without_driver(at), &[&dry[..], &["--on", "10T,500G"]].concat());
    let assumptions = on["on"]["assumptions"].as_array().unwrap();
    // Two numbers say nothing of matrix units, of which there is a sentence for an H100.
    assert_eq!(text.matches("\nassumed").count(), assumptions.len() - 1);
    assert!(text.contains("modelled step") && text.contains("conv2d_tiled:convolution"), "{text}");
    refused(
        without_driver(at),
        at,
        &[&dry[..], &["--on", "nonsense"]].concat(),
        &["--on", "nonsense", "RTX 4090", "67T,3.35T"],
    );
    for flag in [&["--json"][..], &["--on", "H100"]] {
        refused(without_driver(at), at, &[&["train", "--out", "run"], flag].concat(), &["--dry-run"]);
    }
}

/// What a run takes over from the model that it begins from, what is given otherwise, and what does not fit.
#[test]
fn a_run_may_begin_from_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let unet = preset(Preset::TinyGray);
    std::fs::create_dir(at.join("run")).unwrap();
    let config = "timesteps = 300\nnoise_schedule = \"squaredcos_cap_v2\"\nprediction = \"v_prediction\"\n";
    std::fs::write(at.join("run/config.toml"), config).unwrap();
    ModelFolder::new(at.join("run")).save_weights(&unet.parameters, &unet.parameters.initial(0), 7).unwrap();
    let dry = ["train", "--dry-run", "--glyph-count", "64", "--init"];
    let text = stdout(without_driver(at), &[&dry[..], &["run", "--size", "32x24"]].concat());
    for words in
        ["prediction v_prediction", "squaredcos_cap_v2", "timesteps 300", "24x32x1, 701,345 parameters"]
    {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
    // The command line and a file say otherwise, and are warned.
    std::fs::write(at.join("tune.toml"), "init = \"run\"\nprediction = \"sample\"\n").unwrap();
    let [flag, file] = [
        [&dry[..], &["run", "--prediction", "epsilon"]].concat(),
        vec!["train", "--dry-run", "--config", "tune.toml"],
    ]
    .map(|arguments| {
        let output = without_driver(at).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    });
    assert!(
        flag.contains("warning: ") && flag.contains("prediction epsilon, where the model has v_prediction"),
        "{flag}"
    );
    assert!(file.contains("prediction sample, where the model has v_prediction"), "{file}");
    let text = stdout(without_driver(at), &[&dry[..], &["builtin:glyphs"]].concat());
    assert!(text.contains("16x16x1") && text.contains("noise_schedule squaredcos_cap_v2"), "{text}");

    refused(
        without_driver(at),
        at,
        &[&dry[..], &["run", "--size", "33"]].concat(),
        &["size: 33x33", "32x32 or 34x34"],
    );
    refused(
        without_driver(at),
        at,
        &[&dry[..], &["nowhere"]].concat(),
        &["nowhere is not there", "config.toml"],
    );
    refused(
        without_driver(at),
        at,
        &["train", "--resume", "run", "--init", "run"],
        &["--init", "cannot be used with"],
    );
    let classifier = ["--network", "classifier"];
    refused(
        without_driver(at),
        at,
        &[&dry[..], &["run"], &classifier].concat(),
        &["init: found run", "classifier"],
    );
    let train = ["train", "--out", "new", "--glyph-count", "64", "--init", "run", "--preset", "small-32"];
    refused(
        without_driver(at),
        at,
        &train,
        &["conv_in.weight", "[32, 1, 3, 3], here [64, 3, 3, 3]", "--preset"],
    );
}

/// What is exported opens as a model with the same weights and the run's own schedule.
#[test]
fn a_run_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let unet = preset(Preset::TinyGray);
    let run = ModelFolder::new(at.join("run"));
    std::fs::create_dir_all(at.join("run/checkpoints")).unwrap();
    let config = "preset = \"tiny-gray\"\ntimesteps = 300\nnoise_schedule = \"squaredcos_cap_v2\"\nprediction = \"v_prediction\"\n";
    std::fs::write(at.join("run/config.toml"), config).unwrap();
    refused(without_driver(at), at, &["export", "run", "out"], &["model.safetensors"]);
    let states = [1, 2, 3, 4].map(|seed| unet.parameters.initial(seed));
    run.save_checkpoint(
        &unet.parameters,
        &Checkpoint {
            next_step: 7,
            steps_taken: 7,
            loss_scale: None,
            pictures: None,
            states: states.clone(),
        },
    )
    .unwrap();
    for (name, flags, state) in [("averaged", &[][..], 3), ("raw", &["--weights", "raw"], 0)] {
        let text = stdout(without_driver(at), &[&["export", "run", name], flags].concat());
        for words in ["701,345 parameters", "DDPMPipeline.from_pretrained", name] {
            assert!(text.contains(words), "no `{words}` in: {text}");
        }
        assert!(!text.contains("class_labels"), "{text}");
        let model = open_model(&at.join(name)).unwrap();
        assert!(model.weights == states[state], "{name}");
        let expected = SchedulerConfig {
            num_train_timesteps: 300,
            beta_schedule: ScheduleKind::Cosine,
            prediction_type: Prediction::VPrediction,
            ..SchedulerConfig::new(Sampler::Ddpm)
        };
        assert_eq!(model.scheduler, expected);
        assert!(model.warnings.is_empty());
    }
    let text = stdout(without_driver(at), &["export", "builtin:glyphs", "glyphs"]);
    assert!(text.contains("class_labels") && text.contains("10 classes"), "{text}");
    let (again, built_in) = (open_model(&at.join("glyphs")).unwrap(), built_in_model().unwrap());
    assert!(again.weights == built_in.weights);
    assert!(
        again.class_names == CLASS_NAMES && built_in.class_names == CLASS_NAMES,
        "{:?}",
        again.class_names
    );

    refused(
        without_driver(at),
        at,
        &["export", "run", "raw"],
        &["raw", "already holds files", "new or empty"],
    );
    refused(without_driver(at), at, &["export", "raw", "again"], &["raw", "not a run of inkwash"]);
    let raw = ["export", "builtin:glyphs", "again", "--weights", "raw"];
    refused(without_driver(at), at, &raw, &["--weights raw", "averaged weights alone"]);
    refused(
        without_driver(at),
        at,
        &["export", "run", "again", "--weights", "best"],
        &["best", "ema", "raw"],
    );
    std::fs::remove_dir_all(at.join("run/checkpoints")).unwrap();
    std::fs::create_dir(at.join("run/checkpoints")).unwrap();
    refused(
        without_driver(at),
        at,
        &["export", "run", "again", "--weights", "raw"],
        &["holds no checkpoint"],
    );
}

#[test]
fn a_folder_with_files_is_not_written_over() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("taken")).unwrap();
    std::fs::write(at.join("taken/thesis.tex"), "mine").unwrap();
    let words = ["taken", "already holds files", "--resume"];
    refused(inkwash(at), at, &["train", "--out", "taken"], &words);
    refused(inkwash(at), at, &["demo", "--out", "taken"], &words);
    refused(inkwash(at), at, &["--device", "Voodoo", "train", "--out", "run"], &["Voodoo", "--device"]);
}

/// What a training run says, to whom, and with which status.
#[test]
fn training_says_what_happened() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let config = TrainConfig { steps: 3, batch: 4, accumulate: 1, warmup_steps: 0, ..run_config() };
    std::fs::write(at.join("tiny.toml"), toml::to_string(&config).unwrap()).unwrap();
    let train = |arguments: &[&str]| {
        let output = inkwash(at).arg("train").args(arguments).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        // Nothing of a bar in a pipe.
        assert!(!err.contains(['\r', '\u{1b}', '█']), "{err}");
        (output.status.code(), out, err)
    };
    let new = ["--config", "tiny.toml", "--out"];
    assert_eq!(train(&[&new[..], &["quiet", "-q"]].concat()), (Some(0), String::new(), String::new()));
    let (status, out, err) = train(&[&new[..], &["warned", "-q", "--warmup-steps", "9"]].concat());
    assert!(
        status == Some(0) && out.is_empty() && err.starts_with("warning: the warm-up of 9 steps"),
        "{err}"
    );

    let (status, out, err) = train(&["--resume", "quiet"]);
    assert!(status == Some(0) && err.is_empty(), "{err}");
    assert!(out.contains("nothing to do   all 3 steps") && out.contains("--resume quiet --steps N"), "{out}");

    let large =
        ["large", "--steps", "40", "--learning-rate", "9e5", "--clip-norm", "0", "--sample-every", "0"];
    let (status, _, err) = train(&[&new[..], &large, &["--checkpoint-every", "0"]].concat());
    assert_eq!(status, Some(1));
    for words in
        ["error: the gradient was not finite in ", " pass, in ", "--clip-norm 1", "no checkpoint yet"]
    {
        assert!(err.contains(words), "no `{words}` in: {err}");
    }
    let (status, out, _) = train(&[&new[..], &["large"]].concat());
    assert!(status == Some(0) && out.starts_with("note            large holds a run that ended"), "{out}");
}

/// Mesa's Wayland library complains of a missing `XDG_RUNTIME_DIR` on standard error, where it looks like ours.
#[test]
#[cfg(target_os = "linux")]
fn a_server_without_a_session_is_no_error() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for set in [None, Some("")] {
        let mut command = inkwash(folder.path());
        match set {
            Some(value) => command.env("XDG_RUNTIME_DIR", value),
            None => command.env_remove("XDG_RUNTIME_DIR"),
        };
        let output = command.args(["doctor", "--list"]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
    }
}

/// What to install, where there is no driver. OpenGL, the last resort, is left out of this.
#[test]
#[cfg(target_os = "linux")]
fn a_missing_driver_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for arguments in [
        &["--backend", "vulkan", "doctor"][..],
        &["--backend", "vulkan", "doctor", "--list"],
        &["--backend", "vulkan", "train", "--out", "run"],
        &["--backend", "vulkan", "bench", "device"],
        &["--backend", "vulkan", "demo"],
    ] {
        refused(without_driver(at), at, arguments, &["no graphics adapter", "nstall", "ulkan driver"]);
    }
}

/// Ctrl-C says what it leads to, and how to go on: there is no checkpoint in `sample`.
#[test]
#[cfg(target_os = "linux")]
fn an_interruption_says_what_it_does() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let train = ["train", "--out", "run", "--glyph-count", "100", "--held-out", "0", "--steps", "100000"];
    let sample = ["sample", "--out", "drawn", "--steps", "1000", "--n", "64"];
    for (arguments, words, others, written) in [
        (&train[..], "interrupted: writing a checkpoint", "without a picture", "run/model.safetensors"),
        (&sample[..], "interrupted: keeping the pictures drawn so far", "checkpoint", "drawn/samples.json"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_inkwash"));
        let child =
            command.args(arguments).current_dir(at).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        // Ready once SIGINT, the second bit, is among the signals that the process catches.
        let caught = |status: String| {
            let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap().trim().to_string();
            u64::from_str_radix(&mask, 16).unwrap() & 2 != 0
        };
        let status = format!("/proc/{}/status", child.id());
        while !caught(std::fs::read_to_string(&status).unwrap()) {
            assert!(child.try_wait().unwrap().is_none(), "{arguments:?} ended by itself");
            std::thread::sleep(Duration::from_millis(20));
        }
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{arguments:?}: {message}");
        assert!(message.contains(words) && !message.contains(others), "{arguments:?}: {message}");
        assert!(message.contains("go on with: inkwash "), "{arguments:?}: {message}");
        assert!(at.join(written).is_file(), "{arguments:?}: no {written}");
    }
    assert!(!at.join("drawn/00000.png").exists());
}
