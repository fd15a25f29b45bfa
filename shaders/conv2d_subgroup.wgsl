// The convolutions of conv2d.wgsl for CPU drivers with subgroups, whose invocations load for each other: each of them loads
// another element of what all of them need, and they hand it around. A load costs a CPU driver some eighty multiply-adds for
// each subgroup, wherever the invocations read; handing a number around costs two.
//
// forward and backward_input are one product, of stride 1 backwards: dx is the convolution of dy with the kernel turned
// around and its channels exchanged, so there x stands for dy, y for dx, and PADDING for KERNEL - 1 - p. An invocation has
// COLUMNS pixels by VECTORS vectors of channels in registers. The invocations of a subgroup have neighbouring rows and the
// same columns and channels, and share the weights.
//
// backward_weight: an invocation has all kernel positions of one vector of input channels by one vector of output channels.
// Those of a subgroup have neighbouring output channels, and share x.
//
// Channels must be multiples of four; workgroups are subgroups. Loops are as conv2d.wgsl says.
//
// x, w and y may be stored as f16; b, dw and all sums are f32.

#import lib/index
#import lib/out4
#import lib/no_added
#import lib/no_bias_gradient

const KERNEL: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const COLUMNS: u32 = 8u;
const VECTORS: u32 = 4u;
const LANES: u32 = 8u; // the subgroup's size

struct Params {
    batch: u32,
    height: u32,
    width: u32,
    in_vectors: u32, // of x: Ci / 4
    out_height: u32,
    out_width: u32,
    out_vectors: u32, // of y: Co / 4
}

