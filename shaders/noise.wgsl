// Fused noising: for each item of the batch, draw t and ε, and write all that the loss needs.
//
//     t = floor(u T),  u uniform            x_t    = signal_t x_0 + sigma_t ε
//     ε standard normal                     target = target_noise_t ε + target_data_t x_0
//     weight = weight_t                     time   = time_t, what the network is told of t
//
// signal_t is the article's ā_t, sigma_t = sqrt(1 - ā_t²) (DDPM, arXiv 2006.11239, eq. 4). The two target
// coefficients choose what the network predicts: ε (1, 0), x_0 (0, 1), v (ā, -sigma; arXiv 2202.00512), the velocity of flow
// matching (1, -1; arXiv 2209.03003), whose signal and sigma are 1 - t and t.
//
// One invocation per four elements of an item: one Philox block makes four normals. The block's address
// is (block, step, stream, item), so a batch split in any way gets the same numbers.

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
@group(0) @binding(2) var<storage, read> schedule: array<f32>; // (T, 6): signal, sigma, target_noise, target_data, weight, time
@group(0) @binding(3) var<storage, read> step: array<u32>;    // (8): seed low, seed high, step, first item, ...
@group(0) @binding(4) var<storage, read_write> x_t: array<f32>;    // (batch, item)
@group(0) @binding(5) var<storage, read_write> noise_target: array<f32>; // (batch, item)
@group(0) @binding(6) var<storage, read_write> time: array<f32>; // (batch)
@group(0) @binding(7) var<storage, read_write> weight: array<f32>; // (batch)

const STREAM_NOISE: u32 = 0u;
const STREAM_TIMESTEP: u32 = 1u;

@compute @workgroup_size(64)
fn add_noise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    let row = t * 6u;
    if block == 0u {
        weight[n] = schedule[row + 4u];
        time[n] = schedule[row + 5u];
    }
    let e = normal4(vec4<u32>(block, step[2], STREAM_NOISE, item), key);
    let first = block * 4u;
    let count = min(4u, params.item - first);
    for (var k = 0u; k < count; k++) {
        let j = n * params.item + first + k;
        let x = x0[j];
        x_t[j] = schedule[row] * x + schedule[row + 1u] * e[k];
        noise_target[j] = schedule[row + 2u] * e[k] + schedule[row + 3u] * x;
    }
}
