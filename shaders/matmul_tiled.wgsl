// c[m,n] = bias[n] + Σ_k a[m,k] b[k,n], tiles staged in workgroup memory (lib/gemm_tile).
//
// a and b are reached by strides, so that one text serves a product and both of its gradients:
//   forward          a = x (rows, K)       b = w (K, N)            c = y
//   backward_input   a = dy (rows, N)      b = w transposed        c = dx
//   backward_weight  a = x transposed      b = dy (rows, N)        c = partial sums over ranges of rows,
//                                                                  and perhaps db[n] = Σ_k b[k,n]
// c may have a further tensor added to it.
//
// Several layers of one x are one product too: what counts N above then counts N of the first layer, N of the second and so on,
// and each layer has its w, with its bias behind it, its y and its dy in a place of its own.

#import lib/index
#import lib/linear_params
#import lib/out1
#import lib/no_added
#import lib/gemm_tile
#import lib/bias

alias Result = Element; // f32 where c holds sums that are not activations: backward_weight

@group(0) @binding(1) var<storage, read> a: array<Element>; // [rows][depth] by strides
@group(0) @binding(2) var<storage, read> b: array<Element>; // [depth][columns] by strides
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [columns]
@group(0) @binding(4) var<storage, read_write> c: array<Result>; // [splits][rows][columns]

fn along_depth(k: u32, layer: u32) -> u32 {
    if LAYERED_DEPTH {
        return k / params.outputs * layer + k % params.outputs;
    }
    return k;
}

fn load_a(m: u32, k: u32) -> f32 {
    return f32(a[m * params.a_row + along_depth(k, params.a_layer) * params.a_column]);
}

fn load_b(k: u32, n: u32) -> f32 {
    return f32(b[along_depth(k, params.b_layer) * params.b_row + along_columns(n, params.b_layer) * params.b_column]);
}

fn store_c(split: u32, m: u32, n: u32, value: f32) {
    let at = split * params.c_split + m * params.c_row + along_columns(n, params.c_layer);
    let started = initial(along_columns(n, params.b_layer) + params.bias_start) + value;
    c[at] = Result(plus_added(started, at, 0u));
}

fn store_sum(at: u32, value: f32) {
    c[at] = Result(value);
}

fn store_column_sum(split: u32, n: u32, value: f32) {
    let behind = split * params.c_split + along_columns(n, params.c_layer) + params.bias_start;
    store_db(split * params.columns + n, behind, value);
}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    gemm(workgroup_index(group, groups), lane);
}
