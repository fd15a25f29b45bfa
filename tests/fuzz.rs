//! Hostile model folders: files of the fixtures, damaged at random, are opened. Whatever they hold, opening must not
//! panic, must not take more memory than the files' size allows, and what it accepts must be whole and finite. The same is
//! asked of pictures in IDX, CIFAR and NumPy files.
//!
//! Input n is the same on every machine: it is drawn from Philox at address n. The long run:
//!
//!     INKWASH_FUZZ_SECONDS=600 cargo test --test fuzz -- --ignored --nocapture
//!
//! It goes on from input `INKWASH_FUZZ_FIRST`, by default past those of the short run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(unsafe_code, reason = "an allocator that counts has to implement an unsafe trait")]

use inkwash::data::{Dataset, Options};
use inkwash::io::tensor_file;
use inkwash::model::{Model, diffusers};
use inkwash::rng::{Philox, Stream};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Counts what the current thread holds, and the most that it has held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread's last frees come after its thread locals are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are there together while the bytes move.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of memory for each byte of the folder. The worst is an array of one-digit numbers in a file that is not
/// opened for them: `0,` becomes a `serde_json::Value` of 32 bytes, 16 for each of the file, and a vector that
/// doubles holds one and a half times its new length while it moves, and may be half empty: 16 · 3 = 48, and the
/// text itself twice.
const PER_BYTE: isize = 52;
/// What an empty folder may take: buffers for paths, reading and messages.
const AT_LEAST: isize = 64 << 10;

const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "7",
    "64",
    "65536",
    "65537",
    "1000000",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "4611686018427387904",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "1e-320",
    "1e308",
    "1e999",
];

const VALUES: [&str; 16] = [
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"\"",
    "\"resnet\"",
    "\"learned_range\"",
    "\"\\u0000\\ud800\"",
    "\"\u{1b}[2J\"",
    "NaN",
    "Infinity",
    "-Infinity",
    "[1, [2, [3]]]",
    "{\"a\": {\"a\": 1}}",
    "[\"diffusers\", \"UNet2DModel\"]",
];

struct Fixture {
    folder: PathBuf,
    /// Path and bytes of every file that opening reads.
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// Copies of the fixtures in a folder of this run's own.
fn fixtures(to: &Path) -> Vec<Fixture> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/folders");
    let parts = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];
    let parts = parts.into_iter().chain(["unet/diffusion_pytorch_model.safetensors"]);
    ["plain", "scale-shift", "dpm", "old-names", "root-layout"]
        .into_iter()
        .map(|name| {
            let folder = to.join(name);
            let files = parts
                .clone()
                .map(|part| match from.join(name).join(part).exists() {
                    true => part,
                    // All files at the root.
                    false => part.rsplit('/').next().unwrap(),
                })
                .map(|part| {
                    let path = folder.join(part);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let bytes = std::fs::read(from.join(name).join(part)).unwrap();
                    std::fs::write(&path, &bytes).unwrap();
                    (path, bytes)
                })
                .collect();
            Fixture { folder, files }
        })
        .collect()
}

fn pick<'a>(rng: &mut Philox, all: &[&'a str]) -> &'a str {
    all[rng.below(all.len())]
}

