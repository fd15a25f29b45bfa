// The products of attention_tiled.wgsl on matrix units (lib/gemm_matrix), for lengths and heads that TILE_K divides; notation and
// formulas are there. q, k, v and their gradients are f16; the matrix is f32 in memory, and rounded to f16 where it is a factor.

#import lib/index
#import lib/attention_params
#import lib/out4
#import lib/gemm_matrix
#import lib/scaled_sum

const WEIGHTED_SUM: bool = false;

alias Left = StoredOut; // of a; vec4<f32> where it is the matrix
alias Result = Element; // of c; f32 where it is the matrix

@group(0) @binding(1) var<storage, read> a: array<Left>;               // (batch, T, heads, d / 4), or [sequences][T][T / 4]
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;          // (batch, T, heads, d / 4)
@group(0) @binding(3) var<storage, read_write> c: array<vec4<Result>>; // [sequences][T][T / 4], or (batch, T, heads, d / 4)

fn start(split: u32, is_matrix: bool) -> u32 {
    return select(head_start(split), split * params.length * params.length, is_matrix);
}

// Places are counted in vectors of four.
struct Cursor {
    a_inside: bool, // whether the invocation's row and column are within the matrices
    a_at: u32,
    b_inside: bool,
    b_at: u32,
}

fn cursor(first: vec3<u32>, lane: u32) -> Cursor {
    let sequence = first.z / params.split_depth;
    let m = first.x + select(lane % (TILE_M / 4u) * 4u, lane / ROW_LANES, A_ALONG_K);
    let n = first.y + select(lane % (TILE_N / 4u) * 4u, lane / ROW_LANES, B_ALONG_K);
    let across = lane / (TILE_M / 4u) * 4u;
    let along = lane % ROW_LANES * 16u;
    let begun = first.z < params.depth; // not so in workgroups past the last split
    var at: Cursor;
    at.a_inside = begun && m < params.rows;
    at.a_at = (start(sequence, WEIGHTED_SUM) + m * params.a_row + select(across, along, A_ALONG_K) * params.a_column) / 4u;
    at.b_inside = begun && n < params.columns;
    at.b_at = (start(sequence, false) + n * params.b_column + select(across, along, B_ALONG_K) * params.b_row) / 4u;
    return at;
}

fn next_stage(at: ptr<function, Cursor>) {
    (*at).a_at += TILE_K * params.a_column / 4u;
    (*at).b_at += TILE_K * params.b_row / 4u;
}

// TILE_K divides the depth of a head, so that all of it is inside.
fn load_a(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    var v: vec4<f16>;
    if (*at).a_inside {
        v = vec4<f16>(a[(*at).a_at + i * select(params.a_column / 4u, 1u, A_ALONG_K)]);
    }
    return v;
}

fn load_b(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    var v: vec4<f16>;
    if (*at).b_inside {
        v = b[(*at).b_at + i * select(params.b_row / 4u, 1u, B_ALONG_K)];
    }
    return v;
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    let at = (start(split, !WEIGHTED_SUM) + m * params.c_row + n) / 4u;
    c[at] = vec4<Result>(finished(value, (params.first + split) * params.length + m, at));
}

fn store_column_sums(split: u32, n: u32, value: vec4<f32>) {}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
           @builtin(num_subgroups) subgroups: u32) {
    gemm_matrix(workgroup_index(group, groups), lane, subgroup, subgroups);
}
