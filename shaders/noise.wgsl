// Fused noising: for each item of the batch, draw a row of the table (a t) and the noise, and write all that the loss needs.
//
//     row = floor(u T),  u uniform                       target = target_noise ε̄_{t-1} + target_data x_0
//     x_t = signal x_0 + sigma ε̄_{t-1}                   time   = what conditions the network
//
// Indices are the article's: step t-1 goes from x_{t-1} to x_t, ε_{t-1} is its noise, and ε̄_{t-1} is the noise of the steps
// 0 to t-1 in one. signal is ā_{t-1}, sigma = √(1 - ā_{t-1}²) (DDPM, arXiv 2006.11239, eq. 4). The two target coefficients
// choose what the network predicts: ε̄ (1, 0), x_0 (0, 1), v (signal, -sigma; arXiv 2202.00512), the velocity of flow
// matching (1, -1; arXiv 2209.03003), whose signal and sigma are 1 - t and t.
//
// add_two_noises draws by way of the state before the last, with ε̄_{t-2} and ε_{t-1}:
//
//     x_{t-1} = signal_prev x_0 + sigma_prev ε̄_{t-2}     x_t    = a x_{t-1} + b ε_{t-1}
//                                                        target = c_prev x_{t-1} + c_last ε_{t-1}
//
// signal_prev is ā_{t-2}, sigma_prev = √(1 - ā_{t-2}²), a = a_{t-1}, b = b_{t-1}; before the first step there is the
// picture itself (1 and 0). The network predicts x_{t-1} (1, 0) or ε_{t-1} (0, 1). t and ε̄ come from the addresses of
// add_noise's t and ε̄.
//
// One invocation per four elements of an item: one Philox block makes four normals. The block's address
// is (block, step, stream, item), so a batch split in any way gets the same numbers.

#import lib/index
#import lib/element
#import lib/normal
#import lib/step
#import lib/stream

struct Params {
    batch: u32,
    item: u32,      // elements of one item
    blocks: u32,    // ceil(item / 4)
    timesteps: u32, // T
}

// `NoisingRow` of src/ops/noise.rs.
struct NoisingRow {
    signal: f32,
    sigma: f32,
    target_noise: f32,
    target_data: f32,
    weight: f32,
    time: f32,
}

// `TwoNoiseRow` of src/ops/noise.rs.
struct TwoNoiseRow {
    signal_prev: f32,
    sigma_prev: f32,
    a: f32,
    b: f32,
    c_prev: f32,
    c_last: f32,
    weight: f32,
    time: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x0: array<f32>;      // (batch, item)
@group(0) @binding(2) var<storage, read> schedule: array<NoisingRow>;            // (T), of add_noise
@group(0) @binding(2) var<storage, read> two_noise_schedule: array<TwoNoiseRow>; // (T), of add_two_noises
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> x_t: array<Element>; // (batch, item)
@group(0) @binding(5) var<storage, read_write> noise_target: array<f32>; // (batch, item)
@group(0) @binding(6) var<storage, read_write> time: array<f32>; // (batch)
@group(0) @binding(7) var<storage, read_write> weight: array<f32>; // (batch)

// Where an invocation stands: its item and block, and the row that its item draws.
struct Place {
    n: u32,
    block: u32,
    row: u32,
}

fn place(i: u32) -> Place {
    let n = i / params.blocks;
    let bits = philox4x32(counter(step, 0u, STREAM_TIMESTEP, n), step.seed).x;
    return Place(n, i % params.blocks, multiply_high(bits, params.timesteps));
}

// The item's weight and time are written by its first block.
fn tell(at: Place, item_weight: f32, item_time: f32) {
    if at.block == 0u {
        weight[at.n] = item_weight;
        time[at.n] = item_time;
    }
}

// Four normals of the place.
fn draw(at: Place, stream: u32) -> vec4<f32> {
    return normal4(counter(step, at.block, stream, at.n), step.seed);
}

@compute @workgroup_size(64)
fn add_noise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.batch * params.blocks {
        return;
    }
    let at = place(i);
    let row = schedule[at.row];
    tell(at, row.weight, row.time);
    let merged = draw(at, STREAM_NOISE);
    let first = at.block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = at.n * params.item + first + k;
        let x = x0[j];
        x_t[j] = Element(row.signal * x + row.sigma * merged[k]);
        noise_target[j] = row.target_noise * merged[k] + row.target_data * x;
    }
}

@compute @workgroup_size(64)
fn add_two_noises(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.batch * params.blocks {
        return;
    }
    let at = place(i);
    let row = two_noise_schedule[at.row];
    tell(at, row.weight, row.time);
    let merged = draw(at, STREAM_NOISE);
    let last = draw(at, STREAM_LAST_NOISE);
    let first = at.block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = at.n * params.item + first + k;
        let previous = row.signal_prev * x0[j] + row.sigma_prev * merged[k];
        x_t[j] = Element(row.a * previous + row.b * last[k]);
        noise_target[j] = row.c_prev * previous + row.c_last * last[k];
    }
}