/// The ranges of the text's pieces that match.
fn runs(text: &[u8], matches: impl Fn(u8) -> bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    for (i, &byte) in text.iter().chain(b"\0").enumerate() {
        match (matches(byte), start) {
            (true, None) => start = Some(i),
            (false, Some(from)) => {
                found.push((from, i));
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// Damages text that is mostly JSON.
fn damage_json(rng: &mut Philox, text: &mut Vec<u8>) {
    let deep = 1 + rng.below(300);
    let value = match rng.below(8) {
        0..=2 => pick(rng, &NUMBERS).into(),
        3..=5 => pick(rng, &VALUES).into(),
        6 => format!("{}{}", "[".repeat(deep), "]".repeat(deep)),
        _ => format!("[{}0]", "0,".repeat(1 << rng.below(13))),
    };
    let at = rng.below(text.len() + 1);
    match rng.below(12) {
        // Anything, anywhere.
        0 if at < text.len() => text[at] ^= 1 << rng.below(8),
        1 => text.truncate(at),
        2 => text.insert(at, rng.bits() as u8),
        3 => drop(text.splice(at..at, value.bytes())),
        // A number, or a whole value, in the place of another.
        4..=6 => {
            let numbers = runs(text, |b| b.is_ascii_digit() || b == b'.' || b == b'-');
            if !numbers.is_empty() {
                let (from, to) = numbers[rng.below(numbers.len())];
                drop(text.splice(from..to, pick(rng, &NUMBERS).bytes()));
            }
        }
        7..=9 => {
            let ends: Vec<usize> = (0..text.len()).filter(|&i| text[i] == b':').collect();
            if !ends.is_empty() {
                let from = ends[rng.below(ends.len())] + 1;
                let length = text[from..].iter().position(|b| b",}\n".contains(b)).unwrap_or(0);
                drop(text.splice(from..from + length, value.bytes()));
            }
        }
        // An entry twice, or gone, or under another name.
        10 => {
            let lines = runs(text, |b| b != b',');
            if !lines.is_empty() {
                let (from, to) = lines[rng.below(lines.len())];
                let mut piece = text[from..to].to_vec();
                piece.push(b',');
                match rng.below(2) {
                    0 => drop(text.splice(from..from, piece)),
                    _ => drop(text.splice(from..(to + 1).min(text.len()), [])),
                }
            }
        }
        _ => {
            let names = runs(text, |b| b.is_ascii_lowercase() || b == b'_');
            if !names.is_empty() {
                let (from, to) = names[rng.below(names.len())];
                let names = [
                    "",
                    "../",
                    "a/b",
                    "_",
                    "query",
                    "to_q",
                    "F64",
                    "I32",
                    "BF16",
                    "dtype",
                    "shape",
                    "data_offsets",
                ];
                drop(text.splice(from..to, pick(rng, &names).bytes()));
            }
        }
    }
}

/// Damages a safetensors file: its length word, its header, its data, or where it ends.
fn damage_tensors(rng: &mut Philox, bytes: &mut Vec<u8>) {
    let Some(&length) = bytes.first_chunk::<8>() else { return };
    let end =
        usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX).saturating_add(8).min(bytes.len());
    match rng.below(10) {
        0 => {
            let lengths =
                [0, 1, 7, 8, end as u64, bytes.len() as u64, 100_000_001, 1 << 32, 1 << 63, u64::MAX];
            bytes[..8].copy_from_slice(&lengths[rng.below(lengths.len())].to_le_bytes());
        }
        1 => bytes.truncate(rng.below(bytes.len() + 1)),
        2 => bytes.extend((0..rng.below(20)).map(|i| i as u8)),
        3 => {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        // A number that is none, somewhere in the data.
        4 if end + 4 <= bytes.len() => {
            let at = end + 4 * rng.below((bytes.len() - end) / 4);
            let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(1)];
            bytes[at..at + 4].copy_from_slice(&hostile[rng.below(5)].to_le_bytes());
        }
        // The header, with the length that it then has.
        _ => {
            let mut header = bytes[8..end].to_vec();
            damage_json(rng, &mut header);
            let length = header.len() as u64;
            drop(bytes.splice(8..end, header));
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// What opening made of an input.
enum Outcome {
    Accepted,
    Refused,
}

/// Opens a folder, and checks what must hold of it.
fn check(folder: &Path, bytes: isize, worst: &mut f64) -> Result<Outcome, String> {
    let before = HELD.get();
    MOST.set(before);
    let opened = catch_unwind(|| diffusers::open(folder));
    let most = MOST.get() - before;
    *worst = worst.max((most - AT_LEAST) as f64 / bytes as f64);
    if most > PER_BYTE * bytes + AT_LEAST {
        return Err(format!("{most} bytes of memory for {bytes} bytes of files"));
    }
    match opened {
        Err(_) => Err("a panic".into()),
        Ok(Ok(model)) => whole(folder, &model).map(|()| Outcome::Accepted),
        Ok(Err(error)) => {
            let message = error.to_string();
            let fits = message.len() < 4000 && !message.chars().any(char::is_control);
            match fits && message.contains(&folder.display().to_string()) {
                true => Ok(Outcome::Refused),
                false => Err(format!("a message that is long, not printable or names no file: {message:?}")),
            }
        }
    }
}

/// An accepted model is complete and finite.
fn whole(folder: &Path, model: &Model) -> Result<(), String> {
    let parts = [folder.join("unet"), folder.to_path_buf()];
    let path =
        parts.iter().map(|p| p.join("diffusion_pytorch_model.safetensors")).find(|p| p.exists()).unwrap();
    let file = tensor_file::read(&path).map_err(|e| e.to_string())?;
    let elements: usize = file.tensors.values().map(|t| t.data.len()).sum();
    let checks = [
        ("a tensor is left out", file.tensors.len() == model.unet.parameters.len()),
        ("an element is left out", elements == model.unet.parameters.count()),
        ("the flat vector has another length", model.weights.len() == model.unet.parameters.flat_elements()),
        ("a weight is not finite", model.weights.iter().all(|w| w.is_finite())),
        ("the network is not valid", model.unet.config.validate().is_ok()),
        ("the scheduler is not valid", model.scheduler.validate().is_ok()),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err((*what).into()),
        None => Ok(()),
    }
}

/// Opens inputs from `first` on until `more` says no. Returns how many were accepted and refused.
fn fuzz(first: u32, mut more: impl FnMut(u32) -> bool) -> [u32; 2] {
    let home = tempfile::tempdir().unwrap();
    let fixtures = fixtures(home.path());
    let (mut counts, mut worst, mut failures) = ([0, 0], 0.0, Vec::new());
    let mut number = first;
    while more(number - first) {
        let mut rng = Philox::new(0, Stream::Cases, number);
        let fixture = &fixtures[rng.below(fixtures.len())];
        // The weights as often as the three others together.
        let which = rng.below(6).min(3);
        let (path, whole) = &fixture.files[which];
        let mut bytes = whole.clone();
        for _ in 0..=rng.below(3) {
            if which == 3 { damage_tensors(&mut rng, &mut bytes) } else { damage_json(&mut rng, &mut bytes) }
        }
        std::fs::write(path, &bytes).unwrap();
        let rest: usize = fixture.files.iter().map(|(_, bytes)| bytes.len()).sum();
        let total = (rest - whole.len() + bytes.len()) as isize;
        match check(&fixture.folder, total, &mut worst) {
            Ok(Outcome::Accepted) => counts[0] += 1,
            Ok(Outcome::Refused) => counts[1] += 1,
            Err(what) => {
                failures.push(format!("input {number}: {}", what.chars().take(500).collect::<String>()))
            }
        }
        std::fs::write(path, whole).unwrap();
        number += 1;
    }
    println!(
        "inputs {first} to {}: {} accepted, {} refused, {} failures; at most {worst:.1} bytes of memory for each of the \
         files beside {} KiB",
        number - 1,
        counts[0],
        counts[1],
        failures.len(),
        AT_LEAST >> 10
    );
    assert!(failures.is_empty(), "{}", failures[..failures.len().min(20)].join("\n"));
    counts
}

/// The most that text can grow in memory: a quarter of a million one-digit numbers, wherever a file may hold them, and sizes
/// that ask for more than there is.
#[test]
fn long_arrays_and_large_sizes_take_no_more_than_the_bound() {
    let home = tempfile::tempdir().unwrap();
    let fixture = fixtures(home.path()).pop().unwrap();
    // Just past a power of two, where a vector has grown and is half empty.
    let zeros = format!("[{}0]", "0,".repeat((1 << 18) + 100));
    let arrays = format!("[{}[]]", "[],".repeat(300_000));
    let objects = format!("{{{}\"\":0}}", "\"\":0,".repeat(200_000));
    let mut inputs: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut put = |file: usize, after: &str, value: &str| {
        let bytes = &fixture.files[file].1;
        let at = bytes.windows(after.len()).position(|w| w == after.as_bytes()).unwrap() + after.len();
        let length = bytes[at..].iter().position(|b| b",]}\n".contains(b)).unwrap();
        let mut damaged = [&bytes[..at], value.as_bytes(), &bytes[at + length..]].concat();
        if file == 3 {
            let grown = (damaged.len() + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
                - bytes.len()) as u64;
            damaged[..8].copy_from_slice(&grown.to_le_bytes());
        }
        inputs.push((file, damaged));
    };
    for value in [&zeros, &arrays, &objects] {
        put(0, "\"_diffusers_version\": ", value);
        put(0, "\"_class_name\": ", value);
        put(1, "\"norm_num_groups\": ", value);
        put(1, "\"act_fn\": ", value);
        put(2, "\"trained_betas\": ", value);
        put(2, "\"clip_sample\": ", value);
        put(3, "\"dtype\":", value);
    }
    put(3, "\"shape\":", &zeros[..zeros.len() - 1]);
    put(3, "\"data_offsets\":", &zeros[..zeros.len() - 1]);
    for (key, value) in [
        ("\"layers_per_block\": ", "256"),
        ("\"layers_per_block\": ", "65536"),
        ("\"time_embedding_dim\": ", "65536"),
        ("\"num_class_embeds\": ", "65536"),
        ("\"in_channels\": ", "65536"),
        ("\"sample_size\": ", "1000000000"),
    ] {
        put(1, key, value);
    }
    let mut worst = 0.0_f64;
    for (file, bytes) in inputs {
        let (path, original) = &fixture.files[file];
        std::fs::write(path, &bytes).unwrap();
        let rest: usize = fixture.files.iter().map(|(_, bytes)| bytes.len()).sum();
        let total = (rest - original.len() + bytes.len()) as isize;
        if let Err(what) = check(&fixture.folder, total, &mut worst) {
            panic!("{}: {}", path.display(), what.chars().take(500).collect::<String>());
        }
        std::fs::write(path, original).unwrap();
    }
    println!("at most {worst:.1} bytes of memory for each of the files");
    // The bound is not so far away that it would pass anything.
    assert!(worst > 40.0, "{worst}");
}

const SHORT: u32 = 4000;

#[test]
fn damaged_folders_are_refused_or_whole() {
    let [accepted, refused] = fuzz(0, |done| done < SHORT);
    // Both ways are taken often enough to mean something.
    assert!(accepted > SHORT / 50 && refused > SHORT / 2, "{accepted} accepted, {refused} refused");
}

#[test]
#[ignore = "as long as INKWASH_FUZZ_SECONDS says, or ten minutes"]
fn damaged_folders_for_long() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let limit = Duration::from_secs(number("INKWASH_FUZZ_SECONDS", 600));
    let first = u32::try_from(number("INKWASH_FUZZ_FIRST", SHORT.into())).unwrap();
    let start = Instant::now();
    fuzz(first, |_| start.elapsed() < limit);
}

/// Files of pictures with a header, and the labels or names that are read with them, each in a folder of its own.
fn data_files() -> Vec<Vec<(&'static str, Vec<u8>)>> {
    let npy = |descr: &str, shape: &str, body: usize| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
        let header = format!("{text:<117}\n");
        [b"\x93NUMPY\x01\0v\0", header.as_bytes(), &vec![0x3f; body]].concat()
    };
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in [("arr_0.npy", npy("|u1", "3, 4, 4, 3", 144)), ("arr_1.npy", npy("<i8", "3,", 24))] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    let idx = |header: &[u32], body: &[u8]| {
        [&header.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>()[..], body].concat()
    };
    vec![
        vec![("x.npy", npy("<f4", "3, 4, 4", 192)), ("y.npy", npy("|u1", "3,", 3))],
        vec![("x.npy", npy(">f2", "3, 4, 4", 96)), ("labels.npy", npy("<i4", "3, 1", 12))],
        vec![("a.npz", archive.finish().unwrap().into_inner())],
        vec![
            ("train.bin", [&[4, 5][..], &[7; 3072]].concat()),
            ("fine_label_names.txt", b"a\nb\nc\n".to_vec()),
        ],
        vec![
            ("emnist-letters-train-images-idx3-ubyte", idx(&[0x803, 2, 4, 4], &[9; 32])),
            ("emnist-letters-train-labels-idx1-ubyte", idx(&[0x801, 2], &[1, 2])),
            ("emnist-letters-mapping.txt", b"1 65 97\n2 66 98\n".to_vec()),
        ],
    ]
}

#[test]
fn damaged_data_is_refused_or_whole() {
    /// Buffers and messages, and a data set of a few pictures.
    const MEMORY: isize = 1 << 20;
    let home = tempfile::tempdir().unwrap();
    let options = Options::new((4, 4), 1);
    let (mut accepted, mut refused) = (0, 0);
    for (number, files) in
        (0..200).flat_map(|number| data_files().into_iter().map(move |files| (number, files)))
    {
        let mut rng = Philox::new(3, Stream::Cases, number);
        let damaged = rng.below(files.len());
        let folder = tempfile::tempdir_in(&home).unwrap();
        for (i, (name, bytes)) in files.into_iter().enumerate() {
            let mut bytes = bytes;
            for _ in 0..if i == damaged { 1 + rng.below(3) } else { 0 } {
                // The header more often than what follows it.
                let length = if rng.below(4) == 0 { bytes.len() } else { bytes.len().min(130) };
                let at = rng.below(length.max(1));
                match rng.below(8) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at.min(bytes.len()), rng.bits() as u8),
                    2 | 3 if at < bytes.len() => bytes[at] = b"0189-,()'<>|fiub"[rng.below(16)],
                    _ if at < bytes.len() => bytes[at] = rng.bits() as u8,
                    _ => {}
                }
            }
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let before = HELD.get();
        MOST.set(before);
        let opened = catch_unwind(|| Dataset::open(folder.path().to_str().unwrap(), &options));
        let most = MOST.get() - before;
        assert!(most < MEMORY, "input {number}: {most} bytes of memory");
        match opened.unwrap_or_else(|_| panic!("input {number}: a panic")) {
            Ok(data) => {
                let classes = data.class_names.len().max(1);
                assert!(
                    (0..data.len()).all(|i| data.image(i).len() == 16 && (data.label(i) as usize) < classes)
                );
                accepted += 1;
            }
            Err(error) => {
                assert!(
                    error.to_string().contains(folder.path().to_str().unwrap()),
                    "input {number}: {error}"
                );
                refused += 1;
            }
        }
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}
