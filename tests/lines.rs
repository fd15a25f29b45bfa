//! Kernels with parts behind a switch: on, they are the kernel; off, the part is off and nothing else. How long parts take is
//! no test's business: docs/profiling.md says how the figures were checked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{every_variant, open_device};
use inkwash::gpu::{Blocking as _, Choice, Device, Executable, Form, Store};
use inkwash::graph::{Graph, Plan};
use inkwash::ops::{Case, catalogue, kernels};
use inkwash::profile::lines::{LineProfile, Lines, report::report};
use inkwash::profile::operator;
use inkwash::shader::{Folder, Kept, Part, Parts, Target, expand};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The first case of an operator.
fn case(name: &str) -> Case {
    catalogue().into_iter().find(|case| case.title().starts_with(name)).unwrap()
}

fn executable(device: &Arc<Device>, case: &Case) -> Executable {
    let mut graph = Graph::new();
    let x: Vec<_> = case.inputs.iter().map(|(spec, _)| graph.input("x", spec.clone())).collect();
    for y in graph.apply_shared(case.op.clone(), &x).unwrap() {
        graph.output("y", y);
    }
    let plan = Plan::new(graph, &device.caps).unwrap();
    let executable = Executable::new(&Store::new(device), plan).block_on().unwrap();
    executable.poison(0x7fc0_dead);
    for (value, array) in x.into_iter().zip(case.arrays()) {
        executable.write_values(value, &array.data);
    }
    executable
}

/// Whether a part is within another that can be switched off.
fn is_outermost(parts: &[Part], part: &Part) -> bool {
    let above = std::iter::successors(part.parent, |&parent| parts[parent].parent);
    part.kept.is_none() && above.into_iter().all(|parent| parts[parent].kept.is_some())
}

#[test]
fn with_its_switch_on_a_kernel_computes_the_same_bits() {
    // Small cases of kernels with loops, barriers, calls, pointers and memory that they write in place.
    let cases = ["silu:", "group_norm:", "linear:", "attention:", "adamw:", "softmax_cross_entropy:"];
    let (mut seen, mut changed) = (BTreeSet::new(), 0);
    for device in every_variant() {
        for case in cases.map(case) {
            let executable = executable(&device, &case);
            for number in 0..executable.plan().launches.len() {
                let dispatch = executable.plan().launches[number].dispatch.clone();
                if number > 0 {
                    let before = async |n: usize, _| {
                        Ok(if n + 1 == number { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                    };
                    executable.run_by_launch(before).block_on().unwrap();
                }
                if !seen.insert(dispatch.kernel()) {
                    continue;
                }
                let expanded = expand(dispatch.shader, &dispatch.variant, Target::Native).unwrap();
                let parts = Parts::of(dispatch.entry, &dispatch.variant, expanded).unwrap();
                let list = parts.list();
                let all: Vec<usize> =
                    (0..list.len()).filter(|&part| is_outermost(list, &list[part])).collect();
                let alone = executable.alone(number).block_on().unwrap();
                let kernel = alone.in_parts(&parts.switched(&all).unwrap()).block_on().unwrap();
                let plain = alone.results(Form::Plain).block_on().unwrap();
                let on = alone.results(Form::On(&kernel)).block_on().unwrap();
                assert!(on == plain, "{}: {dispatch}", case.title());
                changed += usize::from(alone.results(Form::Off(&kernel)).block_on().unwrap() != plain);
                assert!(alone.results(Form::Plain).block_on().unwrap() == plain, "{dispatch}");
                alone.restore().block_on().unwrap();
            }
        }
    }
    if open_device().is_some() {
        assert!(seen.len() >= 10 && changed == seen.len(), "{changed} of {}", seen.len());
    }
}

/// Two loops, a call and values that later lines use, in numbers that are exact.
const KERNEL: &str = "
fn twice(x: f32) -> f32 {
    return 2.0 * x;
}

@compute @workgroup_size(64)
fn silu_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count || horizontal_sum(Vector(a[i])) > 1e30 {
        return;
    }
    let one = 0.0 * horizontal_sum(Vector(a[i])) + 1.0;
    var sum = 0.0;
    for (var k = 0u; k < 4u; k++) {
        sum += one;
    }
    for (var k = 0u; k < 8u; k++) {
        if k == 5u {
            break;
        }
        let step = twice(8.0);
        sum += step;
    }
    var at = 0u;
    for (var k = 0u; k < i; k++) {
        at += 1u;
    }
    y[at] = Stored(Vector(sum));
}
";

/// A device whose `silu` is this kernel.
fn device_of_kernel(folder: &Path) -> Option<Arc<Device>> {
    let text = include_str!("../shaders/elementwise.wgsl");
    let (before, rest) = text.split_once("@compute @workgroup_size(64)\nfn silu_forward").unwrap();
    let (_, after) = rest.split_once("\n}\n").unwrap();
    std::fs::write(folder.join("elementwise.wgsl"), format!("{before}{KERNEL}{after}")).unwrap();
    open_device()?;
    let shaders = Some(Arc::new(Folder::open(folder, &kernels()).unwrap()));
    Some(Device::open(&Choice { shaders, ..Choice::default() }).block_on().unwrap())
}

#[test]
fn with_its_switch_off_a_part_does_nothing_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = device_of_kernel(folder.path()) else { return };
    let executable = executable(&device, &case("silu: (257)"));
    let alone = executable.alone(0).block_on().unwrap();
    let dispatch = &executable.plan().launches[0].dispatch;
    let expanded = alone.edited().unwrap().clone();
    let text: Vec<String> = expanded.text.lines().map(|line| line.trim().to_string()).collect();
    let parts = Parts::of(dispatch.entry, &dispatch.variant, expanded).unwrap();
    let results = |form: Form<'_>| {
        let words = alone.results(form).block_on().unwrap().remove(0);
        words[..257].iter().map(|&word| f32::from_bits(word)).collect::<Vec<_>>()
    };
    assert_eq!(results(Form::Plain), [84.0; 257]);

    let mut found = Vec::new();
    for (number, part) in parts.list().iter().enumerate() {
        let line = text[part.lines.start].as_str();
        if let Some(kept) = part.kept {
            found.push((line, Err(kept)));
            continue;
        }
        let kernel = alone.in_parts(&parts.switched(&[number]).unwrap()).block_on().unwrap();
        assert_eq!(results(Form::On(&kernel)), [84.0; 257], "{line}");
        let off = results(Form::Off(&kernel));
        let same = off.iter().all(|y| y.to_bits() == off[0].to_bits());
        assert!(same, "{line}: {off:?}");
        found.push((line, Ok(off[0])));
    }
    // What the memory held before, where nothing is stored.
    let (last, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|(line, _)| line.starts_with("y[at]"));
    assert!(matches!(last[..], [(_, Ok(y))] if y.to_bits() == 0x7fc0_dead), "{last:?}");
    let expected = [
        ("let i = invocation_index(group, groups, lane, 64u);", Err(Kept::Condition)),
        ("if i >= params.count || horizontal_sum(f32(a[i])) > 1e30 {", Err(Kept::Leaves)),
        ("let one = 0.0 * horizontal_sum(f32(a[i])) + 1.0;", Ok(80.0)),
        ("for (var k = 0u; k < 4u; k++) {", Ok(80.0)),
        ("sum += one;", Ok(80.0)),
        ("for (var k = 0u; k < 8u; k++) {", Ok(4.0)),
        ("if k == 5u {", Err(Kept::Leaves)),
        ("let step = twice(8.0);", Ok(4.0)),
        ("sum += step;", Ok(4.0)),
        ("for (var k = 0u; k < i; k++) {", Err(Kept::Index)),
        ("at += 1u;", Err(Kept::Index)),
        ("return workgroup_index(workgroup_id, num_workgroups) * size + local_index;", Err(Kept::Condition)),
        ("return 2.0 * x;", Ok(4.0)),
        ("return workgroup_id.y * num_workgroups.x + workgroup_id.x;", Err(Kept::Condition)),
    ];
    assert_eq!(rest, expected);
}

