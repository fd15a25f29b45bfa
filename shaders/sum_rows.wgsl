// y[s,c] = Σ_r x[r,c] over the rows r of split s
//
// sum_both does so with two matrices of as many rows, all of which it sums.
//
// A workgroup has COLUMNS Vectors of channels of the splits, one beside the other, and ROWS invocations for each, which share its
// rows: of long sums of few channels, so that no invocation waits for hundreds of loads, one after the other. A long sum takes two
// launches: rows into splits, and then the splits, as rows, into one. No atomics, so the order is fixed. x may be stored as f16,
// sums are f32.

#import lib/index
#import lib/vector4
#import lib/column_sum

const INVOCATIONS: u32 = COLUMNS * ROWS;
const LOADS: u32 = 8u; // in one turn of the loop of sum_rows

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
    let i = workgroup_index(group, groups) * COLUMNS + lane % COLUMNS;
    let inside = i < params.splits * params.vectors;
    var sum = Vector();
    if inside {
        let first = i / params.vectors * params.rows_per_split;
        let end = min(first + params.rows_per_split, params.rows);
        let column = i % params.vectors;
        var row = first + lane / COLUMNS;
        for (; row + (LOADS - 1u) * ROWS < end; row += LOADS * ROWS) {
            for (var k = 0u; k < LOADS; k++) {
                sum += Vector(x[(row + k * ROWS) * params.vectors + column]);
            }
        }
        for (; row < end; row += ROWS) {
            sum += Vector(x[row * params.vectors + column]);
        }
    }
    sum = column_sum(sum, lane);
    if inside && lane < COLUMNS {
        y[i] = sum;
    }
}

@compute @workgroup_size(INVOCATIONS)
fn sum_both(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * COLUMNS + lane % COLUMNS;
    let in_x = i < both_params.vectors;
    let i_b = i - both_params.vectors;
    let in_x_b = !in_x && i_b < both_params.vectors_b;
    var sum = Vector();
    if in_x {
        for (var row = lane / COLUMNS; row < both_params.rows; row += ROWS) {
            sum += Vector(x[row * both_params.vectors + i]);
        }
    } else if in_x_b {
        for (var row = lane / COLUMNS; row < both_params.rows; row += ROWS) {
            sum += Vector(x_b[row * both_params.vectors_b + i_b]);
        }
    }
    sum = column_sum(sum, lane);
    if lane < COLUMNS {
        if in_x {
            y[i] = sum;
        } else if in_x_b {
            y_b[i_b] = sum;
        }
    }
}