struct WeightParams { // backward_weight
    batch: u32,
    height: u32,
    width: u32,
    in_vectors: u32,
    out_height: u32,
    out_width: u32,
    out_vectors: u32,
    rows_per_split: u32, // rows of dy, of which there are batch out_height, in each part of the sum
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> weight_params: WeightParams;
@group(0) @binding(1) var<storage, read> x: array<StoredOut>; // (batch, height, width, in_vectors)
@group(0) @binding(2) var<storage, read> w: array<StoredOut>; // (KERNEL, KERNEL, 4 in_vectors, out_vectors), or as for dy
@group(0) @binding(3) var<storage, read> b: array<Out>; // (out_vectors)
@group(0) @binding(4) var<storage, read_write> y: array<StoredOut>; // (batch, out_height, out_width, out_vectors)
@group(0) @binding(5) var<storage, read> dy: array<StoredOut>; // as y
@group(0) @binding(7) var<storage, read_write> dw: array<Out>; // (splits,) then (KERNEL, KERNEL, 4 in_vectors, out_vectors)

// What an invocation computes.
struct Place {
    row: u32, // of (batch, out_height); the last one again past the end
    image: u32, // of it
    whole: bool, // whether it is not past the end
    column: u32, // the first
    channel: u32, // the first vector
}

alias Sums = array<array<array<f32, COLUMNS>, 4>, VECTORS>;

fn place(workgroup: u32, lane: u32) -> Place {
    let tiles = (params.out_vectors + VECTORS - 1u) / VECTORS;
    let columns = (params.out_width + COLUMNS - 1u) / COLUMNS;
    let first = workgroup / tiles / columns * LANES + lane;
    let rows = params.batch * params.out_height;
    let row = min(first, rows - 1u);
    let column = workgroup / tiles % columns * COLUMNS;
    return Place(row, row / params.out_height, first < rows, column, workgroup % tiles * VECTORS);
}

// Vectors of weights that an invocation loads of each kernel position: its part of 4 by VECTORS of them, or of 4 VECTORS.
const SHARE: u32 = (4u * VECTORS + LANES - 1u) / LANES;
// Columns of x under a row of the tile.
const SPAN: u32 = (COLUMNS - 1u) * STRIDE + KERNEL;

// `turned`: w is (KERNEL, KERNEL, 4 out_vectors, in_vectors), and its kernel turned around.
fn product(at: Place, lane: u32, turned: bool) -> Sums {
    let first_y = (at.row - at.image * params.out_height) * STRIDE - PADDING;
    let first_x = at.column * STRIDE - PADDING;
    var share: array<u32, SHARE>;
    for (var s = 0u; s < SHARE; s++) {
        let e = min(s * LANES + lane, 4u * VECTORS - 1u);
        if turned {
            share[s] = min(4u * at.channel + e, 4u * params.out_vectors - 1u) * params.in_vectors;
        } else {
            share[s] = e / VECTORS * params.out_vectors + min(at.channel + e % VECTORS, params.out_vectors - 1u);
        }
    }
    var sum: Sums;
    var ky = 0u;
    var c = 0u;
    while ky < KERNEL {
        let iy = first_y + ky;
        let line_at = ((at.image * params.height + iy) * params.width + first_x) * params.in_vectors + c;
        var weight: array<array<Out, SHARE>, KERNEL>;
        for (var kx = 0u; kx < KERNEL; kx++) {
            let position = ky * KERNEL + kx;
            let size = 4u * params.in_vectors * params.out_vectors;
            let first = select(position * size + 4u * c * params.out_vectors,
                               (KERNEL * KERNEL - 1u - position) * size + c, turned);
            for (var s = 0u; s < SHARE; s++) {
                weight[kx][s] = Out(w[first + share[s]]);
            }
        }
        var line: array<Out, SPAN>;
        for (var j = 0u; j < SPAN; j++) {
            // Negative positions have wrapped around to large ones.
            let inside = iy < params.height && first_x + j < params.width;
            line[j] = select(Out(), Out(x[select(0u, line_at + j * params.in_vectors, inside)]), inside);
        }
        for (var v = 0u; v < VECTORS; v++) {
            for (var o = 0u; o < 4u; o++) {
                // All terms of a few sums in a row: CPU registers hold few of them at a time.
                for (var kx = 0u; kx < KERNEL; kx++) {
                    for (var k = 0u; k < 4u; k++) {
                        let e = select(k * VECTORS + v, 4u * v + o, turned);
                        let factor = subgroupShuffle(weight[kx][e / LANES][select(o, k, turned)], e % LANES);
                        for (var j = 0u; j < COLUMNS; j++) {
                            sum[v][o][j] += line[j * STRIDE + kx][k] * factor;
                        }
                    }
                }
            }
        }
        c = select(c + 1u, 0u, c + 1u == params.in_vectors);
        ky += select(0u, 1u, c == 0u);
    }
    return sum;
}

fn store(at: Place, v: u32, j: u32, value: Out) {
    if at.whole && at.column + j < params.out_width && at.channel + v < params.out_vectors {
        let to = (at.row * params.out_width + at.column + j) * params.out_vectors + at.channel + v;
        y[to] = StoredOut(plus_added(value, to, at.image * params.out_vectors + at.channel + v));
    }
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups), lane);
    var sum = product(at, lane, false);
    for (var v = 0u; v < VECTORS; v++) {
        let bias = b[min(at.channel + v, params.out_vectors - 1u)];
        for (var j = 0u; j < COLUMNS; j++) {
            store(at, v, j, bias + Out(sum[v][0][j], sum[v][1][j], sum[v][2][j], sum[v][3][j]));
        }
    }
}

@compute @workgroup_size(LANES)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups), lane);
    var sum = product(at, lane, true);
    for (var v = 0u; v < VECTORS; v++) {
        for (var j = 0u; j < COLUMNS; j++) {
            store(at, v, j, Out(sum[v][0][j], sum[v][1][j], sum[v][2][j], sum[v][3][j]));
        }
    }
}

// Elements of x under COLUMNS of dy, KERNEL rows of SPAN, and how many of them an invocation loads.
const WINDOW: u32 = KERNEL * SPAN;
const WINDOW_SHARE: u32 = (WINDOW + LANES - 1u) / LANES;

// IN_VECTORS vectors of input channels by one vector of output channels, over the rows of dy in its split. The splits are added
// by sum_rows, in their order. Those of the first input channels may have the bias's gradient too.
const IN_VECTORS: u32 = 1u;

