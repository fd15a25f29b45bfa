//! Training and sampling with activations, their gradients and the weights of products in f16: gradients against the f64
//! interpreter, the scale of the loss that overflows and recovers, repeated bits, and a loss that is that of f32.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::training::{bits, tiny, trainer};
use inkwash::diffusion::{Sampler, Trajectory, UNet, UNetConfig};
use inkwash::gpu::{Blocking as _, Device, Executable, Store};
use inkwash::graph::{Candidate, Caps, Choices, Graph, Kernels, Plan, State, ValueId, interpret};
use inkwash::nn::Precision;
use inkwash::ops::{Add, LossScale};
use inkwash::rng::{Philox, Stream};
use inkwash::sample::{Drawing, PictureSampler};
use inkwash::shader::Extension;
use inkwash::tensor::{Array, Spec};
use inkwash::train::{Diffusion, LogRow, NetworkKind, RunPlan, TrainConfig, Trainer};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// [`tiny`] in f16.
fn half() -> TrainConfig {
    TrainConfig { precision: Precision::F16, ..tiny() }
}

/// √(Σ (a - b)² / Σ b²).
fn relative_l2(a: &[f64], b: &[f64]) -> f64 {
    let square = |sum: f64, x: f64| sum + x * x;
    let error = a.iter().zip(b).map(|(a, b)| a - b).fold(0.0, square);
    (error / b.iter().copied().fold(0.0, square)).sqrt()
}

/// A U-Net that stores in f16, its gradients, and what the interpreter, which rounds nothing, makes of both.
struct Network {
    unet: UNet,
    graph: Graph,
    weights: State,
    initial: Vec<f32>,
    inputs: Vec<(ValueId, Array)>,
    prediction: ValueId,
    gradients: ValueId,
    exact: Vec<Array>,
}

impl Network {
    fn new() -> Self {
        // 128 channels in the lower level: where query, key and value, and time projections, are joined to one product.
        let config = UNetConfig {
            num_class_embeds: Some(3),
            block_out_channels: vec![16, 128],
            ..tiny().unet_config(0)
        };
        let unet = UNet::new(&config).unwrap().in_precision(Precision::F16);
        let mut graph = Graph::new();
        let weights = unet.parameters.state("weights");
        let flat = graph.state(&weights);
        let views = unet.parameters.views(&mut graph, flat).unwrap();
        let x = graph.input("x", Spec::f32([2, 8, 8, 1]));
        let t = graph.input("t", Spec::f32([2]));
        let labels = graph.input("labels", Spec::u32([2]));
        let prediction = unet.forward(&mut graph, &views, x, t, Some(labels)).unwrap();
        assert_eq!(*graph.spec(prediction), Spec::f32([2, 8, 8, 1]));
        graph.output("prediction", prediction);
        let seed = graph.input("seed", graph.spec(prediction).clone());
        let gradients = graph.backward(Add, &[(prediction, seed)], &views).unwrap();
        let gradients: Vec<ValueId> = views.iter().map(|v| gradients[v]).collect();
        assert!(gradients.iter().all(|&g| graph.spec(g).dtype.name() == "f32"));
        let gradients = unet.parameters.pack(&mut graph, &gradients).unwrap();
        graph.output("gradients", gradients);

        let initial = unet.parameters.initial(1);
        let mut rng = Philox::new(4, Stream::Cases, 0);
        let mut normal = |value: ValueId| Array::from_fn(graph.shape(value), |_| rng.normal());
        let inputs = vec![
            (x, normal(x)),
            (seed, normal(seed)),
            (t, Array::new([2], vec![100.0, 700.0])),
            (labels, Array::new([2], vec![2.0, 0.0])),
        ];
        let mut given: HashMap<ValueId, Array> = inputs.iter().cloned().collect();
        given.insert(flat, Array::new([initial.len()], initial.iter().map(|&w| w.into()).collect()));
        let exact = interpret(&graph, &given);
        Self { unet, graph, weights, initial, inputs, prediction, gradients, exact }
    }

