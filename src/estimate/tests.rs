//! The model against the estimate that it is calibrated on, and sums against what they are of. The launches and instructions of
//! that estimate are frozen in files, so that faster kernels change what is modelled and not the model.

use super::*;
use crate::diffusion::Preset;
use crate::graph::{Caps, Cost, Kernels, Phase};
use crate::isa::Mix;
use crate::nn::Precision;
use crate::train::NetworkKind;

/// A training step of `cifar` at batch 128 as kernels were at commit 46ee620; identical launches of a row as calls of one.
fn frozen_step() -> Vec<Work> {
    let rows = include_str!("tests/cifar_128.csv").lines().filter(|line| !line.starts_with('#')).skip(1);
    let work = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| fields[i].parse::<u64>().unwrap();
        let calls = number(3);
        Work {
            phase: Phase::Forward,
            module: String::new(),
            op: fields[0].into(),
            kernel: fields[1].into(),
            variant: fields[2].into(),
            workgroups: number(4),
            invocations: number(5),
            calls,
            matrix_flops: number(6) * calls,
            other_flops: number(7) * calls,
            bytes_read: 0,
            bytes_written: 0,
            executed_flops: number(8) * calls,
            moved_bytes: number(9) * calls,
        }
    };
    rows.map(work).collect()
}

/// Row by row, in ms on an H100 and an RTX 4090: from operations at a guessed share of the peak, and bytes at the bandwidth.
const BY_HAND: [(&str, [f64; 2]); 9] = [
    ("convolution weight gradient", [142.0, 106.0]),
    ("convolution input gradient", [88.0, 67.0]),
    ("convolution forward", [69.0, 52.0]),
    ("attention", [25.0, 25.0]),
    ("linear layers of attention", [12.0, 9.0]),
    ("group norm", [5.7, 16.6]),
    ("bias gradients", [2.3, 3.5]),
    ("additions and copies", [4.5, 13.4]),
    ("rest", [2.5, 4.0]),
];

#[test]
fn a_step_takes_what_was_estimated_by_hand() {
    let mixes = InstructionMixes::read(include_str!("tests/instruction_mix.csv")).unwrap();
    let step = frozen_step();
    let sum = |f: fn(&Work) -> u64| step.iter().map(f).sum::<u64>();
    assert_eq!((sum(|w| w.calls), sum(|w| w.matrix_flops)), (1199, 4_777_463_250_944));
    assert!(step.iter().all(|w| w.matrix_flops == 0 || mixes.of(&w.kernel, &w.variant).is_some()));
    for (i, (name, by_hand)) in [("H100", 356.0), ("RTX 4090", 302.0)].into_iter().enumerate() {
        let gpu = Gpu::parse(name).unwrap();
        let launches = launches(step.clone(), Some(&gpu), &mixes);
        let rows = sums_by(&launches, |work| work.op.clone());
        assert_eq!(rows.len(), BY_HAND.len());
        for (row, by_hand) in BY_HAND.map(|(row, ms)| (row, ms[i])) {
            let found = rows.iter().find(|sums| sums.name == row).unwrap();
            let ms = found.seconds.unwrap() * 1e3;
            assert!((ms / by_hand - 1.0).abs() < 0.3, "{name}, {row}: {ms}");
            println!(
                "{name:<10} {row:<28} {ms:>7.1} ms, by hand {by_hand:>5.1}, {:+.0} %",
                100.0 * (ms / by_hand - 1.0)
            );
        }
        let all = Sums::of("step", &launches.iter().collect::<Vec<_>>());
        let on = on_gpu(gpu, &all, 128, &launches, &mixes);
        let ms = on.step_seconds * 1e3;
        println!(
            "{name:<10} {:<28} {ms:>7.1} ms, by hand {by_hand:>5.1}, {:+.1} %",
            "step",
            100.0 * (ms / by_hand - 1.0)
        );
        assert!((ms / by_hand - 1.0).abs() < 0.1, "{name}: {ms}");
    }
}

