//! `inkwash data check` as its user meets it. None of this needs a device.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use assert_cmd::Command;
use image::{ImageFormat, Rgb, RgbImage};
use inkwash::io::npz::{NpzArray, write_npz};
use serde_json::Value;
use std::io::Cursor;
use std::path::Path;

/// A picture with detail all over, other for each seed.
fn png(seed: u32) -> Vec<u8> {
    let texture = |x: u32, y: u32| Rgb([x * 7 + seed, y * 5, x * y + seed].map(|value| (value % 251) as u8));
    encode(RgbImage::from_fn(20, 20, texture))
}

fn encode(image: RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Whether training would start, and what is printed.
fn check(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inkwash"));
    command.env("INKWASH_CACHE", "none");
    let output = command.current_dir(folder).args(["data", "check"]).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &errors)
}

fn json(folder: &Path, arguments: &[&str]) -> (bool, Value) {
    let (success, text) = check(folder, &[arguments, &["--json"]].concat());
    (success, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no `{word}` in:\n{text}");
    }
}

/// Three classes with copies, a constant picture and a file that is not read.
fn remarkable() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, seed) in
        [("cat/1.png", 1), ("cat/2.png", 2), ("cat/3.png", 1), ("dog/1.png", 3), ("eel/1.png", 2)]
    {
        write(at, &format!("data/{name}"), &png(seed));
    }
    // The same pixels in another file.
    let mut other = png(3);
    other.extend(b"trailing");
    write(at, "data/dog/2.png", &other);
    write(at, "data/eel/2.png", &encode(RgbImage::from_pixel(9, 9, Rgb([7, 8, 9]))));
    write(at, "data/dog/3.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    write(at, "data/notes.txt", b"hello");
    folder
}

#[test]
fn what_is_remarkable_is_told() {
    let folder = remarkable();
    let at = folder.path();
    let common = ["data", "--preset", "small-32", "--class-conditional", "--held-out", "0"];
    let (success, text) = check(at, &common);
    assert!(success, "{text}");
    has(
        &text,
        &[
            "folder of pictures: 7 PNG",
            "9 x 9 to 20 x 20 by area",
            "   1  dog        2",
            "not used        1 ",
            "data/dog/3.heic; convert",
            "other files     1, no pictures: notes.txt",
            "7 of 7 pictures are smaller than 32 x 32",
            "duplicates      3 that are copies of others, in 3 groups",
            "data/cat/1.png, data/cat/3.png: same files\n",
            "data/cat/2.png, data/eel/1.png: same files, IN DIFFERENT CLASSES",
            "data/dog/1.png, data/dog/2.png: same when scaled\n",
            "one colour      1: data/eel/2.png",
            "training would start: 7 to train on, 0 held out",
        ],
    );
    let (success, value) = json(at, &common);
    assert!(success && value["would_train"] == true && value["training"] == 7, "{value:#}");
    assert_eq!(value["classes"][2], serde_json::json!({ "name": "eel", "pictures": 2 }));
    assert_eq!(value["duplicates"][1]["pictures"], serde_json::json!(["data/cat/2.png", "data/eel/1.png"]));
    assert_eq!(
        (&value["duplicates"][1]["across_classes"], &value["duplicates"][1]["same_files"]),
        (&true.into(), &true.into())
    );
    assert_eq!(value["constant"], serde_json::json!(["data/eel/2.png"]));
    assert_eq!(value["unused"][0]["path"], "data/dog/3.heic");
    assert_eq!(
        (&value["sizes"]["smallest"], &value["sizes"]["enlarged"]),
        (&serde_json::json!([9, 9]), &7.into())
    );
    assert_eq!(value["network"], serde_json::json!({ "height": 32, "width": 32, "channels": 3 }));
}

#[test]
fn a_contact_sheet_shows_the_classes_and_replaces_no_file() {
    let folder = remarkable();
    let at = folder.path();
    let arguments = ["data", "--preset", "small-32", "--contact-sheet", "sheet.png"];
    let (success, text) = check(at, &arguments);
    assert!(success, "{text}");
    has(&text, &["contact sheet   sheet.png: up to 10 pictures of 3 of 3 classes"]);
    let sheet = std::fs::read(at.join("sheet.png")).unwrap();
    // Three rows of pictures enlarged to 64 pixels, the longest of three.
    let drawn = image::load_from_memory(&sheet).unwrap();
    assert!(drawn.height() == 3 * 66 + 2 && drawn.width() > 3 * 66, "{} x {}", drawn.width(), drawn.height());
    let (success, text) = check(at, &arguments);
    assert!(!success);
    has(&text, &["error: --contact-sheet sheet.png", "there already"]);
    assert_eq!(std::fs::read(at.join("sheet.png")).unwrap(), sheet);
    let flat = ["data/cat", "--contact-sheet", "flat.png"];
    has(&check(at, &flat).1, &["the first 3 of 3 pictures"]);
    assert!(image::open(at.join("flat.png")).is_ok());
}

