//! Devices that fail: every call to one may. Whatever fails, the error says which device and what to do, nothing panics or
//! waits for ever, and the run goes on from its last checkpoint as if nothing had happened.
//!
//! The long run takes some minutes, and lets every call of a start fail once:
//!
//!     INKWASH_FAULT_STEPS=1000 cargo test --test faults -- --nocapture

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::cut_short::{Files, assert_same_run, has_checkpoint, short_run};
use inkwash::diffusion::UNet;
use inkwash::gpu::{Blocking as _, Call, Choice, Device, Fault};
use inkwash::graph::{Caps, Kernels};
use inkwash::rng::{Philox, Stream};
use inkwash::train::{ModelFolder, RunOptions, TrainConfig, TrainEvent, train};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const KINDS: [Call; 7] =
    [Call::Buffer, Call::Pipeline, Call::BindGroup, Call::Write, Call::Submit, Call::Wait, Call::Map];

/// Steps of the long run, if it was asked for.
fn long_run() -> Option<u32> {
    std::env::var("INKWASH_FAULT_STEPS").ok().map(|text| text.parse().unwrap())
}

/// Runs what must not wait for ever.
fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(run()));
    match receiver.recv_timeout(Duration::from_secs(300)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the run waits for ever"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the run panicked"),
    }
}

/// Trains in `out`, going on with what is there, on a device that fails as `decide` says. Gives the words of the error, if it
/// came to one, and the steps taken.
fn attempt(
    device: Arc<Device>,
    config: &TrainConfig,
    out: &Path,
    decide: impl FnMut(Call) -> Option<Fault> + Send + 'static,
) -> (Result<(), String>, u32) {
    device.inject_faults(decide);
    let (config, out) = (config.clone(), out.to_path_buf());
    in_time(move || {
        let options = RunOptions { resume: out.exists(), ..RunOptions::new(&out) };
        let mut steps = 0;
        let ended = train(
            || Ok(device),
            &config,
            &options,
            &AtomicBool::new(false),
            |event| {
                steps += u32::from(matches!(event, TrainEvent::Step { .. }));
            },
        );
        (ended.map(drop).map_err(|e| e.to_string()), steps)
    })
}

/// What an error must say.
fn assert_clear(error: &str, fault: Fault, device: &str) {
    let remedy = match fault {
        Fault::OutOfMemory => ["ran out of memory", "smaller batch"],
        Fault::Lost => ["was lost", "--device"],
    };
    assert!(error.contains(device) && remedy.iter().all(|words| error.contains(words)), "{fault:?}: {error}");
    assert!(!error.contains('\n'), "{error}");
}

/// The calls of a short run, one at a time, on a device that computes nothing.
#[test]
fn any_call_may_fail() {
    let home = tempfile::tempdir().unwrap();
    let config = short_run(3);
    let caps = Caps::webgpu(Kernels::Registers);
    let open = || Device::noop(&caps).block_on().unwrap();

    // 1. The calls that there are.
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let ended = attempt(open(), &config, &home.path().join("whole"), move |call| {
        seen.lock().unwrap().push(call);
        None
    });
    assert_eq!(ended, (Ok(()), 3));
    let calls = std::mem::take(&mut *calls.lock().unwrap());

    // 2. The first and the last of each kind, or in the long run all, by one fault and the other in turn.
    let mut chosen = BTreeSet::new();
    for kind in KINDS {
        let of_kind = || (0..calls.len()).filter(|&i| calls[i] == kind);
        let first = of_kind().next().unwrap_or_else(|| panic!("no call is {kind:?}"));
        chosen.extend([first, of_kind().next_back().unwrap()]);
    }
    if long_run().is_some() {
        chosen.extend(0..calls.len());
    }
    for (i, &number) in chosen.iter().enumerate() {
        let out = home.path().join(number.to_string());
        let fault = [Fault::Lost, Fault::OutOfMemory][i % 2];
        let mut next = 0;
        let (ended, _) = attempt(open(), &config, &out, move |_| {
            next += 1;
            (next == number + 1).then_some(fault)
        });
        let error = ended.expect_err(&format!("{fault:?} at call {number}, {:?}", calls[number]));
        assert_clear(&error, fault, "noop");
    }
    println!("{} of {} calls failed", chosen.len(), calls.len());
}

/// A run through failure after failure, on whatever device there is.
#[test]
fn a_run_outlives_its_devices() {
    let Some(device) = common::open_device() else { return };
    let steps = long_run().unwrap_or(24);
    let config = short_run(steps);
    let parameters = UNet::new(&config.unet_config(0)).unwrap().parameters;
    let home = tempfile::tempdir().unwrap();
    let (straight, broken) = (home.path().join("straight"), home.path().join("broken"));
    assert_eq!(attempt(device, &config, &straight, |_| None), (Ok(()), steps));

    let mut failures: BTreeMap<(Call, Fault), u32> = BTreeMap::new();
    let mut taken = 0;
    for number in 0.. {
        let device = Device::open(&Choice::default()).block_on().unwrap();
        let name = device.info.name.clone();
        let mut rng = Philox::new(1, Stream::Cases, number);
        let failed = Arc::new(Mutex::new(None));
        let seen = failed.clone();
        let (ended, steps) = attempt(device, &config, &broken, move |call| {
            // A start makes a thousand calls of the first kinds, a step some ten of the others.
            let chance = match call {
                Call::Buffer | Call::Pipeline | Call::BindGroup => 3e-4,
                Call::Write | Call::Submit | Call::Wait | Call::Map => 1e-2,
            };
            let mut failed = seen.lock().unwrap();
            if failed.is_some() || rng.uniform(0.0, 1.0) >= chance {
                return None;
            }
            let fault = [Fault::Lost, Fault::OutOfMemory][rng.below(2)];
            *failed = Some((call, fault));
            Some(fault)
        });
        taken += steps;
        let failed = *failed.lock().unwrap();
        match (ended, failed) {
            (Ok(()), None) => break,
            (Err(error), Some((call, fault))) => {
                assert_clear(&error, fault, &name);
                *failures.entry((call, fault)).or_default() += 1;
            }
            other => panic!("attempt {number}: {other:?}"),
        }
        if has_checkpoint(&broken) {
            ModelFolder::new(&broken).load_checkpoint(&parameters).unwrap();
        }
    }
    let count: u32 = failures.values().sum();
    println!("{taken} steps for {steps}, {count} failures: {failures:?}");
    assert!(count > steps / 20, "{count} failures in {steps} steps are few");
    assert_same_run(&straight, &broken, &Files::new());
}
