//! Runs a graph on the CPU in f64, through the operators' references.

use super::{Graph, Origin, ValueId};
use crate::tensor::Array;
use std::collections::HashMap;

/// Computes every tensor of the graph. `given` holds the inputs and states; a missing one is zero.
pub fn interpret(graph: &Graph, given: &HashMap<ValueId, Array>) -> Vec<Array> {
    let mut values: Vec<Array> = graph
        .values
        .iter()
        .enumerate()
        .map(|(i, value)| match (&value.origin, given.get(&ValueId(i))) {
            (_, Some(array)) => {
                assert_eq!(array.shape, value.spec.shape, "`{}` was given another shape", value.name);
                array.clone()
            }
            (Origin::Constant(array), None) => array.clone(),
            (Origin::Node(..) | Origin::Removed, None) => Array::new([0], vec![]),
            (Origin::Input | Origin::State, None) => Array::zeros(&value.spec.shape),
        })
        .collect();
    for node in &graph.nodes {
        let x: Vec<Array> = node.inputs.iter().map(|v| values[v.0].clone()).collect();
        let y = node.op.reference(&x);
        assert_eq!(y.len(), node.outputs.len(), "{} returned another number of outputs", node.op.name());
        for (id, array) in node.outputs.iter().zip(y) {
            let spec = graph.spec(*id);
            assert_eq!(array.shape, spec.shape, "{}'s reference and infer disagree", node.op.name());
            values[id.0] = array;
        }
    }
    values
}
