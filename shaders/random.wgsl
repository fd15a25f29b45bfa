// Philox bits and standard normals on their own: y[item, block, 0..4] from the counter
// (block, step, stream, item). Normals start a sampler at x_T; bits prove the generator.
//
// One invocation per block of four numbers of an item.

#import lib/index
#import lib/normal
#import lib/step

struct Params {
    items: u32,
    item: u32,   // elements of one item
    blocks: u32, // ceil(item / 4)
    stream: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<storage, read_write> bits: array<u32>;    // (items, item)
@group(0) @binding(3) var<storage, read_write> normals: array<f32>; // (items, item)

fn counter_of(i: u32) -> vec4<u32> {
    return counter(step, i % params.blocks, params.stream, i / params.blocks);
}

@compute @workgroup_size(64)
fn random_bits(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let first = (i % params.blocks) * 4u;
    let word = philox4x32(counter_of(i), step.seed);
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
    let z = normal4(counter_of(i), step.seed);
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        normals[(i / params.blocks) * params.item + first + k] = z[k];
    }
}
