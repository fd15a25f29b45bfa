//! Plans that must be refused, and what may be read of those that run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use inkwash::check;
use inkwash::diffusion::Preset;
use inkwash::gpu::{Blocking as _, Device, Executable, GpuError, Store};
use inkwash::graph::{
    Candidate, Caps, Cost, Dispatch, Graph, Kernels, Limits, Op, Operand, Plan, PlanError, Program,
    ShapeError, State,
};
use inkwash::nn::Precision;
use inkwash::ops::{Accumulate, Case, STEP_WORDS, Scale, Silu, View};
use inkwash::shader::Source;
use inkwash::tensor::{Array, Shape, Spec};
use inkwash::train::{RunPlan, TrainConfig};

fn caps() -> Caps {
    Caps::webgpu(Kernels::Registers)
}

/// A state that is overwritten in place, and a view of what it held before that is read afterwards.
#[test]
fn a_view_of_what_was_overwritten_cannot_be_read() {
    let build = |late: bool| {
        let mut graph = Graph::new();
        let sum = graph.state(&State::new("sum", Spec::f32([128])));
        let x = graph.input("x", Spec::f32([128]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let view = graph.apply(View { offset: 64, shape: Shape::new([64]) }, &[sum]).unwrap();
        let early = graph.apply(Silu, &[view]).unwrap();
        graph.apply(Accumulate, &[sum, x, step]).unwrap();
        let y = if late { graph.apply(Scale(2.0), &[view]).unwrap() } else { early };
        graph.output("y", y);
        Plan::new(graph, &caps())
    };
    build(false).unwrap();
    let error = build(true).unwrap_err();
    assert!(error.to_string().contains("read after it was overwritten in place"), "{error}");
}

/// What comes out of an overwriting operator is new, and so are views of it.
#[test]
fn a_view_of_what_overwrote_can_be_read() {
    let mut graph = Graph::new();
    let sum = graph.state(&State::new("sum", Spec::f32([128])));
    let x = graph.input("x", Spec::f32([128]));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let after = graph.apply(Accumulate, &[sum, x, step]).unwrap();
    let view = graph.apply(View { offset: 64, shape: Shape::new([64]) }, &[after]).unwrap();
    let y = graph.apply(Scale(2.0), &[view]).unwrap();
    graph.output("y", y);
    Plan::new(graph, &caps()).unwrap().verify(&caps()).unwrap();
}

#[test]
fn working_memory_cannot_be_read() {
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([4]));
    let hidden = graph.apply(Silu, &[x]).unwrap();
    let y = graph.apply(Scale(2.0), &[hidden]).unwrap();
    graph.output("y", y);
    let device = Device::noop(&caps()).block_on().unwrap();
    let plan = Plan::new(graph, &caps()).unwrap();
    let executable = Executable::new(&Store::new(&device), plan).block_on().unwrap();
    executable.run().block_on().unwrap();
    assert_eq!(executable.read(y).block_on().unwrap().len(), 4);
    let error = executable.read(hidden).block_on().unwrap_err();
    assert!(matches!(error, GpuError::NotKept { .. }), "{error}");
}

/// A buffer that the limits forbid is a defect of the plan, not a want of memory, for which the remedy would be another.
#[test]
fn a_forbidden_buffer_is_not_called_a_want_of_memory() {
    let limits = Limits { binding_bytes: u64::MAX, buffer_bytes: u64::MAX, ..Limits::WEBGPU };
    let wide = Caps { limits, ..caps() };
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([100 << 20]));
    let y = graph.apply(Silu, &[x]).unwrap();
    graph.output("y", y);
    let device = Device::noop(&caps()).block_on().unwrap();
    let plan = Plan::new(graph, &wide).unwrap();
    let error = Executable::new(&Store::new(&device), plan).block_on().err().unwrap();
    assert!(matches!(error, GpuError::Device { .. }), "{error}");
}

/// However long the host goes on without reading anything, the device is not more than a few submissions behind.
#[test]
fn the_host_does_not_run_away_from_the_device() {
    let Some(device) = common::open_device() else { return };
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([1 << 16]));
    let y = graph.apply(Silu, &[x]).unwrap();
    graph.output("y", y);
    let plan = Plan::new(graph, &device.caps).unwrap();
    let executable = Executable::new(&Store::new(&device), plan).block_on().unwrap();
    for _ in 0..100 {
        executable.write(x, &vec![1.0; 1 << 16]);
        executable.run().block_on().unwrap();
        assert!(device.submissions_ahead() <= 8, "{} submissions ahead", device.submissions_ahead());
    }
    device.idle().block_on().unwrap();
    assert_eq!(device.submissions_ahead(), 0);
}

