//! What Mesa's compiler for AMD's GPUs makes of every kernel of the presets: no more spills and scratch memory than
//! `src/estimate/instruction_mix.csv` records, and that may only shrink. No GPU is needed; the driver is that of the record.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// There were 78 at first and 105 later; fewer would mean that the collection has gone wrong.
const FEWEST_KERNELS: usize = 60;

/// Where Linux distributions put the manifests of Vulkan drivers.
const MANIFESTS: [&str; 3] =
    ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

fn manifest(driver: &str) -> Option<PathBuf> {
    let files = MANIFESTS.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let mut paths = files.map(|file| file.unwrap().path());
    paths.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(driver))
}

/// The command asks one driver alone, RADV for a GPU that is not there. In a process of its own: loader and driver read these
/// variables once.
fn isa(manifest: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inkwash"))
        .args(["shaders", "isa"])
        .args(arguments)
        .env("VK_DRIVER_FILES", manifest)
        .env("VK_ICD_FILENAMES", manifest)
        .env("RADV_FORCE_FAMILY", "gfx1100")
        .env_remove("INKWASH_DEVICE")
        .env_remove("INKWASH_KERNELS")
        .output()
        .unwrap()
}

/// What RADV says, or `None`, said aloud, where it is not installed or knows no GPU that is not there.
fn radv(arguments: &[&str]) -> Option<String> {
    let Some(manifest) = manifest("radeon_icd") else {
        common::skip("RADV is not installed (mesa-vulkan-drivers)");
        return None;
    };
    let output = isa(&manifest, arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if errors.contains("there is no Vulkan device") {
        common::skip("this RADV knows no RADV_FORCE_FAMILY");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// (spills, scratch bytes) by kernel and variant.
type Pressure = BTreeMap<(String, String), (u64, u64)>;

/// The driver, and what it made of the kernels.
fn read(csv: &str) -> (String, Pressure) {
    let mut lines = csv.lines();
    let driver = lines.next().unwrap().split(';').next().unwrap().to_string();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(names[..5], ["kernel", "variant", "registers", "spills", "scratch"]);
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), names.len(), "{line}");
        let number = |i: usize| fields[i].parse().unwrap_or_else(|e| panic!("{line}: {}: {e}", names[i]));
        ((fields[0].into(), fields[1].into()), (number(3), number(4)))
    };
    (driver, lines.map(row).collect())
}

#[test]
fn no_kernel_of_the_presets_spills_more_than_is_recorded() {
    let (driver, recorded) = read(include_str!("../src/estimate/instruction_mix.csv"));
    // The batches of scripts/shader-isa --record.
    let Some(csv) = radv(&["--csv", "--batch", "16,64,256", "--precision", "f32,f16"]) else { return };
    let (installed, found) = read(&csv);
    if installed != driver {
        // Every version spills otherwise.
        common::skip(format_args!("recorded was `{driver}`, and installed is `{installed}`"));
        return;
    }
    assert!(found.len() >= FEWEST_KERNELS, "only {} kernels were found", found.len());

    let mut complaints = Vec::new();
    for (kernel, &(spills, scratch)) in &found {
        let (most_spills, most_scratch) = recorded.get(kernel).copied().unwrap_or_default();
        if spills > most_spills || scratch > most_scratch {
            complaints.push(format!(
                "{} [{}]: {spills} spills and {scratch} bytes of scratch; recorded are {most_spills} and {most_scratch}",
                kernel.0, kernel.1
            ));
        }
    }
    for (kernel, &(most_spills, most_scratch)) in &recorded {
        let (spills, scratch) = found.get(kernel).copied().unwrap_or_default();
        if spills < most_spills || scratch < most_scratch {
            complaints.push(format!(
                "{} [{}]: {spills} spills and {scratch} bytes of scratch, better than {most_spills} and {most_scratch}: record \
                 it by scripts/shader-isa --record",
                kernel.0, kernel.1
            ));
        }
    }
    println!("{installed}: {} kernels", found.len());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The loop over the depth of a product has no loop within it: loading and staging are in it too.
#[test]
fn four_fifths_of_a_product_are_multiply_adds() {
    let mut large_tiles = 0;
    for shader in ["conv2d_vectors", "conv2d_weight_vectors", "matmul_vectors", "attention_vectors"] {
        let words = [shader, "--preset", "cifar", "--batch", "128", "--precision", "f32,f16", "--json"];
        let Some(text) = radv(&words) else { return };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for kernel in json["kernels"].as_array().unwrap() {
            let variant = kernel["variant"].as_str().unwrap();
            let share = kernel["fma_share"].as_f64().unwrap();
            let (spills, scratch) = (&kernel["spills"], &kernel["scratch"]);
            println!("{shader} [{variant}]: {:.1} %", 100.0 * share);
            assert!(*spills == 0 && *scratch == 0, "{variant}: {spills} spills, {scratch} bytes of scratch");
            // The loop of a tile of 128 x 128 has 1024, 8 x 8 sums of each of 16 k; smaller tiles have half of them.
            let least = if variant.contains("TILE_M=128u TILE_N=128u") { 0.8 } else { 0.7 };
            assert!(share >= least, "{shader} [{variant}]: {share}");
            large_tiles += usize::from(least == 0.8 && kernel["loop"]["fma"].as_u64() >= Some(1024));
        }
    }
    // Three passes of the convolution and of the linear layer, five products of attention, in two types.
    assert!(large_tiles >= 22, "{large_tiles} of the products with large tiles");
}

/// One to four channels: the masks of what lies outside the pictures are most of what is beside the multiply-adds.
#[test]
fn convolutions_of_few_channels_stay_in_registers() {
    for (kernel, least) in [("conv2d_narrow", 0.35), ("conv2d_weight_narrow", 0.5)] {
        let Some(text) = radv(&[kernel, "--preset", "cifar", "--batch", "128", "--json"]) else { return };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for kernel in json["kernels"].as_array().unwrap() {
            assert!(kernel["spills"] == 0 && kernel["scratch"] == 0, "{kernel}");
            assert!(kernel["fma_share"].as_f64().unwrap() >= least, "{kernel}");
        }
    }
}

/// An array that is indexed at run time cannot stay in registers: what the test above looks for is seen.
#[test]
fn scratch_memory_and_loops_are_seen() {
    let heads = "HEAD_VECTORS=64u HELD=1u INVOCATIONS=64u STEP=4u TILE=8u stream_staged";
    let Some(text) = radv(&["attention:forward", "--variant", heads, "--json"]) else { return };
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let kernel = &json["kernels"][0];
    assert!(kernel["scratch"].as_u64().unwrap() > 0 && kernel["loop"]["fma"].as_u64().unwrap() > 0, "{text}");
    let assembly = radv(&["attention:forward", "--variant", heads, "--asm"]).unwrap();
    assert!(assembly.contains("scratch_store") && assembly.contains("s_endpgm"), "{assembly}");
}

#[test]
fn a_driver_that_tells_nothing_is_named() {
    let Some(manifest) = manifest("lvp_icd") else {
        common::skip("lavapipe is not installed (mesa-vulkan-drivers)");
        return;
    };
    let output = isa(&manifest, &["loss:loss_finish"]);
    // A later lavapipe may learn it.
    if output.status.success() {
        common::skip("this lavapipe tells what it makes of a shader");
        return;
    }
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("llvmpipe") && error.contains("VK_KHR_pipeline_executable_properties"), "{error}");
}
