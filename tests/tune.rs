//! Algorithms chosen by measurement: what is measured, kept, and followed.

mod common;

use common::training::{run_config, tiny};
use inkwash::gpu::Blocking as _;
use inkwash::graph::{Candidate, Caps, Choices, Cost, Graph, Kernels, Op, Plan, ShapeError};
use inkwash::ops::Scale;
use inkwash::tensor::{Array, Spec};
use inkwash::train::{RunOptions, RunPlan, TrainConfig, TrainEvent, train};
use inkwash::tune::{Effort, Tuning, tune};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A choice of one algorithm for every operator of these plans.
fn all(plans: &[&Plan], algorithm: &str) -> Choices {
    let mut choices = Choices::default();
    for plan in plans {
        for node in &plan.graph.nodes {
            choices.insert(Choices::key(&*node.op, &plan.graph.node_specs(node).0), algorithm);
        }
    }
    choices
}

/// The shaders that plans launch.
fn shaders(plan: &RunPlan) -> BTreeSet<&'static str> {
    plan.plans.micro.launches.iter().map(|launch| launch.dispatch.shader.name).collect()
}

#[test]
fn a_plan_follows_choices_and_knows_what_it_has_not() {
    let caps = Caps::webgpu(Kernels::Registers);
    let plan = |choices: Choices| {
        RunPlan::new(&tiny(), &Caps { choices: Arc::new(choices), ..caps.clone() }).unwrap()
    };
    let of_rule = plan(Choices::default());
    let plans = [&of_rule.plans.micro, &of_rule.plans.update];
    assert!(shaders(&of_rule).contains("conv2d") && !shaders(&of_rule).contains("conv2d_tiled"));
    let chosen = plan(all(&plans, "workgroup"));
    assert!(shaders(&chosen).contains("conv2d_tiled") && !shaders(&chosen).contains("conv2d"));
    let unknown = plan(all(&plans, "of another version"));
    assert_eq!(shaders(&unknown), shaders(&of_rule));
}

#[test]
fn what_was_measured_is_kept() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let plan = RunPlan::new(&tiny(), &device.caps).unwrap();
    // The update has operators of one algorithm alone.
    let (plans, nothing) = ([&plan.plans.micro], [&plan.plans.update]);
    let measure = |plans: &[&Plan], effort| {
        let mut begun = 0;
        let tuning = tune(&device, plans, effort, Some(folder.path()), &mut |n| begun += n).unwrap();
        (tuning, begun)
    };
    assert_eq!(measure(&nothing, Effort::Full).0.measured, 0);
    assert_eq!(measure(&plans, Effort::Off).0, Tuning::default());
    let (first, begun) = measure(&plans, Effort::Quick);
    assert!(first.measured > 0 && first.measured <= begun, "{} of {begun}", first.measured);
    let (again, begun) = measure(&plans, Effort::Quick);
    assert_eq!((again.measured, begun), (0, 0));
    assert_eq!(again.choices, first.choices);
}

/// y = 2 x by three algorithms: a slow one, which is the rule's, a fast one that computes 3 x, and a fast one.
#[derive(Debug)]
struct Doubled;

impl Op for Doubled {
    fn name(&self) -> &'static str {
        "doubled"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        Scale(2.0).infer(x)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        Scale(2.0).reference(x)
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Scale(2.0).cost(x, y)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let scaled = |factor, algorithm| {
            let program = Scale(factor).candidates(x, y, caps).swap_remove(0).program;
            Candidate::new(algorithm, program)
        };
        let mut slow = scaled(2.0, "slow");
        slow.program.dispatches = vec![slow.program.dispatches[0].clone(); 100];
        vec![slow, scaled(3.0, "wrong"), scaled(2.0, "fast")]
    }
}

#[test]
fn a_faster_algorithm_of_other_values_is_refused() {
    let Some(device) = common::open_device() else { return };
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([100_000]));
    let y = graph.apply(Doubled, &[x]).unwrap();
    graph.output("y", y);
    let plan = Plan::new(graph, &device.caps).unwrap();
    let tuning = tune(&device, &[&plan], Effort::Full, None, &mut |_| ()).unwrap();
    assert_eq!(tuning.refused.iter().collect::<Vec<_>>(), ["doubled by wrong"]);
    assert_eq!(tuning.choices.get(&Choices::key(&Doubled, &[Spec::f32([100_000])])), Some("fast"));
    assert_eq!((tuning.measured, tuning.changed), (1, 1));
}

#[test]
fn a_run_goes_on_with_what_it_began_with() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let run = |steps: u32, resume: bool, tune| {
        let config = TrainConfig { steps, ..run_config() };
        let options = RunOptions { resume, tune, ..RunOptions::new(&out) };
        let mut launched = BTreeSet::new();
        train(
            || Ok(device.clone()),
            &config,
            &options,
            &AtomicBool::new(false),
            |event| {
                if let TrainEvent::Planned { plan, .. } = event {
                    launched = shaders(plan);
                }
            },
        )
        .unwrap();
        launched
    };
    let file = out.join("tuning.json");
    let of_rule = run(3, false, Some(Effort::Off));
    assert!(!file.exists());
    // What another device may have found: the other algorithms.
    let other = device.caps.variants().into_iter().find(|caps| caps.kernels != device.caps.kernels).unwrap();
    let plan = RunPlan::new(&run_config(), &device.caps).unwrap();
    let choices = all(&[&plan.plans.micro], other.kernels.name());
    std::fs::write(&file, serde_json::to_string(&choices).unwrap()).unwrap();
    let chosen = run(6, true, Some(Effort::Full));
    assert_ne!(chosen, of_rule);
    let expected = RunPlan::new(&run_config(), &Caps { choices: Arc::new(choices), ..device.caps.clone() });
    assert_eq!(chosen, shaders(&expected.unwrap()));
    device.idle().block_on().unwrap();

    std::fs::write(&file, "[1]").unwrap();
    let options = RunOptions { resume: true, ..RunOptions::new(&out) };
    let config = TrainConfig { steps: 9, ..run_config() };
    let error =
        train(|| Ok(device.clone()), &config, &options, &AtomicBool::new(false), |_| ()).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("tuning.json") && error.contains("delete it"), "{error}");
}
