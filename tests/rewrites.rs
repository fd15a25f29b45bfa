//! Every rewrite of a graph keeps its numbers: the f64 interpreter before and after, on graphs of the catalogue with their
//! gradients and on a whole network.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use inkwash::diffusion::{Preset, TimeScaleShift, UNet, UNetConfig};
use inkwash::gpu::{Blocking as _, Executable, Store};
use inkwash::graph::{Caps, Graph, Kernels, Origin, Plan, State, ValueId, interpret, rewrite};
use inkwash::nn::{Precision, Size};
use inkwash::ops::{self, Accumulate, Add, Case, Linear, STEP_WORDS, Silu, View, pack};
use inkwash::rng::{Philox, Stream};
use inkwash::tensor::{Array, Shape, Spec};
use std::collections::HashMap;

type Given = HashMap<ValueId, Array>;

/// Runs a graph before and after all rewrites, compares what is asked for, and returns the number of nodes that were left
/// out and of fusions. Without fusions the numbers are the same bits; with them sums may be taken in another order.
fn same_numbers(name: &str, graph: &Graph, given: &Given) -> (usize, usize) {
    let without = rewrite::without_dead_nodes(graph.clone());
    let (fused, fusions) = rewrite::rewritten(graph.clone(), &Caps::webgpu(Kernels::Workgroup));
    let count: usize = fusions.iter().map(|f| f.count).sum();
    let (before, after) = (interpret(graph, given), interpret(&without, given));
    let fused = if count > 0 { interpret(&fused, given) } else { after.clone() };
    let asked: Vec<ValueId> = graph.outputs.iter().chain(graph.persistent.keys()).copied().collect();
    assert!(!asked.is_empty(), "{name}: nothing is asked for");
    for value in asked {
        assert_eq!(before[value.0], after[value.0], "{name}: tensor {value:?}");
        let largest = before[value.0].data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (i, (a, b)) in before[value.0].data.iter().zip(&fused[value.0].data).enumerate() {
            assert!((a - b).abs() <= 1e-12 * largest, "{name}: element {i} of {value:?}: {a} became {b}");
        }
    }
    (graph.nodes.len() - without.nodes.len(), count)
}

/// The operator, the gradients of its inputs, and nodes that nobody asks for; the output and the first gradient are kept.
fn graph_of(case: &Case) -> (Graph, Given) {
    let mut graph = Graph::new();
    let arrays = case.arrays();
    let inputs: Vec<ValueId> = case.inputs.iter().map(|(spec, _)| graph.input("x", spec.clone())).collect();
    let mut given: Given = inputs.iter().copied().zip(arrays).collect();
    let y = graph.apply_shared(case.op.clone(), &inputs).unwrap()[0];
    graph.output("y", y);
    if graph.spec(y).dtype.is_float() {
        let unused = graph.apply(Silu, &[y]).unwrap();
        graph.apply(Silu, &[unused]).unwrap();
    }
    if !case.gradients.is_empty() {
        let mut rng = Philox::new(3, Stream::Cases, 0);
        let seed = graph.input("seed", graph.spec(y).clone());
        given.insert(seed, Array::from_fn(graph.shape(y), |_| rng.normal()));
        let wrt: Vec<ValueId> = case.gradients.iter().map(|&i| inputs[i]).collect();
        let gradients = graph.backward(Add, &[(y, seed)], &wrt).unwrap();
        graph.output("dx", gradients[&wrt[0]]);
    }
    (graph, given)
}

#[test]
fn the_catalogues_graphs_keep_their_numbers() {
    let (mut graphs, mut removed) = (0, 0);
    for case in ops::catalogue().iter().filter(|case| !case.large) {
        let (graph, given) = graph_of(case);
        removed += same_numbers(&case.title(), &graph, &given).0;
        graphs += 1;
    }
    println!("{graphs} graphs, {removed} nodes left out");
    assert!(graphs > 300 && removed > 2 * 300);
}

