//! Profiles of real steps: they disturb nothing, and account for what they say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::open_device;
use inkwash::diffusion::{DownBlock, UNet, UNetConfig, UpBlock};
use inkwash::gpu::{Blocking as _, Clock, Device, Executable};
use inkwash::graph::{Choices, Phase};
use inkwash::nn::Size;
use inkwash::profile::table::{By, rows};
use inkwash::profile::{Options, Profile, operator, training_step};
use inkwash::train::{Diffusion, TrainConfig, Trainer};
use std::sync::Arc;

fn tiny() -> TrainConfig {
    let unet = UNetConfig {
        sample_size: Size::Square(8),
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![8],
        layers_per_block: 1,
        down_block_types: vec![DownBlock::DownBlock2D],
        up_block_types: vec![UpBlock::UpBlock2D],
        norm_num_groups: 4,
        ..UNetConfig::default()
    };
    TrainConfig { batch: 2, accumulate: 2, log_every: 50, unet: Some(unet), ..TrainConfig::default() }
}

fn clocks(device: &Device) -> impl Iterator<Item = Clock> {
    Clock::ALL.into_iter().filter(|clock| clock.suits(&device.caps.features))
}

/// What three steps leave: states and losses, as bits.
fn after_three_steps(device: &Arc<Device>, clock: Option<Clock>) -> Vec<Vec<u32>> {
    let config = tiny();
    let unet = UNet::new(&config.unet_config(0)).unwrap();
    let initial = unet.parameters.initial(config.seed);
    let mut trainer =
        Trainer::new(device, Diffusion::new(unet, &config), config.step_options()).block_on().unwrap();
    trainer.set_parameters(&initial).unwrap();
    let pictures: Vec<f32> = (0..2 * 8 * 8).map(|i| (i % 7) as f32 / 7.0).collect();
    for step in 0..3 {
        let batch = || (pictures.clone(), vec![0; 2]);
        let hyper = config.hyper(step);
        match clock {
            None => trainer.step(&hyper, batch).block_on().unwrap(),
            Some(clock) => {
                let mut launches = 0;
                let run = async |executable: &Executable| {
                    let (ticks, _) = executable.run_timed(clock).await?.read().await?;
                    assert_eq!(ticks.len(), executable.plan().launches.len());
                    launches += ticks.len();
                    Ok(())
                };
                trainer.step_by(&hyper, batch, run).block_on().unwrap();
                assert!(launches > 100, "{launches}");
            }
        }
    }
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let checkpoint = trainer.checkpoint().block_on().unwrap();
    let log = trainer.read_log().block_on().unwrap();
    let losses: Vec<f32> = log.iter().flat_map(|row| [row.loss, row.gradient_norm]).collect();
    let mut found: Vec<_> = checkpoint.states.iter().map(|state| bits(state)).collect();
    found.push(bits(&losses));
    found
}

#[test]
fn a_profiled_step_leaves_what_a_step_leaves() {
    let Some(device) = open_device() else { return };
    let expected = after_three_steps(&device, None);
    assert!(expected[4].iter().all(|&bits| f32::from_bits(bits) > 0.0));
    for clock in clocks(&device) {
        assert!(after_three_steps(&device, Some(clock)) == expected, "{clock:?}");
    }
}

fn check(profile: &Profile) {
    let sum = |f: fn(&inkwash::profile::LaunchProfile) -> f64| profile.launches.iter().map(f).sum::<f64>();
    assert!((sum(|l| l.share) - 1.0).abs() < 1e-9);
    assert!(
        profile
            .launches
            .iter()
            .all(|l| l.seconds.p5 <= l.seconds.median && l.seconds.median <= l.seconds.p95)
    );
    assert!(profile.launches.iter().all(|l| l.samples.len() == profile.runs && l.seconds.p5 >= 0.0));
    assert!(profile.launched.median > 0.0 && profile.wall_seconds > 0.0);
    // The launches of each run, together: times are kept to the nanosecond.
    let of_run = |run: usize| profile.launches.iter().map(|l| l.samples[run]).sum::<f64>();
    let mut launched: Vec<f64> = (0..profile.runs).map(of_run).collect();
    launched.sort_by(f64::total_cmp);
    let rounding = 1e-9 * profile.launches.len() as f64;
    let middle = 0.5 * (launched[(profile.runs - 1) / 2] + launched[profile.runs / 2]);
    assert!((profile.launched.median - middle).abs() < rounding);
    assert_eq!(profile.unaccounted_seconds(), profile.wall_seconds - profile.accounted_seconds);
    assert!(
        profile.roofs.flops_per_s > 0.0
            && profile.roofs.bytes_per_s > 0.0
            && profile.roofs.launch_seconds > 0.0
            && profile.roofs.workgroup_bytes_per_s > Some(0.0)
    );
}

