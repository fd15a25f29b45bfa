// Weighted mean squared error over a batch of items of n elements each:
//
//     loss = 1/(B n) Σ_b w_b Σ_i (p_bi - q_bi)²        d loss / d p_bi = 2 w_b (p_bi - q_bi) / (B n)
//
// Forward in two passes of fixed order: a workgroup of LANES sums a chunk of CHUNK elements of the batch into
// `partial`, then one workgroup sums the partials.

#import lib/index
#import lib/element
#import lib/reduce

const CHUNK: u32 = 1024u;

struct PartialParams {
    count: u32,  // elements of the batch
    item: u32,   // elements of one item
    groups: u32, // chunks
}

struct FinishParams {
    groups: u32, // chunks
    factor: f32, // 1/(B n)
}

struct BackwardParams {
    count: u32,  // elements of the batch
    item: u32,   // elements of one item
    factor: f32, // 2/(B n)
}

@group(0) @binding(0) var<uniform> partial_params: PartialParams;
@group(0) @binding(0) var<uniform> finish_params: FinishParams;
@group(0) @binding(0) var<uniform> backward_params: BackwardParams;
@group(0) @binding(1) var<storage, read> prediction: array<Element>; // (B, n)
@group(0) @binding(2) var<storage, read> noise_target: array<f32>;   // (B, n)
@group(0) @binding(3) var<storage, read> weight: array<f32>;         // (B)
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;  // (groups)
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;     // (1)
@group(0) @binding(6) var<storage, read> d_loss: array<f32>;         // (1)
@group(0) @binding(7) var<storage, read_write> d_prediction: array<Element>; // (B, n)

@compute @workgroup_size(LANES)
fn loss_partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let chunk = workgroup_index(group, groups);
    var sum = 0.0;
    for (var k = lane; k < CHUNK; k += LANES) {
        let i = chunk * CHUNK + k;
        if i < partial_params.count {
            let d = f32(prediction[i]) - noise_target[i];
            sum += weight[i / partial_params.item] * d * d;
        }
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u && chunk < partial_params.groups {
        partial[chunk] = total;
    }
}

@compute @workgroup_size(LANES)
fn loss_finish(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < finish_params.groups; i += LANES) {
        sum += partial[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        loss[0] = finish_params.factor * total;
    }
}

@compute @workgroup_size(64)
fn loss_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < backward_params.count {
        let d = f32(prediction[i]) - noise_target[i];
        d_prediction[i] = Element(d_loss[0] * backward_params.factor * weight[i / backward_params.item] * d);
    }
}
