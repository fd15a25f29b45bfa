// Gradient of a convolution's weight as an implicit product of matrices, four channels at a time (lib/gemm_vectors):
//
//   dw[k,ci,co] = Σ_p x[s p + k - pad, ci] dy[p,co]
//                 rows (ky, kx, ci), depth p = (batch, oy, ox); and perhaps db[co] = Σ_p dy[p,co]
//
// The tap k = (ky, kx) of a row never changes. The pixels p of a stage follow those of the stage before, so that their places are
// found by adding and by carrying over at the end of a row and of a picture.
//
// Mesa 26.1 compiles the loop of a tile of 128 x 128, with the bias, to 82 % FMAs on RDNA3; one state for the whole workgroup and
// tests of every pixel left 78 %, and 11 registers that Apple's chips have no room for.

#import lib/index
#import lib/conv2d_params
#import lib/out4
#import lib/gemm_vectors

alias Result = Element; // f32: sums over pixels

// Whether rows of dy are of an even number of pixels, so that the two of an invocation lie in the same one.
const EVEN_ROWS: bool = false;

@group(0) @binding(1) var<storage, read> a: array<StoredOut>; // x (batch, height, width, in / 4)
@group(0) @binding(2) var<storage, read> b: array<StoredOut>; // dy (batch, out height, out width, out / 4)
@group(0) @binding(4) var<storage, read_write> c: array<vec4<Result>>; // (splits, rows, columns / 4)

// A pixel of dy: where the pixel s p of x lies, in vec4 from the first of all pictures, and s p itself, (y, x) in its picture.
struct Pixel {
    at: u32,
    y: u32,
    x: u32,
}

fn pixel(p: u32) -> Pixel {
    let row = p / params.out_width;
    let y = row % params.out_height * params.stride;
    let x = p % params.out_width * params.stride;
    let image = row / params.out_height;
    let at = (image * params.height + y) * params.width + x;
    return Pixel(at * (params.channels / 4u), y, x);
}

// The pixel that lies `by` further on: less than a row and less than a picture, beside whole ones of which `at` alone knows.
fn moved(p: Pixel, by: Pixel) -> Pixel {
    let size = params.stride * vec2<u32>(params.out_height, params.out_width);
    // What is left of a row and of a picture of x behind the last pixel of dy; this and the sums may wrap round.
    let row_end = (params.stride * params.width - size.y) * (params.channels / 4u);
    let picture_end = (params.height - size.x) * params.width * (params.channels / 4u);
    var to = Pixel(p.at + by.at, p.y + by.y, p.x + by.x);
    let new_row = to.x >= size.y;
    to.x -= select(0u, size.y, new_row);
    to.y += select(0u, params.stride, new_row);
    to.at += select(0u, row_end, new_row);
    let new_picture = to.y >= size.x;
    to.y -= select(0u, size.x, new_picture);
    to.at += select(0u, picture_end, new_picture);
    return to;
}

// Depth: the first pixel of a stage, and what this invocation stages first: places that are added to, so that few numbers are kept.
struct Depth {
    k: u32,
    end: u32, // of the split
    pixel: Pixel, // on the side of x, with the tap and the channel
    stage: Pixel, // the way from stage to stage
    b_at: u32, // in dy
}

fn first_depth(split: u32, of_a: Lines, of_b: Lines) -> Depth {
    let k = split * params.split_depth;
    var first = pixel(k + of_a.k);
    first.at += of_a.at;
    let end = min(k + params.split_depth, params.depth);
    return Depth(k, end, first, pixel(TILE_K), of_b.at + k * (params.columns / 4u));
}

fn next_depth(depth: Depth) -> Depth {
    let b_at = depth.b_at + TILE_K / 4u * params.columns;
    return Depth(depth.k + TILE_K, depth.end, moved(depth.pixel, depth.stage), depth.stage, b_at);
}

fn stages(split: u32) -> u32 {
    let k = split * params.split_depth;
    return (min(params.split_depth, params.depth - k) + TILE_K - 1u) / TILE_K;
}

// Four channels of two pixels. Rows and columns beyond the last are computed from the last four, and not stored.
struct Lines {
    k: u32, // the first pixel, after the first of the stage
    at: u32, // of the channels, from the pixel of x under no tap, or from the first pixel of the stage in dy
    tap: vec2<u32>, // k - pad, which may wrap round
}

const DEPTH_IS_SHARED: bool = false;
const A_HAS_ZEROS: bool = true;

fn a_lines(split: u32, m: u32, k: u32) -> Lines {
    let row = min(m, params.rows - 4u);
    let position = row / params.channels;
    let tap = vec2<u32>(position / params.kernel, position % params.kernel) - params.padding;
    let at = (tap.x * params.width + tap.y) * (params.channels / 4u) + row % params.channels / 4u;
    return Lines(k, at, tap);
}

fn a_places(lines: Lines, depth: Depth) -> Places {
    let p0 = depth.pixel;
    let one = Pixel(params.stride * (params.channels / 4u), 0u, params.stride);
    var p1 = Pixel(p0.at + one.at, p0.y, p0.x + one.x);
    if !EVEN_ROWS {
        p1 = moved(p0, one);
    }
    let y = vec2<u32>(p0.y, p1.y) + lines.tap.x;
    let x = vec2<u32>(p0.x, p1.x) + lines.tap.y;
    let here = (y < vec2<u32>(params.height)) & (x < vec2<u32>(params.width)) & present(lines, depth);
    return places(vec2<u32>(p0.at, p1.at), here);
}

fn b_lines(split: u32, n: u32, k: u32) -> Lines {
    return Lines(k, k * (params.columns / 4u) + min(n, params.columns - 4u) / 4u, vec2<u32>());
}

fn b_places(lines: Lines, depth: Depth) -> Places {
    return places(vec2<u32>(depth.b_at, depth.b_at + params.columns / 4u), present(lines, depth));
}

// Which of the pixels belong to the split.
fn present(lines: Lines, depth: Depth) -> vec2<bool> {
    return vec2<bool>(WHOLE_STAGES) | (depth.k + lines.k + vec2<u32>(0u, 1u) < vec2<u32>(depth.end));
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    c[((split * params.rows + m) * params.columns + n) / 4u] = vec4<Result>(value);
}

fn store_column_sum(split: u32, n: u32, value: vec4<f32>) {
    store_db((split * params.columns + n) / 4u, 0u, value);
}
