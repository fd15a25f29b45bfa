//! What `inkwash sample` and the other commands leave in a folder: nothing of the user's is replaced, nothing drawn is lost,
//! and the same command goes on where it stopped. Interruptions are made by taking away what had not been written yet.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use inkwash::diffusion::UNet;
use inkwash::io::tensor_file::{self, Tensor, TensorFile};
use inkwash::train::{ModelFolder, TrainConfig};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Output;

/// Runs the command in a folder, by the words of its command line.
fn inkwash(folder: &Path, line: &str) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_inkwash"));
    command.env("INKWASH_CACHE", "none");
    command.args(line.split_whitespace()).current_dir(folder).output().unwrap()
}

/// What it printed, once it has done well.
fn done(folder: &Path, line: &str) -> String {
    let output = inkwash(folder, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The files of a folder, hidden ones too.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    let file = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(path).unwrap())
    };
    entries.map(|e| e.unwrap().path()).filter(|path| path.is_file()).map(file).collect()
}

/// Runs what must be refused with these words, before the device is opened, and change no file in `out`.
fn refused(folder: &Path, out: &str, line: &str, words: &[&str]) {
    let before = files(&folder.join(out));
    let output = inkwash(folder, &format!("--device Voodoo {line}"));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("error: "), "{line}: {message}");
    for word in words {
        assert!(message.contains(word), "{line}: no `{word}` in: {message}");
    }
    assert!(files(&folder.join(out)) == before, "{line} changed files");
}

/// All but the record, in which the batch may differ.
fn pictures(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(folder);
    files.remove("samples.json").unwrap();
    files
}

#[test]
fn a_file_that_is_there_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("mine")).unwrap();
    for (file, flags) in [
        ("00001.png", ""),
        ("grid.png", ""),
        ("grid.png", "--grid-only"),
        ("grid.png", "--format npz"),
        ("samples.npz", "--format npz"),
        (".samples.partial", "--format npz"),
        ("samples.json", ""),
    ] {
        let path = at.join("mine").join(file);
        std::fs::write(&path, "mine").unwrap();
        let line = format!("sample -n 2 --steps 1 --out mine {flags}");
        refused(at, "mine", &line, &[&path.display().to_string()[at.as_os_str().len() + 6..], "--out"]);
        std::fs::remove_file(&path).unwrap();
    }
    for i in 0..9 {
        std::fs::write(at.join(format!("mine/{i:05}.png")), "mine").unwrap();
    }
    let words = ["00000.png", "00003.png and 3 more", "nothing is replaced"];
    refused(at, "mine", "sample -n 7 --steps 1 --out mine", &words);
    std::fs::write(at.join("file"), "mine").unwrap();
    refused(at, "", "sample -n 2 --steps 1 --out file", &["file", "--out"]);
}

/// The other commands: a second run into the same folder, or over a file.
#[test]
fn other_commands_replace_no_file_either() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("lab/ode")).unwrap();
    std::fs::write(at.join("lab/ode/samples.png"), "mine").unwrap();
    let words = ["already holds samples.png", "--out"];
    refused(at, "lab/ode", "lab ode --out lab/ode", &words);
    refused(at, "lab/ode", "lab all --out lab", &words);
    assert!(!at.join("lab/forward").exists(), "an experiment was begun");
    std::fs::write(at.join("weights.safetensors"), "mine").unwrap();
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracles/schedules/schedules.safetensors");
    let line = format!("verify --oracle {oracle} --dump weights.safetensors");
    refused(at, "", &line, &["--dump weights.safetensors", "new one"]);
    refused(at, "lab/ode", "export builtin:glyphs lab/ode", &["lab/ode", "new or empty"]);
}

