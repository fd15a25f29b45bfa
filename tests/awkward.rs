//! Awkward files where the command reads them: whatever lies under the name of weights, of a checkpoint or of noise, and whatever
//! lies in a folder of pictures. Nothing panics or waits for ever, and every refusal names the file. Made by the test; no device
//! is needed. What is wrong inside a picture or a data file is the matter of the unit tests of `data`, and model folders damaged
//! at random that of `fuzz.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::short_run;
use inkwash::diffusion::UNet;
use inkwash::io::tensor_file::{self, Tensor, TensorFile};
use inkwash::train::{Checkpoint, ModelFolder, open_model};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The header of a safetensors file and its data, apart.
fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let end = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
}

fn joined(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// A file whose header or data was changed.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let (mut header, mut data) = parts(bytes);
    change(&mut header, &mut data);
    joined(header.to_string().as_bytes(), &data)
}

/// The name of the tensor whose data come last.
fn last(header: &Value) -> String {
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    tensors.max_by_key(|(_, entry)| entry["data_offsets"][1].as_u64()).unwrap().0.clone()
}

/// A good file made awkward in every way, by name. What is true can still be read.
fn awkward(good: &[u8]) -> Vec<(&'static str, Vec<u8>, bool)> {
    let (_, data) = parts(good);
    // A field of the last tensor's entry, set to something else.
    let field = |name: &str, value: Value| {
        changed(good, |header, _| {
            let tensor = last(header);
            header[&tensor][name] = value;
        })
    };
    let offsets = |by: fn(u64, u64) -> Value| {
        changed(good, |header, _| {
            let tensor = last(header);
            let [start, end] = [0, 1].map(|i| header[&tensor]["data_offsets"][i].as_u64().unwrap());
            header[&tensor]["data_offsets"] = by(start, end);
        })
    };
    let renamed = |to: &str| {
        changed(good, |header, _| {
            let tensor = last(header);
            let entry = header.as_object_mut().unwrap().remove(&tensor).unwrap();
            header[to] = entry;
        })
    };
    let value = |number: f32| {
        changed(good, |_, data| {
            let at = data.len() - 4;
            data[at..].copy_from_slice(&number.to_le_bytes());
        })
    };
    let header_text = |text: &str| joined(text.as_bytes(), &data);
    let with_twice = |entry: &str| {
        let header = parts(good).0.to_string();
        joined(format!("{{{entry},{}", &header[1..]).as_bytes(), &data)
    };
    let twice = {
        let (header, _) = parts(good);
        let tensor = last(&header);
        with_twice(&format!("{tensor:?}:{}", header[&tensor]))
    };
    vec![
        ("nothing", vec![], false),
        ("seven bytes", good[..7].to_vec(), false),
        ("a length alone", good[..8].to_vec(), false),
        ("a length of 0", [&[0; 8], &good[8..]].concat(), false),
        ("a length past the end", [&(good.len() as u64).to_le_bytes(), &good[8..]].concat(), false),
        ("the largest length", [&u64::MAX.to_le_bytes(), &good[8..]].concat(), false),
        ("no JSON", header_text("tensors"), false),
        ("an array for a header", header_text("[]"), false),
        ("an empty header", header_text("{}"), false),
        ("a deep header", header_text(&format!("{}{}", "[".repeat(9999), "]".repeat(9999))), false),
        ("a header that is not UTF-8", joined(b"{\"\xff\xfe\": 1}", &data), false),
        ("a header cut off", good[..100].to_vec(), false),
        ("the last byte cut off", good[..good.len() - 1].to_vec(), false),
        ("the second half cut off", good[..good.len() / 2].to_vec(), false),
        ("the first byte cut off", good[1..].to_vec(), false),
        ("a byte more", [good, &[0]].concat(), false),
        ("the file twice", [good, good].concat(), false),
        ("a gap before the last tensor", offsets(|start, end| json!([start + 4, end + 4])), false),
        (
            "an overlap with the last tensor",
            offsets(|start, end| json!([start.saturating_sub(4), end - 4])),
            false,
        ),
        ("offsets that run backwards", offsets(|start, end| json!([end, start])), false),
        ("offsets that do not fit", offsets(|_, _| json!([u64::MAX, u64::MAX])), false),
        ("offsets that are one", offsets(|start, _| json!([start])), false),
        ("a negative size", field("shape", json!([-1])), false),
        ("a size that is no whole number", field("shape", json!([1.5])), false),
        ("sizes that overflow", field("shape", json!([1u64 << 63, 4])), false),
        ("another count of elements", field("shape", json!([7, 11])), false),
        ("a shape of a thousand sizes", field("shape", json!(vec![1; 1000])), false),
        ("no shape", field("shape", json!(null)), false),
        ("bytes", field("dtype", json!("U8")), false),
        ("a type that there is not", field("dtype", json!("F33")), false),
        ("another width", field("dtype", json!("F16")), false),
        ("not a number", value(f32::NAN), false),
        ("an infinity", value(f32::NEG_INFINITY), false),
        ("a tensor twice", twice, false),
        ("a name that leads elsewhere", renamed("../../escape"), false),
        ("a name with a zero byte", renamed("a\0b"), false),
        ("another name", renamed("something.else"), false),
        (
            "a tensor that is missing",
            changed(good, |header, data| {
                let tensor = last(header);
                let entry = header.as_object_mut().unwrap().remove(&tensor).unwrap();
                data.truncate(entry["data_offsets"][0].as_u64().unwrap() as usize);
            }),
            false,
        ),
        ("metadata of numbers", changed(good, |header, _| header["__metadata__"] = json!({"a": 1})), false),
        ("metadata that are a list", changed(good, |header, _| header["__metadata__"] = json!([])), false),
        ("a pickle", b"\x80\x02}q\x00(X\x06\x00\x00\x00weightq\x01cos\nsystem\n.".to_vec(), false),
        ("a zip of pickles", b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl".to_vec(), false),
        ("a page of HTML", b"<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n".to_vec(), false),
        ("as it was", good.to_vec(), true),
        ("a header with spaces behind it", joined(format!("{}  ", parts(good).0).as_bytes(), &data), true),
    ]
}

/// A message that somebody can read, with the file in it.
fn assert_names(message: &str, file: &str, what: &str) {
    assert!(message.contains(file), "{what}: no {file} in: {message}");
    let readable = message.len() < 2000 && !message.chars().any(|c| c.is_control() && c != '\n');
    assert!(readable, "{what}: {message:?}");
}

#[test]
fn awkward_weights_and_checkpoints_are_named() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let config = short_run(3);
    let unet = UNet::new(&config.unet_config(0)).unwrap();
    let run = ModelFolder::new(at);
    std::fs::create_dir(at.join("checkpoints")).unwrap();
    std::fs::write(at.join("config.toml"), toml::to_string(&config).unwrap()).unwrap();
    let states = [1, 2, 3, 4].map(|seed| unet.parameters.initial(seed));
    let checkpoint = run
        .save_checkpoint(
            &unet.parameters,
            &Checkpoint { next_step: 3, steps_taken: 3, loss_scale: None, pictures: None, states },
        )
        .unwrap();
    let model = at.join("model.safetensors");
    let [good_model, good_checkpoint] = [&model, &checkpoint].map(|path| std::fs::read(path).unwrap());

    let mut count = 0;
    for (what, bytes, readable) in awkward(&good_model) {
        std::fs::write(&model, bytes).unwrap();
        match open_model(at) {
            Ok(opened) => {
                assert!(readable, "{what} was accepted as weights");
                assert!(opened.weights.iter().all(|w| w.is_finite()), "{what}");
            }
            Err(error) => {
                assert!(!readable, "{what}: {error}");
                assert_names(&error.to_string(), "model.safetensors", what);
            }
        }
        count += 1;
    }
    for (what, bytes, readable) in awkward(&good_checkpoint) {
        std::fs::write(&checkpoint, bytes).unwrap();
        match run.load_checkpoint(&unet.parameters) {
            Ok(_) => assert!(readable, "{what} was accepted as a checkpoint"),
            Err(error) => {
                // A checksum may refuse more.
                assert_ne!(what, "as it was", "{error}");
                assert_names(&error.to_string(), "step-000003.safetensors", what);
            }
        }
        count += 1;
    }
    assert_eq!(count, 90);
}

