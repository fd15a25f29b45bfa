//! Processes killed at random moments (SIGKILL, which no program can answer), gone on with, and killed again, until they come
//! to their end: what they leave is then what an undisturbed process leaves, byte for byte.
//!
//! The long run takes some minutes:
//!
//!     INKWASH_KILLS=200 cargo test --test kills -- --nocapture
//!
//! `INKWASH_KILLS_SEED=N` chooses other moments. A failure says the seed and all that was done to the folder. The moments are
//! times, so a run that is repeated may be hit elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::{Files, assert_same_files, assert_same_run, files, has_checkpoint, short_run};
use inkwash::diffusion::UNet;
use inkwash::rng::{Philox, Stream};
use inkwash::train::ModelFolder;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// Longer than any process here takes on any machine.
const TOO_LONG: Duration = Duration::from_secs(300);

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// While it writes its so many-th file: once a temporary file was seen.
    Writing(u32),
}

/// Processes of this program, of which some are killed.
struct Killer {
    seed: u32,
    rng: Philox,
    kills: u32,
    /// What the killed ones were at, as far as their folder tells.
    phases: BTreeMap<&'static str, u32>,
    /// What was done to the folder at hand.
    history: Vec<String>,
}

impl Killer {
    fn new(what: u32) -> Self {
        let seed = number("INKWASH_KILLS_SEED", 0);
        let rng = Philox::new(u64::from(seed), Stream::Cases, what);
        Self { seed, rng, kills: 0, phases: BTreeMap::new(), history: Vec::new() }
    }

    /// Most moments are anywhere in the time of an undisturbed process; some are in its start, some in a write.
    fn moment(&mut self, whole: Duration) -> Moment {
        match self.rng.below(4) {
            0 => Moment::Writing(1 + self.rng.below(8) as u32),
            1 => Moment::After(whole.mul_f64(self.rng.uniform(0.0, 0.25))),
            _ => Moment::After(whole.mul_f64(self.rng.uniform(0.0, 1.0))),
        }
    }

    /// Runs a process that writes into `folder` until it ends by itself or is killed. Whether it ended.
    fn run(&mut self, mut command: Command, folder: &Path, whole: Duration) -> bool {
        let before = if folder.exists() { files(folder) } else { Files::new() };
        let moment = self.moment(whole);
        self.history.push(format!("{command:?}, killed {moment:?}"));
        let start = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        if !killed(&mut child, folder, moment) {
            let Output { status, stderr, .. } = child.wait_with_output().unwrap();
            let message = String::from_utf8_lossy(&stderr).into_owned();
            self.history.push(format!("ended by itself, {status}: {message}"));
            assert!(status.success(), "{}", self.story());
            return true;
        }
        let phase = phase(&before, folder);
        self.history.push(format!("killed after {:?}: {phase}", start.elapsed()));
        *self.phases.entry(phase).or_default() += 1;
        self.kills += 1;
        false
    }

    fn story(&self) -> String {
        format!("seed {}\n{}", self.seed, self.history.join("\n"))
    }

    /// Compares with what is expected, telling the story where that fails.
    fn compare(&mut self, compare: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(compare)) {
            eprintln!("{}", self.story());
            std::panic::resume_unwind(panic);
        }
        self.history.clear();
    }
}

/// Kills a process at a moment; false if it ended before.
fn killed(child: &mut Child, folder: &Path, moment: Moment) -> bool {
    let start = Instant::now();
    let (mut seen, mut last) = (0, None);
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < TOO_LONG, "a process waits for ever");
        let now = match moment {
            Moment::After(time) => start.elapsed() >= time,
            Moment::Writing(count) => {
                let temporary = temporary(folder);
                if temporary.is_some() && temporary != last {
                    seen += 1;
                }
                last = temporary;
                seen == count
            }
        };
        if now {
            child.kill().unwrap();
            // It may have ended in this moment.
            return !child.wait().unwrap().success();
        }
        // A file is written in a millisecond or more, with the disk waited for.
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().unwrap().to_str().is_some_and(|name| {
        name.starts_with(".inkwash-")
            && name.ends_with(".tmp")
            && name.len() == ".inkwash-012345678901.tmp".len()
    })
}

/// A temporary file in the folder or in the folders in it, as long as it is there.
fn temporary(folder: &Path) -> Option<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let top = list(folder);
    top.iter().find(|path| is_temporary(path)).cloned().or_else(|| {
        let below = ["checkpoints", "samples"].map(|sub| list(&folder.join(sub)));
        below.into_iter().flatten().find(|path| is_temporary(path))
    })
}