#[test]
fn the_same_command_goes_on_and_a_larger_count_extends() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let line = |n: usize, out: &str| format!("sample -n {n} --steps 1 --batch 4 --sampler ddpm --out {out}");
    done(at, &line(9, "whole"));
    let whole = files(&at.join("whole"));
    assert_eq!(whole.len(), 11, "{:?}", whole.keys());

    // Complete: no file changes, and no device is needed.
    let text = done(at, &format!("--device Voodoo {}", line(9, "whole")));
    assert!(text.contains("nothing to do") && files(&at.join("whole")) == whole, "{text}");
    refused(at, "whole", &(line(9, "whole") + " --seed 1 --eta 0"), &["--eta"]);
    let words = ["seed is 0 there and 1 now", "steps is 1 there and 2 now", "--out"];
    refused(at, "whole", "sample -n 9 --steps 2 --seed 1 --sampler ddpm --out whole", &words);
    refused(at, "whole", &line(8, "whole"), &["-n 9"]);

    // Interrupted: some are missing, the grid is, and a killed process has left half of a file.
    for name in ["00002.png", "00008.png", "grid.png"] {
        std::fs::remove_file(at.join("whole").join(name)).unwrap();
    }
    let left = at.join("whole/.inkwash-0123456789ab.tmp");
    std::fs::write(&left, "half of").unwrap();
    let text = done(at, &line(9, "whole"));
    assert!(text.contains("7 of 9") && !left.exists(), "{text}");
    assert!(files(&at.join("whole")) == whole);

    // Only the grid is missing: it is made of what is there.
    std::fs::remove_file(at.join("whole/grid.png")).unwrap();
    done(at, &format!("--device Voodoo {}", line(9, "whole")));
    assert!(files(&at.join("whole")) == whole);

    // A picture that is not whole is named, and so is one that is the user's.
    std::fs::write(at.join("whole/00004.png"), &whole["00004.png"][..99]).unwrap();
    refused(at, "whole", &line(9, "whole"), &["00004.png", "no whole PNG"]);
    std::fs::write(at.join("whole/00004.png"), &whole["00004.png"]).unwrap();
    std::fs::write(at.join("whole/00010.png"), "mine").unwrap();
    refused(at, "whole", &line(11, "whole"), &["00010.png", "--out"]);
    std::fs::remove_file(at.join("whole/00010.png")).unwrap();
    std::fs::write(at.join("whole/grid.png"), &whole["00004.png"]).unwrap();
    refused(at, "whole", &line(11, "whole"), &["grid.png", "other pictures"]);
    std::fs::write(at.join("whole/grid.png"), &whole["grid.png"]).unwrap();

    // More of them are the same as if they had been drawn at once.
    done(at, &line(11, "whole"));
    done(at, &line(11, "again"));
    assert!(files(&at.join("whole")) == files(&at.join("again")));
}

/// The pixels and labels of an npz.
fn arrays(path: &Path) -> [Vec<u8>; 2] {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    ["arr_0.npy", "arr_1.npy"].map(|name| {
        let mut bytes = Vec::new();
        zip.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    })
}

#[test]
fn npz_holds_the_same_pictures_and_goes_on_too() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let line = |n: usize, out: &str| format!("sample -n {n} --steps 1 --batch 4 --class 7,2 --out {out}");
    done(at, &line(6, "png"));
    done(at, &(line(6, "npz") + " --format npz"));
    done(at, &(line(6, "grid") + " --grid-only"));
    let whole = files(&at.join("npz"));
    assert_eq!(whole.keys().collect::<Vec<_>>(), ["grid.png", "samples.json", "samples.npz"]);
    assert_eq!(pictures(&at.join("grid")).keys().collect::<Vec<_>>(), ["grid.png"]);
    for out in ["png", "grid"] {
        assert!(whole["grid.png"] == files(&at.join(out))["grid.png"], "{out}");
    }
    let [pixels, labels] = arrays(&at.join("npz/samples.npz"));
    let facts = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 16, 16, 1), }";
    assert!(pixels[10..].starts_with(facts.as_bytes()));
    for (i, drawn) in pixels[128..].chunks(256).enumerate() {
        let png = image::open(at.join(format!("png/{i:05}.png"))).unwrap().to_luma8();
        assert!(png.as_raw() == drawn, "picture {i}");
    }
    let labels: Vec<i64> =
        labels[128..].chunks(8).map(|label| i64::from_le_bytes(label.try_into().unwrap())).collect();
    assert_eq!(labels, [7, 2, 7, 2, 7, 2]);

    // Interrupted within a picture: before the npz there was the partial file, cut anywhere.
    let record = String::from_utf8(whole["samples.json"].clone()).unwrap();
    let begun = record.replace("\"finished\": 6", "\"finished\": 0");
    assert_ne!(record, begun);
    for length in [1, 5 * 256 + 99, 6 * 256 + 1] {
        let out = at.join(format!("cut{length}"));
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("samples.json"), &begun).unwrap();
        let rest = pixels[128..].iter().chain(&[7]);
        std::fs::write(out.join(".samples.partial"), rest.take(length).copied().collect::<Vec<u8>>())
            .unwrap();
        done(at, &(line(6, &format!("cut{length}")) + " --format npz"));
        assert!(files(&out) == whole, "cut to {length} bytes");
    }
    // A killed process may have left every file and the record as it was begun.
    std::fs::write(at.join("npz/samples.json"), &begun).unwrap();
    std::fs::write(at.join("npz/.samples.partial"), &pixels[128..]).unwrap();
    done(at, &format!("--device Voodoo {} --format npz", line(6, "npz")));
    assert!(files(&at.join("npz")) == whole);

    done(at, &(line(9, "npz") + " --format npz"));
    done(at, &(line(9, "more") + " --format npz"));
    assert!(files(&at.join("npz")) == files(&at.join("more")));
    std::fs::write(at.join("npz/samples.npz"), "mine").unwrap();
    refused(at, "npz", &(line(9, "npz") + " --format npz"), &["samples.npz"]);
}

