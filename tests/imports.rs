//! Who may know whom. The modules form one line, in the order in which a step passes through them; each may
//! use only what stands before it, and of that only what is listed here. Reads the sources; runs nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every module with the modules that it may use, all of which stand above it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("rng", &[]),
    ("shader", &[]),
    ("isa", &["shader"]),
    ("io", &[]),
    ("graph", &["tensor", "shader"]),
    ("ops", &["tensor", "rng", "shader", "graph"]),
    ("gpu", &["tensor", "shader", "graph", "io"]),
    ("tune", &["tensor", "rng", "graph", "gpu", "io"]),
    ("nn", &["tensor", "rng", "graph", "ops"]),
    ("diffusion", &["tensor", "rng", "graph", "ops", "nn"]),
    ("classifier", &["tensor", "graph", "ops", "nn", "diffusion"]),
    ("data", &["rng", "io"]),
    ("model", &["nn", "diffusion", "io"]),
    ("sample", &["tensor", "rng", "graph", "ops", "gpu", "nn", "diffusion"]),
    (
        "train",
        &[
            "tensor",
            "rng",
            "shader",
            "graph",
            "ops",
            "gpu",
            "nn",
            "diffusion",
            "classifier",
            "data",
            "io",
            "model",
            "sample",
            "tune",
        ],
    ),
    ("estimate", &["tensor", "shader", "isa", "graph", "io", "train"]),
    ("verify", &["tensor", "graph", "ops", "gpu", "nn", "diffusion", "io", "model", "sample", "train"]),
    ("check", &["tensor", "rng", "graph", "ops", "gpu"]),
    (
        "profile",
        &[
            "tensor",
            "rng",
            "shader",
            "graph",
            "ops",
            "gpu",
            "nn",
            "diffusion",
            "classifier",
            "io",
            "sample",
            "train",
        ],
    ),
    ("bench", &["tensor", "rng", "graph", "ops", "gpu", "diffusion", "sample", "train", "tune"]),
    ("scale", &["graph", "gpu", "train", "bench"]),
    (
        "lab",
        &[
            "tensor",
            "rng",
            "graph",
            "ops",
            "gpu",
            "nn",
            "diffusion",
            "data",
            "io",
            "model",
            "sample",
            "train",
        ],
    ),
    (
        "web",
        &[
            "tensor",
            "shader",
            "graph",
            "ops",
            "gpu",
            "diffusion",
            "data",
            "io",
            "model",
            "sample",
            "train",
            "check",
        ],
    ),
    (
        "cli",
        &[
            "tensor",
            "rng",
            "shader",
            "isa",
            "graph",
            "ops",
            "gpu",
            "nn",
            "diffusion",
            "classifier",
            "data",
            "io",
            "model",
            "sample",
            "train",
            "estimate",
            "verify",
            "check",
            "profile",
            "bench",
            "scale",
            "lab",
            "tune",
        ],
    ),
];

/// Uses that go against the line, with the reason why they stay. One that is gone must leave this list.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Crates that one module alone may name.
const CONFINED: &[(&str, &str)] = &[
    ("wgpu", "gpu"),
    ("naga", "shader"),
    ("ash", "isa"),
    ("cpu_time", "bench"),
    ("plotters", "io"),
    ("dejavu", "io"),
    ("indicatif", "cli"),
    ("ctrlc", "cli"),
    ("etcetera", "cli"),
    ("sigpipe", "cli"),
    ("web_time", "gpu"),
    ("js_sys", "web"),
    ("wasm_bindgen", "web"),
    ("wasm_bindgen_futures", "web"),
];

/// What has to do with a terminal or the process, for the command alone.
const TERMINAL: &[&str] =
    &["println", "eprintln", "print", "eprint", "dbg", "clap", "exit", "stdout", "stderr"];

/// Macros stand at the crate's root, wherever they are defined.
const MACROS: &[(&str, &str)] = &[("ensure_shape", "graph"), ("wgsl", "shader")];

/// Every Rust file below a folder, tests that have a file of their own left out.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments and without the tests at its end, which may use anything.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The names that directly follow each `prefix` (`crate::`), in braces or not.
fn references<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(identifier(rest));
            continue;
        };
        // The first name of each element at the outermost level of the braces.
        let (mut depth, mut fresh) = (1, true);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if fresh && depth == 1 && (c.is_alphabetic() || c == '_') => {
                    found.push(identifier(&list[i..]));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Whether `word` stands in the code by itself, not as a part of a longer one.
fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(i, _)| {
        !code[..i].chars().next_back().is_some_and(part)
            && !code[i + word.len()..].chars().next().is_some_and(part)
    })
}

