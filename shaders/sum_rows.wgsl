// y[s,c] = Σ_r x[r,c] over the rows r of split s
//
// sum_both does so with two matrices of as many rows, all of which it sums.
//
// One invocation per split and Vector of channels, in the order of the rows. A long sum takes two
// launches: rows into splits, and then the splits, as rows, into one. No atomics, so the order is fixed.
// x may be stored as f16, sums are f32.

#import lib/index
#import lib/vector4

const INVOCATIONS: u32 = 64u;

struct Params {
    rows: u32,
    vectors: u32, // channels / WIDTH
    splits: u32,
    rows_per_split: u32,
}

struct BothParams { // sum_both
    rows: u32,
    vectors: u32, // of x
    vectors_b: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> both_params: BothParams;
@group(0) @binding(1) var<storage, read> x: array<Stored>; // (rows, vectors)
@group(0) @binding(2) var<storage, read_write> y: array<Vector>; // (splits, vectors)
@group(0) @binding(3) var<storage, read> x_b: array<Stored>; // (rows, vectors_b)
@group(0) @binding(4) var<storage, read_write> y_b: array<Vector>; // (vectors_b)

@compute @workgroup_size(INVOCATIONS)
fn sum_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, INVOCATIONS);
    if i < params.splits * params.vectors {
        let first = i / params.vectors * params.rows_per_split;
        let end = min(first + params.rows_per_split, params.rows);
        var sum = Vector();
        for (var row = first; row < end; row++) {
            sum += Vector(x[row * params.vectors + i % params.vectors]);
        }
        y[i] = sum;
    }
}

@compute @workgroup_size(INVOCATIONS)
fn sum_both(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    var i = invocation_index(group, groups, lane, INVOCATIONS);
    if i < both_params.vectors {
        var sum = Vector();
        for (var row = 0u; row < both_params.rows; row++) {
            sum += Vector(x[row * both_params.vectors + i]);
        }
        y[i] = sum;
        return;
    }
    i -= both_params.vectors;
    if i < both_params.vectors_b {
        var sum = Vector();
        for (var row = 0u; row < both_params.rows; row++) {
            sum += Vector(x_b[row * both_params.vectors_b + i]);
        }
        y_b[i] = sum;
    }
}
