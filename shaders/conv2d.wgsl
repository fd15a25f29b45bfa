// 2-D convolution, channels last, each invocation computing a tile of its result in registers.
//
//   forward          y[n,oy,ox,co] = b[co] + Σ_{ky,kx,ci} x[n, oy s + ky - p, ox s + kx - p, ci] w[ky,kx,ci,co]
//   backward_input   dx[n,iy,ix,ci] = Σ_{ky,kx,co} dy[n, (iy + p - ky)/s, (ix + p - kx)/s, co] w[ky,kx,ci,co]
//                    over the ky, kx at which s divides
//   backward_weight  dw[ky,kx,ci,co] = Σ_{n,oy,ox} x[n, oy s + ky - p, ox s + kx - p, ci] dy[n,oy,ox,co]
//                    and perhaps db[co] = Σ_{n,oy,ox} dy[n,oy,ox,co]
//
// with stride s and padding p; whatever lies outside a picture is zero. y and dx may have a further tensor added to them.
//
// For CPU drivers: no workgroup memory and no barriers, since there a load costs the same from anywhere, and
// nearly the same for one number as for four. One invocation of the first two has TILE_ROWS x TILE_COLUMNS pixels by
// TILE_CHANNELS elements of channels in registers; each line of pixels that it loads serves every kernel
// column. Neighbouring invocations have neighbouring channels of the same pixels.
//
// Tiles and lines are arrays of registers only if every loop over them is unrolled. Mesa unrolls a loop
// of any size if it indexes an array of exactly as many elements by the loop's own variable; hence the
// order of loops and the copies in `weight` and `line` below (without: 7 GFLOP/s where this has 20).
//
// x, w, y and their gradients dx and dy may be stored as f16; b, dw and all sums are f32.

#import lib/index
#import lib/in4
#import lib/out4
#import lib/no_added
#import lib/no_bias_gradient

const KERNEL: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const TILE_ROWS: u32 = 2u;
const TILE_COLUMNS: u32 = 8u;
const TILE_CHANNELS: u32 = 2u; // elements of the result's channels, each of IN_WIDTH or OUT_WIDTH
const INVOCATIONS: u32 = 16u;