/// Runs the command where there is no driver, and not for long. Its error.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inkwash"));
    command.env("INKWASH_CACHE", "none");
    command.current_dir(folder).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{arguments:?} waits for ever");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.status.code().is_some(), "{arguments:?}: {}", output.status);
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    message
}

#[test]
fn awkward_noise_is_named() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let shape = vec![2, 1, 16, 16];
    let tensor = Tensor { data: vec![0.5; 2 * 256], shape };
    let file = TensorFile { tensors: [("x_T".into(), tensor)].into(), ..TensorFile::default() };
    tensor_file::write(&at.join("good.safetensors"), &file).unwrap();
    let good = std::fs::read(at.join("good.safetensors")).unwrap();
    for (what, bytes, _) in awkward(&good).into_iter().filter(|(_, _, readable)| !readable) {
        std::fs::write(at.join("noise.safetensors"), bytes).unwrap();
        let message = refused(at, &["sample", "-n", "2", "--initial-noise", "noise.safetensors"]);
        assert_names(&message, "noise.safetensors", what);
    }
}

/// What is no file at all: reading from a pipe waits for ever, and a device never ends. Other systems refuse some of the names.
#[cfg(target_os = "linux")]
#[test]
fn awkward_paths_are_named() {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let pipe = |name: &str| {
        let made = Command::new("mkfifo").arg(at.join(name)).status();
        assert!(made.unwrap().success());
    };
    for folder in ["pipe", "dangling", "circle", "device", "folder/x.png", "deep", "names", "sparse"] {
        std::fs::create_dir_all(at.join(folder)).unwrap();
    }
    pipe("pipe/x.png");
    pipe("noise.safetensors");
    pipe("config.toml");
    pipe("alone.png");
    symlink("nowhere.png", at.join("dangling/x.png")).unwrap();
    symlink("x.png", at.join("circle/x.png")).unwrap();
    symlink("/dev/zero", at.join("device/x.png")).unwrap();
    let deep = at.join("deep").join("d/".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("x.png"), "no picture").unwrap();
    let odd = [b"\xff\xfe.png".as_slice(), b"line\nbreak.png", b"\x1b[2Jclear.png", b" .png", b"-rf.png"];
    for name in odd {
        std::fs::write(at.join("names").join(std::ffi::OsStr::from_bytes(name)), "no picture").unwrap();
    }
    let sparse = std::fs::File::create(at.join("sparse/x.png")).unwrap();
    sparse.set_len(1 << 40).unwrap();

    for data in [
        "pipe",
        "dangling",
        "circle",
        "device",
        "folder",
        "deep",
        "names",
        "sparse",
        "alone.png",
        "/dev/zero",
    ] {
        let message = refused(at, &["train", "--dry-run", "--class-conditional", "--data", data]);
        assert_names(&message, data, data);
    }
    let message = refused(at, &["sample", "-n", "2", "--initial-noise", "noise.safetensors"]);
    assert_names(&message, "noise.safetensors", "noise from a pipe");
    for picture in ["alone.png", "/dev/zero", "circle/x.png", "dangling/x.png", "folder", "sparse/x.png"] {
        let message = refused(at, &["sample", "-n", "2", "--from-picture", picture]);
        assert_names(&message, picture, "a picture to begin from");
        let given = ["sample", "-n", "2", "--inpaint", "names/ .png", "--mask", picture];
        assert_names(&refused(at, &given), picture, "a mask");
    }
    for config in ["config.toml", "/dev/zero", "folder", "circle/x.png"] {
        let message = refused(at, &["train", "--dry-run", "--config", config]);
        assert_names(&message, config, "a configuration");
    }
}
