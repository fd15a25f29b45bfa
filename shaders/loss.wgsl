// Weighted mean squared error over a batch of items of n elements each:
//
//     loss = 1/(B n) Σ_b w_b Σ_i (p_bi - q_bi)²        d loss / d p_bi = 2 w_b (p_bi - q_bi) / (B n)
//
// Forward in two passes of fixed order: a workgroup of 64 sums a chunk of 1024 elements of the batch into
// `partial`, then one workgroup sums the partials.

#import lib/index
#import lib/reduce

struct Params {
    count: u32,    // elements of the batch (forward, backward), or partial sums (finish)
    item: u32,     // elements of one item
    groups: u32,   // chunks
    factor: f32,   // 1/(B n), or 2/(B n) backward
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> prediction: array<f32>;     // (B, n)
@group(0) @binding(2) var<storage, read> noise_target: array<f32>;   // (B, n)
@group(0) @binding(3) var<storage, read> weight: array<f32>;         // (B)
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;  // (groups)
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;     // (1)
@group(0) @binding(6) var<storage, read> d_loss: array<f32>;         // (1)
@group(0) @binding(7) var<storage, read_write> d_prediction: array<f32>; // (B, n)

@compute @workgroup_size(64)
fn loss_partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let chunk = workgroup_index(group, groups);
    var sum = 0.0;
    for (var k = 0u; k < 16u; k++) {
        let i = chunk * 1024u + k * 64u + lane;
        if i < params.count {
            let d = prediction[i] - noise_target[i];
            sum += weight[i / params.item] * d * d;
        }
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u && chunk < params.groups {
        partial[chunk] = total;
    }
}

@compute @workgroup_size(64)
fn loss_finish(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.groups; i += 64u) {
        sum += partial[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        loss[0] = params.factor * total;
    }
}

@compute @workgroup_size(64)
fn loss_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        d_prediction[i] = d_loss[0] * params.factor * weight[i / params.item] * (prediction[i] - noise_target[i]);
    }
}