#[test]
fn what_would_keep_training_from_starting_is_the_result() {
    let folder = remarkable();
    let at = folder.path();
    for i in 0..5 {
        write(at, &format!("data/cat/cut{i}.png"), &png(9)[..50]);
    }
    let (success, text) = check(at, &["data"]);
    assert!(!success);
    has(
        &text,
        &[
            "damaged         5\n",
            "data/cat/cut4.png: ",
            "training would not start",
            "5 of 12 pictures cannot be used",
        ],
    );
    has(&text, &["one colour      1: "]);
    let (success, value) = json(at, &["data"]);
    assert!(!success && value["would_train"] == false, "{value:#}");
    assert_eq!(value["damaged"].as_array().unwrap().len(), 5);
    has(value["reason"].as_str().unwrap(), &["cut0.png", "--damaged skip"]);
    let (success, text) = check(at, &["data", "--damaged", "skip"]);
    assert!(success, "{text}");
    has(&text, &["damaged         5\n", "training would start: 7 to train on"]);
    for (arguments, words) in [
        (&["data/dog", "--class-conditional"][..], &["--class-conditional needs classes"][..]),
        (&["data/dog", "--split", "train"], &["no splits here"]),
        (&["nowhere"], &["nothing at this path"]),
        (&["data/dog", "--batch", "0"], &["batch"]),
        (&["data", "--damaged", "skip", "--held-out", "0.99"], &["none to train on"]),
    ] {
        let (success, text) = check(at, arguments);
        assert!(!success, "{arguments:?}: {text}");
        has(&text, &["training would not start"]);
        has(&text, words);
    }
}

#[test]
fn any_data_and_any_flag_of_train_can_be_given() {
    let folder = remarkable();
    let at = folder.path();
    let (success, text) = check(at, &["builtin:glyphs", "--glyph-count", "40", "--steps", "7", "--flip"]);
    assert!(success, "{text}");
    has(&text, &["10, by label, name and pictures", "38 to train on, 2 held out"]);
    let mut record = vec![3];
    record.extend([9; 3072]);
    write(at, "batch.bin", &[record.clone(), record].concat());
    let enlarged = check(at, &["batch.bin", "--preset", "faces-64"]).1;
    has(&enlarged, &["sizes           32 x 32", "2 of 2 pictures are smaller than 64 x 64"]);
    has(
        &check(at, &["batch.bin"]).1,
        &["1 that are copies", "picture 0, picture 1: same when scaled", "one colour      2"],
    );
    write(at, "run.toml", b"data = \"data\"\nclass_conditional = true\nheld_out = 0.0\n");
    has(&check(at, &["--config", "run.toml"]).1, &["data            data\n", "7 to train on, 0 held out"]);
    has(&check(at, &["--config", "run.toml", "data/cat"]).1, &["--class-conditional needs classes"]);
    let help = check(at, &["--help"]).1;
    has(&help, &["--contact-sheet", "--class-conditional", "--damaged", "--preset"]);
    assert!(!help.contains("--learning-rate") && !help.contains("--sample-every"), "{help}");
}

/// A thousand classes are folded on the screen, and all are in the JSON.
#[test]
fn many_classes_are_folded() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for i in 0..30 {
        write(at, &format!("data/{i}/a.png"), &png(i));
    }
    let text = check(at, &["data"]).1;
    has(&text, &["classes         30,", "  19  19        1\n", "and 10 more of 1 to 1 pictures"]);
    assert_eq!(json(at, &["data"]).1["classes"].as_array().unwrap().len(), 30);
}

/// What `inkwash sample --format npz` writes can be learned.
#[test]
fn an_npz_of_inkwash_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (pixels, labels) = ([0, 85, 170, 255].repeat(6), [4i64, 0, 4].map(i64::to_le_bytes).concat());
    let mut arrays = [
        NpzArray { name: "arr_0", dtype: "|u1", shape: &[3, 2, 4, 1], data: &mut &pixels[..] },
        NpzArray { name: "arr_1", dtype: "<i8", shape: &[3], data: &mut &labels[..] },
    ];
    write_npz(&folder.path().join("samples.npz"), false, &mut arrays).unwrap();
    let (starts, report) = json(folder.path(), &["samples.npz", "--held-out", "0"]);
    assert!(starts, "{report}");
    let classes = report["classes"].as_array().unwrap();
    let classes: Vec<_> =
        classes.iter().map(|class| (class["name"].as_str().unwrap(), &class["pictures"])).collect();
    assert_eq!(classes, [("0", &Value::from(1)), ("4", &Value::from(2))]);
}
