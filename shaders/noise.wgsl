// Fused noising: for each item of the batch, draw t and ε, and write all that the loss needs.
//
//     t = floor(u T),  u uniform            x_t    = signal_t x_0 + sigma_t ε
//     ε standard normal                     target = target_noise_t ε + target_data_t x_0
//     weight = weight_t                     time   = time_t, what conditions the network
//
// signal_t is the article's ā_t, sigma_t = sqrt(1 - ā_t²) (DDPM, arXiv 2006.11239, eq. 4). The two target
// coefficients choose what the network predicts: ε (1, 0), x_0 (0, 1), v (ā, -sigma; arXiv 2202.00512), the velocity of flow
// matching (1, -1; arXiv 2209.03003), whose signal and sigma are 1 - t and t.
//
// add_two_noises draws by way of the state before the last: ε̄, the noise of all steps but the last in one, and ε of the
// last.
//
//     x_{t-1} = signal_prev x_0 + sigma_prev ε̄      x_t    = a x_{t-1} + b ε
//                                                   target = c_prev x_{t-1} + c_last ε
//
// signal_prev is the article's ā_{t-2}, sigma_prev = √(1 - ā_{t-2}²), a = a_{t-1}, b = b_{t-1}; before the first step
// there is the picture itself (1 and 0). The network is asked for x_{t-1} (1, 0) or ε_{t-1} (0, 1). t and ε̄ come from
// the addresses of add_noise's t and ε.
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
// (T, columns), the last two of them weight and time. add_noise: signal, sigma, target_noise, target_data;
// add_two_noises: signal_prev, sigma_prev, a, b, c_prev, c_last.
@group(0) @binding(2) var<storage, read> schedule: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;    // (8): seed low, seed high, step, first item, ...
@group(0) @binding(4) var<storage, read_write> x_t: array<f32>;    // (batch, item)
@group(0) @binding(5) var<storage, read_write> noise_target: array<f32>; // (batch, item)
@group(0) @binding(6) var<storage, read_write> time: array<f32>; // (batch)
@group(0) @binding(7) var<storage, read_write> weight: array<f32>; // (batch)

const STREAM_NOISE: u32 = 0u;
const STREAM_TIMESTEP: u32 = 1u;
const STREAM_LAST_NOISE: u32 = 9u;

// Where an invocation stands: its item and block, and the row that its item draws.
struct Place {
    n: u32,
    block: u32,
    row: u32, // first word
}

// The item's weight and time, the last columns of its row, are written by its first block.
fn place(i: u32, columns: u32) -> Place {
    let n = i / params.blocks;
    let block = i % params.blocks;
    let address = vec4<u32>(0u, step[2], STREAM_TIMESTEP, step[3] + n);
    let t = multiply_high(philox4x32(address, vec2<u32>(step[0], step[1])).x, params.timesteps);
    let row = t * columns;
    if block == 0u {
        weight[n] = schedule[row + columns - 2u];
        time[n] = schedule[row + columns - 1u];
    }
    return Place(n, block, row);
}

// Four normals of the place.
fn draw(at: Place, stream: u32) -> vec4<f32> {
    return normal4(vec4<u32>(at.block, step[2], stream, step[3] + at.n), vec2<u32>(step[0], step[1]));
}

@compute @workgroup_size(64)
fn add_noise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.batch * params.blocks {
        return;
    }
    let at = place(i, 6u);
    let row = at.row;
    let e = draw(at, STREAM_NOISE);
    let first = at.block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = at.n * params.item + first + k;
        let x = x0[j];
        x_t[j] = schedule[row] * x + schedule[row + 1u] * e[k];
        noise_target[j] = schedule[row + 2u] * e[k] + schedule[row + 3u] * x;
    }
}

@compute @workgroup_size(64)
fn add_two_noises(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.batch * params.blocks {
        return;
    }
    let at = place(i, 8u);
    let row = at.row;
    let merged = draw(at, STREAM_NOISE);
    let last = draw(at, STREAM_LAST_NOISE);
    let first = at.block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = at.n * params.item + first + k;
        let previous = schedule[row] * x0[j] + schedule[row + 1u] * merged[k];
        x_t[j] = schedule[row + 2u] * previous + schedule[row + 3u] * last[k];
        noise_target[j] = schedule[row + 4u] * previous + schedule[row + 5u] * last[k];
    }
}