    /// Runs a plan of it so many times, which must give the same bits, and compares them with the interpreter's.
    ///
    /// A number stored as f16 is off by 2^-11 = 4.9e-4 at most, by a third of that in the mean square. A gradient here has passed
    /// through some hundred such roundings on its way, up to the prediction and back down, which add up like √100 at the most:
    /// 2e-3. 1e-2 leaves room for the cancellation in group norm; weights that were mixed up, or a sum kept in f16, are off by far
    /// more.
    fn check(&self, device: &Arc<Device>, plan: Plan, title: &str, runs: usize) {
        let store = Store::new(device);
        store.write(&self.weights, &self.initial).unwrap();
        let executable = Executable::new(&store, plan).block_on().unwrap();
        self.inputs.iter().for_each(|(value, numbers)| executable.write_values(*value, &numbers.data));
        let run = || {
            executable.run().block_on().unwrap();
            [self.prediction, self.gradients].map(|value| executable.read_values(value).block_on().unwrap())
        };
        let [prediction, gradients] = run();
        for number in 1..runs {
            assert!(run() == [prediction.clone(), gradients.clone()], "{title}: run {number} has other bits");
        }
        let of_prediction = relative_l2(&prediction, &self.exact[self.prediction.0].data);
        let expected = &self.exact[self.gradients.0].data;
        let of_all = relative_l2(&gradients, expected);
        println!("{title}: prediction {of_prediction:.1e}, gradients {of_all:.1e}");
        assert!(of_prediction < 1e-2 && of_all < 1e-2);
        let mut worst: f64 = 0.0;
        // Each parameter, but for the biases of `to_k`, whose gradient is rounding: the softmax does not see them.
        for p in self.unet.parameters.iter().filter(|p| !p.name.ends_with("to_k.bias")) {
            let range = p.offset..p.offset + p.elements();
            let error = relative_l2(&gradients[range.clone()], &expected[range]);
            worst = worst.max(error);
            assert!(error < 1e-2, "{title}: {} is off by {error:.1e}", p.name);
        }
        println!("the worst parameter: {worst:.1e}");
    }
}

/// Prediction and gradients by each kind of kernels, with fusions and without.
#[test]
fn gradients_are_those_of_the_interpreter() {
    let Some(device) = common::open_device().filter(|device| device.caps.features.f16) else {
        common::skip("no device with f16");
        return;
    };
    let network = Network::new();
    for caps in device.caps.variants() {
        for fusion in [true, false] {
            let plan = Plan::new(network.graph.clone(), &caps.clone().with_fusion(fusion)).unwrap();
            assert!(!fusion || plan.fusions.iter().all(|f| f.count > 2), "{:?}", plan.fusions);
            network.check(&device, plan, &format!("{caps}, fusion {fusion}"), 1);
        }
    }
}

/// The same with matrix units wherever an operator has an algorithm that uses them, twenty times.
#[test]
fn gradients_on_matrix_units_are_those_of_the_interpreter() {
    let Some(device) = common::open_device() else { return };
    if ![8, 16].iter().any(|&side| device.caps.features.multiplies_f16(side)) {
        common::skip("the device has no matrix units");
        return;
    }
    let network = Network::new();
    for fusion in [true, false] {
        let mut caps = device.caps.clone().with_fusion(fusion);
        let of_rule = Plan::new(network.graph.clone(), &caps).unwrap();
        caps.choices = Choices::of(&[&of_rule], &caps, Candidate::on_matrix_units).into();
        let plan = Plan::new(network.graph.clone(), &caps).unwrap();
        let on_matrix_units: BTreeSet<&str> = plan
            .launches
            .iter()
            .filter(|launch| launch.dispatch.variant.extensions().any(|e| e == Extension::CooperativeMatrix))
            .map(|launch| plan.graph.nodes[launch.node].op.name())
            .collect();
        let mut expected = vec!["conv2d", "conv2d_backward_input", "conv2d_backward_weight", "linear"];
        expected.extend(["linear_backward_input", "linear_backward_weight"]);
        if fusion {
            expected.extend([
                "linear_layers",
                "linear_layers_backward_input",
                "linear_layers_backward_weight",
            ]);
        }
        for op in expected {
            assert!(on_matrix_units.contains(op), "{op} is none of {on_matrix_units:?}");
        }
        network.check(&device, plan, &format!("matrix units, fusion {fusion}"), 20);
    }
}

