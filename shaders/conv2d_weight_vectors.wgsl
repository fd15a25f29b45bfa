// Gradient of a convolution's weight as an implicit product of matrices, four channels at a time (lib/gemm_vectors):
//
//   dw[k,ci,co] = Σ_p x[s p + k - pad, ci] dy[p,co]
//                 rows (ky, kx, ci), depth p = (batch, oy, ox); and perhaps db[co] = Σ_p dy[p,co]
//
// The tap k = (ky, kx) of a row never changes. The pixels p of a stage follow those of the stage before, so that their places are
// found by adding and by carrying over at the end of a row and of a picture.

#import lib/index
#import lib/conv2d_params
#import lib/out4
#import lib/gemm_vectors

alias Result = Element; // f32: sums over pixels

@group(0) @binding(1) var<storage, read> a: array<StoredOut>; // x (batch, height, width, in / 4)
@group(0) @binding(2) var<storage, read> b: array<StoredOut>; // dy (batch, out height, out width, out / 4)
@group(0) @binding(4) var<storage, read_write> c: array<vec4<Result>>; // (splits, rows, columns / 4)

// A pixel of dy, (y, x) in its picture, and where the pixel s p of x lies, in vec4 from the first of all pictures.
struct Pixel {
    at: u32,
    y: u32,
    x: u32,
}

fn pixel(p: u32) -> Pixel {
    let row = p / params.out_width;
    let y = row % params.out_height;
    let x = p % params.out_width;
    let image = row / params.out_height;
    let at = (image * params.height + y * params.stride) * params.width + x * params.stride;
    return Pixel(at * (params.channels / 4u), y, x);
}

// The pixel that lies `by` further on: less than a row and less than a picture, beside whole ones of which `at` alone knows.
fn moved(p: Pixel, by: Pixel) -> Pixel {
    // What is left of a row and of a picture of x behind the last pixel of dy; this and the sums may wrap round.
    let row_end = params.stride * (params.width - params.out_width) * (params.channels / 4u);
    let picture_end = (params.height - params.stride * params.out_height) * params.width * (params.channels / 4u);
    var to = Pixel(p.at + by.at, p.y + by.y, p.x + by.x);
    let new_row = to.x >= params.out_width;
    to.x -= select(0u, params.out_width, new_row);
    to.y += select(0u, 1u, new_row);
    to.at += select(0u, row_end, new_row);
    let new_picture = to.y >= params.out_height;
    to.y -= select(0u, params.out_height, new_picture);
    to.at += select(0u, picture_end, new_picture);
    return to;
}

// Depth: the first pixel of a stage, the end of the split, and the way from stage to stage.
struct Depth {
    k: u32,
    end: u32,
    pixel: Pixel,
    stage: Pixel,
}

fn first_depth(split: u32) -> Depth {
    let k = split * params.split_depth;
    return Depth(k, min(k + params.split_depth, params.depth), pixel(k), pixel(TILE_K));
}

fn next_depth(depth: Depth) -> Depth {
    return Depth(depth.k + TILE_K, depth.end, moved(depth.pixel, depth.stage), depth.stage);
}

fn stages(split: u32) -> u32 {
    let k = split * params.split_depth;
    return (min(params.split_depth, params.depth - k) + TILE_K - 1u) / TILE_K;
}

// Four channels of two pixels. Rows and columns beyond the last are computed from the last four, and not stored.
struct Lines {
    k: u32, // the first pixel, after the first of the stage
    at: u32, // of the channels in its dy
    by: Pixel, // the same on the side of x, with the tap and the channel
    tap: vec2<u32>, // k - pad, which may wrap round
}

const A_HAS_ZEROS: bool = true;

fn a_lines(split: u32, m: u32, k: u32) -> Lines {
    let row = min(m, params.rows - 4u);
    let position = row / params.channels;
    let tap = vec2<u32>(position / params.kernel, position % params.kernel) - params.padding;
    let at = (tap.x * params.width + tap.y) * (params.channels / 4u) + row % params.channels / 4u;
    let first = pixel(k);
    return Lines(k, 0u, Pixel(first.at + at, first.y, first.x), tap);
}

fn a_places(lines: Lines, depth: Depth) -> Places {
    let one = Pixel(params.stride * (params.channels / 4u), 0u, 1u);
    let p0 = moved(depth.pixel, lines.by);
    let p1 = moved(p0, one);
    let y = vec2<u32>(p0.y, p1.y) * params.stride + lines.tap.x;
    let x = vec2<u32>(p0.x, p1.x) * params.stride + lines.tap.y;
    let here = (y < vec2<u32>(params.height)) & (x < vec2<u32>(params.width)) & present(lines, depth);
    return places(vec2<u32>(p0.at, p1.at), here);
}

fn b_lines(split: u32, n: u32, k: u32) -> Lines {
    return Lines(k, (k * params.columns + min(n, params.columns - 4u)) / 4u, Pixel(), vec2<u32>());
}

fn b_places(lines: Lines, depth: Depth) -> Places {
    return places(lines.at + (depth.k + vec2<u32>(0u, 1u)) * (params.columns / 4u), present(lines, depth));
}

// Which of the pixels belong to the split.
fn present(lines: Lines, depth: Depth) -> vec2<bool> {
    return depth.k + lines.k + vec2<u32>(0u, 1u) < vec2<u32>(depth.end);
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    c[((split * params.rows + m) * params.columns + n) / 4u] = vec4<Result>(value);
}

fn store_column_sum(split: u32, n: u32, value: vec4<f32>) {
    store_db((split * params.columns + n) / 4u, 0u, value);
}

@compute @workgroup_size(INVOCATIONS)
fn convolution(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    gemm(workgroup_index(group, groups), lane);
}
