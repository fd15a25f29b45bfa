// Convolution and the gradient of its input as implicit products of matrices, four channels at a time (lib/gemm_vectors). PASS
// chooses what is multiplied:
//   0 forward          y[p,co]  = b[co] + Σ_{ky,kx,ci} x[s p + k - pad, ci] w[k,ci,co]
//                      rows p = (batch, oy, ox), depth (ky, kx, ci)
//   1 backward_input   dx[q,ci] = Σ_{ky,kx,co} dy[(q + pad - k) / s, co] w[k,ci,co], where s divides it
//                      rows q = (batch, iy, ix), depth (ky, kx, co)
// y and dx may have a further tensor added to them.
//
// The depth goes through the taps k = (ky, kx) and within each through the channels, so that a row knows once and for all where it
// lies under the first tap and under which taps it lies inside the picture; a stage adds what all rows have in common.
//
// A stride of s leaves to the input pixels q of one phase, q mod s, the taps k = (q + pad) mod s alone: each phase is a split of its
// own (lib/gemm_vectors) with its own rows and taps, and no product with a zero between the pixels is computed.

#import lib/index
#import lib/conv2d_params
#import lib/out4
#import lib/no_added
#import lib/gemm_vectors
#import lib/bias

const PASS: u32 = 0u;

alias Result = Element;

@group(0) @binding(1) var<storage, read> a: array<StoredOut>; // x (batch, height, width, in / 4) or dy (batch, out height, out width, out / 4)
@group(0) @binding(2) var<storage, read> b: array<StoredOut>; // w (kernel, kernel, in, out / 4)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>; // (out / 4)
@group(0) @binding(4) var<storage, read_write> c: array<vec4<Result>>; // (rows, columns / 4), of all phases

// Taps at positions first, first + stride and so on, `count` of them, along y and x.
struct Taps {
    first: vec2<u32>,
    count: vec2<u32>,
}

fn phase(split: u32) -> vec2<u32> {
    return vec2<u32>(split / params.stride, split % params.stride);
}

fn taps(split: u32) -> Taps {
    if PASS == 0u {
        return Taps(vec2<u32>(), vec2<u32>(params.kernel));
    }
    let first = (phase(split) + params.padding) % params.stride;
    // None where the kernel ends before the first.
    return Taps(first, (params.kernel + params.stride - 1u - first) / params.stride);
}

// The pixel of a row, in the order (image, y, x): of y, or of dx counted within its phase.
fn pixel(m: u32) -> vec3<u32> {
    var size = vec2<u32>(params.out_height, params.out_width);
    if PASS == 1u {
        size = (vec2<u32>(params.height, params.width) + params.stride - 1u) / params.stride;
    }
    let row = m / size.y;
    return vec3<u32>(row / size.x, row % size.x, m % size.y);
}

// Depth: a tap, counted along y and x, and a channel, in vec4; and what they mean for places in a and b, in vec4.
struct Depth {
    count: vec2<u32>, // of taps
    a_step: vec2<u32>, // from tap to tap
    b_first: u32, // the first tap
    b_step: vec2<u32>,
    tap: vec2<u32>,
    vector: u32,
}

fn stages(split: u32) -> u32 {
    let count = taps(split).count;
    return count.x * count.y * (params.channels / TILE_K);
}

fn first_depth(split: u32, of_a: Lines, of_b: Lines) -> Depth {
    let t = taps(split);
    let vectors = params.channels / 4u;
    let weights = vec2<u32>(params.kernel, 1u) * vectors * params.columns;
    // What is loaded of a phase without taps lies in w too.
    let first = min(t.first, vec2<u32>(params.kernel - 1u));
    let b_first = first.x * weights.x + first.y * weights.y;
    if PASS == 0u {
        return Depth(t.count, vec2<u32>(params.width, 1u) * vectors, b_first, weights, vec2<u32>(), 0u);
    }
    // From tap to tap one pixel of dy back, which wraps round.
    let back = vec2<u32>() - vec2<u32>(params.out_width, 1u) * vectors;
    return Depth(t.count, back, b_first, weights * params.stride, vec2<u32>(), 0u);
}

