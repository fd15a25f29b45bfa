//! Algorithms chosen by measurement: what is measured, kept, and followed.

mod common;

use common::training::{bits, run_config, tiny};
use inkwash::diffusion::UNet;
use inkwash::gpu::Blocking as _;
use inkwash::graph::{Candidate, Caps, Choices, Cost, Graph, Kernels, Op, Plan, ShapeError};
use inkwash::nn::Precision;
use inkwash::ops::Scale;
use inkwash::tensor::{Array, Spec};
use inkwash::train::{Diffusion, RunOptions, RunPlan, StepOptions, TrainConfig, TrainEvent, Trainer, train};
use inkwash::tune::{Effort, Tuning, tune};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    let chosen = plan(Choices::of(&plans, &caps, |candidate| candidate.algorithm == "workgroup"));
    assert!(shaders(&chosen).contains("conv2d_tiled") && !shaders(&chosen).contains("conv2d"));
    let mut unknown = Choices::default();
    let graph = &of_rule.plans.micro.graph;
    for node in &graph.nodes {
        unknown.insert(Choices::key(&*node.op, &graph.node_specs(node).0), "of another version");
    }
    let unknown = plan(unknown);
    assert_eq!(shaders(&unknown), shaders(&of_rule));
}

#[test]
fn what_was_measured_is_kept() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let plan = RunPlan::new(&tiny(), &device.caps).unwrap();
    // An operator of one algorithm alone.
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([8]));
    let y = graph.apply(Scale(2.0), &[x]).unwrap();
    graph.output("y", y);
    let scaled = Plan::new(graph, &device.caps).unwrap();
    let (plans, nothing) = ([&plan.plans.micro], [&scaled]);
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

/// y = 2 x by four algorithms: a slow one, which is the rule's, a fast one that computes 3 x, and two fast ones.
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
        let as_slow = Candidate { algorithm: "as slow", ..slow.clone() };
        vec![slow, scaled(3.0, "wrong"), scaled(2.0, "fast"), as_slow]
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

/// What another process kept is compared once; a file that names an algorithm of other values is put right.
#[test]
fn what_was_kept_is_checked_once() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::f32([90_001]);
    let mut graph = Graph::new();
    let x = graph.input("x", spec.clone());
    let y = graph.apply(Doubled, &[x]).unwrap();
    graph.output("y", y);
    let plan = Plan::new(graph, &device.caps).unwrap();
    let key = Choices::key(&Doubled, &[spec]);
    let tuned = || {
        let tuning = tune(&device, &[&plan], Effort::Full, Some(folder.path()), &mut |_| ()).unwrap();
        (tuning.choices.get(&key).unwrap().to_owned(), tuning.measured, tuning.checked, tuning.refused.len())
    };
    assert_eq!(tuned(), ("fast".into(), 1, 0, 1));
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let keep = |algorithm: &str| {
        let mut choices = Choices::default();
        choices.insert(key.clone(), algorithm);
        std::fs::write(&file, serde_json::to_string(&choices).unwrap()).unwrap();
    };
    // Measured by this process.
    assert_eq!(tuned(), ("fast".into(), 0, 0, 0));
    keep("wrong");
    assert_eq!(tuned(), ("slow".into(), 0, 1, 1));
    assert_eq!(tuned(), ("slow".into(), 0, 0, 0));
    keep("as slow");
    assert_eq!(tuned(), ("as slow".into(), 0, 1, 0));
    assert_eq!(tuned(), ("as slow".into(), 0, 0, 0));
}

/// Runs with an algorithm wherever there is one, as `tuning.json` keeps them, from the start: twice, with the same bits.
#[test]
fn a_run_repeats_bit_by_bit_with_every_algorithm() {
    let Some(device) = common::open_device() else { return };
    for precision in [Precision::F32, Precision::F16] {
        if !device.caps.stores(precision.dtype()) {
            common::skip("no device with f16");
            continue;
        }
        let config = TrainConfig { precision, ..tiny() };
        let plan = RunPlan::new(&config, &device.caps).unwrap();
        let plans = [&plan.plans.micro, &plan.plans.update];
        let mut algorithms = BTreeSet::new();
        Choices::of(&plans, &device.caps, |candidate| {
            algorithms.insert(candidate.algorithm);
            false
        });
        assert!(algorithms.len() >= 2, "{algorithms:?}");
        for algorithm in algorithms {
            let choices = Choices::of(&plans, &device.caps, |candidate| candidate.algorithm == algorithm);
            let kept = serde_json::to_string(&choices).unwrap();
            let run = || {
                let choices: Choices = serde_json::from_str(&kept).unwrap();
                let task = Diffusion::new(UNet::new(&config.unet_config(0)).unwrap(), &config);
                let initial = task.unet.parameters.initial(config.seed);
                let options = StepOptions { choices: Arc::new(choices), ..config.step_options() };
                let mut trainer = Trainer::new(&device, task, options).block_on().unwrap();
                trainer.set_parameters(&initial).unwrap();
                let pictures: Vec<f32> = (0..8 * 64).map(|i| (i * 37 % 64) as f32 / 32.0 - 1.0).collect();
                for _ in 0..3 {
                    let hyper = config.hyper(trainer.next_step());
                    trainer.step(&hyper, || (pictures.clone(), vec![0; 8])).block_on().unwrap();
                }
                trainer.checkpoint().block_on().unwrap().states.map(|state| bits(&state))
            };
            assert!(run() == run(), "{algorithm} in {precision:?}");
        }
    }
}

/// A run that measures and one that finds in the cache what the first has measured.
#[test]
fn a_tuned_run_repeats_bit_by_bit() {
    let Some(device) = common::open_device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let out = folder.path().join(name);
        let cache = Some(folder.path().join("cache"));
        let options = RunOptions { tune: Some(Effort::Quick), cache, ..RunOptions::new(&out) };
        let stop = AtomicBool::new(false);
        train(|| Ok(device.clone()), &run_config(), &options, &stop, |_| ()).unwrap();
        device.idle().block_on().unwrap();
        let read = |file: &str| std::fs::read(out.join(file)).unwrap();
        (read("tuning.json"), read("checkpoints/step-000006.safetensors"))
    };
    assert!(run("first") == run("second"));
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
    let name = other.kernels.name();
    let choices = Choices::of(&[&plan.plans.micro], &device.caps, |candidate| candidate.algorithm == name);
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
