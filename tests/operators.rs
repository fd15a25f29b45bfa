//! Every operator, case by case: gradients in f64 (no device), and values on a device.

mod common;

use inkwash::check;
use inkwash::gpu::{Blocking as _, Device, Executable, Store};
use inkwash::graph::{Graph, Plan, ValueId, interpret};
use inkwash::ops::{self, Add, Case, MseLoss, Silu, View};
use inkwash::rng::{Philox, Stream};
use inkwash::tensor::{Array, Shape, Spec, Tolerance};
use inkwash::tune::OneOperator;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Central differences with h = 1e-5 in f64 are good to about h² + 1e-16/h = 1e-10 of the scale.
#[test]
fn gradients_agree_with_finite_differences() {
    let mut checked = 0;
    let mut failures = Vec::new();
    for case in ops::catalogue() {
        if case.large || case.gradients.is_empty() {
            continue;
        }
        let error = check::gradient(&case).unwrap_or_else(|e| panic!("{}: {e}", case.title()));
        if error.is_nan() || error > 1e-6 {
            failures.push(format!("{}: {error:.2e}", case.title()));
        }
        checked += 1;
    }
    assert!(checked > 0 && failures.is_empty(), "{}", failures.join("\n"));
}

/// Every candidate of every case. Two threads share the cases, each with a device of its own: most of the time goes into
/// compiling pipelines, which a driver does on one core.
#[test]
fn values_agree_with_references() {
    let filter = std::env::var("INKWASH_CASE").unwrap_or_default();
    let cases: Vec<_> = ops::catalogue().into_iter().filter(|c| c.title().contains(&filter)).collect();
    assert!(!cases.is_empty(), "no case has a title that contains `{filter}`");
    let devices = (0..2).map(|_| common::open_device()).collect::<Option<Vec<_>>>();
    let Some(devices) = devices else { return };
    let next = AtomicUsize::new(0);
    let (checked, failures) = std::thread::scope(|scope| {
        let check = |device| {
            let (cases, next) = (&cases, &next);
            scope.spawn(move || check_cases(device, cases, next))
        };
        let workers: Vec<_> = devices.iter().map(check).collect();
        workers
            .into_iter()
            .map(|w| w.join().expect("a worker panicked"))
            .fold((0, Vec::new()), |(checked, failures), (count, found)| {
                (checked + count, [failures, found].concat())
            })
    });
    let left_out: Vec<_> =
        cases.iter().filter(|case| !case.suits(&devices[0].caps)).map(Case::title).collect();
    if !left_out.is_empty() {
        common::skip(format_args!("the device lacks what they need: {}", left_out.join("; ")));
    }
    println!("{checked} candidates of {} cases", cases.len());
    assert!(checked > 0 || !filter.is_empty(), "nothing was checked");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// The optimizer binds a flat vector that exceeds the limit on bindings in ranges. At 64 KiB those of the catalogue's
/// longest vectors are five, the last of them short.
#[test]
fn flat_vectors_in_several_ranges() {
    let Some(device) = common::open_device() else { return };
    let mut caps = device.caps.clone();
    caps.limits.binding_bytes = 64 << 10;
    for operator in ["gradient_norm", "adamw", "accumulate"] {
        let long = |case: &Case| case.op.name() == operator && case.inputs[0].0.bytes() > 4 * (64 << 10);
        let cases: Vec<Case> = ops::catalogue().into_iter().filter(long).collect();
        assert!(!cases.is_empty(), "no case of {operator} is long enough");
        for case in cases {
            for o in check::on_device(&case, &Store::new(&device), &caps).block_on().unwrap() {
                assert!(o.kernels.matches(':').count() >= 5, "{}", o.kernels);
                assert!(o.passed(), "{}: {:?}", case.title(), o.deviation);
            }
        }
    }
}

/// Gradients that cannot be computed in place within the flat vector. y = silu(e + a) + b + c + reshaped d: the gradient of b
/// is read on the way to that of a, is that of c too, and that of d is a view of it.
#[test]
fn gradients_with_other_uses_are_packed() {
    let elements = 70;
    let mut graph = Graph::new();
    let flat = graph.input("parameters", Spec::f32([512]));
    let view = |graph: &mut Graph, offset, shape: &[usize]| {
        graph.apply(View { offset, shape: Shape::new(shape) }, &[flat]).unwrap()
    };
    let offsets = vec![0, 128, 256, 384];
    let [a, b, c] = [0, 128, 256].map(|offset| view(&mut graph, offset, &[2, 35]));
    let d = view(&mut graph, 384, &[elements]);
    let (e, target) = (graph.input("e", Spec::f32([2, 35])), graph.input("target", Spec::f32([2, 35])));
    let weight = graph.constant("weight", Array::new([2], vec![1.0, 0.5]));
    let one = graph.constant("one", Array::new([1], vec![1.0]));
    let inner = graph.apply(Add, &[e, a]).unwrap();
    let mut y = graph.apply(Silu, &[inner]).unwrap();
    let reshaped = graph.apply(View { offset: 0, shape: Shape::new([2, 35]) }, &[d]).unwrap();
    for addend in [b, c, reshaped] {
        y = graph.apply(Add, &[y, addend]).unwrap();
    }
    let loss = graph.apply(MseLoss, &[y, target, weight]).unwrap();
    let wrt = [a, b, c, d];
    let gradients = graph.backward(Add, &[(loss, one)], &wrt).unwrap();
    let gradients: Vec<_> = wrt.iter().map(|parameter| gradients[parameter]).collect();
    let packed = ops::pack(&mut graph, &gradients, offsets.clone(), 512).unwrap();
    graph.output("gradients", packed);

    let mut rng = Philox::new(3, Stream::Cases, 0);
    let given: HashMap<ValueId, Array> = [flat, e, target]
        .map(|value| (value, Array::from_fn(graph.shape(value), |_| f64::from(rng.normal() as f32))))
        .into();
    let expected = interpret(&graph, &given)[packed.0].clone();
    let Some(device) = common::open_device() else { return };
    let plan = Plan::new(graph, &device.caps).unwrap();
    let executable = Executable::new(&Store::new(&device), plan).block_on().unwrap();
    for (value, array) in &given {
        executable.write_values(*value, &array.data);
    }
    executable.run().block_on().unwrap();
    let got = executable.read_values(packed).block_on().unwrap();
    for offset in offsets {
        let range = offset..offset + elements;
        let deviation = Tolerance::default().compare(&got[range.clone()], &expected.data[range]);
        assert!(deviation.excess <= 1.0, "{offset}: {deviation:?}");
    }
}

/// The kernels of matrix units make one subgroup for each unit of sums, by the size that they are told. Told of another, they run
/// in more or fewer than there are units.
#[test]
fn matrix_units_with_any_number_of_subgroups() {
    let Some(device) = common::open_device() else { return };
    if !device.caps.features.multiplies_f16(8) {
        common::skip("the device has no matrix units for tiles of 8");
        return;
    }
    let largest = device.caps.features.subgroups.unwrap().1;
    for size in [largest / 2, largest, 2 * largest] {
        let caps = device.caps.clone().with_subgroups(size);
        let mut launched = 0;
        for case in ops::catalogue().iter().filter(|c| c.title().ends_with("32 to 80, f16")) {
            let outcomes = check::on_device(case, &Store::new(&device), &caps).block_on().unwrap();
            for o in outcomes.iter().filter(|o| o.algorithm.starts_with("cooperative")) {
                assert!(o.passed(), "{} by {}: {:?}", case.title(), o.kernels, o.deviation);
                launched += 1;
            }
        }
        assert!(launched >= 2, "{launched} cases where subgroups are told to be of {size}");
    }
}

#[test]
fn matrix_units_give_the_same_bits_in_every_run() {
    let Some(device) = common::open_device() else { return };
    let mut launched = 0;
    for case in ops::catalogue().iter().filter(|c| c.title().ends_with("32 to 80, f16")) {
        let specs = case.inputs.iter().map(|(spec, _)| spec.clone());
        let one = OneOperator::new(case.op.clone(), specs).unwrap();
        for candidate in one.candidates(&device.caps) {
            if !candidate.algorithm.starts_with("cooperative") {
                continue;
            }
            launched += 1;
            let executable = one.executable(&device, &candidate).unwrap();
            for (&input, array) in one.inputs.iter().zip(case.arrays()) {
                executable.write_values(input, &array.data);
            }
            let run = || {
                executable.run().block_on().unwrap();
                let y = executable.read_values(one.outputs[0]).block_on().unwrap();
                y.into_iter().map(f64::to_bits).collect::<Vec<_>>()
            };
            let first = run();
            assert!((1..20).all(|_| run() == first), "{}", case.title());
        }
    }
    if launched == 0 {
        common::skip("the device has no matrix units");
    }
}

/// Takes cases until none is left: how many candidates were checked, and what failed.
fn check_cases(device: &Arc<Device>, cases: &[Case], next: &AtomicUsize) -> (usize, Vec<String>) {
    let (mut checked, mut failures) = (0, Vec::new());
    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
        if !case.suits(&device.caps) {
            continue;
        }
        let outcomes = match check::on_device(case, &Store::new(device), &device.caps).block_on() {
            Ok(outcomes) => outcomes,
            Err(e) => {
                failures.push(format!("{}: {e}", case.title()));
                continue;
            }
        };
        checked += outcomes.len();
        for o in outcomes.iter().filter(|o| !o.passed()) {
            let d = o.deviation;
            failures.push(format!(
                "{} by {} in {}: element {} is {} instead of {}, {:.2} times the tolerance, relative L2 {:.1e}{}; {}",
                case.title(),
                o.algorithm,
                o.output,
                d.worst,
                d.got,
                d.expected,
                d.excess,
                d.relative_l2,
                if o.guard_broken { ", WROTE PAST ITS END" } else { "" },
                o.kernels
            ));
        }
    }
    (checked, failures)
}
