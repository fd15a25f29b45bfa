//! Disks that fill up, folders that become read-only or go away while a run writes into them: the error says which file and
//! what to do, the last checkpoint is whole, and the run goes on to the same end once the cause is gone.
//!
//! A disk of its own is a small tmpfs in a mount namespace of its own, for which the test starts itself once more; it goes away
//! with that process. Where there may be none, only the limit on the size of files is tried.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::{Files, assert_same_run, files, has_checkpoint, short_run};
use inkwash::diffusion::UNet;
use inkwash::gpu::Device;
use inkwash::train::{ModelFolder, RunOptions, TrainEvent, train};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const STEPS: u32 = 8;

/// Trains in `out`, going on with what is there; `after` is called after every event. The error's words.
fn attempt(device: &Arc<Device>, out: &Path, after: impl FnMut(&TrainEvent)) -> Result<(), String> {
    let resume = out.join("config.toml").exists();
    let options = RunOptions { resume, ..RunOptions::new(out) };
    let never = AtomicBool::new(false);
    train(|| Ok(device.clone()), &short_run(STEPS), &options, &never, after)
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Every checkpoint that is there can be gone on from, and nothing half-written is left.
fn assert_whole(out: &Path) {
    if !out.exists() {
        return;
    }
    for path in files(out).keys() {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(!name.ends_with(".tmp"), "{} is left", path.display());
    }
    if has_checkpoint(out) {
        let unet = UNet::new(&short_run(STEPS).unet_config(0)).unwrap();
        ModelFolder::new(out).load_checkpoint(&unet.parameters).unwrap();
    }
}

fn assert_clear(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
}

fn shell(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}

/// The line of the error with which a command must have ended.
fn error_of(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{message}");
    message.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{message}")).into()
}

/// Runs `test` in a mount namespace of its own, by starting the test of this name again in one.
fn in_namespace(name: &str, test: impl FnOnce()) {
    const INSIDE: &str = "INKWASH_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    // Who is not root may be so inside; root needs no namespace of users for it.
    let flags: &[&str] = if is_root() { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let tried = Command::new("unshare").args(flags).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return common::skip("no mount namespace may be made here");
    }
    let status = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "failed in its namespace");
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn mount(arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder on which something is mounted, so that it cannot be removed before that is taken off.
struct Mounted<'a>(&'a str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Fills the disk below a folder, but for some bytes.
fn fill(ballast: &Path, but_for: u64) {
    let mut file = std::fs::File::create(ballast).unwrap();
    let mut length = 0;
    while let Ok(written) = file.write(&[0; 4096]) {
        length += written as u64;
    }
    file.set_len(length.saturating_sub(but_for)).unwrap();
}

#[test]
fn a_full_disk_costs_no_checkpoint() {
    in_namespace("a_full_disk_costs_no_checkpoint", || {
        let Some(device) = common::open_device() else { return };
        let home = tempfile::tempdir().unwrap();
        let straight = home.path().join("straight");
        attempt(&device, &straight, |_| ()).unwrap();
        let disk = home.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs", disk.to_str().unwrap()]);
        let _mounted = Mounted(disk.to_str().unwrap());
        let ballast = disk.join("ballast");
        let checkpoint = files(&straight)[Path::new("checkpoints/step-000008.safetensors")].len() as u64;
        // When the disk fills up, and the bytes that are left then: for nothing, for a page, for half a checkpoint, or for one but
        // not for the weights beside it.
        let (half, one) = (checkpoint / 2, checkpoint + 4096);
        for (step, room, refused) in [
            (0, 0, "config.toml"),
            (0, 4096, "data.json"),
            (0, 8192, "log.jsonl"),
            (0, half, "checkpoints/step-000003.safetensors"),
            (3, one, "model.safetensors"),
            (4, 0, "checkpoints/step-000006.safetensors"),
            (6, half, "checkpoints/step-000006.safetensors"),
            (6, one, "model.safetensors"),
        ] {
            let out = disk.join(format!("{step}-{room}"));
            let error = attempt(&device, &out, |event| match event {
                TrainEvent::Planned { .. } if step == 0 => fill(&ballast, room),
                TrainEvent::Step { step: now } if *now == step => fill(&ballast, room),
                _ => {}
            })
            .unwrap_err();
            assert_clear(&error, &[out.join(refused).to_str().unwrap(), "Free some disk space"]);
            assert_whole(&out);
            std::fs::remove_file(&ballast).unwrap();
            attempt(&device, &out, |_| ()).unwrap();
            assert_same_run(&straight, &out, &Files::new());
            std::fs::remove_dir_all(&out).unwrap();
        }
    });
}

/// As a full disk, where no disk can be had: no file of a process may be larger than half a checkpoint.
#[test]
fn a_file_that_may_not_be_so_large_costs_no_checkpoint() {
    if common::open_device().is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    std::fs::write(at.join("short.toml"), toml::to_string(&short_run(STEPS)).unwrap()).unwrap();
    let train = |limits: &str, arguments: &str| {
        let program = env!("CARGO_BIN_EXE_inkwash");
        shell(&format!(
            "cd {} && export INKWASH_CACHE=none && {limits} exec {program} train --quiet {arguments}",
            at.display()
        ))
    };
    let start = "--config short.toml --out";
    // A run that begins well, and is then given the limit.
    assert!(train("", &format!("{start} limited --steps 4")).status.success());
    let before = files(&at.join("limited"));
    // In blocks of 512 bytes. The shell ignores the signal, which would end the process, and so does then the process.
    let error = error_of(&train("trap '' XFSZ; ulimit -f 300;", "--resume limited --steps 8"));
    assert_clear(&error, &["limited/checkpoints/step-000006.safetensors", "File too large", "ulimit -f"]);
    let after = files(&at.join("limited"));
    for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with("checkpoints")) {
        assert!(after.get(path) == Some(bytes), "{}", path.display());
    }
    assert_whole(&at.join("limited"));
}

#[test]
fn a_folder_that_becomes_read_only_costs_no_checkpoint() {
    in_namespace("a_folder_that_becomes_read_only_costs_no_checkpoint", || {
        let Some(device) = common::open_device() else { return };
        let home = tempfile::tempdir().unwrap();
        let straight = home.path().join("straight");
        attempt(&device, &straight, |_| ()).unwrap();
        for folder in ["checkpoints", "samples"] {
            let out = home.path().join(format!("to-{folder}"));
            let made = out.join(folder);
            let made = made.to_str().unwrap();
            let mut mounted = None;
            let error = attempt(&device, &out, |event| {
                if let TrainEvent::Step { step: 5 } = event {
                    mount(&["--bind", made, made]);
                    mounted = Some(Mounted(made));
                    mount(&["-o", "remount,bind,ro", made]);
                }
            })
            .unwrap_err();
            assert_clear(&error, &[made, "Read-only", "mounted"]);
            assert_whole(&out);
            // Nor does it go on as long as nothing has changed.
            let error = attempt(&device, &out, |_| ()).unwrap_err();
            assert_clear(&error, &[made, "Read-only", "mounted"]);
            drop(mounted);
            attempt(&device, &out, |_| ()).unwrap();
            assert_same_run(&straight, &out, &Files::new());
        }
    });
}

/// The folder of a run is taken away, or a part of it is put in another's place, while the run is under way.
#[test]
fn a_folder_that_goes_away_is_named() {
    let Some(device) = common::open_device() else { return };
    let home = tempfile::tempdir().unwrap();
    let straight = home.path().join("straight");
    attempt(&device, &straight, |_| ()).unwrap();

    let gone = home.path().join("gone");
    let error = attempt(&device, &gone, |event| {
        if let TrainEvent::Step { step: 5 } = event {
            std::fs::remove_dir_all(&gone).unwrap();
        }
    })
    .unwrap_err();
    assert_clear(&error, &[gone.join("checkpoints").to_str().unwrap(), "the folder exists"]);
    assert!(!gone.exists());

    for folder in ["checkpoints", "samples"] {
        let out = home.path().join(folder);
        let (made, aside) = (out.join(folder), home.path().join("aside"));
        let error = attempt(&device, &out, |event| {
            if let TrainEvent::Step { step: 5 } = event {
                std::fs::rename(&made, &aside).unwrap();
                std::fs::write(&made, "a file").unwrap();
            }
        })
        .unwrap_err();
        assert_clear(&error, &[made.to_str().unwrap(), "is a file where a folder is needed"]);
        let error = attempt(&device, &out, |_| ()).unwrap_err();
        assert_clear(&error, &[made.to_str().unwrap()]);
        assert_eq!(std::fs::read(&made).unwrap(), b"a file");
        std::fs::remove_file(&made).unwrap();
        std::fs::rename(&aside, &made).unwrap();
        assert_whole(&out);
        attempt(&device, &out, |_| ()).unwrap();
        assert_same_run(&straight, &out, &Files::new());
    }
}

/// A folder of somebody else's, in which this user may write nothing.
#[test]
fn a_folder_of_another_user_is_named() {
    if common::open_device().is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let out = at.join("run");
    std::fs::write(at.join("short.toml"), toml::to_string(&short_run(STEPS)).unwrap()).unwrap();
    // Root may write anywhere, so it becomes nobody.
    let user = if is_root() { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    let program = env!("CARGO_BIN_EXE_inkwash");
    let at_home = format!("cd {} && XDG_CACHE_HOME=$PWD/cache {user} {program}", at.display());
    let inkwash = |arguments: &str| shell(&format!("{at_home} {arguments}"));
    std::fs::set_permissions(at, PermissionsExt::from_mode(0o777)).unwrap();
    if !inkwash("--version").status.success() {
        return common::skip("nobody may run the program here, or there is no setpriv");
    }
    let train = |arguments: &str| inkwash(&format!("train --quiet {arguments}"));
    let start = "--config short.toml --out";
    let output = train(&format!("{start} run --steps 4"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let allow = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let checkpoints = out.join("checkpoints");
    allow(&checkpoints, 0o555);
    let error = error_of(&train("--resume run --steps 8"));
    assert_clear(&error, &["run/checkpoints", "Permission denied", "who owns"]);
    assert_whole(&out);
    allow(&checkpoints, 0o755);
    // A new run where there may be none.
    allow(at, 0o555);
    let error = error_of(&train(&format!("{start} new")));
    assert_clear(&error, &["new", "Permission denied", "who owns"]);
    allow(at, 0o777);
    // And then where there may.
    let output = train("--resume run --steps 8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