fn lines<'a>(kernel: &'a str, filter: Option<&'a str>) -> Lines<'a> {
    Lines { kernel, filter, runs: 1, warmup: 0, clock: None }
}

#[test]
fn every_part_has_a_cost_or_a_reason_beside_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = device_of_kernel(folder.path()) else { return };
    let case = [case("silu: (257)")];
    let found: LineProfile = operator(&device, &case, &lines("elementwise:silu_forward", None)).unwrap();
    assert!(found.checked && found.launch.calls == 1 && found.others.is_empty());
    assert_eq!(found.parts.len(), 15);
    assert!(found.parts.iter().all(|part| part.cost.is_some() != part.kept.is_some()));
    for cost in found.parts.iter().filter_map(|part| part.cost.as_ref()) {
        assert!(cost.samples.iter().all(|runs| !runs.is_empty() && runs.iter().all(|&s| s > 0.0)));
        assert!(cost.distortion > 0.0 && cost.noise >= 0.0);
    }
    let shown = report(&found);
    let text = std::fs::read_to_string(folder.path().join("elementwise.wgsl")).unwrap();
    let loops = text.lines().enumerate().filter(|(_, line)| line.contains("for (var k"));
    for (number, line) in loops {
        assert!(shown.contains(&format!("{} {line}", number + 1)), "{line}\n{shown}");
    }
    assert!(shown.contains("- leaves a loop or function") && shown.contains("- decides an index"), "{shown}");
}

#[test]
fn a_kernel_that_is_not_there_is_refused_with_the_nearest_names() {
    let Some(device) = open_device() else { return };
    let case = [case("silu: (257)")];
    let refusal = |kernel, filter| {
        operator(&device, &case, &lines(kernel, filter)).map(|_| ()).unwrap_err().to_string()
    };
    let misspelt = refusal("elementwise:silu_foward", None);
    assert!(misspelt.contains("no such kernel; nearest are elementwise:silu_forward,"), "{misspelt}");
    let elsewhere = refusal("group_norm:normalize", None);
    assert!(elsewhere.contains("does not launch it") && elsewhere.contains("silu_forward"), "{elsewhere}");
    let short = refusal("elementwise", None);
    assert!(short.contains("expected SHADER:ENTRY"), "{short}");
    let filtered = refusal("elementwise:silu_forward", Some("backward"));
    assert!(filtered.contains("--filter backward"), "{filtered}");
}
