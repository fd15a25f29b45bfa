//! Whole training steps without a device: encoded and validated by wgpu's noop backend at WebGPU's default
//! limits, and the memory plan replayed symbolically, so that no launch reads what another has overwritten.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::classifier::{Architecture, Classifier, ClassifierConfig};
use inkwash::diffusion::{Preset, Sampler, SchedulerConfig, Trajectory, UNet, UNetConfig};
use inkwash::gpu::{Blocking as _, Device};
use inkwash::graph::{Aliasing, Caps, Graph, Home, Kernels, Origin, ValueId};
use inkwash::nn::Precision;
use inkwash::sample::{Drawing, PictureSampler};
use inkwash::train::{Classification, Diffusion, NetworkKind, TrainConfig, TrainPlans, Trainer};

/// Two networks with every variant that WebGPU's defaults know.
fn all() -> impl Iterator<Item = (Preset, Caps)> {
    let variants = || Caps::webgpu(Kernels::Registers).with_f16().variants();
    [Preset::TinyGray, Preset::Small32]
        .into_iter()
        .flat_map(move |p| variants().into_iter().map(move |caps| (p, caps)))
}

fn config(preset: Preset, accumulate: u32, precision: Precision) -> TrainConfig {
    TrainConfig { preset, batch: 2, accumulate, precision, log_every: 4, ..TrainConfig::default() }
}

fn unet(preset: Preset) -> UNet {
    UNet::new(&UNetConfig::preset(preset)).unwrap()
}

fn plans(preset: Preset, accumulate: u32, precision: Precision, caps: &Caps) -> TrainPlans {
    let config = config(preset, accumulate, precision);
    TrainPlans::new(&Diffusion::new(unet(preset), &config), &config.step_options(), caps).unwrap()
}

#[test]
fn training_steps_pass_validation() {
    for (preset, caps) in all() {
        for (accumulate, precision) in
            [(1, Precision::F32), (2, Precision::F32), (1, Precision::F16), (2, Precision::F16)]
        {
            let device = Device::noop(&caps).block_on().unwrap();
            let config = config(preset, accumulate, precision);
            let task = Diffusion::new(unet(preset), &config);
            let mut trainer = Trainer::new(&device, task, config.step_options()).block_on().unwrap();
            let initial = trainer.task.unet.parameters.initial(0);
            trainer.set_parameters(&initial).unwrap();
            let (height, width) = trainer.task.unet.config.sample_size.get();
            let elements = config.batch * height * width * trainer.task.unet.config.in_channels;
            let mut batches = 0;
            for _ in 0..2 {
                trainer
                    .step(&config.hyper(0), || {
                        batches += 1;
                        (vec![0.5; elements], vec![0; config.batch])
                    })
                    .block_on()
                    .unwrap();
            }
            assert_eq!(batches, 2 * accumulate);
            assert!(!trainer.log_is_full());
            let rows = trainer.read_log().block_on().unwrap();
            assert_eq!(rows.iter().map(|r| r.step).collect::<Vec<_>>(), [0, 1], "{preset:?} {caps}");
            assert!(trainer.read_log().block_on().unwrap().is_empty());
            device.check().unwrap();

            let plans = TrainPlans::new(&trainer.task, &config.step_options(), &device.caps).unwrap();
            let (planned, allocated) = (plans.bytes() as f64, trainer.allocated_bytes() as f64);
            println!("{preset:?} {caps} x {accumulate}: {planned} bytes planned, {allocated} allocated");
            assert!((allocated / planned - 1.0).abs() < 0.05, "{planned} planned, {allocated} allocated");
        }
    }
}

#[test]
fn sampling_passes_validation() {
    let both = |one: (Preset, Caps)| [Precision::F32, Precision::F16].map(|p| (one.clone(), p));
    for ((preset, caps), precision) in all().flat_map(both) {
        let device = Device::noop(&caps).block_on().unwrap();
        let store = inkwash::gpu::Store::new(&device);
        let unet = unet(preset).in_precision(precision);
        let weights = unet.parameters.state("weights");
        store.write(&weights, &unet.parameters.initial(0)).unwrap();
        let scheduler = SchedulerConfig { thresholding: true, ..SchedulerConfig::new(Sampler::Ddpm) };
        let trajectory = Trajectory::new(&scheduler, 2, 0.0).unwrap();
        let sampler = PictureSampler::new(&store, &unet, &weights, 2, trajectory).block_on().unwrap();
        let mut seen = Vec::new();
        let pictures = sampler
            .draw(&Drawing::new(3, 0, &[0; 3]), async |progress| {
                seen.push((progress.done, progress.total));
                Ok(())
            })
            .block_on()
            .unwrap();
        let (height, width) = unet.config.sample_size.get();
        assert_eq!(pictures.len(), 3 * height * width * unet.config.out_channels);
        assert_eq!(seen, [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]);
        device.check().unwrap();
    }
}

