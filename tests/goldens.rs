//! The whole U-Net, forward and gradients, against PyTorch in float64 (tests/python/make_goldens.py): the
//! f64 interpreter without a device, and both kinds of kernels on a device.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use inkwash::diffusion::{UNet, UNetConfig};
use inkwash::gpu::{Blocking as _, Executable, Store};
use inkwash::graph::{Graph, Plan, ValueId, interpret};
use inkwash::io::tensor_file::{self, TensorFile};
use inkwash::ops::{Add, MseLoss};
use inkwash::rng::{philox4x32, unit};
use inkwash::tensor::{Array, Spec};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

const TIMESTEPS: [f64; 3] = [0.0, 999.0, 371.0];
const LABELS: [u32; 3] = [4, 1, 4];

/// The script's `uniform`: in (-1, 1], seed 7.
fn uniform(count: usize, stream: u32, step: u32) -> Vec<f64> {
    (0..count)
        .map(|i| {
            let block = philox4x32([u32::try_from(i / 4).unwrap(), step, stream, 0], [7, 0]);
            2.0 * unit(block[i % 4]) - 1.0
        })
        .collect()
}

/// The script's `weights`, in file order.
fn weights(name: &str, shape: &[usize], rank: u32) -> Vec<f32> {
    let u = uniform(shape.iter().product(), 4, rank);
    let matrix = shape.len() > 1;
    let attention = name.contains(".to_q.") || name.contains(".to_k.");
    let fan_in: usize = shape[1..].iter().product();
    u.into_iter()
        .map(|u| {
            let value = match (matrix, name.contains("norm") && name.ends_with("weight")) {
                (true, _) => (if attention { 2.5 } else { 1.0 }) * u / (fan_in as f64).sqrt(),
                (false, true) => 1.0 + 0.2 * u,
                (false, false) => 0.1 * u,
            };
            value as f32
        })
        .collect()
}

struct Golden {
    name: &'static str,
    file: TensorFile,
    unet: UNet,
    flat: Vec<f32>,
    x: Vec<f32>,
    target: Vec<f32>,
}

/// (N, C, H, W) to (N, H, W, C).
fn channels_last(data: &[f64], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for b in 0..n {
        for pixel in 0..h * w {
            out.extend((0..c).map(|k| data[(b * c + k) * h * w + pixel] as f32));
        }
    }
    out
}

fn load(name: &'static str) -> Golden {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/{name}.safetensors"));
    let file = tensor_file::read(&path).unwrap();
    let config: UNetConfig = serde_json::from_str(&file.metadata["config"]).unwrap();
    let unet = UNet::new(&config).unwrap();
    let mut names: Vec<&str> = unet.parameters.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    let rank: BTreeMap<&str, u32> = names.into_iter().zip(0..).collect();
    let mut flat = vec![0.0; unet.parameters.flat_elements()];
    for p in &unet.parameters {
        let data = p.to_device(&weights(&p.name, &p.shape, rank[p.name.as_str()]));
        flat[p.offset..p.offset + data.len()].copy_from_slice(&data);
    }
    let (h, w) = config.sample_size.get();
    let draw = |channels: usize, step| {
        let u = uniform(3 * channels * h * w, 8, step);
        // Rounded to f32 after the factor, as the script does.
        let rounded: Vec<f64> = u.into_iter().map(|u| f64::from((1.5 * u) as f32)).collect();
        channels_last(&rounded, [3, channels, h, w])
    };
    let (x, target) = (draw(config.in_channels, 0), draw(config.out_channels, 1));
    Golden { name, file, unet, flat, x, target }
}

struct Built {
    graph: Graph,
    given: Vec<(ValueId, Vec<f32>)>,
    labels: Option<ValueId>,
    output: ValueId,
    loss: ValueId,
    gradients: Vec<ValueId>,
}

