// c[m,n] = bias[n] + Σ_k a[m,k] b[k,n], four numbers at a time in tiles staged in workgroup memory (lib/gemm_vectors).
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
#import lib/out4
#import lib/no_added
#import lib/gemm_vectors
#import lib/bias

alias Result = Element; // f32 where c holds sums that are not activations: backward_weight

@group(0) @binding(1) var<storage, read> a: array<StoredOut>; // [rows][depth] by strides
@group(0) @binding(2) var<storage, read> b: array<StoredOut>; // [depth][columns] by strides
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>; // [columns / 4]
@group(0) @binding(4) var<storage, read_write> c: array<vec4<Result>>; // [splits][rows][columns / 4]

const TWO = vec2<u32>(0u, 1u);

// Depth: the first k of a stage, counted within its layer where the depth has layers.
struct Depth {
    k: u32,
    end: u32, // of the split
    layer: u32,
}

fn first_depth(split: u32, of_a: Lines, of_b: Lines) -> Depth {
    let k = split * params.split_depth;
    return Depth(k, min(k + params.split_depth, params.depth), 0u);
}

fn next_depth(depth: Depth) -> Depth {
    var next = depth;
    next.k += TILE_K;
    if LAYERED_DEPTH && next.k == params.outputs {
        next.k = 0u;
        next.layer++;
    }
    return next;
}

fn stages(split: u32) -> u32 {
    let k = split * params.split_depth;
    return (min(params.split_depth, params.depth - k) + TILE_K - 1u) / TILE_K;
}

// Where two vec4 lie at the begin of the depth. Rows and columns beyond the last are computed from the last ones, and not stored.
// Those that are of one k each also know the first, after the first of the stage.
struct Lines {
    at: vec2<u32>,
    k: u32,
}

fn lines_along_k(i: u32, count: u32, stride: u32, k: u32) -> Lines {
    return Lines((min(i + TWO, vec2<u32>(count - 1u)) * stride + k) / 4u, k);
}

fn lines_of_one_k(start: u32, stride: u32, k: u32) -> Lines {
    return Lines(k * (stride / 4u) + start / 4u + TWO * (stride / 4u), k);
}

// Whether every stage lies inside the depth: TILE_K divides one that lies side by side.
const INSIDE: bool = WHOLE_STAGES || A_ALONG_K || B_ALONG_K;

fn places_along_k(lines: Lines, layer: u32, depth: Depth) -> Places {
    return Places(lines.at + (depth.k + depth.layer * layer) / 4u, vec2<bool>(true));
}

fn places_of_one_k(lines: Lines, stride: u32, depth: Depth) -> Places {
    let inside = vec2<bool>(INSIDE) | (depth.k + lines.k + TWO < vec2<u32>(depth.end));
    return places(lines.at + depth.k * (stride / 4u), inside);
}

const DEPTH_IS_SHARED: bool = true;
const A_HAS_ZEROS: bool = !INSIDE;

fn a_lines(split: u32, m: u32, k: u32) -> Lines {
    if A_ALONG_K {
        return lines_along_k(m, params.rows, params.a_row, k);
    }
    return lines_of_one_k(min(m, params.rows - 4u), params.a_column, k);
}

fn a_places(lines: Lines, depth: Depth) -> Places {
    if A_ALONG_K {
        return places_along_k(lines, params.a_layer, depth);
    }
    return places_of_one_k(lines, params.a_column, depth);
}

fn b_lines(split: u32, n: u32, k: u32) -> Lines {
    if B_ALONG_K {
        return lines_along_k(n, params.columns, params.b_column, k);
    }
    return lines_of_one_k(along_columns(min(n, params.columns - 4u), params.b_layer), params.b_row, k);
}

fn b_places(lines: Lines, depth: Depth) -> Places {
    if B_ALONG_K {
        return places_along_k(lines, params.b_layer, depth);
    }
    return places_of_one_k(lines, params.b_row, depth);
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    let at = (split * params.c_split + m * params.c_row + along_columns(n, params.c_layer)) / 4u;
    let started = initial((along_columns(n, params.b_layer) + params.bias_start) / 4u) + value;
    c[at] = vec4<Result>(plus_added(started, at, 0u));
}

fn store_sum(at: u32, value: vec4<f32>) {
    c[at] = vec4<Result>(value);
}

fn store_column_sum(split: u32, n: u32, value: vec4<f32>) {
    let behind = split * params.c_split + along_columns(n, params.c_layer) + params.bias_start;
    store_db((split * params.columns + n) / 4u, behind / 4u, value);
}
