// c[m,n] = bias[n] + Σ_k a[m,k] b[k,n] of f16 tensors on matrix units (lib/gemm_matrix): a linear layer and both of its gradients,
// or several layers of one x, as in matmul_vectors.wgsl, by the same strides.

#import lib/index
#import lib/linear_params
#import lib/out4
#import lib/no_added
#import lib/gemm_matrix
#import lib/bias

alias Result = Element; // f32 where c holds sums that are not activations: backward_weight

@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>; // [rows][depth] by strides
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>; // [depth][columns] by strides
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>; // [columns / 4]
@group(0) @binding(4) var<storage, read_write> c: array<vec4<Result>>; // [splits][rows][columns / 4]

// Places are counted in vectors of four.
struct Cursor {
    a_inside: bool, // whether the invocation's row and column are within the matrices
    a_at: u32,
    b_inside: bool,
    b_at: u32,
    k: u32,   // the first to stage where vectors lie along rows or columns; else the first of the stage within its layer
    end: u32, // of the split
}

fn cursor(first: vec3<u32>, lane: u32) -> Cursor {
    let m = first.x + select(lane % (TILE_M / 4u) * 4u, lane / ROW_LANES, A_ALONG_K);
    let n = first.y + select(lane % (TILE_N / 4u) * 4u, lane / ROW_LANES, B_ALONG_K);
    let k_across = first.z + lane / (TILE_M / 4u) * 4u;
    let k_along = first.z + lane % ROW_LANES * 16u;
    let begun = first.z < params.depth; // not so in workgroups past the last split
    var at: Cursor;
    at.a_inside = begun && m < params.rows;
    at.a_at = select(k_across * params.a_column + m, m * params.a_row + k_along, A_ALONG_K) / 4u;
    at.b_inside = begun && n < params.columns;
    at.b_at =
        select(k_across * params.b_row + along_columns(n, params.b_layer), n * params.b_column + k_along, B_ALONG_K) / 4u;
    at.k = select(k_across, first.z, LAYERED_DEPTH);
    at.end = min(first.z + params.split_depth, params.depth);
    return at;
}

fn next_stage(at: ptr<function, Cursor>) {
    (*at).a_at += select(params.a_column, 1u, A_ALONG_K) * TILE_K / 4u;
    (*at).b_at += select(params.b_row, 1u, B_ALONG_K) * TILE_K / 4u;
    (*at).k += TILE_K;
    if LAYERED_DEPTH && (*at).k == params.outputs {
        (*at).k = 0u;
        (*at).a_at += (params.a_layer - params.outputs) / 4u;
        (*at).b_at += (params.b_layer - params.outputs) / 4u;
    }
}

// TILE_K divides a depth that lies side by side, so that all of it is inside.
fn load_a(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    var v: vec4<f16>;
    if (*at).a_inside && (A_ALONG_K || (*at).k + i < (*at).end) {
        v = a[(*at).a_at + i * select(params.a_column / 4u, 1u, A_ALONG_K)];
    }
    return v;
}

fn load_b(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    var v: vec4<f16>;
    if (*at).b_inside && (B_ALONG_K || (*at).k + i < (*at).end) {
        v = b[(*at).b_at + i * select(params.b_row / 4u, 1u, B_ALONG_K)];
    }
    return v;
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    let at = (split * params.c_split + m * params.c_row + along_columns(n, params.c_layer)) / 4u;
    let started = initial((along_columns(n, params.b_layer) + params.bias_start) / 4u) + value;
    c[at] = vec4<Result>(plus_added(started, at, 0u));
}

fn store_sum(at: u32, value: vec4<f32>) {
    c[at] = vec4<Result>(value);
}

fn store_column_sums(split: u32, n: u32, value: vec4<f32>) {
    let behind = split * params.c_split + along_columns(n, params.c_layer) + params.bias_start;
    store_db((split * params.columns + n) / 4u, behind / 4u, value);
}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
           @builtin(num_subgroups) subgroups: u32) {
    gemm_matrix(workgroup_index(group, groups), lane, subgroup, subgroups);
}
