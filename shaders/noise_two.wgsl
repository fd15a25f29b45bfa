// Fused noising by way of the state before the last: for each item of the batch, draw t, the noise ε̄ of all
// steps but the last in one, and the noise ε of the last step.
//
//     t = floor(u T),  u uniform              x_{t-1} = signal_prev x_0 + sigma_prev ε̄
//     ε̄, ε standard normal                    x_t     = a x_{t-1} + b ε
//     weight = weight_t, time = time_t        target  = c_prev x_{t-1} + c_last ε
//
// signal_prev is the article's ā_{t-2}, sigma_prev = √(1 - ā_{t-2}²), a = a_{t-1}, b = b_{t-1}; before the first
// step there is the picture itself (1 and 0). The two target coefficients choose what the network is asked for:
// x_{t-1} (1, 0) or ε_{t-1} (0, 1).
//
// One invocation per four elements of an item: one Philox block makes four normals. t and ε̄ come from the
// addresses that noise.wgsl takes them from, ε from a stream of its own.

#import lib/index
#import lib/normal

struct Params {
    batch: u32,
    item: u32,      // elements of one item
    blocks: u32,    // ceil(item / 4)
    timesteps: u32, // T
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x0: array<f32>;      // (batch, item)
@group(0) @binding(2) var<storage, read> schedule: array<f32>; // (T, 8): signal_prev, sigma_prev, a, b, c_prev, c_last, weight, time
@group(0) @binding(3) var<storage, read> step: array<u32>;    // (8): seed low, seed high, step, first item, ...
@group(0) @binding(4) var<storage, read_write> x_t: array<f32>;    // (batch, item)
@group(0) @binding(5) var<storage, read_write> noise_target: array<f32>; // (batch, item)
@group(0) @binding(6) var<storage, read_write> time: array<f32>; // (batch)
@group(0) @binding(7) var<storage, read_write> weight: array<f32>; // (batch)

const STREAM_NOISE: u32 = 0u;
const STREAM_TIMESTEP: u32 = 1u;
const STREAM_LAST_NOISE: u32 = 9u;

@compute @workgroup_size(64)
fn add_two_noises(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.batch * params.blocks {
        return;
    }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let key = vec2<u32>(step[0], step[1]);
    let item = step[3] + n;
    let bits = philox4x32(vec4<u32>(0u, step[2], STREAM_TIMESTEP, item), key).x;
    let t = multiply_high(bits, params.timesteps);
    let row = t * 8u;
    if block == 0u {
        weight[n] = schedule[row + 6u];
        time[n] = schedule[row + 7u];
    }
    let merged = normal4(vec4<u32>(block, step[2], STREAM_NOISE, item), key);
    let last = normal4(vec4<u32>(block, step[2], STREAM_LAST_NOISE, item), key);
    let first = block * 4u;
    let count = min(4u, params.item - first);
    for (var k = 0u; k < count; k++) {
        let j = n * params.item + first + k;
        let previous = schedule[row] * x0[j] + schedule[row + 1u] * merged[k];
        x_t[j] = schedule[row + 2u] * previous + schedule[row + 3u] * last[k];
        noise_target[j] = schedule[row + 4u] * previous + schedule[row + 5u] * last[k];
    }
}
