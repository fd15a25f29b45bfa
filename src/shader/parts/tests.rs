//! Every kernel of the catalogue in parts.

use super::*;
use crate::ops;
use crate::shader::{Kernel, Source, Target, expand};
use std::collections::BTreeSet;

fn parts_of(kernel: &Kernel) -> Parts {
    let expanded = expand(kernel.source, &kernel.variant, Target::Native).unwrap();
    Parts::of(kernel.entry, &kernel.variant, expanded).unwrap()
}

/// Parts that are not kept and have none within them that are not: apart from each other, and as many as can be.
fn leaves_of(parts: &Parts) -> Vec<usize> {
    let list = parts.list();
    let holds_another = |part: usize| {
        (part + 1..list.len()).any(|other| {
            list[other].kept.is_none()
                && std::iter::successors(list[other].parent, |&p| list[p].parent).any(|p| p == part)
        })
    };
    (0..list.len()).filter(|&part| list[part].kept.is_none() && !holds_another(part)).collect()
}

/// The first variant of each entry point part by part, and the others with as many parts at once as there are.
#[test]
fn every_part_of_every_kernel_goes_behind_a_switch() {
    let (mut entries, mut switched, mut kept) = (BTreeSet::new(), 0, 0);
    for kernel in ops::kernels() {
        let parts = parts_of(&kernel);
        let list = parts.list();
        assert!(!list.is_empty(), "{kernel:?}");
        if entries.insert((kernel.source, kernel.entry)) {
            for part in (0..list.len()).filter(|&part| list[part].kept.is_none()) {
                parts.switched(&[part]).unwrap_or_else(|e| panic!("{kernel:?} {:?}: {e}", list[part]));
                switched += 1;
            }
            kept += list.iter().filter(|part| part.kept.is_some()).count();
        }
        parts.switched(&leaves_of(&parts)).unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
    }
    // Were everything kept, the first assertion could not fail.
    assert!(switched > kept && kept > entries.len(), "{switched} switched, {kept} kept");
}

/// The lines (from 1) and reasons of the parts of a kernel.
fn divided(text: &'static str) -> Vec<(Range<usize>, Option<Kept>)> {
    let source: &'static Source = Box::leak(Box::new(Source { name: "example", text }));
    let kernel = Kernel { source, variant: Variant::base(), entry: "f" };
    let parts = parts_of(&kernel);
    parts.list().iter().map(|part| (part.lines.start + 1..part.lines.end + 1, part.kept)).collect()
}

#[test]
fn statements_are_divided_by_lines_and_blocks() {
    let found = divided(
        "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1)
fn f(@builtin(local_invocation_index) i: u32) {
    var sum = y[1]; sum += 1.0; // one line; two statements
    /* no { statement; */
    for (var k = 0u; k < 4u; k++) {
        if k > 1u && y[k] > 0.0 {
            sum *=
                y[k]; // two lines
        } else if k == 3u { continue; }
    }
    let positive = sum > 0.0 && sum < 9.0;
    y[0] = select(sum, 1.0, positive);
}
",
    );
    let lines: Vec<_> = found.iter().map(|(lines, _)| lines.clone()).collect();
    assert_eq!(lines, [4..5, 6..12, 7..11, 8..10, 10..11, 12..13, 13..14]);
    // The memory that the condition reads is written in line 13, and computed in the lines before.
    let free: Vec<_> = found.iter().filter(|(_, kept)| kept.is_none()).collect();
    assert!(free.is_empty(), "{free:?}");
}

#[test]
fn what_conditions_and_indices_are_computed_from_stays() {
    let found = divided(
        "@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
var<workgroup> shared_ends: array<u32, 64>;
fn end_of(i: u32) -> u32 {
    return x[i];
}
fn begin(to: ptr<function, u32>) {
    *to = 3u;
}
@compute @workgroup_size(64)
fn f(@builtin(local_invocation_index) i: u32) {
    shared_ends[i] = end_of(i);
    workgroupBarrier();
    var first = 0u;
    begin(&first);
    var sum = 0u;
    for (var k = first; k < shared_ends[63u - i]; k++) {
        sum += k;
    }
    begin(&sum);
    let at = i ^ 1u;
    y[at] = sum;
}
",
    );
    let kept: Vec<_> = found.iter().map(|(lines, kept)| (lines.start, *kept)).collect();
    let condition = Some(Kept::Condition);
    assert_eq!(
        kept,
        [
            (12, condition),
            (13, Some(Kept::Barrier)),
            (15, condition),
            (17, None),
            (18, None),
            // The function stores what decides when the loop ends, whoever calls it.
            (20, condition),
            (21, Some(Kept::Index)),
            (22, None),
            (5, condition),
            (8, condition),
        ]
    );
}
