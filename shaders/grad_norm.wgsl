// Norm of the whole gradient, the factor that clips it, and whether it is finite:
//
//     norm = sqrt(Σ g²) / s    factor = min(1, max_norm / (norm + 1e-6)) / s    finite = 1 or 0
//
// with s the scale of the loss that g is the gradient of, 1 if it was not scaled (Pascanu et al., arXiv 1211.5063; the 1e-6
// is PyTorch's). Two passes of fixed order: a workgroup of LANES sums the squares of CHUNK elements into `partial`, then
// one workgroup sums the partials. Whether a number is finite is read off its exponent bits: compilers may assume that NaN never happens.

#import lib/index
#import lib/vector4
#import lib/reduce
#import lib/hyper
#import lib/clipping
#import lib/loss_scale

const CHUNK: u32 = 4096u; // elements of a partial sum

struct PartialParams {
    count: u32,  // Vectors bound
    groups: u32, // partial sums of this launch
    first: u32,  // of them, among those of all launches
}

struct FinishParams {
    groups: u32, // partial sums of all launches
}

@group(0) @binding(0) var<uniform> partial_params: PartialParams;
@group(0) @binding(0) var<uniform> finish_params: FinishParams;
@group(0) @binding(1) var<storage, read> gradient: array<Vector>;       // (count)
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;     // (groups) of all launches
@group(0) @binding(3) var<storage, read> hyper: Hyper;
@group(0) @binding(4) var<storage, read_write> clipping: Clipping;
@group(0) @binding(5) var<storage, read> loss_scale: LossScale;

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(LANES)
fn norm_partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let chunk = workgroup_index(group, groups);
    let first = chunk * (CHUNK / WIDTH);
    var squares = Vector();
    for (var i = first + lane; i < min(first + CHUNK / WIDTH, partial_params.count); i += LANES) {
        squares += gradient[i] * gradient[i];
    }
    let total = workgroup_sum(horizontal_sum(squares), lane);
    if lane == 0u && chunk < partial_params.groups {
        partial[partial_params.first + chunk] = total;
    }
}

@compute @workgroup_size(LANES)
fn norm_finish(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < finish_params.groups; i += LANES) {
        sum += partial[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        let finite = is_finite(total);
        var length = 0.0;
        if finite {
            length = sqrt(total) / loss_scale.scale;
        }
        var factor = 1.0;
        if hyper.max_norm > 0.0 {
            factor = min(1.0, hyper.max_norm / (length + 1e-6));
        }
        clipping = Clipping(length, factor / loss_scale.scale, select(0.0, 1.0, finite));
    }
}
