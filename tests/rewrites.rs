//! Every rewrite of a graph keeps its numbers: the f64 interpreter before and after, on graphs of the catalogue with their
//! gradients and on a whole network.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::diffusion::{Preset, UNet, UNetConfig};
use inkwash::graph::{Graph, State, ValueId, interpret, rewrite};
use inkwash::nn::Size;
use inkwash::ops::{self, Accumulate, Add, Case, STEP_WORDS, Silu, View};
use inkwash::rng::{Philox, Stream};
use inkwash::tensor::{Array, Shape, Spec};
use std::collections::HashMap;

type Given = HashMap<ValueId, Array>;

/// Runs a graph before and after, compares what is asked for bit by bit, and returns the number of nodes that were left out.
fn same_numbers(name: &str, graph: &Graph, given: &Given) -> usize {
    let rewritten = rewrite::without_dead_nodes(graph.clone());
    let (before, after) = (interpret(graph, given), interpret(&rewritten, given));
    let asked: Vec<ValueId> = graph.outputs.iter().chain(graph.persistent.keys()).copied().collect();
    assert!(!asked.is_empty(), "{name}: nothing is asked for");
    for value in asked {
        assert_eq!(before[value.0], after[value.0], "{name}: tensor {value:?}");
    }
    graph.nodes.len() - rewritten.nodes.len()
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
        removed += same_numbers(&case.title(), &graph, &given);
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

#[test]
fn a_networks_graph_keeps_its_numbers() {
    // At 8x8 pixels the interpreter takes a moment instead of a minute.
    let config = UNetConfig { sample_size: Size::Square(8), ..UNetConfig::preset(Preset::TinyGray) };
    let unet = UNet::new(&config).unwrap();
    let mut graph = Graph::new();
    let flat = graph.state(&unet.parameters.state("weights"));
    let views = unet.parameters.views(&mut graph, flat).unwrap();
    let x = graph.input("x", Spec::f32([1, 8, 8, 1]));
    let t = graph.input("t", Spec::f32([1]));
    // Recording makes a norm that the network itself does not use.
    let (output, _) = unet.forward_recorded(&mut graph, &views, x, t, None).unwrap();
    graph.output("prediction", output);
    let weights = unet.parameters.initial(1).into_iter().map(f64::from).collect();
    let mut rng = Philox::new(4, Stream::Cases, 0);
    let given = HashMap::from([
        (flat, Array::new([unet.parameters.flat_elements()], weights)),
        (x, Array::from_fn(graph.shape(x), |_| rng.normal())),
        (t, Array::new([1], vec![500.0])),
    ]);
    assert_eq!(same_numbers("tiny-gray", &graph, &given), 1);
}
