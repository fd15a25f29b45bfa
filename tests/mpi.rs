//! Several processes that train one model, started by mpirun on this machine: the bits of one process, and a loud end when one
//! of them is lost.
//!
//!     cargo test --features mpi --test mpi

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::training::{end_of, losses, tiny};
use inkwash::diffusion::UNet;
use inkwash::io::jsonl;
use inkwash::train::{Group, ModelFolder, TrainConfig};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_inkwash");

/// A run of some thirty thousand weights: everything that is random, and held-out pictures that do not fill their batches.
fn config(accumulate: u32) -> TrainConfig {
    TrainConfig {
        steps: 50,
        batch: 2,
        accumulate,
        glyph_count: 60,
        held_out: 0.25,
        flip: true,
        crop_padding: 1,
        log_every: 10,
        sample_every: 25,
        sample_count: 4,
        sample_steps: 2,
        checkpoint_every: 25,
        ..tiny()
    }
}

/// `mpirun` with so many ranks, before what it is to run. Root and more ranks than cores are allowed.
fn mpirun(ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string(), "--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]);
    // One thread of the CPU driver for each rank.
    command.env("LP_NUM_THREADS", "1").stdin(Stdio::null());
    command
}

/// Trains in a folder; alone with no ranks.
fn train(ranks: usize, config: &TrainConfig, out: &Path, more: &[&str]) -> Output {
    let file = out.with_extension("toml");
    std::fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    let mut command = if ranks == 0 { Command::new(PROGRAM) } else { mpirun(ranks) };
    if ranks > 0 {
        command.arg(PROGRAM);
    }
    command.env("LP_NUM_THREADS", "1");
    command.args(["train", "--quiet", "--config"]).arg(&file).arg("--out").arg(out).args(more);
    command.output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn any_number_of_ranks_trains_to_the_bits_of_one() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = config(4);
    let out = |name: &str| folder.path().join(name);
    succeeds(&train(0, &config, &out("alone"), &[]));
    let expected = end_of(&out("alone"));
    let held_out = |name: &str| -> Vec<f64> {
        let rows = jsonl::read(&out(name).join("log.jsonl")).unwrap();
        rows.iter().filter_map(|row| row["held_out_loss"].as_f64()).collect()
    };
    assert_eq!((expected.0, held_out("alone").len()), (50, 2));
    for (name, ranks) in [("two", 2), ("four", 4)] {
        succeeds(&train(ranks, &config, &out(name), &[]));
        assert!(end_of(&out(name)) == expected, "{ranks} ranks end elsewhere");
        assert_eq!(losses(&out(name)), losses(&out("alone")));
        assert_eq!(held_out(name), held_out("alone"));
    }
}

/// A run of two ranks goes on with one and with four, to the end of a run of one.
#[test]
fn a_checkpoint_knows_no_ranks() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let config = TrainConfig { steps: 6, checkpoint_every: 2, sample_every: 0, ..config(4) };
    succeeds(&train(0, &config, &out("alone"), &[]));
    succeeds(&train(2, &TrainConfig { steps: 2, ..config }, &out("changing"), &[]));
    for (ranks, steps) in [(1, "4"), (4, "6")] {
        let mut command = mpirun(ranks);
        command.args([PROGRAM, "train", "--quiet", "--steps", steps, "--resume"]).arg(out("changing"));
        succeeds(&command.output().unwrap());
    }
    assert!(end_of(&out("changing")) == end_of(&out("alone")), "the ranks show in the weights");
}

/// The limit of a rank's silence in these tests, and by when all must have ended: the limit, the last words, and what mpirun
/// takes to end the others, on a machine that is busy.
const LIMIT: &str = "5";
const ENDED_WITHIN: Duration = Duration::from_secs(25);

/// A job of two ranks that would train for hours.
struct Endless {
    mpirun: Child,
    out: PathBuf,
    folder: tempfile::TempDir,
}

impl Endless {
    /// Starts it, and waits until it has a checkpoint.
    fn start(mut command: Command, program: &[&str], limit: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let config = TrainConfig { steps: 1_000_000, checkpoint_every: 2, sample_every: 0, ..config(6) };
        let file = folder.path().join("run.toml");
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        command.args(program).args(["train", "--quiet", "--rank-timeout", limit, "--config"]);
        command.arg(&file).arg("--out").arg(&out).stdout(Stdio::null());
        // Not a pipe, which a daemon of mpirun may keep open.
        command.stderr(std::fs::File::create(folder.path().join("said")).unwrap());
        let mut job = Self { mpirun: command.spawn().unwrap(), out, folder };
        let start = Instant::now();
        while job.checkpoints().is_empty() {
            let ended = job.mpirun.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(100),
                "it does not begin: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        job
    }

    fn checkpoints(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.out.join("checkpoints"));
        let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect()
    }

