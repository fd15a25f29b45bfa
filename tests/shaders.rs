//! Shaders in a user's hands: exported, shown, edited, and read back by `--shaders`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use inkwash::check;
use inkwash::gpu::{Blocking as _, Choice, Device, Store};
use inkwash::ops;
use inkwash::shader::{self, Folder, Kernel, LIBRARY, Target};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};

/// The kernels of the catalogue.
static KERNELS: LazyLock<BTreeSet<Kernel>> = LazyLock::new(ops::kernels);

fn inkwash(at: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inkwash"));
    command.env("INKWASH_CACHE", "none").current_dir(at).args(arguments).output().unwrap()
}

fn stdout(at: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = inkwash(at, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn text(at: &Path, arguments: &[&str]) -> String {
    String::from_utf8(stdout(at, arguments)).unwrap()
}

fn embedded(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders").join(name)).unwrap()
}

/// A folder with one file: the embedded one with `from` replaced by `to`, wherever it stands.
fn edited(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = embedded(name);
    assert!(text.contains(from), "{name} has no `{from}`");
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text.replace(from, to)).unwrap();
    folder
}

#[test]
fn an_exported_folder_is_the_embedded_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert!(text(at, &["shaders", "export", "mine"]).contains("shader files"));
    let kernels = &*KERNELS;
    let mine = Folder::open(&at.join("mine"), kernels).unwrap();
    assert!(mine.changed().is_empty() && mine.missing().is_empty(), "{mine:?}");
    for kernel in kernels {
        let (source, variant) = (kernel.source, &kernel.variant);
        let own = mine.expand(source, variant, Target::Native).unwrap();
        assert_eq!(own.text, shader::expand(source, variant, Target::Native).unwrap().text);
        assert!(own.origin(0).contains("mine"), "{}", own.origin(0));
        assert!(mine.edited(source, kernel.entry, variant).unwrap().is_none());
    }
    // Every file of the repository is there, and the ends of lines that another editor writes change nothing.
    let files = |folder: &Path| {
        let names = ["", "lib"].map(|part| std::fs::read_dir(folder.join(part)).unwrap());
        let mut names: Vec<_> = names.into_iter().flatten().map(|file| file.unwrap().file_name()).collect();
        names.retain(|name| name.to_string_lossy().ends_with(".wgsl"));
        names.sort();
        names
    };
    assert_eq!(files(&at.join("mine")), files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders")));
    std::fs::write(at.join("mine/cast.wgsl"), embedded("cast.wgsl").replace('\n', "\r\n")).unwrap();
    assert!(Folder::open(&at.join("mine"), kernels).unwrap().changed().is_empty());

    let again = inkwash(at, &["shaders", "export", "mine"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("mine already holds files"));
}

/// A changed constant fails its case; a changed comment does not, and neither does a binding that is no longer read where
/// it added nothing.
#[test]
fn doctor_judges_what_was_edited() {
    if common::open_device().is_none() {
        return;
    }
    let case = ops::catalogue().into_iter().find(|case| case.title().starts_with("group_norm: ")).unwrap();
    for (from, to, passes) in [
        ("// x - mean comes first:", "// First comes x - mean:", true),
        ("measure_params.epsilon", "(measure_params.epsilon + 0.1)", false),
        ("+ affine.offset", "", false),
        (
            "Affine(gamma[vector] * factor, beta[vector] * factor",
            "Affine(gamma[vector] * factor, 0.0 * factor",
            false,
        ),
    ] {
        let folder = edited("group_norm.wgsl", from, to);
        let shaders = match Folder::open(folder.path(), &KERNELS) {
            Ok(shaders) => Some(Arc::new(shaders)),
            Err(e) => panic!("{to}: {e}"),
        };
        let device = Device::open(&Choice { shaders, ..Choice::default() }).block_on().unwrap();
        let outcomes = check::on_device(&case, &Store::new(&device), &device.caps).block_on().unwrap();
        assert!(!outcomes.is_empty());
        assert!(outcomes.iter().all(|outcome| outcome.passed() == passes), "`{to}`: {outcomes:?}");
    }
}

#[track_caller]
fn refused(folder: &Path, words: &[&str]) {
    let e = Folder::open(folder, &KERNELS).unwrap_err().to_string();
    for word in words {
        assert!(e.contains(word), "no `{word}` in: {e}");
    }
}

#[test]
fn errors_show_the_users_own_lines() {
    let line = |name: &str, words: &str| {
        let number = embedded(name).lines().position(|line| line.contains(words)).unwrap() + 1;
        format!("{name}:{number}")
    };
    // A file, words of it, what is put in their place, what the error says.
    for (name, from, to, words) in [
        (
            "group_norm.wgsl",
            "s.y * affine.factor",
            "s.y * afine.factor",
            &["`afine`", "| ", "   ^^^^^\n"][..],
        ),
        ("lib/reduce.wgsl", "fn workgroup_sum(", "fn workgroup_sum((", &["expected identifier", "  ^\n"]),
        ("lib/vector4.wgsl", "const WIDTH: u32 = 4u", "const WIDTH: u32 = -4", &["lib/vector4.wgsl:"]),
        ("group_norm.wgsl", "s.y * affine.factor", "s.y * 2u", &["normalize", "Multiply", "^^^"]),
    ] {
        let folder = edited(name, from, to);
        let place = format!("{}/{}", folder.path().display(), line(name, from));
        refused(folder.path(), &[&[place.as_str()], words].concat());
    }
    // What compiles but cannot be launched.
    for (name, from, to, words) in [
        (
            "guidance.wgsl",
            "var<storage, read> ",
            "var<storage, read_write> ",
            &["storage, read_write", "needs storage, read"][..],
        ),
        ("elementwise.wgsl", "@group(0) @binding(1)", "@group(1) @binding(1)", &["@group(1)", "@group(0)"]),
        ("cast.wgsl", "fn ", "fn my_", &["no such entry point; it has: my_"]),
        (
            "group_norm.wgsl",
            "@workgroup_size(LANES)",
            "@workgroup_size(32)",
            &["entry", "[32, 1, 1]", "launches"],
        ),
        ("group_norm.wgsl", "gamma", "gain", &["binding `gamma` is missing", "storage, read"]),
        ("group_norm.wgsl", "epsilon", "eps", &["parameter `epsilon: f32` is missing"]),
        (
            "group_norm.wgsl",
            "    epsilon: f32,",
            "    epsilon: f32,\n    mine: f32,",
            &["`mine`", "does not give"],
        ),
        ("group_norm.wgsl", "const SILU", "const  SILU", &["group_norm.wgsl", "const SILU"]),
        (
            "group_norm.wgsl",
            "#import lib/index",
            "#import lib/indices",
            &["group_norm.wgsl:21", "lib/indices"],
        ),
    ] {
        let folder = edited(name, from, to);
        refused(folder.path(), words);
    }
}

#[test]
fn folders_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    refused(at, &["holds no .wgsl file", "inkwash shaders export"]);
    refused(&at.join("nowhere"), &["nowhere", "check the spelling"]);
    std::fs::write(at.join("groupnorm.wgsl"), "").unwrap();
    refused(at, &["groupnorm.wgsl", "did you mean group_norm.wgsl?"]);
    refused(&at.join("groupnorm.wgsl"), &["groupnorm.wgsl", "cannot be read"]);
    std::fs::rename(at.join("groupnorm.wgsl"), at.join("vector4.wgsl")).unwrap();
    refused(at, &["vector4.wgsl", "did you mean lib/vector4.wgsl?"]);
    std::fs::rename(at.join("vector4.wgsl"), at.join("cast.wgsl")).unwrap();
    std::fs::write(at.join("cast.wgsl"), b"// \xff\n").unwrap();
    refused(at, &["cast.wgsl", "UTF-8"]);
    std::fs::File::create(at.join("cast.wgsl")).unwrap().set_len(1 << 40).unwrap();
    refused(at, &["cast.wgsl", "1099511627776 bytes"]);
    std::fs::remove_file(at.join("cast.wgsl")).unwrap();
    std::fs::create_dir(at.join("cast.wgsl")).unwrap();
    refused(at, &["cast.wgsl", "not a file"]);
    // The command says the same before it does anything, whatever it is.
    let output = inkwash(at, &["train", "--dry-run", "--shaders", "."]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.starts_with("error: ./cast.wgsl"), "{message}");
}

#[test]
fn a_kernel_is_shown_in_every_language() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let show = |words: &[&str]| text(at, &[&["shaders", "show", "group_norm"], words].concat());
    let wgsl = show(&["--variant", "Element=f16 vector1", "--variant", "SILU=false"]);
    for words in [
        "enable f16;",
        "const SILU: bool = false;",
        "fn workgroup_index(",
        "var<storage, read> x: array<f16>;",
    ] {
        assert!(wgsl.contains(words), "no `{words}` in {wgsl}");
    }
    let msl = show(&["--target", "msl", "--entry", "normalize"]);
    assert!(msl.contains("kernel void normalize(") && msl.contains("float4"), "{msl}");
    let hlsl = show(&["--target", "hlsl", "--entry", "normalize"]);
    assert!(hlsl.contains("[numthreads(") && hlsl.contains("void normalize_("), "{hlsl}");
    let spirv = stdout(at, &["shaders", "show", "cast", "--target", "spirv"]);
    assert_eq!(spirv[..4], 0x0723_0203_u32.to_le_bytes());
    let file = ["shaders", "show", "cast", "--target", "spirv", "--out", "cast.spv"];
    stdout(at, &file);
    assert_eq!(std::fs::read(at.join("cast.spv")).unwrap(), spirv);
    for (arguments, words) in [
        (&file[1..], &["cast.spv", "not taken"][..]),
        (&["show", "group_norms"], &["`group_norms`", "group_norm,"]),
        (&["show", "group_norm", "--target", "msl"], &["measure, normalize", "--entry NAME"]),
        (&["show", "group_norm", "--entry", "norm"], &["measure, normalize", "norm"]),
        (&["show", "group_norm", "--variant", "SILO=true"], &["SILO", "SILU"]),
        (&["show", "group_norm", "--variant", "in1"], &["in1", "no variant of group_norm.wgsl"]),
        (
            &["show", "group_norm", "--variant", "SILU=zzz", "--target", "msl", "--entry", "normalize"],
            &["zzz"],
        ),
        (&["show", "lib/reduce", "--target", "msl"], &["lib/reduce.wgsl", "no entry point"]),
    ] {
        let output = inkwash(at, &[&["shaders"], arguments].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.starts_with("error: "), "{arguments:?}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{arguments:?}: {message}");
    }
    // What a folder changes is what is shown, with the checks that a device is given.
    let mine = edited("group_norm.wgsl", "+ affine.offset", "- affine.offset");
    let arguments = ["--target", "hlsl", "--entry", "normalize", "--shaders", mine.path().to_str().unwrap()];
    assert!(show(&arguments).contains("loop_bound") && !hlsl.contains("loop_bound"));
}

#[test]
fn every_file_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let list = text(folder.path(), &["shaders", "list"]);
    for kernel in KERNELS.iter() {
        assert!(list.contains(&kernel.source.file()) && list.contains(kernel.entry), "{kernel:?}");
    }
    for library in LIBRARY {
        let name = library.name.trim_start_matches("lib/");
        assert!(list.lines().any(|line| line.trim_start().starts_with(name)), "{name}");
    }
    let variants = text(folder.path(), &["shaders", "list", "group_norm"]);
    assert!(
        variants.lines().any(|line| line.contains("Element=f16") && line.contains(" f16 ")),
        "{variants}"
    );
}