/// What a process was at when it was killed, as far as the folder tells.
fn phase(before: &Files, folder: &Path) -> &'static str {
    if !folder.exists() {
        return "before the folder is made";
    }
    let after = files(folder);
    // What an earlier one left may still lie there.
    let new = after.keys().find(|path| is_temporary(path) && !before.contains_key(*path));
    match new.map(|path| path.parent().unwrap().to_str().unwrap()) {
        Some("checkpoints") => "writing a checkpoint",
        Some("samples") => "writing a grid",
        Some(_) => "writing another file",
        None if &after == before => "before anything new is written",
        None => "between two writes",
    }
}

fn inkwash(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inkwash"));
    command.env("INKWASH_CACHE", "none");
    for name in ["INKWASH_DEVICE", "INKWASH_BACKEND", "INKWASH_KERNELS"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// Runs a process to its end, and gives the time that it took.
fn undisturbed(mut command: Command) -> Duration {
    let start = Instant::now();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    start.elapsed()
}

/// Files that a user keeps beside those of a run.
fn theirs() -> Files {
    ["notes.txt", "checkpoints/best.safetensors", "samples/step-4-favourite.png", ".inkwash-list.tmp"]
        .into_iter()
        .map(|name| (name.into(), format!("a user's {name}").into_bytes()))
        .collect()
}

#[test]
fn a_killed_run_ends_as_an_undisturbed_one() {
    if common::open_device().is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("short.toml");
    std::fs::write(&config, toml::to_string(&short_run(30)).unwrap()).unwrap();
    let config = config.to_str().unwrap();
    let straight = home.path().join("straight");
    let train =
        |out: &Path| inkwash(&["train", "--quiet", "--config", config, "--out", out.to_str().unwrap()]);
    let whole = undisturbed(train(&straight));

    let mut killer = Killer::new(0);
    let wanted = number("INKWASH_KILLS", 8);
    let mut runs = 0;
    while killer.kills < wanted {
        let out = home.path().join(runs.to_string());
        let mut mine = Files::new();
        loop {
            // Without a checkpoint, either of the two commands will do.
            let anew =
                !out.join("config.toml").exists() || (!has_checkpoint(&out) && killer.rng.below(2) == 0);
            let command = match anew {
                true => train(&out),
                false => inkwash(&["train", "--quiet", "--resume", out.to_str().unwrap()]),
            };
            if killer.run(command, &out, whole) {
                break;
            }
            if mine.is_empty() && has_checkpoint(&out) {
                mine = theirs();
                for (name, bytes) in &mine {
                    std::fs::write(out.join(name), bytes).unwrap();
                }
            }
        }
        killer.compare(|| assert_same_run(&straight, &out, &mine));
        runs += 1;
    }
    println!("{runs} runs of {:.1} s, {} kills: {:?}", whole.as_secs_f64(), killer.kills, killer.phases);
}

#[test]
fn killed_sampling_ends_as_if_undisturbed() {
    if common::open_device().is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    let run = short_run(1);
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.toml"), toml::to_string(&run).unwrap()).unwrap();
    let parameters = UNet::new(&run.unet_config(0)).unwrap().parameters;
    ModelFolder::new(&model).save_weights(&parameters, &parameters.initial(0), 1).unwrap();
    let model = model.to_str().unwrap();

    let mut killer = Killer::new(1);
    let wanted = number("INKWASH_KILLS", 8).div_ceil(2);
    for (n, format) in ["png", "npz"].into_iter().enumerate() {
        let sample = |out: &Path| {
            let out = out.to_str().unwrap();
            let drawn =
                ["--n", "40", "--batch", "4", "--steps", "20", "--sampler", "ddpm", "--format", format];
            inkwash(&[&["sample", "--model", model, "--out", out][..], &drawn].concat())
        };
        let straight = home.path().join(format!("straight-{format}"));
        let whole = undisturbed(sample(&straight));
        let mut times = 0;
        while killer.kills < wanted * (n as u32 + 1) / 2 {
            let out = home.path().join(format!("{format}-{times}"));
            let mut mine = Files::new();
            while !killer.run(sample(&out), &out, whole) {
                if mine.is_empty() && out.exists() {
                    mine = [(PathBuf::from("notes.txt"), b"a user's".to_vec())].into();
                    std::fs::write(out.join("notes.txt"), b"a user's").unwrap();
                }
            }
            killer.compare(|| assert_same_files(&straight, &out, &mine));
            times += 1;
        }
        println!("{format}: {times} times {:.1} s, {} kills in all", whole.as_secs_f64(), killer.kills);
    }
    println!("{:?}", killer.phases);
}