#[test]
fn what_pictures_begin_from_is_the_same_in_every_batch() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    done(at, "sample -n 2 --steps 1 --out given");
    let mask = image::GrayImage::from_fn(16, 16, |x, _| image::Luma([if x < 8 { 0 } else { 255 }]));
    mask.save(at.join("mask.png")).unwrap();
    let noise = |seed: usize| {
        let data = (0..5 * 256).map(|i| ((i * seed % 101) as f32 - 50.0) / 29.0).collect();
        let tensors = BTreeMap::from([("x_T".into(), Tensor { shape: vec![5, 1, 16, 16], data })]);
        let file = TensorFile { tensors, metadata: BTreeMap::new() };
        tensor_file::write(&at.join("noise.safetensors"), &file).unwrap();
    };
    for (flags, words) in [
        ("--between-seeds 3,4", "start.pictures is 5 there and 6 now"),
        ("--initial-noise noise.safetensors", "start.initial_noise is"),
        ("--from-picture base.png --strength 1", "start.from_picture is"),
        ("--inpaint base.png --mask mask.png --resamples 2", "inpaint.picture is"),
    ] {
        let line = |n: usize, batch: usize, out: &str| {
            format!("sample -n {n} --steps 1 --batch {batch} {flags} --out {out}")
        };
        std::fs::copy(at.join("given/00000.png"), at.join("base.png")).unwrap();
        noise(37);
        done(at, &line(5, 5, "a"));
        done(at, &line(5, 2, "b"));
        assert!(pictures(&at.join("a")) == pictures(&at.join("b")), "{flags}");
        // Other content under the same name is another drawing.
        std::fs::copy(at.join("given/00001.png"), at.join("base.png")).unwrap();
        noise(41);
        let more = usize::from(flags.contains("seeds"));
        refused(at, "a", &line(5 + more, 5, "a"), &[words, "there and"]);
        for out in ["a", "b"] {
            std::fs::remove_dir_all(at.join(out)).unwrap();
        }
    }
}

#[test]
fn a_class_is_asked_for_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let names = ["cat", "Dog", "0"].map(String::from);
    let config = TrainConfig { class_conditional: true, ..TrainConfig::default() }.with_network(&names);
    let unet = UNet::new(&config.unet_config(3)).unwrap();
    std::fs::create_dir(at.join("run")).unwrap();
    std::fs::write(at.join("run/config.toml"), toml::to_string(&config).unwrap()).unwrap();
    ModelFolder::new(at.join("run")).save_weights(&unet.parameters, &unet.parameters.initial(0), 1).unwrap();
    let line = |class: &str| format!("sample --model run -n 3 --steps 1 --out drawn --class {class}");
    refused(at, "drawn", &line("dgo"), &["--class dgo", "cat, Dog, 0", "0 to 2"]);
    refused(at, "drawn", &line("3"), &["--class 3", "cat, Dog, 0"]);
    if common::open_device().is_none() {
        return;
    }
    let output = inkwash(at, &line("dog,0"));
    let (text, notes) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("class           Dog (2)\nclass           0 (1)\n"), "{text}{notes}");
    assert!(notes.contains("--class 0 is the class of that name, number 2, and not number 0"), "{notes}");
    let record: serde_json::Value =
        serde_json::from_slice(&files(&at.join("drawn"))["samples.json"]).unwrap();
    let settings = &record["settings"];
    assert_eq!(settings["labels_in_turn"], serde_json::json!([1, 2]));
    assert_eq!(settings["class_names"], serde_json::json!(["Dog", "0"]));
    refused(at, "drawn", &line("dog"), &["class_names is"]);
}
