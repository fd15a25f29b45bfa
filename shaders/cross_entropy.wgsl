// Cross-entropy of the softmax of K scores against a label l, over N items:
//
//     loss = 1/N Σ_n (log Σ_k exp x_nk - x_nl)        d loss / d x_nk = (softmax(x_n)_k - [k = l]) / N
//
// The largest score is taken off all before exp, which changes nothing and overflows nowhere. One invocation per item
// walks its scores; one workgroup then sums the items in fixed order.

#import lib/index
#import lib/reduce

struct Params {
    items: u32,
    classes: u32,
    factor: f32, // 1/N
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;         // (items, classes)
@group(0) @binding(2) var<storage, read> labels: array<u32>;         // (items)
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>; // (items)
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;     // (1)
@group(0) @binding(5) var<storage, read> d_loss: array<f32>;         // (1)
@group(0) @binding(6) var<storage, read_write> d_scores: array<f32>; // (items, classes)

// The largest score of an item, and the sum of the exponentials of all beneath it.
fn measure(first: u32) -> vec2<f32> {
    var largest = scores[first];
    for (var k = 1u; k < params.classes; k++) {
        largest = max(largest, scores[first + k]);
    }
    var sum = 0.0;
    for (var k = 0u; k < params.classes; k++) {
        sum += exp(scores[first + k] - largest);
    }
    return vec2<f32>(largest, sum);
}

// Labels past the last class count as the last.
fn label_of(item: u32) -> u32 {
    return min(labels[item], params.classes - 1u);
}

@compute @workgroup_size(64)
fn cross_entropy_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let item = invocation_index(group, groups, lane, 64u);
    if item >= params.items { return; }
    let first = item * params.classes;
    let measured = measure(first);
    row_loss[item] = log(measured.y) + (measured.x - scores[first + label_of(item)]);
}

@compute @workgroup_size(64)
fn cross_entropy_mean(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.items; i += 64u) {
        sum += row_loss[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        loss[0] = params.factor * total;
    }
}

@compute @workgroup_size(64)
fn cross_entropy_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(local_invocation_index) lane: u32) {
    let item = invocation_index(group, groups, lane, 64u);
    if item >= params.items { return; }
    let first = item * params.classes;
    let measured = measure(first);
    let own = label_of(item);
    let factor = d_loss[0] * params.factor;
    for (var k = 0u; k < params.classes; k++) {
        let share = exp(scores[first + k] - measured.x) / measured.y;
        d_scores[first + k] = factor * (share - select(0.0, 1.0, k == own));
    }
}
