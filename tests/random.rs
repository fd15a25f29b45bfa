//! The device's random numbers as a sample: moments and distribution of the normals, uniformity of the
//! timesteps. That they are the right bits is proven case by case in `operators.rs`; this shows that the
//! right bits are normal and uniform, at sizes where a slip of one part in a hundred would be seen.
//!
//! Seeds are fixed, so a test that passes once on correct bits always passes; limits are five standard
//! errors, or one chance in a thousand, as if they were drawn anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use inkwash::gpu::{Blocking as _, Device, Executable, Store};
use inkwash::graph::{Graph, Plan, ValueId};
use inkwash::ops::StepWords;
use inkwash::ops::{AddNoise, RandomNormal, SCHEDULE_COLUMNS, STEP_WORDS};
use inkwash::rng::Stream;
use inkwash::tensor::{Array, DType, Shape, Spec};
use std::sync::Arc;

fn executable(device: &Arc<Device>, graph: Graph) -> Executable {
    Executable::new(&Store::new(device), Plan::new(graph, &device.caps).unwrap()).block_on().unwrap()
}

/// Φ(x), from the complementary error function, so that the tails keep their digits.
fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Five standard errors on the first four moments, and Kolmogorov and Smirnov's distance at one in a
/// thousand: √n D < 1.95.
fn assert_normal(what: &str, sample: &[f64]) {
    let n = sample.len() as f64;
    let moment = |k: i32, mean: f64| sample.iter().map(|x| (x - mean).powi(k)).sum::<f64>() / n;
    let mean = moment(1, 0.0);
    let variance = moment(2, mean);
    let skewness = moment(3, mean) / variance.powf(1.5);
    let kurtosis = moment(4, mean) / (variance * variance) - 3.0;
    // Variances of the estimators for a normal sample: 1/n, 2/n, 6/n, 24/n.
    for (name, value, variance_times_n) in [
        ("mean", mean, 1.0),
        ("variance - 1", variance - 1.0, 2.0),
        ("skewness", skewness, 6.0),
        ("excess kurtosis", kurtosis, 24.0),
    ] {
        let error = (variance_times_n / n).sqrt();
        println!("{what}: {name} {value:.2e}, {:.2} standard errors", value / error);
        assert!(value.abs() < 5.0 * error, "{what}: {name} is {value}, standard error {error}");
    }
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    let distance = sorted
        .iter()
        .enumerate()
        .map(|(i, &x)| {
            let p = normal_cdf(x);
            (p - i as f64 / n).abs().max(((i + 1) as f64 / n - p).abs())
        })
        .fold(0.0, f64::max);
    println!("{what}: Kolmogorov-Smirnov {:.2}", distance * n.sqrt());
    assert!(distance * n.sqrt() < 1.95, "{what}: the distribution is {distance} away from the normal one");
    // Of 2^18 normals the largest is beyond 4 in all but 2 of a million samples.
    assert!(sorted[0] < -4.0 && sorted[sorted.len() - 1] > 4.0, "{what}: the tails are cut");
    assert!(sorted.iter().all(|x| x.is_finite()), "{what}");
}

/// Five standard errors on the correlation of two samples.
fn assert_uncorrelated(what: &str, a: &[f64], b: &[f64]) {
    let n = a.len().min(b.len()) as f64;
    let r = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n;
    assert!(r.abs() * n.sqrt() < 5.0, "{what}: correlation {r}");
}

#[test]
fn normals_are_normal() {
    let Some(device) = common::open_device() else { return };
    // An item of 4095 elements leaves one number of its last block unused.
    let shape = Shape::new([65, 4095]);
    assert!(shape.elements() >= 1 << 18);
    let mut graph = Graph::new();
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let z = graph.apply(RandomNormal { stream: Stream::Initial, shape }, &[step]).unwrap();
    graph.output("z", z);
    let executable = executable(&device, graph);
    let draw = |seed: u64, number: u32| -> Vec<f64> {
        let words = StepWords { seed, step: number, ..StepWords::default() };
        executable.write_u32(step, &words.words());
        executable.run().block_on().unwrap();
        executable.read(z).block_on().unwrap().into_iter().map(f64::from).collect()
    };
    let first = draw(1, 0);
    assert_normal("seed 1", &first);
    assert_normal("a seed of 64 bits", &draw(0xDEAD_BEEF_0123_4567, 3));
    assert_eq!(first, draw(1, 0), "the same address gives other numbers");
    assert_uncorrelated("step 0 and step 1", &first, &draw(1, 1));
    assert_uncorrelated("seed 1 and seed 2", &first, &draw(2, 0));
    assert_uncorrelated("item i and item i + 1", &first, &first[4095..]);
    assert_uncorrelated("neighbours", &first, &first[1..]);
    assert_uncorrelated("the two words of a pair of words", &first, &first[2..]);
}