/// One picture for all items, so that a step is decided by its number.
fn step(trainer: &mut Trainer<Diffusion>) -> LogRow {
    let hyper = trainer.task.config.hyper(trainer.next_step());
    let pictures: Vec<f32> = (0..8 * 64).map(|i| ((i * 37 % 64) as f32 - 32.0) / 32.0).collect();
    trainer.step(&hyper, || (pictures.clone(), vec![0; 8])).block_on().unwrap();
    trainer.read_log().block_on().unwrap().pop().unwrap()
}

/// The devices that store f16, one for each kind of kernels.
fn devices() -> Vec<Arc<Device>> {
    let devices: Vec<_> = common::every_variant().filter(|device| device.caps.features.f16).collect();
    if devices.is_empty() {
        common::skip("no device with f16");
    }
    devices
}

/// A scale that is far too large: steps change nothing and halve it, until one is taken; the copy that products read is then that
/// of the new weights.
#[test]
fn a_scale_that_is_too_large_is_halved_until_it_fits() {
    for device in devices() {
        let mut trainer = trainer(&device, &half());
        let before = trainer.checkpoint().block_on().unwrap();
        assert_eq!(before.loss_scale, Some(LossScale::INITIAL));
        // 2 / (8 · 64) of a difference of about 1, and so the first gradient that is stored, times 2^26 is 2^18.
        let too_large = LossScale { scale: 2f64.powi(26), ..LossScale::INITIAL };
        let state = trainer.states.loss_scale.clone().unwrap();
        trainer.store.write(&state, &too_large.words()).unwrap();
        let mut skipped = 0;
        let taken = loop {
            let row = step(&mut trainer);
            assert!(
                row.loss.is_finite() && row.loss_scale == Some((too_large.scale / 2f64.powi(skipped)) as f32)
            );
            if row.finite {
                break row;
            }
            assert!(row.is_skipped_by_scale() && row.gradient_norm == 0.0);
            skipped += 1;
            let now = trainer.checkpoint().block_on().unwrap();
            assert!(now.states == before.states && now.steps_taken == 0, "a skipped step changed something");
            assert!(skipped < 24, "the scale never fits");
        };
        let after = trainer.checkpoint().block_on().unwrap();
        println!("{device:?}: {skipped} steps skipped, then {taken:?}");
        assert!(skipped >= 2 && after.steps_taken == 1 && after.states[0] != before.states[0]);
        let scale = too_large.scale / 2f64.powi(skipped);
        assert_eq!(after.loss_scale, Some(LossScale { scale, steps: 1.0, skips: f64::from(skipped) }));

        let copy = trainer.states.copy.clone().unwrap();
        let words = trainer.store.read_u32(&copy).block_on().unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let rounded: Vec<u8> =
            copy.spec.dtype.encode(&after.states[0].iter().map(|&w| w.into()).collect::<Vec<_>>());
        assert!(bytes == rounded, "the copy is not that of the weights");
    }
}

/// The norm of the gradient and the loss do not depend on the scale, up to the rounding of f16.
#[test]
fn steps_are_those_of_f32() {
    for device in devices() {
        let rows = |config: &TrainConfig| {
            let mut trainer = trainer(&device, config);
            (0..100).map(|_| step(&mut trainer)).collect::<Vec<_>>()
        };
        let (single, mixed) = (rows(&tiny()), rows(&half()));
        assert!(single.iter().all(|row| row.loss_scale.is_none()));
        let (first, expected) = (&mixed[0], &single[0]);
        println!("{device:?}: {expected:?} in f32, {first:?} in f16");
        assert!((first.gradient_norm / expected.gradient_norm - 1.0).abs() < 1e-2);
        assert!((first.loss / expected.loss - 1.0).abs() < 1e-2);
        let mean = |rows: &[LogRow]| rows[70..].iter().map(|row| f64::from(row.loss)).sum::<f64>() / 30.0;
        let (a, b) = (mean(&mixed), mean(&single));
        println!("{device:?}: loss of the last 30 of 100 steps {b:.4} in f32, {a:.4} in f16");
        assert!((a / b - 1.0).abs() < 0.03, "{device:?}: {a} in f16, {b} in f32");
    }
}