fn build(golden: &Golden) -> Built {
    let config = &golden.unet.config;
    let (h, w) = config.sample_size.get();
    let mut graph = Graph::new();
    let flat = graph.input("flat", Spec::f32([golden.unet.parameters.flat_elements()]));
    let x = graph.input("x", Spec::f32([3, h, w, config.in_channels]));
    let t = graph.input("t", Spec::f32([3]));
    let target = graph.input("target", Spec::f32([3, h, w, config.out_channels]));
    let weight = graph.constant("weight", Array::new([3], vec![1.0; 3]));
    let one = graph.constant("one", Array::new([1], vec![1.0]));
    let labels = config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([3])));
    let parameters = golden.unet.parameters.views(&mut graph, flat).unwrap();
    let output = golden.unet.forward(&mut graph, &parameters, x, t, labels).unwrap();
    let loss = graph.apply(MseLoss, &[output, target, weight]).unwrap();
    let by_value = graph.backward(Add, &[(loss, one)], &parameters).unwrap();
    let gradients: Vec<ValueId> = parameters.iter().map(|p| by_value[p]).collect();
    graph.output("output", output);
    graph.output("loss", loss);
    for &g in &gradients {
        graph.output("gradient", g);
    }
    let given = vec![
        (flat, golden.flat.clone()),
        (x, golden.x.clone()),
        (t, TIMESTEPS.map(|t| t as f32).to_vec()),
        (target, golden.target.clone()),
    ];
    Built { graph, given, labels, output, loss, gradients }
}

fn relative_l2(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// Compares with the golden: the output's error, and the worst gradient's.
fn compare(golden: &Golden, built: &Built, read: impl Fn(ValueId) -> Vec<f64>) -> (f64, f64, f64) {
    let tensor = |name: &str| -> (Vec<usize>, Vec<f64>) {
        let t = &golden.file.tensors[name];
        (t.shape.clone(), t.data.iter().map(|&v| v.into()).collect())
    };
    let (shape, output) = tensor("output");
    let expected =
        channels_last(&output, shape.try_into().unwrap()).into_iter().map(f64::from).collect::<Vec<_>>();
    let output_error = relative_l2(&read(built.output), &expected);
    let loss_error = relative_l2(&read(built.loss), &tensor("loss").1);
    let mut worst = (0.0, String::new());
    for (p, &value) in golden.unet.parameters.iter().zip(&built.gradients) {
        // The softmax does not see a constant added to all keys: this gradient is zero but for rounding.
        if p.name.ends_with("to_k.bias") {
            continue;
        }
        let device: Vec<f32> = read(value).into_iter().map(|v| v as f32).collect();
        let stride = p.elements().div_ceil(128);
        let got: Vec<f64> = p.to_file(&device).into_iter().step_by(stride).map(f64::from).collect();
        let expected = tensor(&format!("grad.{}", p.name)).1;
        assert!(expected.iter().any(|&g| g != 0.0), "{}: the golden gradient is zero", p.name);
        let error = relative_l2(&got, &expected);
        if error > worst.0 || error.is_nan() {
            worst = (error, p.name.clone());
        }
    }
    println!(
        "{}: output {output_error:.1e}, loss {loss_error:.1e}, worst gradient {:.1e} ({})",
        golden.name, worst.0, worst.1
    );
    (output_error, loss_error, worst.0)
}

const GOLDENS: [&str; 4] = ["tiny-gray", "tiny-rgb-odd", "class-scale-shift", "head-remainder"];

/// The goldens are stored in f32: 6e-8 of each element. Gradients pass through f32 in the reordering too.
#[test]
fn interpreter_agrees_with_pytorch() {
    for name in ["class-scale-shift", "head-remainder"] {
        let golden = load(name);
        let built = build(&golden);
        let mut given: HashMap<ValueId, Array> = built
            .given
            .iter()
            .map(|(v, data)| {
                let data = data.iter().map(|&x| x.into()).collect();
                (*v, Array::new(built.graph.shape(*v).axes(), data))
            })
            .collect();
        if let Some(labels) = built.labels {
            given.insert(labels, Array::new([3], LABELS.map(f64::from).to_vec()));
        }
        let values = interpret(&built.graph, &given);
        let (output, loss, gradient) = compare(&golden, &built, |v| values[v.0].data.clone());
        assert!(output < 2e-7 && loss < 2e-7 && gradient < 1e-6, "{name}");
    }
}

#[test]
fn device_agrees_with_pytorch() {
    let Some(device) = common::open_device() else { return };
    for (caps, name) in device.caps.variants().iter().flat_map(|caps| GOLDENS.map(|name| (caps, name))) {
        let golden = load(name);
        let built = build(&golden);
        let plan = Plan::new(built.graph.clone(), caps).unwrap();
        let executable = Executable::new(&Store::new(&device), plan).block_on().unwrap();
        for (value, data) in &built.given {
            executable.write(*value, data);
        }
        if let Some(labels) = built.labels {
            executable.write_u32(labels, &LABELS);
        }
        executable.run().block_on().unwrap();
        let read = |v| executable.read_values(v).block_on().unwrap();
        let (output, loss, gradient) = compare(&golden, &built, read);
        assert!(output < 1e-5 && loss < 1e-5 && gradient < 1e-4, "{name} with {caps}");
    }
}
