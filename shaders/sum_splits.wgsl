// y[i] = Σ_s partial[s][i]: the second pass of a sum that was split over workgroups, always in the same order.
//
// One invocation per Vector.

#import lib/index
#import lib/vector4

struct Params {
    count: u32, // Vectors
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<Vector>; // [splits][count]
@group(0) @binding(2) var<storage, read_write> y: array<Vector>; // [count]

@compute @workgroup_size(64)
fn sum_splits(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        var sum = partial[i];
        for (var s = 1u; s < params.splits; s++) {
            sum += partial[s * params.count + i];
        }
        y[i] = sum;
    }
}