/// Slots are at most 5 % more than the tensors that are alive together, in every plan of every preset. Of the update, whose working
/// memory is a few KB, nothing is asked.
#[test]
fn slots_take_little_more_than_what_is_alive() {
    let all = Preset::ALL.into_iter().flat_map(|preset| {
        let precisions = [Precision::F32, Precision::F16];
        precisions
            .into_iter()
            .flat_map(move |precision| Kernels::ALL.map(|kernels| (preset, precision, kernels)))
    });
    for (preset, precision, kernels) in all {
        let batch = match preset {
            Preset::Cifar => 128,
            Preset::Photos128 => 8,
            _ => 16,
        };
        let config = TrainConfig { preset, batch, precision, ..TrainConfig::default() }.with_network(&[]);
        let limits = Limits { binding_bytes: u64::MAX, buffer_bytes: u64::MAX, ..Limits::WEBGPU };
        let caps = Caps { limits, ..Caps::webgpu(kernels).with_f16() };
        let run = RunPlan::new(&config, &caps).unwrap();
        let plans = [("training", &run.plans.micro), ("held-out loss", &run.evaluation)];
        for (name, plan) in plans.into_iter().chain(run.grids.iter().map(|plan| ("sampling", plan))) {
            let [planned, alive] = plan.working_bytes();
            let ratio = planned as f64 / alive.max(1) as f64;
            println!(
                "{preset:?}, {precision:?}, {kernels:?}, {name}: {planned} planned, {alive} alive, {ratio:.4}"
            );
            assert!(planned >= alive && ratio < 1.05, "{preset:?}, {precision:?}, {kernels:?}, {name}");
        }
        assert!(run.plans.micro.working_bytes()[1] > 1 << 23 && !run.grids.is_empty(), "{preset:?}");
    }
}

static PAST_THE_END: Source = Source {
    name: "past_the_end",
    text: "\
@group(0) @binding(0) var<storage, read> x: array<f32>; // (4)
@group(0) @binding(1) var<storage, read_write> scratch: array<f32>; // (4), and one word too many
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (4)
@compute @workgroup_size(1)
fn copy() {
    for (var i = 0u; i < 4u; i++) {
        scratch[i] = x[i];
        y[i] = x[i];
    }
    scratch[4] = 1.0;
}
",
};

/// A copy whose kernel writes one word behind its scratch tensor.
#[derive(Debug, Clone)]
struct PastTheEnd;

impl Op for PastTheEnd {
    fn name(&self) -> &'static str {
        "past_the_end"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![x[0].clone()]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let copy = Dispatch::new(&PAST_THE_END, "copy")
            .bind("x", Operand::Input(0))
            .bind("scratch", Operand::Scratch(0))
            .bind("y", Operand::Output(0));
        Program { scratch: vec![Spec::f32([4])], dispatches: vec![copy] }.into()
    }
}

#[test]
fn a_kernel_that_writes_behind_its_scratch_is_found_out() {
    let Some(device) = common::open_device() else { return };
    let case = Case::new("one word too many", PastTheEnd, &[Spec::f32([4])]);
    let outcomes = check::on_device(&case, &Store::new(&device), &device.caps).block_on().unwrap();
    assert_eq!(outcomes.len(), 1);
    assert!(outcomes[0].deviation.excess <= 1.0, "the result itself is right");
    assert!(outcomes[0].guard_broken && !outcomes[0].passed());
}

/// f16 where the device has none is refused in words, by the plan.
#[test]
fn f16_needs_a_device_that_stores_it() {
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::new([4], inkwash::tensor::DType::F16));
    let y = graph.apply(Silu, &[x]).unwrap();
    graph.output("y", y);
    let error = Plan::new(graph.clone(), &caps()).unwrap_err();
    assert!(matches!(error, PlanError::Unsupported { dtype: "f16", .. }), "{error}");
    Plan::new(graph, &caps().with_f16()).unwrap();
}