/// Whether a tensor shows another one's memory.
fn is_view(graph: &Graph, value: ValueId) -> bool {
    match graph.values[value.0].origin {
        Origin::Node(n, _) => matches!(graph.nodes[n].op.aliasing(), Aliasing::View { .. }),
        _ => false,
    }
}

#[test]
fn no_launch_reads_what_another_has_overwritten() {
    for (preset, caps) in all() {
        for (accumulate, precision, fusion) in [
            (1, Precision::F32, true),
            (2, Precision::F32, true),
            (1, Precision::F32, false),
            (1, Precision::F16, true),
            (2, Precision::F16, false),
        ] {
            let plans = plans(preset, accumulate, precision, &caps.clone().with_fusion(fusion));
            let what = format!("{preset:?} {caps} x {accumulate}, {precision:?}, fusion {fusion}");
            let mut reads = 0;
            for plan in [&plans.micro, &plans.update] {
                reads += plan.verify(&caps).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            // Slots are shared at all: tensors take several times the memory that is planned for them, unless fusions have
            // left out most of those that live for a launch or two. In f16 tensors are half as large, but scratch, which lies in
            // slots too and is not counted here, is f32.
            let times = match (precision, fusion) {
                (Precision::F16, _) => 1.2,
                (Precision::F32, true) => 1.5,
                (Precision::F32, false) => 2.0,
            };
            let plan = &plans.micro;
            let slots = plan.bytes_where(|b| b.home == Home::Slot);
            let tensors: u64 = (0..plan.graph.values.len())
                .filter(|&i| plan.placements[i].is_some_and(|p| plan.buffers[p.buffer].home == Home::Slot))
                .filter(|&i| !is_view(&plan.graph, ValueId(i)))
                .map(|i| plan.graph.values[i].spec.bytes() as u64)
                .sum();
            println!("{what}: {reads} reads; {slots} bytes of slots hold {tensors} bytes of tensors");
            assert!(reads > 400 && tensors as f64 > times * slots as f64, "{what}");
        }
    }
}

/// The same of another network, which sums over its pixels.
#[test]
fn no_launch_of_a_classifier_reads_what_another_has_overwritten() {
    for ((preset, caps), architecture) in all().flat_map(|a| Architecture::ALL.map(|b| (a.clone(), b))) {
        for (accumulate, precision) in [(1, Precision::F32), (2, Precision::F16)] {
            let config =
                TrainConfig { network: NetworkKind::Classifier, ..config(preset, accumulate, precision) };
            let network = ClassifierConfig { architecture, ..config.classifier_config(10) };
            let task = Classification(Classifier::new(&network).unwrap().in_precision(precision));
            let plans = TrainPlans::new(&task, &config.step_options(), &caps).unwrap();
            for plan in [&plans.micro, &plans.update] {
                plan.verify(&caps)
                    .unwrap_or_else(|e| panic!("{architecture:?} {preset:?} {caps} x {accumulate}: {e}"));
            }
        }
    }
}

/// The replay itself: sending one tensor to another's slot must not go unseen.
#[test]
fn the_replay_sees_a_spoilt_plan() {
    let (preset, caps) = (Preset::TinyGray, Caps::webgpu(Kernels::Registers));
    let plan = plans(preset, 1, Precision::F32, &caps).micro;
    plan.verify(&caps).unwrap();
    let slots: Vec<usize> =
        (0..plan.buffers.len()).filter(|&b| plan.buffers[b].home == Home::Slot).take(8).collect();
    let mut seen = 0;
    for pair in slots.windows(2) {
        // Both slots in one place, as if their tensors' lives never met. Slots come largest first.
        let mut spoilt = plan.clone();
        for binding in spoilt.launches.iter_mut().flat_map(|l| &mut l.bindings) {
            if binding.buffer == pair[1] {
                binding.buffer = pair[0];
            }
        }
        seen += usize::from(spoilt.verify(&caps).is_err());
    }
    assert_eq!(seen, slots.len() - 1, "slots that hold tensors at the same time were merged unseen");
}