#[test]
fn nothing_is_captured_without_a_debugger() {
    let Some(device) = open_device() else { return };
    let options = Options { runs: 1, capture: true, ..Options::default() };
    let error = training_step(&device, &tiny(), None, Choices::default(), &options).unwrap_err();
    assert!(error.to_string().contains("no debugger is attached"), "{error}");
}

#[test]
fn a_training_step_is_measured_by_every_clock() {
    let Some(device) = open_device() else { return };
    for clock in clocks(&device) {
        // Of a single run, every median is its one value, and the account is a sum.
        let options = Options { runs: 1, warmup: 1, clock: Some(clock), ..Options::default() };
        let one = training_step(&device, &tiny(), None, Choices::default(), &options).unwrap();
        check(&one);
        let [upload, encode, launched, gaps] =
            [one.upload, one.encode, one.launched, one.gaps].map(|part| part.median);
        let sum = upload + encode + launched + gaps - one.timing_seconds;
        assert!((one.accounted_seconds - sum).abs() < 1e-9, "{} and {sum}", one.accounted_seconds);

        let options = Options { runs: 3, ..options };
        let profile = training_step(&device, &tiny(), None, Choices::default(), &options).unwrap();
        check(&profile);
        assert_eq!((profile.clock, profile.runs), (clock, 3));
        // Every launch of a micro-batch ran twice, those of the update once.
        for launch in &profile.launches {
            assert_eq!(launch.calls, if launch.phase == Phase::Update { 1 } else { 2 }, "{}", launch.op);
        }
        let phases: Vec<String> = rows(&profile, By::Phase, None).into_iter().map(|row| row.name).collect();
        for phase in ["data", "noise", "forward", "loss", "backward", "update"] {
            assert!(phases.iter().any(|name| name == phase), "{phases:?}");
        }
        let spans = &profile.timeline.device;
        assert_eq!(spans.len(), profile.launches.iter().map(|l| l.calls).sum::<usize>());
        assert!(spans.is_sorted_by(|a, b| a.begin <= b.begin));
        // What files hold beside the launches.
        let json = serde_json::to_value(&profile).unwrap();
        for key in
            ["wall_seconds", "accounted_seconds", "clock", "device", "driver", "config", "date", "gaps"]
        {
            assert!(!json[key].is_null(), "{key}");
        }
        let keys = [
            "phase",
            "module",
            "op",
            "shader",
            "entry",
            "variant",
            "calls",
            "flops",
            "bytes",
            "roof_share",
            "limit",
        ];
        for key in keys {
            assert!(!json["launches"][0][key].is_null(), "{key}");
        }
        assert!(json["launches"][0]["seconds"]["p95"].is_f64());
    }
}

#[test]
fn an_operator_is_measured_alone() {
    let Some(device) = open_device() else { return };
    let case = inkwash::ops::catalogue().into_iter().find(|case| case.op.name() == "group_norm").unwrap();
    let profile =
        operator(&device, std::slice::from_ref(&case), &Options { runs: 2, ..Options::default() }).unwrap();
    check(&profile);
    let (roofs, features) = (&profile.roofs, &device.caps.features);
    assert_eq!(roofs.f16_flops_per_s > Some(0.0), features.f16);
    assert_eq!(roofs.subgroup_shuffles_per_s > Some(0.0), features.subgroups.is_some());
    assert_eq!(profile.subject, case.title());
    assert!(profile.launches.iter().all(|l| l.op == "group_norm" && l.module == case.name));
}