    /// The processes of the ranks, by rank, as mpirun has started them.
    fn ranks(&self) -> Vec<u32> {
        let process = self.mpirun.id();
        let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
        children.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// What it says when it ends, which it must within a time, with its last checkpoint whole.
    #[track_caller]
    fn ends(mut self, within: Duration) -> String {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.mpirun.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > within {
                let _ = self.mpirun.kill();
                panic!("it has not ended within {within:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let said = std::fs::read_to_string(self.folder.path().join("said")).unwrap();
        assert!(!status.success(), "{said}");
        let unet = UNet::new(&config(2).unet_config(0)).unwrap();
        ModelFolder::new(&self.out).load_checkpoint(&unet.parameters).unwrap();
        said
    }
}

fn signal(signal: &str, process: u32) {
    let status = Command::new("kill").args([signal, &process.to_string()]).status().unwrap();
    assert!(status.success());
}

#[track_caller]
fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    if common::open_device().is_none() {
        return;
    }
    for lost in [0, 1] {
        let job = Endless::start(mpirun(2), &[PROGRAM], LIMIT);
        let process = job.ranks()[lost];
        signal("-KILL", process);
        let said = job.ends(ENDED_WITHIN);
        says(
            &said,
            &[&format!("rank {}: rank {lost} (process {process} on ", 1 - lost), "has ended without a word"],
        );
    }
}

#[test]
fn a_rank_that_hangs_ends_the_job() {
    if common::open_device().is_none() {
        return;
    }
    let job = Endless::start(mpirun(3), &[PROGRAM], LIMIT);
    let process = job.ranks()[1];
    signal("-STOP", process);
    let said = job.ends(ENDED_WITHIN);
    let missing = format!("rank 1 (process {process} on ");
    for survivor in [0, 2] {
        says(&said, &[&format!("error: rank {survivor}: {missing}"), "it hangs, or is cut off"]);
    }
}

/// Rank 0 alone writes, into files that may not grow beyond a size, as on a full disk.
#[test]
fn a_disk_that_is_full_ends_the_job() {
    if common::open_device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let file = folder.path().join("run.toml");
    std::fs::write(&file, toml::to_string(&config(2)).unwrap()).unwrap();
    // 64 KiB: room for the log, none for a checkpoint. The signal that comes with it is ignored, so that writes fail.
    let limited = "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"";
    let mut command = mpirun(2);
    command.args(["sh", "-c", limited, PROGRAM, "--cache", "none", "train", "--quiet", "--config"]);
    let output = command.arg(&file).arg("--out").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    says(&said, &["error: rank 1: rank 0 (process ", "has failed: Cannot write", "step-000025.safetensors"]);
}

/// Started by the test below: a rank that panics while the other waits for it.
#[test]
#[ignore = "a rank of another test"]
fn rank_that_panics() {
    let group = Group::join(Duration::from_secs(60), |line| eprintln!("{line}")).unwrap();
    assert_eq!(group.size(), 2);
    assert!(group.is_first(), "this rank is to panic");
    group.wait();
}

#[test]
fn a_rank_that_panics_ends_the_job() {
    let start = Instant::now();
    let mut command = mpirun(2);
    command.arg(std::env::current_exe().unwrap()).args([
        "--exact",
        "--ignored",
        "--nocapture",
        "rank_that_panics",
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && start.elapsed() < ENDED_WITHIN, "{said}");
    says(&said, &["error: rank 0: rank 1 (process ", "has failed: it panicked", "this rank is to panic"]);
}

#[test]
fn ranks_that_do_not_fit_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = |mut command: Command, words: &[&str]| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        says(&said, words);
        assert!(!out.exists(), "something was written");
    };
    let train = |command: &mut Command, flags: &[&str]| {
        command.args([PROGRAM, "train", "--quiet", "--glyph-count", "40", "--batch", "2"]);
        command.args(flags).arg("--out").arg(&out);
    };

    // Micro-batches that cannot be shared.
    let mut command = mpirun(2);
    train(&mut command, &["--accumulate", "3"]);
    refused(command, &["found 3 micro-batches per step for 2 ranks", "--accumulate 4"]);

    // Other flags, and other pictures.
    let mut command = mpirun(1);
    train(&mut command, &["--accumulate", "2", "--clip-norm", "1"]);
    command.args([":", "-n", "1"]);
    train(&mut command, &["--accumulate", "2", "--clip-norm", "2"]);
    refused(
        command,
        &["rank 1 has another configuration than rank 0: clip_norm = 2.0, where rank 0 has clip_norm = 1.0"],
    );
    let pictures = |seed: u8| {
        let path = folder.path().join(format!("{seed}"));
        std::fs::create_dir_all(path.join("pictures")).unwrap();
        for k in 0..4 {
            image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y) as u8 ^ seed ^ k]))
                .save(path.join(format!("pictures/{k}.png")))
                .unwrap();
        }
        path
    };
    let (one, other) = (pictures(0), pictures(7));
    let mut command = mpirun(1);
    command.arg("--wdir").arg(&one);
    train(&mut command, &["--accumulate", "2", "--data", "pictures"]);
    command.args([":", "-n", "1", "--wdir"]).arg(&other);
    train(&mut command, &["--accumulate", "2", "--data", "pictures"]);
    refused(command, &["rank 1 has another set of pictures", "checksum"]);

    // The launcher of another MPI.
    let mut command = Command::new(PROGRAM);
    command.env("PMI_SIZE", "2").args(["train", "--quiet", "--out"]).arg(&out);
    refused(command, &["PMI_SIZE says that this is one of 2 processes", "finds it alone", "--alone"]);
}

