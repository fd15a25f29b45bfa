// Gradient of a convolution's weight where x or dy has one to four channels, of stride 1, for GPUs: a tile of lib/gemm_vectors has 64
// rows and columns at least, of which these would leave most empty. With the narrow one of both, n, and the wide one, m:
//
//   s[j,i,t] = Σ_q m[q,i] n[q - before + j, t]      over the pixels q of m; zero outside the pictures
//
// is dw[k,ci,co] of the tap k = j where x is narrow (before = pad, i = co, t = ci), and of the taps in the opposite order where dy is
// (before = kernel - 1 - pad, i = ci, t = co).
//
// An invocation has four channels i, one row of taps j and all t, and goes along rows of pixels, so that each n[.] serves KERNEL
// taps one after the other. LANES invocations have the channels, and ROWS share the rows of pixels of a split.

#import lib/index
#import lib/element
#import lib/vector4
#import lib/column_sum

const KERNEL: u32 = 3u; // 1 or 3
const NARROW: u32 = 3u; // channels of n
const NARROW_DY: bool = true; // else x

struct Params {
    rows: u32, // of pixels of m, in all pictures
    splits: u32,
    split_rows: u32,
    height: u32, // of m
    width: u32,
    vectors: u32, // channels of m / 4
    narrow_height: u32,
    narrow_width: u32,
    before: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> m: array<Stored>; // (batch, height, width, vectors)
@group(0) @binding(2) var<storage, read> n: array<Element>; // (batch, narrow height, narrow width, NARROW)
@group(0) @binding(3) var<storage, read_write> c: array<f32>; // (splits, KERNEL, KERNEL, in, out)

// A pixel of n in a row, zero outside of it, where the column wraps round.
fn narrow(row: u32, column: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if column < params.narrow_width {
        let at = (row * params.narrow_width + column) * NARROW;
        v.x = f32(n[at]);
        if NARROW > 1u {
            v.y = f32(n[at + 1u]);
        }
        if NARROW > 2u {
            v.z = f32(n[at + 2u]);
        }
        if NARROW > 3u {
            v.w = f32(n[at + 3u]);
        }
    }
    return v;
}

// Sums of three taps, each [t][i], and the pixels of n under the first two of them.
struct Sums {
    s0: mat4x4<f32>,
    s1: mat4x4<f32>,
    s2: mat4x4<f32>,
    n0: vec4<f32>,
    n1: vec4<f32>,
}

fn plus_outer(s: mat4x4<f32>, n: vec4<f32>, m: Vector) -> mat4x4<f32> {
    return mat4x4<f32>(fma(vec4<f32>(n.x), m, s[0]), fma(vec4<f32>(n.y), m, s[1]),
                       fma(vec4<f32>(n.z), m, s[2]), fma(vec4<f32>(n.w), m, s[3]));
}

fn plus_pixel(sums: Sums, row: u32, narrow_row: u32, column: u32, vector: u32) -> Sums {
    let inside = column < params.width;
    let loaded = Vector(m[select(0u, (row * params.width + column) * params.vectors + vector, inside)]);
    let of_m = select(Vector(), loaded, inside);
    let n2 = narrow(narrow_row, column - params.before + KERNEL - 1u);
    var s = sums;
    s.s2 = plus_outer(s.s2, n2, of_m);
    if KERNEL == 3u {
        s.s0 = plus_outer(s.s0, s.n0, of_m);
        s.s1 = plus_outer(s.s1, s.n1, of_m);
        s.n0 = s.n1;
        s.n1 = n2;
    }
    return s;
}

fn store_tap(split: u32, j: u32, vector: u32, s: mat4x4<f32>, lane: u32) {
    let channels = 4u * params.vectors;
    let tap = select(j, KERNEL * KERNEL - 1u - j, NARROW_DY);
    let first = (split * KERNEL * KERNEL + tap) * channels * NARROW;
    store_channels(first, 0u, vector, s[0], lane);
    if NARROW > 1u {
        store_channels(first, 1u, vector, s[1], lane);
    }
    if NARROW > 2u {
        store_channels(first, 2u, vector, s[2], lane);
    }
    if NARROW > 3u {
        store_channels(first, 3u, vector, s[3], lane);
    }
}

fn store_channels(first: u32, t: u32, vector: u32, share: Vector, lane: u32) {
    let sum = column_sum(share, lane);
    if lane < COLUMNS && vector < params.vectors {
        for (var r = 0u; r < 4u; r++) {
            let i = 4u * vector + r;
            c[first + select(t * 4u * params.vectors + i, i * NARROW + t, NARROW_DY)] = sum[r];
        }
    }
}

@compute @workgroup_size(COLUMNS * ROWS)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let blocks = (params.vectors + COLUMNS - 1u) / COLUMNS;
    let block = workgroup_index(group, groups);
    let split = block / blocks / KERNEL;
    if split >= params.splits {
        return;
    }
    let j = block / blocks % KERNEL;
    let vector = block % blocks * COLUMNS + lane % COLUMNS;

    var sums = Sums();
    if vector < params.vectors {
        let end = min((split + 1u) * params.split_rows, params.rows);
        for (var row = split * params.split_rows + lane / COLUMNS; row < end; row += ROWS) {
            // Above the picture it wraps round to a huge number, which the comparison refuses.
            let y = row % params.height - params.before + j;
            if y >= params.narrow_height {
                continue;
            }
            let narrow_row = row / params.height * params.narrow_height + y;
            if KERNEL == 3u {
                sums.n0 = narrow(narrow_row, 0u - params.before);
                sums.n1 = narrow(narrow_row, 1u - params.before);
            }
            // Four pixels, so that four loads are under way at once.
            for (var column = 0u; column < params.width; column += 4u) {
                sums = plus_pixel(sums, row, narrow_row, column, vector);
                sums = plus_pixel(sums, row, narrow_row, column + 1u, vector);
                sums = plus_pixel(sums, row, narrow_row, column + 2u, vector);
                sums = plus_pixel(sums, row, narrow_row, column + 3u, vector);
            }
        }
    }
    if KERNEL == 3u {
        store_tap(split, j * KERNEL, vector, sums.s0, lane);
        store_tap(split, j * KERNEL + 1u, vector, sums.s1, lane);
    }
    store_tap(split, j * KERNEL + KERNEL - 1u, vector, sums.s2, lane);
}