/// The code without `#[cfg_attr(feature = "cli", …)]`, which the library is built without.
fn without_flags(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg_attr(") {
        kept.push_str(&rest[..at]);
        let end = at + rest[at..].find(")]").unwrap() + 2;
        if !rest[at..end].contains("feature = \"cli\"") {
            kept.push_str(&rest[at..end]);
        }
        rest = &rest[end..];
    }
    kept + rest
}

#[test]
fn the_library_has_no_terminal() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&source, &mut paths);
    let mut failures = Vec::new();
    for path in &paths {
        let (module, _) = place(&source, path);
        if module == "cli" || module == "main" {
            continue;
        }
        let code = without_flags(&code(path));
        for word in TERMINAL.iter().filter(|word| names(&code, word)) {
            let shown = path.strip_prefix(&source).unwrap().display();
            failures.push(format!("{shown} names {word}; only src/cli may"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let flags =
        "#[cfg_attr(feature = \"cli\", derive(clap::Args))]\nstruct A; #[cfg_attr(x, y)] fn sprint() {}";
    assert_eq!(without_flags(flags), "\nstruct A; #[cfg_attr(x, y)] fn sprint() {}");
    assert!(names("std::println!()", "println") && !names("sprint() print_", "print"));
}

#[test]
fn references_are_found_however_they_are_written() {
    let code = "use crate::graph::{Op, plan::Plan};\nuse crate::{\n    io::{a, b},\n    ops as o,\n};\n\
                fn f() -> crate::tensor::Shape { $crate::shader::x(); my_crate::no() }";
    assert_eq!(references(code, "crate::"), ["graph", "io", "ops", "tensor", "shader"]);
}

/// The module of a file, and how many `super::` lead from it to the crate's root.
fn place(source: &Path, file: &Path) -> (String, usize) {
    let parts: Vec<String> = file
        .strip_prefix(source)
        .unwrap()
        .components()
        .map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string())
        .collect();
    let depth = if parts.last().is_some_and(|p| p == "mod") { parts.len() - 1 } else { parts.len() };
    (parts[0].clone(), depth)
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&source, &mut paths);
    let order: BTreeMap<&str, usize> = ALLOWED.iter().map(|(m, _)| *m).zip(0..).collect();
    let mut failures = Vec::new();

    // 1. The table is a line, and has every module of lib.rs and no other.
    for (module, uses) in ALLOWED {
        for used in *uses {
            assert!(
                order.get(used).is_some_and(|&u| u < order[module]),
                "{used} does not stand before {module}"
            );
        }
    }
    let lib = code(&source.join("lib.rs"));
    let declared: BTreeSet<&str> =
        lib.lines().filter_map(|l| l.trim().strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, order.keys().copied().collect(), "lib.rs and the table of this test disagree");

    // 2. Every reference of every file.
    let mut edges: BTreeMap<(String, String), String> = BTreeMap::new();
    for path in &paths {
        let shown = path.strip_prefix(&source).unwrap().display().to_string();
        let code = code(path);
        let (module, depth) = place(&source, path);
        for (name, home) in CONFINED {
            if names(&code, name) && module != *home {
                failures.push(format!("{shown} names {name}; only src/{home} may"));
            }
        }
        if module == "lib" || module == "main" {
            continue;
        }
        let to_root = "super::".repeat(depth);
        for name in references(&code, "crate::").into_iter().chain(references(&code, &to_root)) {
            // Deeper `super::` chains begin with the shorter one.
            if name == "super" {
                continue;
            }
            let target = MACROS.iter().find(|(m, _)| *m == name).map_or(name, |(_, home)| *home);
            if !order.contains_key(target) {
                failures.push(format!("{shown} uses crate::{name}, a module that the table does not have"));
            } else if target != module {
                edges.entry((module.clone(), target.into())).or_insert_with(|| shown.clone());
            }
        }
    }

    // 3. Against the table.
    for ((from, to), file) in &edges {
        let (_, uses) = ALLOWED.iter().find(|(m, _)| m == from).unwrap();
        let excepted = EXCEPTIONS.iter().any(|(f, t, _)| f == from && t == to);
        if !uses.contains(&to.as_str()) && !excepted {
            failures.push(format!("{file} uses crate::{to}, which {from} may not"));
        }
    }
    for (from, to, reason) in EXCEPTIONS {
        if !edges.contains_key(&((*from).into(), (*to).into())) {
            failures
                .push(format!("{from} no longer uses {to} ({reason}): remove the exception from this test"));
        }
    }
    println!("{} files, {} uses between {} modules", paths.len(), edges.len(), order.len());
    assert!(paths.len() > 40 && edges.len() > 30, "the sources were not read");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