@compute @workgroup_size(LANES)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let size = weight_params;
    var i = workgroup_index(group, groups);
    let out_tiles = (size.out_vectors + LANES - 1u) / LANES;
    let in_tiles = (size.in_vectors + IN_VECTORS - 1u) / IN_VECTORS;
    let channel = i % out_tiles * LANES + lane;
    let first_c = i / out_tiles % in_tiles * IN_VECTORS;
    let split = i / out_tiles / in_tiles;
    let rows = size.batch * size.out_height;
    if split * size.rows_per_split >= rows {
        return;
    }
    let source = min(channel, size.out_vectors - 1u);

    var window_y: array<u32, WINDOW_SHARE>;
    var window_x: array<u32, WINDOW_SHARE>;
    for (var s = 0u; s < WINDOW_SHARE; s++) {
        window_y[s] = (s * LANES + lane) / SPAN - PADDING;
        window_x[s] = (s * LANES + lane) % SPAN - PADDING;
    }
    var sum: array<array<array<array<Out, 4>, KERNEL>, KERNEL>, IN_VECTORS>;
    var bias_sum: Out;
    let start = split * size.rows_per_split;
    let end = min(start + size.rows_per_split, rows);
    var image = start / size.out_height;
    var oy = start % size.out_height;
    var ox = 0u;
    // One loop over rows and columns: with one for each, a sum passes through memory once more for every loop (8x8 pixels, 64 to
    // 64 channels: 34 GFLOP/s where this has 55).
    for (var row = start; row < end; row += select(0u, 1u, ox == 0u)) {
        var d: array<Out, COLUMNS>;
        let first_d = (row * size.out_width + ox) * size.out_vectors + source;
        for (var j = 0u; j < COLUMNS; j++) {
            let inside = ox + j < size.out_width;
            d[j] = select(Out(), Out(dy[select(0u, first_d + j * size.out_vectors, inside)]), inside);
            if BIAS_GRADIENT {
                bias_sum += d[j];
            }
        }
        for (var t = 0u; t < IN_VECTORS; t++) {
            let c = min(first_c + t, size.in_vectors - 1u);
            var window: array<Out, WINDOW_SHARE>;
            for (var s = 0u; s < WINDOW_SHARE; s++) {
                let iy = oy * STRIDE + window_y[s];
                let ix = ox * STRIDE + window_x[s];
                let inside = iy < size.height && ix < size.width;
                let at = ((image * size.height + iy) * size.width + ix) * size.in_vectors + c;
                window[s] = select(Out(), Out(x[select(0u, at, inside)]), inside);
            }
            for (var ky = 0u; ky < KERNEL; ky++) {
                for (var k = 0u; k < 4u; k++) {
                    for (var j = 0u; j < COLUMNS; j++) {
                        for (var kx = 0u; kx < KERNEL; kx++) {
                            let e = ky * SPAN + j * STRIDE + kx;
                            sum[t][ky][kx][k] += subgroupShuffle(window[e / LANES][k], e % LANES) * d[j];
                        }
                    }
                }
            }
        }
        ox = select(ox + COLUMNS, 0u, ox + COLUMNS >= size.out_width);
        oy += select(0u, 1u, ox == 0u);
        image += select(0u, 1u, oy == size.out_height);
        oy = select(oy, 0u, oy == size.out_height);
    }

    if channel >= size.out_vectors {
        return;
    }
    if BIAS_GRADIENT && first_c == 0u {
        store_db(split * size.out_vectors + channel, 0u, bias_sum);
    }
    for (var t = 0u; t < IN_VECTORS; t++) {
        if first_c + t < size.in_vectors {
            for (var ky = 0u; ky < KERNEL; ky++) {
                for (var kx = 0u; kx < KERNEL; kx++) {
                    for (var k = 0u; k < 4u; k++) {
                        let input = (((split * KERNEL + ky) * KERNEL + kx) * size.in_vectors + first_c + t) * 4u + k;
                        dw[input * size.out_vectors + channel] = sum[t][ky][kx][k];
                    }
                }
            }
        }
    }
}
