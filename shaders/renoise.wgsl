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

struct Params {
    items: u32,
    item: u32,   // elements of one item
    blocks: u32, // ceil(item / 4)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // (items, item)
@group(0) @binding(2) var<storage, read> known: array<f32>;    // (items, item): x_0
@group(0) @binding(3) var<storage, read> mask: array<f32>;     // (items, item): m
@group(0) @binding(4) var<storage, read> level: array<f32>;    // (4): s, n, a, b
@group(0) @binding(5) var<storage, read> step: array<u32>;     // (8): seed low, seed high, step, first item, ...

const STREAM_RENOISE: u32 = 10u;

@compute @workgroup_size(64)
fn renoise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let z = normal4(vec4<u32>(block, step[2], STREAM_RENOISE, step[3] + n), vec2<u32>(step[0], step[1]));
    let first = block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = n * params.item + first + k;
        let m = mask[j];
        x[j] = m * (level[0] * known[j] + level[1] * z[k]) + (1.0 - m) * (level[2] * x[j] + level[3] * z[k]);
    }
}