#[test]
fn two_runs_agree_bit_for_bit() {
    for device in devices() {
        let run = |accumulate: u32| {
            let mut trainer = trainer(&device, &TrainConfig { accumulate, ..half() });
            let losses: Vec<u32> = (0..3).map(|_| step(&mut trainer).loss.to_bits()).collect();
            (losses, trainer.checkpoint().block_on().unwrap().states.map(|s| bits(&s)))
        };
        assert!(run(1) == run(1), "{device:?}: other bits");
        assert!(run(2) == run(2), "{device:?}: other bits of two micro-batches");
    }
}

/// Pictures differ from those of f32 by what f16 rounds. Six steps of DDIM divide the error of the first answers, 8e-4, by the
/// signal in almost pure noise, and the clamp holds what comes of it: 6e-3 here.
#[test]
fn pictures_are_those_of_f32() {
    for device in devices() {
        let config = tiny();
        let draw = |precision: Precision| {
            let unet = UNet::new(&config.unet_config(0)).unwrap();
            let (layout, weights) = (unet.parameters.clone(), unet.parameters.initial(3));
            let unet = unet.in_precision(precision);
            let store = Store::new(&device);
            let state = unet.parameters.state("weights");
            store.write(&state, &unet.parameters.moved(&layout, &weights)).unwrap();
            let trajectory = Trajectory::new(&config.scheduler(Sampler::Ddim), 6, 0.0).unwrap();
            let sampler = PictureSampler::new(&store, &unet, &state, 3, trajectory).block_on().unwrap();
            sampler.draw(&Drawing::new(3, 1, &[0; 3]), async |_| Ok(())).block_on().unwrap()
        };
        let (single, half) = (draw(Precision::F32), draw(Precision::F16));
        let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let error = relative_l2(&wide(&half), &wide(&single));
        println!("{device:?}: pictures {error:.1e} apart");
        assert!(error > 0.0 && error < 2e-2, "{device:?}: {error:.1e}");
    }
}

/// What half the bytes of an activation save of the whole: weights, moments and the average stay f32, and so do sums in parts.
#[test]
fn a_step_takes_less_memory() {
    let caps = Caps::webgpu(Kernels::Workgroup).with_f16();
    let open = Caps {
        limits: inkwash::graph::Limits { binding_bytes: u64::MAX, buffer_bytes: u64::MAX, ..caps.limits },
        ..caps
    };
    let config =
        TrainConfig { preset: inkwash::diffusion::Preset::Cifar, batch: 128, ..TrainConfig::default() };
    let [single, half] = [Precision::F32, Precision::F16].map(|precision| {
        let plan = RunPlan::new(&TrainConfig { precision, ..config.clone() }, &open).unwrap();
        println!("{}: {} launches, {} bytes", precision.name(), plan.plans.micro.launches.len(), plan.bytes);
        plan.bytes as f64
    });
    println!("{:.3} of f32", half / single);
    assert!(half <= 0.6 * single, "{half} bytes of {single}");
}

/// Refused before anything is allocated, by the flag's name.
#[test]
fn a_device_without_f16_is_told_what_to_do() {
    for network in [NetworkKind::Unet, NetworkKind::Classifier] {
        let config = TrainConfig { precision: Precision::F16, network, ..TrainConfig::default() };
        let config = config.with_network(&["a".into(), "b".into()]);
        let e = RunPlan::new(&config, &Caps::webgpu(Kernels::Registers)).unwrap_err().to_string();
        for words in ["is f16", "cannot store", "leave --precision f16 out", "--device"] {
            assert!(e.contains(words), "{e}");
        }
    }
}
