// y[s,c] = Σ_r x[r,c] over the rows r of split s
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

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>; // (rows, vectors)
@group(0) @binding(2) var<storage, read_write> y: array<Vector>; // (splits, vectors)

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