/// Two machines in one: a rank in a network namespace of its own, whose cable is then pulled.
#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_is_cut_off_ends_the_job() {
    // Names and addresses of this process's own, for others may test on the machine.
    let process = std::process::id();
    let (space, net) = (format!("inkwash-{process}"), format!("10.77.{}", process % 250));
    let (here, there) = (format!("ink{process}a"), format!("ink{process}b"));
    let ip = |arguments: &str| {
        let output = Command::new("ip").args(arguments.split(' ')).output();
        output.is_ok_and(|output| output.status.success())
    };
    let clean = || {
        ip(&format!("netns del {space}"));
        ip(&format!("link del {here}"));
    };
    let made = ip(&format!("netns add {space}"))
        && ip(&format!("link add {here} type veth peer name {there} netns {space}"))
        && ip(&format!("addr add {net}.1/24 dev {here}"))
        && ip(&format!("link set {here} up"))
        && ip(&format!("-n {space} addr add {net}.2/24 dev {there}"))
        && ip(&format!("-n {space} link set {there} up"))
        && ip(&format!("-n {space} link set lo up"));
    if !made || common::open_device().is_none() {
        clean();
        eprintln!("SKIPPED: no network namespace can be made (root and `ip` of iproute2 are needed)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("agent");
    let script =
        format!("#!/bin/sh\nshift\nexec ip netns exec {space} unshare --uts sh -c \"hostname other; $*\"\n");
    std::fs::write(&agent, script).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = mpirun(2);
    let (hosts, subnet) = (format!("localhost:1,{net}.2:1"), format!("{net}.0/24"));
    command.args(["--host", &hosts, "--mca", "plm_rsh_agent"]).arg(&agent);
    // mpirun itself notices that a machine is gone before the ranks do, as docs/scale.md advises: else it waits for it.
    for (name, value) in [
        ("btl", "tcp,self"),
        ("btl_tcp_if_include", subnet.as_str()),
        ("oob_tcp_if_include", subnet.as_str()),
        ("oob_tcp_keepalive_time", "6"),
        ("oob_tcp_keepalive_intvl", "1"),
        ("oob_tcp_keepalive_probes", "3"),
    ] {
        command.args(["--mca", name, value]);
    }
    command.args(["-x", "LP_NUM_THREADS"]);
    let job = Endless::start(command, &[PROGRAM], "20");
    assert!(ip(&format!("link set {here} down")));
    let said = job.ends(Duration::from_secs(40));
    // The rank on the other side ends by itself, for it misses this one. A daemon of mpirun may be left, which waits for mpirun.
    let start = Instant::now();
    let left = || {
        let output = Command::new("ip").args(["netns", "pids", &space]).output().unwrap();
        let processes = String::from_utf8(output.stdout).unwrap();
        processes.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<u32>>()
    };
    let trains = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == "inkwash")
    };
    while left().iter().any(trains) && start.elapsed() < Duration::from_secs(40) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = !left().iter().any(trains);
    for process in left() {
        let _ = Command::new("kill").args(["-KILL", &process.to_string()]).status();
    }
    clean();
    says(&said, &["rank 0: rank 1 (process ", " on other) was not heard of for"]);
    assert!(ended, "the rank on the other side still trains");
}
