// The noise that was added to a point, as it is to be expected from where the point lies: x = a x_0 + n ε with
// x_0 from a mixture of Gaussians, which stays one under noise: component k has mean a μ_k and variance v_k.
//
//     v_k    = a² s_k² + n²
//     r_k    = w_k v_k^(-C/2) exp(-|x - a μ_k|² / 2 v_k), divided by their sum
//     E[ε|x] = n Σ_k r_k (x - a μ_k) / v_k  =  -n ∇ log p(x)
//
// r_k is the probability that x came from component k, by Bayes' rule. What a network learns from pictures is
// here known exactly.
//
// One invocation per point. The largest exponent is found first and taken from all: one exponential is 1.

#import lib/index

const CHANNELS: u32 = 2u; // C, at most 4

struct Params {
    points: u32,
    components: u32, // K
}

// `MixtureLevel` of src/ops/gaussian_mixture.rs has the same fields.
struct MixtureLevel {
    signal: f32, // a
    noise: f32,  // n
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (points, C)
@group(0) @binding(2) var<storage, read> components: array<f32>; // (K, 2 + C): w, s, μ
@group(0) @binding(3) var<storage, read> level: MixtureLevel;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;    // (points, C)

// A component under the noise, seen from the point.
struct Seen {
    offset: vec4<f32>, // x - a μ_k; 0 beyond C
    variance: f32,     // v_k
    exponent: f32,     // -|x - a μ_k|² / 2 v_k
}

fn seen(k: u32, point: u32) -> Seen {
    let row = k * (2u + CHANNELS);
    let spread = level.signal * components[row + 1u];
    let variance = spread * spread + level.noise * level.noise;
    var offset = vec4<f32>(0.0);
    for (var c = 0u; c < CHANNELS; c++) {
        offset[c] = x[point * CHANNELS + c] - level.signal * components[row + 2u + c];
    }
    return Seen(offset, variance, -0.5 * dot(offset, offset) / variance);
}

@compute @workgroup_size(64)
fn posterior_noise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let point = invocation_index(group, groups, lane, 64u);
    if point >= params.points {
        return;
    }
    var largest = seen(0u, point).exponent;
    for (var k = 1u; k < params.components; k++) {
        largest = max(largest, seen(k, point).exponent);
    }
    var total = 0.0;
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < params.components; k++) {
        let component = seen(k, point);
        var r = components[k * (2u + CHANNELS)] * exp(component.exponent - largest);
        for (var c = 0u; c < CHANNELS; c++) {
            r *= inverseSqrt(component.variance);
        }
        total += r;
        sum += r / component.variance * component.offset;
    }
    for (var c = 0u; c < CHANNELS; c++) {
        y[point * CHANNELS + c] = level.noise * sum[c] / total;
    }
}
