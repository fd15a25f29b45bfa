//! `inkwash bench` and `inkwash profile`.

use super::{common, inkwash, refused, stdout};

/// Any operator of the catalogue: one with labels, one that works in place, one with several algorithms.
#[test]
fn every_operator_can_be_timed() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| {
        let all = [&["bench", "op"], arguments, &["--warmup", "0", "--runs", "1"]].concat();
        stdout(inkwash(folder.path()), &all)
    };
    for op in ["embedding", "adamw", "random_bits"] {
        assert!(bench(&[op]).contains(" ms "), "{op}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&bench(&["linear", "--shape", "64x64", "--json"])).unwrap();
    for pass in ["forward", "backward_input", "backward_weight"] {
        let of_pass = json.as_object().unwrap().keys().filter(|key| key.starts_with(pass));
        assert!(of_pass.count() >= 2 && json[pass]["median_s"].as_f64().unwrap() > 0.0, "{json}");
    }
    // One algorithm, and tensors of half the size: x, w and y of 64 x 64 and a bias of f32.
    let of_workgroup = ["linear", "--shape", "64x64", "--algorithm", "workgroup", "--json"];
    let bytes = |precision: &str| {
        let json: serde_json::Value =
            serde_json::from_str(&bench(&[&of_workgroup[..], &["--precision", precision]].concat())).unwrap();
        let rows = json.as_object().unwrap();
        let of_passes = rows.iter().filter(|(_, row)| row.is_object());
        assert!(of_passes.clone().count() == 3, "{json}");
        assert!(of_passes.clone().all(|(_, row)| row["algorithm"] == "workgroup"), "{json}");
        let forward = rows.iter().find(|(name, _)| name.starts_with("forward")).unwrap().1;
        let moved = forward["gbps"].as_f64().unwrap() * 1e9 * forward["median_s"].as_f64().unwrap();
        moved.round() as u64
    };
    assert_eq!(bytes("f32"), 4 * 3 * 64 * 64 + 4 * 64);
    if device.caps.features.f16 {
        assert_eq!(bytes("f16"), 2 * 3 * 64 * 64 + 4 * 64);
    }
    refused(
        inkwash(folder.path()),
        folder.path(),
        &["bench", "op", "linear", "--algorithm", "zzz"],
        &["--algorithm zzz", "linear", "without the flag"],
    );
}

/// Every operator that memory bounds has a row: in words, in JSON, and one alone.
#[test]
fn operators_that_memory_bounds_are_held_against_a_copy() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| {
        let small = ["--mebibytes", "1", "--warmup", "0", "--runs", "1"];
        stdout(inkwash(folder.path()), &[&["bench", "memory"], arguments, &small].concat())
    };
    let words = bench(&["gradient_norm"]);
    assert!(
        words.lines().count() == 1 && words.contains(" GB/s ") && words.contains(" % of a copy"),
        "{words}"
    );
    let json: serde_json::Value = serde_json::from_str(&bench(&["--json"])).unwrap();
    let rows = json["operators"].as_array().unwrap();
    for op in ["group_norm", "add", "silu_backward", "adamw", "concat", "sum_rows", "attention, softmax"] {
        let row = rows.iter().find(|row| row["operator"] == op).unwrap_or_else(|| panic!("{op}: {json}"));
        assert!(row["bytes"].as_u64().unwrap() >= 1 << 20, "{row}");
        assert!(row["share_of_copy"].as_f64().unwrap() > 0.0, "{row}");
    }
    // Two tensors of 1 MiB are read, and one is written.
    let add = rows.iter().find(|row| row["operator"] == "add").unwrap();
    assert_eq!(add["bytes"], 3 << 20);
    refused(
        inkwash(folder.path()),
        folder.path(),
        &["bench", "memory", "conv2d"],
        &["`conv2d`", "memory bounds"],
    );
}

#[test]
fn profiles_are_written_and_compared() {
    let Some(_) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = inkwash(folder.path()).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let profile = ["profile", "--op", "silu", "--runs", "3"];
    let files = ["--out", "a.json", "--csv", "a.csv", "--trace", "a.trace", "--html", "a.html"];
    let (status, shown) = run(&[&profile[..], &files].concat());
    assert_eq!(status, Some(0), "{shown}");
    for words in ["clock", "launches", "not accounted for", "undisturbed step", "silu"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let mut measured: serde_json::Value = serde_json::from_str(&read("a.json")).unwrap();
    assert_eq!(read("a.csv").lines().count(), 1 + measured["launches"].as_array().unwrap().len());
    let trace: serde_json::Value = serde_json::from_str(&read("a.trace")).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 5);

    let (status, shown) = run(&["profile", "page", "a.json", "--html", "b.html"]);
    assert_eq!((status, shown.as_str()), (Some(0), ""));
    for page in [read("a.html"), read("b.html")] {
        assert!(page.starts_with("<!doctype html>") && page.contains("\"op\":\"silu\""));
    }
    let (status, shown) = run(&["profile", "page", "a.csv", "--html", "c.html"]);
    assert!(
        status == Some(1) && shown.contains("a.csv") && !folder.path().join("c.html").exists(),
        "{shown}"
    );

    let (status, shown) = run(&["profile", "diff", "a.json", "a.json"]);
    assert!(status == Some(0) && shown.contains("nothing changed"), "{shown}");
    // Times of its own: those that were measured are noisy while other tests run.
    for (name, factor) in [("a.json", 1.0), ("b.json", 2.0)] {
        for launch in measured["launches"].as_array_mut().unwrap() {
            launch["samples"] = [1.00, 1.01, 1.02].map(|time| time * 1e-4 * factor).to_vec().into();
        }
        std::fs::write(folder.path().join(name), measured.to_string()).unwrap();
    }
    let (status, shown) = run(&["profile", "diff", "a.json", "b.json"]);
    assert!(status == Some(1) && shown.contains("slower"), "{shown}");
    let (status, shown) = run(&["profile", "diff", "b.json", "a.json"]);
    assert!(status == Some(0) && shown.contains("faster"), "{shown}");
    let (status, shown) = run(&["profile", "diff", "a.json", "missing.json"]);
    assert!(status == Some(2) && shown.contains("missing.json"), "{shown}");
    let (status, shown) = run(&[&profile[..], &["--filter", "nothing has this"]].concat());
    assert!(status == Some(1) && shown.contains("--filter nothing has this"), "{shown}");
}

/// A classifier has made-up classes, also where its algorithms are measured first.
#[test]
fn a_classifier_is_profiled() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.toml"), "network = \"classifier\"\n").unwrap();
    let profile =
        ["profile", "--config", "run.toml", "--batch", "2", "--runs", "1", "--warmup", "0", "--json"];
    for tune in ["off", "quick"] {
        let json = stdout(inkwash(folder.path()), &[&profile[..], &["--tune", tune]].concat());
        let profile: serde_json::Value = serde_json::from_str(&json).unwrap();
        let launches = profile["launches"].as_array().unwrap();
        assert!(launches.iter().any(|launch| launch["op"] == "softmax_cross_entropy"), "--tune {tune}");
    }
}