struct Params {
    batch: u32,
    height: u32,
    width: u32,
    in_vectors: u32, // Ci / IN_WIDTH
    out_height: u32,
    out_width: u32,
    out_vectors: u32, // Co / OUT_WIDTH
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
@group(0) @binding(1) var<storage, read> x: array<StoredIn>; // (batch, height, width, in_vectors)
@group(0) @binding(2) var<storage, read> w: array<StoredOut>; // (KERNEL, KERNEL, in_vectors IN_WIDTH, out_vectors)
@group(0) @binding(3) var<storage, read> b: array<Out>; // (out_vectors)
@group(0) @binding(4) var<storage, read_write> y: array<StoredOut>; // (batch, out_height, out_width, out_vectors)
@group(0) @binding(5) var<storage, read> dy: array<StoredOut>; // as y
@group(0) @binding(6) var<storage, read_write> dx: array<Element>; // (batch, height, width, in_vectors IN_WIDTH)
@group(0) @binding(7) var<storage, read_write> dw: array<Out>; // (splits,) then as w

struct Pictures {
    height: u32,
    width: u32,
    vectors: u32,
}

fn load_x(size: Pictures, n: u32, iy: u32, ix: u32, c: u32) -> In {
    // Negative positions have wrapped around to large ones, here and in load_dy.
    let inside = iy < size.height && ix < size.width;
    let at = ((n * size.height + iy) * size.width + ix) * size.vectors + c;
    return select(In(), In(x[select(0u, at, inside)]), inside);
}

fn load_dy(n: u32, oy: u32, ox: u32, c: u32) -> Out {
    let inside = oy < params.out_height && ox < params.out_width;
    let at = ((n * params.out_height + oy) * params.out_width + ox) * params.out_vectors + c;
    return select(Out(), Out(dy[select(0u, at, inside)]), inside);
}

// Columns of x under a row of the tile.
const SPAN: u32 = (TILE_COLUMNS - 1u) * STRIDE + KERNEL;

@compute @workgroup_size(INVOCATIONS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let columns = (params.out_width + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let rows = (params.out_height + TILE_ROWS - 1u) / TILE_ROWS;
    var i = invocation_index(group, groups, lane, INVOCATIONS);
    let tiles = (params.out_vectors + TILE_CHANNELS - 1u) / TILE_CHANNELS;
    let channel = i % tiles * TILE_CHANNELS;
    i /= tiles;
    let ox = i % columns * TILE_COLUMNS;
    i /= columns;
    let oy = i % rows * TILE_ROWS;
    let n = i / rows;
    if n >= params.batch {
        return;
    }

    let size = Pictures(params.height, params.width, params.in_vectors);
    var sum: array<array<array<Out, TILE_CHANNELS>, TILE_COLUMNS>, TILE_ROWS>;
    for (var ky = 0u; ky < KERNEL; ky++) {
        for (var c = 0u; c < params.in_vectors; c++) {
            var weight: array<array<array<Out, TILE_CHANNELS>, IN_WIDTH>, KERNEL>;
            for (var kx = 0u; kx < KERNEL; kx++) {
                for (var k = 0u; k < IN_WIDTH; k++) {
                    let row = (((ky * KERNEL + kx) * params.in_vectors + c) * IN_WIDTH + k) * params.out_vectors;
                    for (var o = 0u; o < TILE_CHANNELS; o++) {
                        weight[kx][k][o] = Out(w[row + min(channel + o, params.out_vectors - 1u)]);
                    }
                }
            }
            for (var r = 0u; r < TILE_ROWS; r++) {
                var line: array<In, SPAN>;
                for (var j = 0u; j < SPAN; j++) {
                    line[j] = load_x(size, n, (oy + r) * STRIDE + ky - PADDING, ox * STRIDE + j - PADDING, c);
                }
                for (var j = 0u; j < SPAN; j++) {
                    for (var kx = 0u; kx < KERNEL; kx++) {
                        // Where j < kx it wraps around to a column far past the tile.
                        let column = (j - kx) / STRIDE;
                        if column * STRIDE + kx == j && column < TILE_COLUMNS {
                            for (var k = 0u; k < IN_WIDTH; k++) {
                                for (var o = 0u; o < TILE_CHANNELS; o++) {
                                    sum[r][column][o] += in_component(line[j], k) * weight[kx][k][o];
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    for (var o = 0u; o < TILE_CHANNELS; o++) {
        if channel + o < params.out_vectors {
            let bias = b[channel + o];
            for (var r = 0u; r < TILE_ROWS; r++) {
                for (var j = 0u; j < TILE_COLUMNS; j++) {
                    if oy + r < params.out_height && ox + j < params.out_width {
                        let row = (n * params.out_height + oy + r) * params.out_width + ox + j;
                        let at = row * params.out_vectors + channel + o;
                        y[at] = StoredOut(plus_added(bias + sum[r][j][o], at, n * params.out_vectors + channel + o));
                    }
                }
            }
        }
    }
}

// A tile's rows lie STRIDE apart, so that all of them meet the same kernel rows. Its columns are
// neighbours and STRIDE divides the first, ix, so that what a column of dy adds to is known here: by kx, the
// dy column ix / STRIDE + j - LEFT reaches the tile's column (j - LEFT) STRIDE + kx - PADDING.
const LEFT: u32 = (KERNEL - 1u - PADDING) / STRIDE;
const DY_SPAN: u32 = LEFT + (TILE_COLUMNS - 1u + PADDING) / STRIDE + 1u;

@compute @workgroup_size(INVOCATIONS)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let columns = (params.width + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let rows = (params.height + TILE_ROWS * STRIDE - 1u) / (TILE_ROWS * STRIDE) * STRIDE;
    var i = invocation_index(group, groups, lane, INVOCATIONS);
    let tiles = (params.in_vectors + TILE_CHANNELS - 1u) / TILE_CHANNELS;
    let channel = i % tiles * TILE_CHANNELS;
    i /= tiles;
    let ix = i % columns * TILE_COLUMNS;
    i /= columns;
    let iy = i % rows / STRIDE * (STRIDE * TILE_ROWS) + i % rows % STRIDE;
    let n = i / rows;
    if n >= params.batch {
        return;
    }

    var sum: array<array<array<array<f32, IN_WIDTH>, TILE_CHANNELS>, TILE_COLUMNS>, TILE_ROWS>;
    for (var ky = (iy + PADDING) % STRIDE; ky < KERNEL; ky += STRIDE) {
        for (var c = 0u; c < params.out_vectors; c++) {
            var weight: array<array<array<Out, IN_WIDTH>, TILE_CHANNELS>, KERNEL>;
            for (var kx = 0u; kx < KERNEL; kx++) {
                for (var o = 0u; o < TILE_CHANNELS; o++) {
                    let input = (ky * KERNEL + kx) * params.in_vectors + min(channel + o, params.in_vectors - 1u);
                    for (var k = 0u; k < IN_WIDTH; k++) {
                        weight[kx][o][k] = Out(w[(input * IN_WIDTH + k) * params.out_vectors + c]);
                    }
                }
            }
            for (var r = 0u; r < TILE_ROWS; r++) {
                var line: array<Out, DY_SPAN>;
                for (var j = 0u; j < DY_SPAN; j++) {
                    line[j] = load_dy(n, (iy + r * STRIDE + PADDING - ky) / STRIDE, ix / STRIDE + j - LEFT, c);
                }
                for (var j = 0u; j < DY_SPAN; j++) {
                    for (var kx = 0u; kx < KERNEL; kx++) {
                        let column = j * STRIDE + kx - (LEFT * STRIDE + PADDING);
                        if column < TILE_COLUMNS {
                            for (var o = 0u; o < TILE_CHANNELS; o++) {
                                for (var k = 0u; k < IN_WIDTH; k++) {
                                    sum[r][column][o][k] += out_dot(line[j], weight[kx][o][k]);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    for (var o = 0u; o < TILE_CHANNELS; o++) {
        for (var r = 0u; r < TILE_ROWS; r++) {
            for (var j = 0u; j < TILE_COLUMNS; j++) {
                if channel + o < params.in_vectors && iy + r * STRIDE < params.height && ix + j < params.width {
                    let row = (n * params.height + iy + r * STRIDE) * params.width + ix + j;
                    for (var k = 0u; k < IN_WIDTH; k++) {
                        let at = (row * params.in_vectors + channel + o) * IN_WIDTH + k;
                        dx[at] = Element(plus_added_element(sum[r][j][o][k], at));
                    }
                }
            }
        }
    }
}

// One invocation has all kernel positions of one element of input channels by TILE_CHANNELS of output
// channels, over the rows of dy in its split; a KERNEL x KERNEL window of x slides along each row. The splits
// are added by sum_rows, in their order. Those of the first input channels may have the bias's gradient too.
@compute @workgroup_size(INVOCATIONS)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let tiles = (weight_params.out_vectors + TILE_CHANNELS - 1u) / TILE_CHANNELS;
    var i = invocation_index(group, groups, lane, INVOCATIONS);
    let channel = i % tiles * TILE_CHANNELS;
    i /= tiles;
    let c = i % weight_params.in_vectors;
    let split = i / weight_params.in_vectors;
    let rows = weight_params.batch * weight_params.out_height;
    let start = split * weight_params.rows_per_split;
    if start >= rows {
        return;
    }

    let size = Pictures(weight_params.height, weight_params.width, weight_params.in_vectors);
    var sum: array<array<array<array<Out, TILE_CHANNELS>, IN_WIDTH>, KERNEL>, KERNEL>;
    var bias_sum: array<Out, TILE_CHANNELS>;
    let end = min(start + weight_params.rows_per_split, rows);
    for (var row = start; row < end; row++) {
        let n = row / weight_params.out_height;
        let iy = row % weight_params.out_height * STRIDE - PADDING;
        var window: array<array<In, KERNEL>, KERNEL>;
        for (var ky = 0u; ky < KERNEL; ky++) {
            for (var kx = STRIDE; kx < KERNEL; kx++) {
                window[ky][kx] = load_x(size, n, iy + ky, kx - STRIDE - PADDING, c);
            }
        }
        for (var ox = 0u; ox < weight_params.out_width; ox++) {
            for (var ky = 0u; ky < KERNEL; ky++) {
                for (var kx = 0u; kx < KERNEL; kx++) {
                    if kx + STRIDE < KERNEL {
                        window[ky][kx] = window[ky][kx + STRIDE];
                    } else {
                        window[ky][kx] = load_x(size, n, iy + ky, ox * STRIDE + kx - PADDING, c);
                    }
                }
            }
            for (var o = 0u; o < TILE_CHANNELS; o++) {
                let at = (row * weight_params.out_width + ox) * weight_params.out_vectors;
                let d = Out(dy[at + min(channel + o, weight_params.out_vectors - 1u)]);
                if BIAS_GRADIENT {
                    bias_sum[o] += d;
                }
                for (var ky = 0u; ky < KERNEL; ky++) {
                    for (var kx = 0u; kx < KERNEL; kx++) {
                        for (var k = 0u; k < IN_WIDTH; k++) {
                            sum[ky][kx][k][o] += in_component(window[ky][kx], k) * d;
                        }
                    }
                }
            }
        }
    }

    for (var o = 0u; o < TILE_CHANNELS; o++) {
        if channel + o < weight_params.out_vectors {
            if BIAS_GRADIENT && c == 0u {
                store_db(split * weight_params.out_vectors + channel + o, 0u, bias_sum[o]);
            }
            for (var ky = 0u; ky < KERNEL; ky++) {
                for (var kx = 0u; kx < KERNEL; kx++) {
                    for (var k = 0u; k < IN_WIDTH; k++) {
                        let input = (((split * KERNEL + ky) * KERNEL + kx) * weight_params.in_vectors + c) * IN_WIDTH + k;
                        dw[input * weight_params.out_vectors + channel + o] = sum[ky][kx][k][o];
                    }
                }
            }
        }
    }
}
