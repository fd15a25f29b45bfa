// Philox bits and standard normals on their own: y[item, block, 0..4] from the counter
// (block, step, stream, item). Normals start a sampler at x_T; bits prove the generator.

#import lib/index
#import lib/normal

struct Params {
    items: u32,
    item: u32,   // elements of one item
    blocks: u32, // ceil(item / 4)
    stream: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> step: array<u32>; // (8): seed low, seed high, step, first item, ...
@group(0) @binding(2) var<storage, read_write> bits: array<u32>;    // (items, item)
@group(0) @binding(3) var<storage, read_write> normals: array<f32>; // (items, item)

fn counter(i: u32) -> vec4<u32> {
    return vec4<u32>(i % params.blocks, step[2], params.stream, step[3] + i / params.blocks);
}

@compute @workgroup_size(64)
fn random_bits(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let first = (i % params.blocks) * 4u;
    let word = philox4x32(counter(i), vec2<u32>(step[0], step[1]));
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        bits[(i / params.blocks) * params.item + first + k] = word[k];
    }
}

@compute @workgroup_size(64)
fn random_normal(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let first = (i % params.blocks) * 4u;
    let z = normal4(counter(i), vec2<u32>(step[0], step[1]));
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        normals[(i / params.blocks) * params.item + first + k] = z[k];
    }
}
