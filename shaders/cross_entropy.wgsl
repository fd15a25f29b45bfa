// Cross-entropy of the softmax of K scores against a label l, over N items:
//
//     loss = 1/N Σ_n (log Σ_k exp x_nk - x_nl)        d loss / d x_nk = (softmax(x_n)_k - [k = l]) / N
//
// The largest score is taken off all before exp, which changes nothing and overflows nowhere. One invocation per item
// walks its scores, four at a time where four divides the classes; one workgroup then sums the items in fixed order.

#import lib/index
#import lib/reduce
#import lib/vector4
#import lib/softmax

struct Params {
    items: u32,
    vectors: u32, // of the classes
    factor: f32, // 1/N
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<Vector>;      // (items, classes)
@group(0) @binding(2) var<storage, read> labels: array<u32>;         // (items)
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>; // (items)
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;     // (1)
@group(0) @binding(5) var<storage, read> d_loss: array<f32>;         // (1)
@group(0) @binding(6) var<storage, read_write> d_scores: array<Vector>; // (items, classes)

fn score(at: u32) -> Vector {
    return scores[at];
}

// Labels past the last class count as the last.
fn label_of(item: u32) -> u32 {
    return min(labels[item], params.vectors * WIDTH - 1u);
}

@compute @workgroup_size(64)
fn cross_entropy_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let item = invocation_index(group, groups, lane, 64u);
    if item >= params.items { return; }
    let first = item * params.vectors;
    let row = measure_row(first, params.vectors);
    let own = label_of(item);
    let own_score = horizontal_sum(scores[first + own / WIDTH] * unit_vector(own % WIDTH));
    row_loss[item] = log(row.sum) + (row.largest - own_score);
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
    let first = item * params.vectors;
    let row = measure_row(first, params.vectors);
    let own = label_of(item);
    let factor = d_loss[0] * params.factor;
    let share = factor / row.sum;
    for (var k = 0u; k < params.vectors; k++) {
        let exponential = exp(scores[first + k] - Vector(row.largest));
        d_scores[first + k] = share * exponential - factor * unit_vector(own - k * WIDTH);
    }
}
