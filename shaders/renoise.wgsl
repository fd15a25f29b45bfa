// Noise put back onto a picture, and a known picture put in at the same noise, in place:
//
//     x' = m (s x_0 + n z) + (1 - m) (a x + b z),   z standard normal
//
// With m = 1: the closed-form jump of the forward process (DDPM, arXiv 2006.11239, eq. 4), from which image-to-image
// begins (SDEdit, arXiv 2108.01073). With a mask, a = 1 and b = 0: the known part of a picture at the noise that the
// unknown part has; and with a² + b² = 1 both a step back up (RePaint, arXiv 2201.09865, algorithm 1, lines 4 to 9).
//
// One invocation per four elements of an item; z comes from the Philox address (block, step, stream, item).

#import lib/index
#import lib/normal
#import lib/step
#import lib/stream

struct Params {
    items: u32,
    item: u32,   // elements of one item
    blocks: u32, // ceil(item / 4)
}

// `RenoiseLevel` of src/ops/renoise.rs has the same fields.
struct RenoiseLevel {
    signal: f32, // s
    noise: f32,  // n
    kept: f32,   // a
    added: f32,  // b
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // (items, item)
@group(0) @binding(2) var<storage, read> known: array<f32>;    // (items, item): x_0
@group(0) @binding(3) var<storage, read> mask: array<f32>;     // (items, item): m
@group(0) @binding(4) var<storage, read> level: RenoiseLevel;
@group(0) @binding(5) var<storage, read> step: Step;

@compute @workgroup_size(64)
fn renoise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let z = normal4(counter(step, block, STREAM_RENOISE, n), step.seed);
    let first = block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = n * params.item + first + k;
        let m = mask[j];
        let put_in = level.signal * known[j] + level.noise * z[k];
        x[j] = m * put_in + (1.0 - m) * (level.kept * x[j] + level.added * z[k]);
    }
}
