// c[m,n] = bias[n] + Σ_k a[m,k] b[k,n], tiles staged in workgroup memory (lib/gemm_tile).
//
// c may have a further tensor added to it.
//
// a and b are reached by strides, so that one text serves a product and both of its gradients:
//   forward          a = x (rows, K)       b = w (K, N)            c = y
//   backward_input   a = dy (rows, N)      b = w transposed        c = dx
//   backward_weight  a = x transposed      b = dy (rows, N)        c = partial sums over ranges of rows,
//                                                                   and perhaps db[n] = Σ_k b[k,n]

#import lib/index
#import lib/out1
#import lib/no_added
#import lib/gemm_tile
#import lib/bias

alias Result = Element; // f32 where c holds sums that are not activations: backward_weight

struct Params {
    rows: u32,
    columns: u32,
    depth: u32,
    splits: u32,
    split_depth: u32,
    a_row: u32, // elements from a[m,k] to a[m+1,k]
    a_column: u32,
    b_row: u32,
    b_column: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Element>; // [rows][depth] by strides
@group(0) @binding(2) var<storage, read> b: array<Element>; // [depth][columns] by strides
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [columns]
@group(0) @binding(4) var<storage, read_write> c: array<Result>; // [splits][rows][columns]

fn load_a(m: u32, k: u32) -> f32 {
    return f32(a[m * params.a_row + k * params.a_column]);
}

fn load_b(k: u32, n: u32) -> f32 {
    return f32(b[k * params.b_row + n * params.b_column]);
}

fn store_c(split: u32, m: u32, n: u32, value: f32) {
    let at = (split * params.rows + m) * params.columns + n;
    c[at] = Result(plus_added(initial(n) + value, at, 0u));
}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    gemm(workgroup_index(group, groups), lane);
}
