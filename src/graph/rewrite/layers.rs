//! Linear layers of one input, of equal widths, as one: query, key and value, the time projections. The parameters of such layers
//! must lie one behind the other in one tensor, or, in f16, weights and biases in two tensors that are laid out alike; with them go
//! their gradients, if those are packed likewise.

use super::{Uses, maker, renumber};
use crate::graph::{Aliasing, Graph, Joined, LinearPart, Node, Op, Origin, Value, ValueId};
use crate::tensor::{DType, Shape, Spec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a multiple of which the outputs of a row must be, so that everything that is laid side by side can be bound.
const ROW_BYTES: usize = 256;

/// Layers of one x whose parameters follow each other.
struct Run {
    x: ValueId,
    /// The tensors that hold the weights and the biases, one and the same but in f16.
    roots: (ValueId, ValueId),
    /// The first element of the first weight.
    first: usize,
    inputs: usize,
    outputs: usize,
    /// Their nodes, in the order of their parameters.
    nodes: Vec<usize>,
}

/// Joins all there are, and says how many layers were joined to others.
pub(super) fn join(graph: &mut Graph) -> usize {
    let mut count = 0;
    while let Some(run) = runs(graph).into_iter().next() {
        let weights: Vec<ValueId> = run.nodes.iter().map(|&n| graph.nodes[n].inputs[1]).collect();
        let parameters = join_forward(graph, &run);
        join_backward(graph, &run, &weights, parameters);
        count += run.nodes.len();
    }
    count
}

/// Element and tensor of which a value is a view.
fn viewed(graph: &Graph, value: ValueId) -> Option<(ValueId, usize)> {
    let node = &graph.nodes[maker(graph, value)?];
    match node.op.aliasing() {
        Aliasing::View { offset } => Some((node.inputs[0], offset)),
        _ => None,
    }
}

fn is_pack(graph: &Graph, node: usize) -> bool {
    matches!(graph.nodes[node].op.aliasing(), Aliasing::Pack { .. })
}

/// Whether an operator from node `first` to node `last` overwrites anything in place.
fn overwrites(graph: &Graph, first: usize, last: usize) -> bool {
    graph.nodes[first..=last].iter().any(|n| matches!(n.op.aliasing(), Aliasing::InPlace(_)))
}

/// The runs of layers that can be joined.
fn runs(graph: &Graph) -> Vec<Run> {
    type Key = (ValueId, (ValueId, ValueId), usize, usize);
    let uses = Uses::of(graph);
    // By x, parameters and widths: first elements and nodes.
    let mut layers: BTreeMap<Key, BTreeMap<usize, usize>> = BTreeMap::new();
    for (number, node) in graph.nodes.iter().enumerate() {
        if node.op.linear_part() != Some(LinearPart::Forward) || node.op.joined(2).is_none() {
            continue;
        }
        let &[x, w, b] = &node.inputs[..] else { continue };
        let (Some((root, first)), Some((of_bias, bias))) = (viewed(graph, w), viewed(graph, b)) else {
            continue;
        };
        let (inputs, outputs) = (graph.shape(w)[0], graph.shape(w)[1]);
        let y = node.outputs[0];
        let free = !uses.kept[y.0] && !uses.of_value(y).iter().any(|&n| is_pack(graph, n));
        let behind = bias == first + inputs * outputs;
        let dtype = graph.spec(w).dtype;
        let alike = match dtype {
            DType::F16 => graph.spec(of_bias) == &Spec::f32(graph.shape(root).axes()),
            _ => of_bias == root,
        };
        if free && behind && alike && (outputs * dtype.bytes()).is_multiple_of(ROW_BYTES) {
            layers.entry((x, (root, of_bias), inputs, outputs)).or_default().insert(first, number);
        }
    }
    let mut runs = Vec::new();
    for ((x, roots, inputs, outputs), layers) in layers {
        let layers: Vec<(usize, usize)> = layers.into_iter().collect();
        for run in layers.chunk_by(|a, b| b.0 - a.0 == (inputs + 1) * outputs) {
            let nodes: Vec<usize> = run.iter().map(|layer| layer.1).collect();
            let (Some(&first), Some(&last)) = (nodes.iter().min(), nodes.iter().max()) else { continue };
            if nodes.len() > 1 && !overwrites(graph, first, last) {
                runs.push(Run { x, roots, first: run[0].0, inputs, outputs, nodes });
            }
        }
    }
    runs
}

/// A new tensor.
fn value(graph: &mut Graph, name: &str, spec: Spec) -> ValueId {
    graph.values.push(Value { name: name.into(), spec, origin: Origin::Removed });
    ValueId(graph.values.len() - 1)
}

/// A node beside another one: in its module and phase.
fn beside(node: &Node, op: Arc<dyn Op>, inputs: Vec<ValueId>, outputs: Vec<ValueId>) -> Node {
    Node { op, inputs, outputs, scope: node.scope.clone(), phase: node.phase }
}

/// The shape of the results of all layers of a run.
fn of_all(graph: &Graph, run: &Run) -> Shape {
    let mut axes = [&[run.nodes.len()], graph.shape(run.x).axes()].concat();
    if let Some(last) = axes.last_mut() {
        *last = run.outputs;
    }
    Shape::new(axes)
}

/// Puts one node in the place of the first layer, and views of its result in the place of the others'. Returns the parameters, as
/// the weights are stored.
fn join_forward(graph: &mut Graph, run: &Run) -> ValueId {
    let count = run.nodes.len();
    let first = run.nodes.iter().copied().min().unwrap_or_default();
    let model = graph.nodes[first].clone();
    let elements = count * (run.inputs + 1) * run.outputs;
    let all = of_all(graph, run);
    let each = all.elements() / count;
    let Some(Joined { op, view, .. }) = model.op.joined(count) else { return run.x };
    let (mut inputs, mut joined) = (vec![run.x], Vec::new());
    let (weights, biases) = run.roots;
    for root in std::iter::once(weights).chain((biases != weights).then_some(biases)) {
        let dtype = graph.spec(root).dtype;
        let parameters = value(graph, "parameters of layers", Spec::new([elements], dtype));
        joined.push(beside(&model, view(run.first, Shape::new([elements])), vec![root], vec![parameters]));
        inputs.push(parameters);
    }
    let parameters = inputs[1];
    let name = graph.label(&model);
    let y = value(graph, &name, graph.spec(run.x).with_shape(all.axes()));
    joined.push(beside(&model, op, inputs, vec![y]));
    for (l, &node) in run.nodes.iter().enumerate() {
        let of_layer = graph.nodes[node].outputs[0];
        let op = view(l * each, graph.shape(of_layer).clone());
        joined.push(beside(&model, op, vec![y], vec![of_layer]));
    }
    replace(graph, &run.nodes, first, joined);
    parameters
}

/// Takes nodes out and puts others before what was node `at`.
fn replace(graph: &mut Graph, removed: &[usize], at: usize, mut put: Vec<Node>) {
    for (number, node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        if number == at {
            graph.nodes.append(&mut put);
        }
        if !removed.contains(&number) {
            graph.nodes.push(node);
        }
    }
    graph.nodes.append(&mut put);
    renumber(graph);
}

/// The gradients of a layer of a run.
struct Gradients {
    dy: ValueId,
    input: usize,
    weight: usize,
    /// First element of dw in the pack.
    place: usize,
}

/// Joins the gradients of a run likewise, where each layer has all of them and nobody else reads its dy.
fn join_backward(graph: &mut Graph, run: &Run, weights: &[ValueId], parameters: ValueId) {
    let uses = Uses::of(graph);
    let found: Option<Vec<Gradients>> = weights.iter().map(|&w| gradients(graph, &uses, run.x, w)).collect();
    let Some(layers) = found.filter(|layers| can_be_joined(graph, &uses, run, layers)) else { return };
    let Some((chain, pack)) = chain(graph, &uses, &layers).zip(pack_of(graph, &uses, &layers[0])) else {
        return;
    };
    let (Some(&tail), Some(&head)) = (chain.last(), chain.first()) else { return };
    let count = run.nodes.len();
    let (input, weight) = (graph.nodes[layers[0].input].clone(), graph.nodes[layers[0].weight].clone());
    let (Some(of_input), Some(of_weight)) = (input.op.joined(count), weight.op.joined(count)) else { return };

    // 1. The dy of all layers, computed side by side.
    let all = of_all(graph, run);
    let each = all.elements() / count;
    let dtype = graph.spec(layers[0].dy).dtype;
    let flat = value(graph, "dy of layers", Spec::new([all.elements()], dtype));
    let dy = value(graph, "dy of layers", Spec::new(all.axes(), dtype));
    let offsets = (0..count).map(|l| l * each).collect();
    let packed = (of_input.pack)(offsets, all.elements());
    let mut put = vec![
        beside(&input, packed, layers.iter().map(|l| l.dy).collect(), vec![flat]),
        beside(&input, (of_input.view)(0, all), vec![flat], vec![dy]),
    ];

    // 2. dx: what is left of the chain of sums, then all layers of the run, whose result is the chain's.
    let result = graph.nodes[tail].outputs[0];
    let mut removed: Vec<usize> = layers.iter().flat_map(|l| [l.input, l.weight]).collect();
    let mut sum = graph.nodes[head].inputs.get(2).copied();
    for &node in chain.iter().filter(|node| !removed.contains(node)) {
        if node == tail {
            let spec = graph.spec(result).clone();
            let name = graph.values[result.0].name.clone();
            graph.nodes[node].outputs[0] = value(graph, &name, spec);
        }
        graph.nodes[node].inputs.truncate(2);
        graph.nodes[node].inputs.extend(sum);
        sum = Some(graph.nodes[node].outputs[0]);
    }
    let inputs = [dy, parameters].into_iter().chain(sum).collect();
    put.push(beside(&input, of_input.op, inputs, vec![result]));

    // 3. The gradients of the parameters, as one part of their pack.
    let stride = (run.inputs + 1) * run.outputs;
    let gradient = value(graph, &graph.label(&weight), Spec::f32([count, stride]));
    put.push(beside(&weight, of_weight.op, vec![run.x, dy], vec![gradient]));
    let gone: Vec<ValueId> = layers.iter().flat_map(|l| graph.nodes[l.weight].outputs.clone()).collect();
    let Aliasing::Pack { offsets } = graph.nodes[pack].op.aliasing() else { return };
    let mut parts: BTreeMap<usize, ValueId> = offsets
        .into_iter()
        .zip(graph.nodes[pack].inputs.clone())
        .filter(|(_, v)| !gone.contains(v))
        .collect();
    parts.insert(layers[0].place, gradient);
    let total = graph.shape(graph.nodes[pack].outputs[0]).elements();
    graph.nodes[pack].op = (of_weight.pack)(parts.keys().copied().collect(), total);
    graph.nodes[pack].inputs = parts.into_values().collect();

    // What reads a part of dy stands behind the last of them.
    removed.sort_unstable();
    replace(graph, &removed, tail + 1, put);
}

/// The gradients of the layer with this weight, if there are both and its parameters' are packed.
fn gradients(graph: &Graph, uses: &Uses, x: ValueId, w: ValueId) -> Option<Gradients> {
    let part = |&&n: &&usize, part| graph.nodes[n].op.linear_part() == Some(part);
    let input = *uses.of_value(w).iter().find(|n| part(n, LinearPart::BackwardInput))?;
    let dy = graph.nodes[input].inputs[0];
    let weight = *uses.of_value(dy).iter().find(|n| part(n, LinearPart::BackwardWeight))?;
    let only_these = uses.of_value(dy).len() == 2 && !uses.kept[dy.0];
    if graph.nodes[weight].inputs != [x, dy] || !only_these || graph.nodes[input].inputs[1] != w {
        return None;
    }
    let mut layer = Gradients { dy, input, weight, place: 0 };
    let pack = pack_of(graph, uses, &layer)?;
    let Aliasing::Pack { offsets } = graph.nodes[pack].op.aliasing() else { return None };
    let place = |v: ValueId| graph.nodes[pack].inputs.iter().position(|&p| p == v).map(|i| offsets[i]);
    let outputs = &graph.nodes[weight].outputs;
    layer.place = place(outputs[0])?;
    (place(outputs[1])? == layer.place + graph.shape(w).elements()).then_some(layer)
}

/// The one node that reads the gradients of a layer's parameters, where it packs them.
fn pack_of(graph: &Graph, uses: &Uses, layer: &Gradients) -> Option<usize> {
    let mut reader = graph.nodes[layer.weight].outputs.iter().map(|&v| {
        let single = uses.is_single(v).then(|| uses.of_value(v)[0]);
        single.filter(|&n| is_pack(graph, n))
    });
    let pack = reader.next()??;
    reader.all(|other| other == Some(pack)).then_some(pack)
}

/// Whether the gradients can be computed side by side: those of parameters lie as the parameters do, and each dy has memory of its
/// own and is not computed from another one's, which would lie in the same memory.
fn can_be_joined(graph: &Graph, uses: &Uses, run: &Run, layers: &[Gradients]) -> bool {
    let stride = (run.inputs + 1) * run.outputs;
    let follow = |pair: &[Gradients]| {
        pair[1].place == pair[0].place + stride
            && pack_of(graph, uses, &pair[0]) == pack_of(graph, uses, &pair[1])
    };
    let is_dy = |v: &ValueId| layers.iter().any(|l| l.dy == *v);
    let of_its_own = |l: &Gradients| {
        graph.can_be_packed(l.dy)
            && maker(graph, l.dy).is_some_and(|n| {
                !graph.nodes[n].inputs.iter().any(|&v| is_dy(&v) || is_dy(&graph.written_as(v)))
            })
    };
    layers.windows(2).all(follow) && layers.iter().all(of_its_own)
}

/// The chain of gradients of inputs, each the addend of the next alone, that all layers are part of: first to last.
fn chain(graph: &Graph, uses: &Uses, layers: &[Gradients]) -> Option<Vec<usize>> {
    let in_chain = |n: usize| {
        let part = graph.nodes[n].op.linear_part();
        matches!(part, Some(LinearPart::BackwardInput | LinearPart::BackwardInputOfSeveral))
    };
    let next = |n: usize| {
        let dx = graph.nodes[n].outputs[0];
        let reader = uses.is_single(dx).then(|| uses.of_value(dx)[0])?;
        (in_chain(reader) && graph.nodes[reader].inputs.get(2) == Some(&dx)).then_some(reader)
    };
    let before = |n: usize| {
        let addend = *graph.nodes[n].inputs.get(2)?;
        maker(graph, addend).filter(|&m| in_chain(m) && next(m) == Some(n))
    };
    let head = std::iter::successors(Some(layers[0].input), |&n| before(n)).last()?;
    let chain: Vec<usize> = std::iter::successors(Some(head), |&n| next(n)).collect();
    let (first, last) = (*chain.first()?, *chain.last()?);
    let fits = layers.iter().all(|l| chain.contains(&l.input) && l.weight > first)
        && !overwrites(graph, first, last);
    fits.then_some(chain)
}
