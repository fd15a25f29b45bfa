// Pictures degraded along one axis, each item by its own severity s (Bansal et al., arXiv 2208.09392, section 3.1):
//
//     y[.., i, ..] = Σ_j M_s[i, j] x[.., j, ..]
//
// Once along the height and once along the width, this is any degradation that is linear and treats rows and columns
// apart: a Gaussian blur, or averages over blocks. The matrices come from `blur_matrices` and `downsample_matrices` of
// src/ops/degrade.rs. M_0 is the identity.
//
// One invocation per element of y.

#import lib/index

struct Params {
    count: u32,      // elements of y
    item: u32,       // elements of one item
    length: u32,     // of the axis
    stride: u32,     // elements from one place on the axis to the next
    severities: u32, // matrices
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // (N, H, W, C)
@group(0) @binding(2) var<storage, read> severity: array<f32>; // (N): whole numbers; past the last counts as the last
@group(0) @binding(3) var<storage, read> matrices: array<f32>; // (severities, length, length)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;  // (N, H, W, C)

@compute @workgroup_size(64)
fn degrade(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let e = invocation_index(group, groups, lane, 64u);
    if e >= params.count { return; }
    let s = min(u32(max(severity[e / params.item], 0.0)), params.severities - 1u);
    let i = e / params.stride % params.length;
    let row = (s * params.length + i) * params.length;
    let line = e - i * params.stride; // where i is 0
    var sum = 0.0;
    for (var j = 0u; j < params.length; j++) {
        sum += matrices[row + j] * x[line + j * params.stride];
    }
    y[e] = sum;
}