fn next_depth(depth: Depth) -> Depth {
    var next = depth;
    next.vector += TILE_K / 4u;
    if next.vector == params.channels / 4u {
        next.vector = 0u;
        next.tap.y++;
        if next.tap.y == depth.count.y {
            next.tap.y = 0u;
            next.tap.x++;
        }
    }
    return next;
}

// Where two vec4 lie under the first tap, and a set of taps each: bit 16 + i is the i-th along y, bit i the i-th along x.
struct Lines {
    at: vec2<u32>,
    inside: vec2<u32>,
}

struct Row {
    at: u32,
    inside: u32,
}

// A row of the matrix of patches.
fn patch_row(split: u32, m: u32) -> Row {
    if m >= params.rows {
        return Row(0u, 0u);
    }
    let p = pixel(m);
    // The pixel of a under the first tap. Above and left of the picture it wraps round to huge numbers, which comparisons refuse
    // as those below and right of it, and from which multiplications and additions find back.
    var origin = p.yz * params.stride - params.padding;
    var size = vec2<u32>(params.height, params.width);
    var step = 1u;
    if PASS == 1u {
        origin = p.yz + (phase(split) + params.padding) / params.stride;
        size = vec2<u32>(params.out_height, params.out_width);
        step = ~0u; // from tap to tap one pixel back
    }
    let count = taps(split).count;
    var inside = 0u;
    for (var i = 0u; i < count.x; i++) {
        if origin.x + i * step < size.x {
            inside |= 65536u << i;
        }
    }
    for (var i = 0u; i < count.y; i++) {
        if origin.y + i * step < size.y {
            inside |= 1u << i;
        }
    }
    return Row(((p.x * size.x + origin.x) * size.y + origin.y) * (params.channels / 4u), inside);
}

const DEPTH_IS_SHARED: bool = true;
const A_HAS_ZEROS: bool = true;

fn a_lines(split: u32, m: u32, k: u32) -> Lines {
    let r0 = patch_row(split, m);
    let r1 = patch_row(split, m + 1u);
    return Lines(vec2<u32>(r0.at, r1.at) + k / 4u, vec2<u32>(r0.inside, r1.inside));
}

fn a_places(lines: Lines, depth: Depth) -> Places {
    let offset = depth.tap.x * depth.a_step.x + depth.tap.y * depth.a_step.y + depth.vector;
    let here = vec2<u32>((65536u << depth.tap.x) | (1u << depth.tap.y));
    return places(lines.at + offset, (lines.inside & here) == here);
}

// Rows of w along the columns in pass 0; in pass 1, where its depth lies side by side in memory, columns along the depth. Columns
// beyond the last are computed from the last ones, and not stored.
fn b_lines(split: u32, n: u32, k: u32) -> Lines {
    let two = vec2<u32>(0u, 1u);
    if PASS == 0u {
        return Lines(((k + two) * params.columns + min(n, params.columns - 4u)) / 4u, vec2<u32>());
    }
    return Lines((min(n + two, vec2<u32>(params.columns - 1u)) * params.channels + k) / 4u, vec2<u32>());
}

fn b_places(lines: Lines, depth: Depth) -> Places {
    let tap = depth.b_first + depth.tap.x * depth.b_step.x + depth.tap.y * depth.b_step.y;
    let offset = tap + select(depth.vector, depth.vector * params.columns, PASS == 0u);
    return Places(lines.at + offset, vec2<bool>(true));
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    var row = m;
    if PASS == 1u && params.stride > 1u {
        let p = pixel(m);
        let q = p.yz * params.stride + phase(split);
        if q.x >= params.height || q.y >= params.width {
            return;
        }
        row = (p.x * params.height + q.x) * params.width + q.y;
    }
    let at = (row * params.columns + n) / 4u;
    let image = m / (params.out_height * params.out_width); // in pass 0
    c[at] = vec4<Result>(plus_added(initial(n / 4u) + value, at, (image * params.columns + n) / 4u));
}

fn store_column_sum(split: u32, n: u32, value: vec4<f32>) {}