struct Noising {
    executable: Executable,
    step: ValueId,
    noise: ValueId,
    timestep: ValueId,
}

const TIMESTEPS: usize = 1000;

/// Noising with a table of pure noise, so that x_t is ε itself.
fn noising(device: &Arc<Device>, batch: usize, item: usize) -> Noising {
    let mut graph = Graph::new();
    let x0 = graph.input("x0", Spec::f32([batch, item]));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let rows = (0..TIMESTEPS).flat_map(|t| [0.0, 1.0, 1.0, 0.0, 1.0, t as f64]).collect();
    let table = graph.constant("schedule", Array::new([TIMESTEPS, SCHEDULE_COLUMNS], rows));
    let y = graph.apply_all(AddNoise { dtype: DType::F32 }, &[x0, table, step]).unwrap();
    let [noise, timestep] = [y[0], y[2]];
    graph.output("noise", noise);
    graph.output("timestep", timestep);
    Noising { executable: executable(device, graph), step, noise, timestep }
}

#[test]
fn timesteps_are_uniform() {
    let Some(device) = common::open_device() else { return };
    const BATCH: usize = 4096;
    const STEPS: u32 = 32;
    let noising = noising(&device, BATCH, 1);
    let mut counts = vec![0u32; TIMESTEPS];
    let mut pairs = vec![0u32; 64];
    for number in 0..STEPS {
        let words = StepWords { seed: 5, step: number, ..StepWords::default() };
        noising.executable.write_u32(noising.step, &words.words());
        noising.executable.run().block_on().unwrap();
        let t = noising.executable.read(noising.timestep).block_on().unwrap();
        for &t in &t {
            assert!(t.fract() == 0.0 && (0.0..TIMESTEPS as f32).contains(&t), "timestep {t}");
            counts[t as usize] += 1;
        }
        for pair in t.chunks_exact(2) {
            let [a, b] = [pair[0], pair[1]].map(|t| t as usize * 8 / TIMESTEPS);
            pairs[a * 8 + b] += 1;
        }
    }
    // χ² has mean k and variance 2k for k degrees of freedom.
    for (what, counts) in [("timesteps", &counts), ("pairs of neighbours", &pairs)] {
        let total: u32 = counts.iter().sum();
        let expected = f64::from(total) / counts.len() as f64;
        let chi_squared: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        let freedom = counts.len() as f64 - 1.0;
        let excess = (chi_squared - freedom) / (2.0 * freedom).sqrt();
        println!("{what}: chi-squared {chi_squared:.0} of {freedom}, {excess:.2} standard errors");
        assert!(excess.abs() < 5.0, "{what}: chi-squared {chi_squared} with {freedom} degrees of freedom");
    }
}

#[test]
fn training_noise_is_normal_and_new_at_every_step() {
    let Some(device) = common::open_device() else { return };
    let noising = noising(&device, 64, 4097);
    let draw = |number: u32, first_item: u32| -> Vec<f64> {
        let words = StepWords { seed: 5, step: number, first_item, ..StepWords::default() };
        noising.executable.write_u32(noising.step, &words.words());
        noising.executable.run().block_on().unwrap();
        noising.executable.read(noising.noise).block_on().unwrap().into_iter().map(f64::from).collect()
    };
    let first = draw(0, 0);
    assert_normal("training noise", &first);
    assert_uncorrelated("step 0 and step 1", &first, &draw(1, 0));
    // The second micro-batch goes on where the first ends.
    let second = draw(0, 32);
    assert_eq!(first[32 * 4097..], second[..32 * 4097]);
    assert_uncorrelated("two micro-batches", &first[..32 * 4097], &second[..32 * 4097]);
}