/// A state that is overwritten in place is asked for by whoever reads it in a later run, though no node of this graph does:
/// directly, or by a view of it.
#[test]
fn updates_of_states_in_place_are_kept() {
    for of_a_view in [false, true] {
        let mut graph = Graph::new();
        let mut sum = graph.state(&State::new("sum", Spec::f32([64])));
        let x = graph.input("x", Spec::f32([64]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        if of_a_view {
            sum = graph.apply(View { offset: 0, shape: Shape::new([64]) }, &[sum]).unwrap();
        }
        let gradient = graph.apply(Silu, &[x]).unwrap();
        let updated = graph.apply(Accumulate, &[sum, gradient, step]).unwrap();
        graph.apply(Silu, &[x]).unwrap();
        let rewritten = rewrite::without_dead_nodes(graph.clone());
        assert_eq!(graph.nodes.len() - rewritten.nodes.len(), 1, "the last node alone is dead");
        let given = HashMap::from([(x, Array::new([64], vec![1.5; 64]))]);
        assert_eq!(interpret(&graph, &given)[updated.0], interpret(&rewritten, &given)[updated.0]);
    }
}

/// A training step's graph, loss and gradients, on pictures so small that the interpreter takes a moment instead of a minute.
fn step_graph(
    config: &UNetConfig,
    batch: usize,
    labels: Option<&[f64]>,
    precision: Precision,
) -> (Graph, Given) {
    let unet = UNet::new(config).unwrap().in_precision(precision);
    let mut graph = Graph::new();
    let flat = graph.state(&unet.parameters.state("weights"));
    let views = unet.parameters.views(&mut graph, flat).unwrap();
    let (height, width) = config.sample_size.get();
    let x = graph.input("x", Spec::f32([batch, height, width, config.in_channels]));
    let t = graph.input("t", Spec::f32([batch]));
    let label = labels.map(|_| graph.input("labels", Spec::u32([batch])));
    let output = unet.forward(&mut graph, &views, x, t, label).unwrap();
    graph.output("prediction", output);
    let seed = graph.input("seed", graph.spec(output).clone());
    let gradients = graph.backward(Add, &[(output, seed)], &views).unwrap();
    let gradients: Vec<ValueId> = views.iter().map(|v| gradients[v]).collect();
    let packed = unet.parameters.pack(&mut graph, &gradients).unwrap();
    graph.persist(&unet.parameters.state("gradients"), packed);
    let weights = unet.parameters.initial(1).into_iter().map(f64::from).collect();
    let mut rng = Philox::new(4, Stream::Cases, 0);
    let mut given = HashMap::from([
        (flat, Array::new([unet.parameters.flat_elements()], weights)),
        (x, Array::from_fn(graph.shape(x), |_| rng.normal())),
        (seed, Array::from_fn(graph.shape(seed), |_| rng.normal())),
        (t, Array::new([batch], (0..batch).map(|n| 100.0 + 200.0 * n as f64).collect())),
    ]);
    if let (Some(label), Some(labels)) = (label, labels) {
        given.insert(label, Array::new([batch], labels.to_vec()));
    }
    (graph, given)
}

#[test]
fn a_networks_graph_keeps_its_numbers() {
    let plain = UNetConfig { sample_size: Size::Square(8), ..UNetConfig::preset(Preset::TinyGray) };
    let modulated = UNetConfig {
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        num_class_embeds: Some(3),
        ..plain.clone()
    };
    let labels = Some([2.0, 0.0].as_slice());
    for (name, config, labels, precision) in [
        ("tiny-gray", &plain, None, Precision::F32),
        ("tiny-gray in f16", &plain, None, Precision::F16),
        ("modulated, with classes", &modulated, labels, Precision::F32),
        ("modulated, with classes, in f16", &modulated, labels, Precision::F16),
    ] {
        let (graph, given) = step_graph(config, 2, labels, precision);
        let (_, fusions) = same_numbers(name, &graph, &given);
        println!("{name}: {fusions} fusions");
        assert!(fusions > 20, "{name}: {fusions} fusions");
    }
}

/// Recording makes a norm that the network itself does not use.
#[test]
fn what_a_network_does_not_use_is_left_out() {
    let config = UNetConfig { sample_size: Size::Square(8), ..UNetConfig::preset(Preset::TinyGray) };
    let unet = UNet::new(&config).unwrap();
    let mut graph = Graph::new();
    let flat = graph.state(&unet.parameters.state("weights"));
    let views = unet.parameters.views(&mut graph, flat).unwrap();
    let x = graph.input("x", Spec::f32([1, 8, 8, 1]));
    let t = graph.input("t", Spec::f32([1]));
    let (output, _) = unet.forward_recorded(&mut graph, &views, x, t, None).unwrap();
    graph.output("prediction", output);
    let weights = unet.parameters.initial(1).into_iter().map(f64::from).collect();
    let mut rng = Philox::new(4, Stream::Cases, 0);
    let given = HashMap::from([
        (flat, Array::new([unet.parameters.flat_elements()], weights)),
        (x, Array::from_fn(graph.shape(x), |_| rng.normal())),
        (t, Array::new([1], vec![500.0])),
    ]);
    assert_eq!(same_numbers("tiny-gray", &graph, &given).0, 1);
}

/// A training step on a device, by every kind of kernels: prediction and gradients with and without fusions.
#[test]
fn a_networks_step_is_the_same_on_a_device() {
    let Some(device) = common::open_device() else { return };
    let config = UNetConfig { sample_size: Size::Square(8), ..UNetConfig::preset(Preset::TinyGray) };
    let (graph, given) = step_graph(&config, 2, None, Precision::F32);
    let asked: Vec<ValueId> = graph.outputs.iter().chain(graph.persistent.keys()).copied().collect();
    for caps in device.caps.variants() {
        let run = |fusion: bool| -> Vec<Vec<f64>> {
            let plan = Plan::new(graph.clone(), &caps.clone().with_fusion(fusion)).unwrap();
            println!("{caps}, fusion {fusion}: {} launches, {} bytes", plan.launches.len(), plan.bytes());
            let store = Store::new(&device);
            for (value, numbers) in &given {
                if let Origin::State = graph.values[value.0].origin {
                    let state = State::new(graph.values[value.0].name.clone(), graph.spec(*value).clone());
                    store.write(&state, &numbers.data.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap();
                }
            }
            let executable = Executable::new(&store, plan).block_on().unwrap();
            for (value, numbers) in &given {
                if let Origin::Input = graph.values[value.0].origin {
                    executable.write(*value, &numbers.data.iter().map(|&v| v as f32).collect::<Vec<_>>());
                }
            }
            executable.run().block_on().unwrap();
            asked.iter().map(|&v| executable.read_values(v).block_on().unwrap()).collect()
        };
        for (fused, plain) in run(true).iter().zip(run(false)) {
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let error =
                norm(&mut fused.iter().zip(&plain).map(|(a, b)| a - b)) / norm(&mut plain.iter().copied());
            println!("{caps}: {} numbers, {error:.1e} apart", plain.len());
            // As far as the goldens let a device be from PyTorch, of which most is the order of the sums of group norms.
            assert!(error < 1e-5, "{caps}: {error:.1e}");
        }
    }
}

/// What is read twice, kept, or packed is not fused away.
#[test]
fn a_result_that_somebody_else_reads_keeps_its_launch() {
    type Change = fn(&mut Graph, ValueId, ValueId);
    let changes: [(Change, usize); 4] = [
        (|_, _, _| {}, 1),
        (|graph, product, _| graph.output("product", product), 0),
        (
            |graph, product, _| {
                let y = graph.apply(Silu, &[product]).unwrap();
                graph.output("silu", y);
            },
            0,
        ),
        (
            |graph, _, sum| {
                let packed = pack(graph, &[sum], vec![0], 64).unwrap();
                graph.output("packed", packed);
            },
            0,
        ),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let mut graph = Graph::new();
        let of = |graph: &mut Graph, name, axes: &[usize]| graph.input(name, Spec::f32(axes));
        let (x, w, b) =
            (of(&mut graph, "x", &[8, 4]), of(&mut graph, "w", &[4, 8]), of(&mut graph, "b", &[8]));
        let addend = of(&mut graph, "addend", &[8, 8]);
        let product = graph.apply(Linear, &[x, w, b]).unwrap();
        let sum = graph.apply(Add, &[addend, product]).unwrap();
        change(&mut graph, product, sum);
        if number != 3 {
            graph.output("sum", sum);
        }
        let mut rng = Philox::new(5, Stream::Cases, 0);
        let given =
            [x, w, b, addend].into_iter().map(|v| (v, Array::from_fn(graph.shape(v), |_| rng.normal())));
        let (_, fusions) = same_numbers("a sum", &graph, &given.collect());
        assert_eq!(fusions, expected, "change {number}");
    }
}