/// Of `tiny-gray` and the classifier, with both kinds of kernels.
#[test]
fn sums_are_those_of_the_plans() {
    for (network, kernels) in
        [NetworkKind::Unet, NetworkKind::Classifier].into_iter().flat_map(|n| Kernels::ALL.map(|k| (n, k)))
    {
        let config =
            TrainConfig { network, preset: Preset::TinyGray, batch: 2, accumulate: 3, ..Default::default() };
        let config = config.with_network(&["cat".into(), "dog".into()]);
        let run = RunPlan::new(&config, &Caps::webgpu(kernels)).unwrap();
        let estimate = Estimate::new(&config, &run, Some(Gpu::parse("H100").unwrap())).unwrap();
        let Estimate { totals, phases, operators, kernels, launches, memory, on, .. } = &estimate;
        let mut cost = Cost::default();
        let (micro, update) = (&run.plans.micro, &run.plans.update);
        for plan in [micro, micro, micro, update] {
            plan.launch_costs().into_iter().for_each(|c| cost += c);
        }
        let counted = |sums: &[Sums]| {
            sums.iter().fold((0, Cost::default()), |(launches, mut all), s| {
                let Sums { matrix_flops, other_flops, bytes_read, bytes_written, .. } = *s;
                all += Cost { matrix_flops, other_flops, bytes_read, bytes_written };
                (launches + s.launches, all)
            })
        };
        let expected = ((3 * micro.launches.len() + update.launches.len()) as u64, cost);
        assert_eq!(counted(std::slice::from_ref(totals)), expected);
        for sums in [phases, operators, kernels] {
            assert_eq!(counted(sums), expected);
            let seconds: f64 = sums.iter().map(|s| s.seconds.unwrap()).sum();
            assert!((seconds / totals.seconds.unwrap() - 1.0).abs() < 1e-9);
        }
        let on = on.as_ref().unwrap();
        assert_eq!(on.step_seconds, totals.seconds.unwrap() + on.gap_seconds);
        assert_eq!(on.gap_seconds, expected.0 as f64 * model::GAP_SECONDS);
        for LaunchEstimate { work, seconds, .. } in launches {
            assert!(seconds.unwrap() >= work.calls as f64 * model::LEAST_SECONDS);
            assert!(
                work.executed_flops >= work.matrix_flops
                    && work.moved_bytes >= work.bytes_read + work.bytes_written
            );
        }
        let m = memory;
        let states = m.parameters + m.gradients + m.optimizer + m.log;
        let working = m.activations + m.passing + m.scratch + m.unfilled;
        assert_eq!(states + m.inputs + m.constants + m.outputs + working, m.step);
        assert_eq!(m.step + m.evaluation, run.bytes);
        assert!(m.activations > 0 && m.parameters == 4 * run.parameters.flat_elements() as u64);
        let without = Estimate::new(&config, &run, None).unwrap();
        assert!(without.on.is_none() && without.totals.seconds.is_none() && without.totals.bound.is_none());
    }
}

/// 100 rows by 70 columns of 30 terms in tiles of 64 by 64 by 16: 128 by 128 by 32. A gradient of stride 2 has 3 zeros for each
/// pixel where its channels are staged one at a time, and none where four at a time.
#[test]
fn tiles_execute_their_edges() {
    use crate::graph::{Graph, Plan};
    use crate::ops::{Conv2d, Conv2dBackwardInput, Linear, Padding};
    use crate::tensor::Spec;
    let executed = |graph: Graph| {
        let plan = Plan::new(graph, &Caps::webgpu(Kernels::Workgroup)).unwrap();
        let work = Work::of(&[(&plan, 1)]).unwrap();
        (work[0].matrix_flops, work[0].executed_flops)
    };
    let mut graph = Graph::new();
    let x = [Spec::f32([100, 30]), Spec::f32([30, 70]), Spec::f32([70])].map(|spec| graph.input("x", spec));
    let y = graph.apply(Linear, &x).unwrap();
    graph.output("y", y);
    assert_eq!(executed(graph), (2 * 100 * 70 * 30, 2 * 128 * 128 * 32));
    for (channels, times) in [(64, 1), (63, 4)] {
        let mut graph = Graph::new();
        let conv = Conv2d { kernel: 3, stride: 2, padding: Padding::Symmetric(1) };
        let x =
            [Spec::f32([1, 8, 8, 64]), Spec::f32([3, 3, channels, 64])].map(|spec| graph.input("x", spec));
        let dx = graph.apply(Conv2dBackwardInput { conv, height: 16, width: 16 }, &x).unwrap();
        graph.output("dx", dx);
        let of_tiles = 2 * 64 * 9 * 64 * 64;
        assert_eq!(executed(graph), (of_tiles / 64 * channels as u64, times * of_tiles));
    }
}

