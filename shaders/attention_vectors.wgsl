// The products of attention_tiled.wgsl four numbers at a time (lib/gemm_vectors), where these lie side by side and sixteen divides
// the depth of every product, so that no stage goes beyond it; notation and formulas are there.

#import lib/index
#import lib/attention_params
#import lib/out4
#import lib/gemm_vectors
#import lib/scaled_sum

const WEIGHTED_SUM: bool = false;

alias Result = Element; // of c; f32 where it is the matrix

@group(0) @binding(1) var<storage, read> a: array<Left>;               // (batch, T, heads, d / 4), or [sequences][T][T / 4]
@group(0) @binding(2) var<storage, read> b: array<StoredOut>;          // (batch, T, heads, d / 4)
@group(0) @binding(3) var<storage, read_write> c: array<vec4<Result>>; // [sequences][T][T / 4], or (batch, T, heads, d / 4)

// Where the two vec4 lie that an invocation stages first: of neighbours along the other axis.
struct Lines {
    at: u32,
}

struct Depth {
    a_at: u32,
    b_at: u32,
}

fn start(split: u32, is_matrix: bool) -> u32 {
    return select(head_start(split), split * params.length * params.length, is_matrix);
}

fn stages(split: u32) -> u32 {
    return params.split_depth / TILE_K;
}

fn first_depth(split: u32, of_a: Lines, of_b: Lines) -> Depth {
    return Depth(of_a.at, of_b.at);
}

fn next_depth(depth: Depth) -> Depth {
    let step = TILE_K / 4u;
    return Depth(depth.a_at + step * params.a_column, depth.b_at + step * params.b_row);
}

const DEPTH_IS_SHARED: bool = false;
const A_HAS_ZEROS: bool = false;

// Rows and columns beyond the last are computed from the last ones, and not stored.
fn a_lines(split: u32, m: u32, k: u32) -> Lines {
    let row = min(m, params.rows - select(4u, 2u, A_ALONG_K));
    return Lines((start(split, WEIGHTED_SUM) + row * params.a_row + k * params.a_column) / 4u);
}

fn b_lines(split: u32, n: u32, k: u32) -> Lines {
    let column = min(n, params.columns - select(4u, 2u, B_ALONG_K));
    return Lines((start(split, false) + k * params.b_row + column * params.b_column) / 4u);
}

fn neighbours(at: u32, stride: u32) -> Places {
    return Places(vec2<u32>(at, at + stride / 4u), vec2<bool>(true));
}

fn a_places(lines: Lines, depth: Depth) -> Places {
    return neighbours(depth.a_at, select(params.a_column, params.a_row, A_ALONG_K));
}

fn b_places(lines: Lines, depth: Depth) -> Places {
    return neighbours(depth.b_at, select(params.b_row, params.b_column, B_ALONG_K));
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    let at = (start(split, !WEIGHTED_SUM) + m * params.c_row + n) / 4u;
    c[at] = vec4<Result>(finished(value, (params.first + split) * params.length + m, at));
}

fn store_column_sum(split: u32, n: u32, value: vec4<f32>) {}
