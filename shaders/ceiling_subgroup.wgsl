// What the invocations of a subgroup can hand each other at most: z_i = z_(i ^ mask) + x_i in four chains, the masks those of a
// butterfly over the smallest subgroup, as in lib/reduce_subgroup.

#import lib/index

struct ShuffleParams {
    count: u32,  // invocations, a multiple of LANES
    rounds: u32, // butterflies
}

const LANES: u32 = 4u; // a power of two, and no more than the smallest subgroup has

@group(0) @binding(0) var<uniform> shuffle_params: ShuffleParams;
@group(0) @binding(1) var<storage, read> x: array<u32>;       // (invocations)
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // (invocations)

@compute @workgroup_size(64)
fn shuffle_ceiling(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    // Those past the end take part, as shuffles must be where nothing diverges.
    let step = vec4<u32>(x[min(i, shuffle_params.count - 1u)]);
    var z = step + vec4<u32>(0u, 1u, 2u, 3u);
    for (var k = 0u; k < shuffle_params.rounds; k++) {
        for (var mask = LANES / 2u; mask > 0u; mask = mask / 2u) {
            z = subgroupShuffleXor(z, mask) + step;
        }
    }
    if i < shuffle_params.count {
        y[i] = (z.x + z.y) + (z.z + z.w);
    }
}
