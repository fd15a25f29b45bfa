// Norm of the whole gradient, the factor that clips it, and whether it is finite:
//
//     norm = sqrt(Σ g²)    factor = min(1, max_norm / (norm + 1e-6))    finite = 1 or 0
//
// (Pascanu et al., arXiv 1211.5063; the 1e-6 is PyTorch's.) Two passes of fixed order: a workgroup of 64
// sums the squares of 4096 elements into `partial`, then one workgroup sums the partials. Whether a number
// is finite is read off its exponent bits: compilers may assume that NaN never happens.

#import lib/index
#import lib/reduce

struct Params {
    count: u32,  // elements bound (partial)
    groups: u32, // partial sums: of this launch (partial), of all (finish)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;          // (count)
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;     // (groups)
@group(0) @binding(3) var<storage, read> hyper: array<f32>;             // (8): [2] is max_norm, 0 for no clipping
@group(0) @binding(4) var<storage, read_write> norm: array<f32>;        // (4): norm, factor, finite, 0

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(64)
fn norm_partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let chunk = workgroup_index(group, groups);
    var sum = 0.0;
    for (var k = 0u; k < 64u; k++) {
        let i = chunk * 4096u + k * 64u + lane;
        if i < params.count {
            sum += gradient[i] * gradient[i];
        }
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u && chunk < params.groups {
        partial[chunk] = total;
    }
}

@compute @workgroup_size(64)
fn norm_finish(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.groups; i += 64u) {
        sum += partial[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        let finite = is_finite(total);
        var length = 0.0;
        if finite {
            length = sqrt(total);
        }
        var factor = 1.0;
        if hyper[2] > 0.0 {
            factor = min(1.0, hyper[2] / (length + 1e-6));
        }
        norm[0] = length;
        norm[1] = factor;
        norm[2] = select(0.0, 1.0, finite);
        norm[3] = 0.0;
    }
}