/// What bounds a launch is what takes longest.
#[test]
fn a_launch_takes_the_longest_of_its_times() {
    let gpu = Gpu::parse("10T,1T").unwrap();
    let mix = InstructionMix {
        registers: 64,
        spills: 0,
        scratch: 0,
        hottest: Mix { matrix: 0, fma: 70, other: 10, scalar: 9, workgroup: 2, memory: 4 },
    };
    let work = |matrix_flops: u64, moved_bytes: u64, workgroups: u64| Work {
        matrix_flops,
        executed_flops: matrix_flops,
        moved_bytes,
        workgroups,
        calls: 1,
        ..frozen_step().swap_remove(0)
    };
    let close = |(seconds, bound): (f64, Bound), expected: (f64, Bound)| {
        assert!((seconds / expected.0 - 1.0).abs() < 1e-12 && bound == expected.1, "{seconds} {bound:?}");
    };
    // 0.7 of 70 in 100 turns: 4.9 TFLOP/s; a quarter of that on 5 of 20 units.
    close(model::seconds(&work(49_000_000_000, 0, 100), Some(mix), &gpu), (10e-3, Bound::Arithmetic));
    close(model::seconds(&work(49_000_000_000, 0, 5), Some(mix), &gpu), (40e-3, Bound::Arithmetic));
    close(model::seconds(&work(25_000_000_000, 0, 100), None, &gpu), (10e-3, Bound::Arithmetic));
    close(model::seconds(&work(1, 8_000_000_000, 100), Some(mix), &gpu), (10e-3, Bound::Bandwidth));
    close(model::seconds(&work(0, 16, 1), None, &gpu), (2e-6, Bound::Latency));
    // 256 invocations that load 100 times.
    close(model::seconds(&work(0, 100 * 16 * 256, 1), None, &gpu), (8e-6, Bound::Latency));
    // 1e9 passes of 64 bytes, at 0.7 TB/s.
    let spilled = InstructionMix { scratch: 1024, ..mix };
    close(
        model::seconds(&work(140_000_000_000, 0, 100), Some(spilled), &gpu),
        (64e9 / 0.7e12, Bound::Spills),
    );
}

/// Matrix products take the turns of their own peak, and the other instructions theirs.
#[test]
fn matrix_units_wait_for_the_instructions_beside_them() {
    let hottest = Mix { matrix: 16, fma: 8, other: 100, scalar: 50, workgroup: 16, memory: 8 };
    let mix = Some(InstructionMix { registers: 96, spills: 0, scratch: 0, hottest });
    // Of 16 x 16 x 16 by 32 lanes, 128 turns of multiply-adds; at twice their peak 64.
    let gpu = Gpu::parse("RTX 4090").unwrap();
    let expected = 82.6e12 * 0.7 * (16.0 * 128.0) / (16.0 * 64.0 + 8.0 + 100.0 + 128.0 + 8.0);
    assert!((model::product_flops_per_s(mix, &gpu) / expected - 1.0).abs() < 1e-9);
    // At 14.8 times their peak, of which 62.9 % are reached.
    let gpu = Gpu::parse("H100").unwrap();
    let turns = 16.0 * 128.0 * 66.9 / (989.4 * 0.629);
    let expected = 66.9e12 * 0.7 * (16.0 * 128.0) / (turns + 244.0);
    assert!((model::product_flops_per_s(mix, &gpu) / expected - 1.0).abs() < 1e-9);
}

/// Products of f16 are planned on matrix units where they have such an algorithm, and every kernel of them is recorded.
#[test]
fn steps_in_f16_are_planned_on_matrix_units() {
    let config = |preset, precision| {
        TrainConfig { preset, precision, batch: 32, ..TrainConfig::default() }.with_network(&[])
    };
    for (name, precision, has) in [
        ("H100", Precision::F16, true),
        ("RTX 4090", Precision::F16, true),
        ("RX 9070 XT", Precision::F16, true),
        ("H100", Precision::F32, false),
        ("M1", Precision::F16, false),
        ("Arc B580", Precision::F16, false),
    ] {
        let gpu = Gpu::parse(name).unwrap();
        let config = config(Preset::Small32, precision);
        let run = plan(&config, &gpu, Kernels::Workgroup).unwrap();
        let estimate = Estimate::new(&config, &run, Some(gpu)).unwrap();
        let on_matrix_units = |op: &str| {
            estimate.launches.iter().any(|l| l.work.op == op && l.work.variant.contains("gemm_matrix"))
        };
        for op in ["conv2d", "conv2d_backward_weight", "linear_layers", "linear_layers_backward_input"] {
            assert_eq!(on_matrix_units(op), has, "{op} on {name} in {precision:?}");
        }
        let on = estimate.on.unwrap();
        assert!(on.unrecorded.iter().all(|kernel| !kernel.contains("gemm_matrix")), "{:?}", on.unrecorded);
    }
}
