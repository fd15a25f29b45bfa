// The products of matmul.wgsl for CPU drivers with subgroups, whose invocations load for each other, as in conv2d_subgroup.wgsl.
//
// forward and backward_input are one product, for the latter with the weights transposed, so there x stands for dy and y for dx,
// and the sum goes through the layers. An invocation has ROWS rows by VECTORS vectors of columns in registers. The
// invocations of a subgroup have neighbouring rows and the same columns, and share the weights.
//
// backward_weight: an invocation has IN_VECTORS vectors of k by one vector of n. Those of a subgroup have neighbouring n, and
// share x.
//
// K and N must be multiples of four; workgroups are subgroups. A tile that hangs over an edge computes and stores its last row
// or column again.
//
// x, w, y and their gradients dx and dy may be stored as f16; b, dw and all sums are f32.

#import lib/index
#import lib/out4
#import lib/no_added
#import lib/no_bias_gradient

const LANES: u32 = 8u; // the subgroup's size
const ROWS: u32 = 8u; // backward_weight: taken at once
const VECTORS: u32 = 4u;
const LAYERED: bool = false; // several layers

struct Params {
    rows: u32, // m
    inputs: u32, // k, in vectors
    outputs: u32, // n, in vectors, of one layer
    layers: u32,
    weight_stride: u32, // vectors from the weights of a layer to the next one's
    bias_start: u32,    // vectors before the first bias
}

struct WeightParams { // backward_weight
    rows: u32,
    inputs: u32,
    outputs: u32,
    splits: u32,
    split_rows: u32,
    layers: u32,
    weight_stride: u32,
    bias_start: u32,
    split_stride: u32, // vectors from a split to the next
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> weight_params: WeightParams;
@group(0) @binding(1) var<storage, read> x: array<StoredOut>; // [rows][inputs]; backward_input: dy
@group(0) @binding(2) var<storage, read> w: array<StoredOut>; // [4 inputs][outputs]
@group(0) @binding(3) var<storage, read> b: array<Out>; // [outputs]
@group(0) @binding(4) var<storage, read_write> y: array<StoredOut>; // [rows][outputs]; backward_input: dx
@group(0) @binding(5) var<storage, read> dy: array<StoredOut>; // [rows][outputs]
@group(0) @binding(7) var<storage, read_write> dw: array<Out>; // [splits][4 inputs][outputs]

// The place of a vector that is counted through all layers, of so many outputs, where layers are `stride` apart.
fn in_layer(column: u32, outputs: u32, stride: u32) -> u32 {
    if !LAYERED {
        return column;
    }
    return column / outputs * stride + column % outputs;
}

fn store_sum(at: u32, value: Out) {
    dw[at] = value;
}

// What an invocation computes: its first row, and its first column in vectors.
struct Place {
    row: u32,
    column: u32,
}

fn place(workgroup: u32, lane: u32, columns: u32) -> Place {
    let tiles = (columns + VECTORS - 1u) / VECTORS;
    return Place((workgroup / tiles * LANES + lane) * ROWS, workgroup % tiles * VECTORS);
}

alias Sums = array<array<array<f32, ROWS>, 4>, VECTORS>;

// Vectors of weights that an invocation loads for each vector of the sum: its part of 4 by VECTORS of them, or of 4 VECTORS.
const SHARE: u32 = (4u * VECTORS + LANES - 1u) / LANES;

fn product(at: Place, lane: u32, transposed: bool) -> Sums {
    let depth = select(params.inputs, params.outputs, transposed);
    var share: array<u32, SHARE>;
    for (var s = 0u; s < SHARE; s++) {
        let e = min(s * LANES + lane, 4u * VECTORS - 1u);
        if transposed {
            share[s] = (4u * min(at.column + e / 4u, params.inputs - 1u) + e % 4u) * params.outputs;
        } else {
            let column = min(at.column + e % VECTORS, params.outputs * params.layers - 1u);
            share[s] = e / VECTORS * params.outputs + in_layer(column, params.outputs, params.weight_stride);
        }
    }
    var row: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        row[i] = min(at.row + i, params.rows - 1u) * depth;
    }
    var sum: Sums;
    // One loop: of two, Mesa leaves the sums of one layer in memory, at a tenth of the speed.
    let layers = select(1u, params.layers, LAYERED && transposed);
    for (var t = 0u; t < layers * depth; t++) {
        let layer = select(0u, t / depth, LAYERED);
        let n = t - layer * depth;
        let first_x = layer * params.rows * depth + n;
        let first_w = layer * params.weight_stride + select(4u * params.outputs, 1u, transposed) * n;
        var weight: array<Out, SHARE>;
        for (var s = 0u; s < SHARE; s++) {
            weight[s] = Out(w[first_w + share[s]]);
        }
        var line: array<Out, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            line[i] = Out(x[first_x + row[i]]);
        }
        for (var v = 0u; v < VECTORS; v++) {
            for (var o = 0u; o < 4u; o++) {
                // All terms of a few sums in a row: CPU registers hold few of them at a time.
                for (var k = 0u; k < 4u; k++) {
                    let e = select(k * VECTORS + v, 4u * v + o, transposed);
                    let factor = subgroupShuffle(weight[e / LANES][select(o, k, transposed)], e % LANES);
                    for (var i = 0u; i < ROWS; i++) {
                        sum[v][o][i] = fma(line[i][k], factor, sum[v][o][i]);
                    }
                }
            }
        }
    }
    return sum;
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let columns = params.outputs * params.layers;
    let at = place(workgroup_index(group, groups), lane, columns);
    // Before the product: divisions behind it make Mesa keep the sums in memory, at a twentieth of the speed.
    var parameter: array<u32, VECTORS>; // of w and b
    var result: array<u32, VECTORS>; // of y
    for (var v = 0u; v < VECTORS; v++) {
        let column = min(at.column + v, columns - 1u);
        parameter[v] = in_layer(column, params.outputs, params.weight_stride);
        result[v] = in_layer(column, params.outputs, params.rows * params.outputs);
    }
    var sum = product(at, lane, false);
    for (var v = 0u; v < VECTORS; v++) {
        let bias = b[params.bias_start + parameter[v]];
        for (var i = 0u; i < ROWS; i++) {
            let to = min(at.row + i, params.rows - 1u) * params.outputs + result[v];
            let value = bias + Out(sum[v][0][i], sum[v][1][i], sum[v][2][i], sum[v][3][i]);
            y[to] = StoredOut(plus_added(value, to, 0u));
        }
    }
}

@compute @workgroup_size(LANES)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups), lane, params.inputs);
    var sum = product(at, lane, true);
    for (var v = 0u; v < VECTORS; v++) {
        for (var i = 0u; i < ROWS; i++) {
            let to = min(at.row + i, params.rows - 1u) * params.inputs + min(at.column + v, params.inputs - 1u);
            let value = Out(sum[v][0][i], sum[v][1][i], sum[v][2][i], sum[v][3][i]);
            y[to] = StoredOut(plus_added(value, to, 0u));
        }
    }
}

// Elements of x over ROWS rows, and how many of them an invocation loads.
const IN_VECTORS: u32 = 8u;
const TILE: u32 = ROWS * IN_VECTORS; // [ROWS][IN_VECTORS]
const TILE_SHARE: u32 = (TILE + LANES - 1u) / LANES;

@compute @workgroup_size(LANES)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let size = weight_params;
    let columns = size.outputs * size.layers;
    let tiles_n = (columns + LANES - 1u) / LANES;
    let tiles_k = (size.inputs + IN_VECTORS - 1u) / IN_VECTORS;
    let workgroup = workgroup_index(group, groups);
    let split = workgroup / tiles_n / tiles_k;
    if split >= size.splits {
        return;
    }
    let first_k = workgroup / tiles_n % tiles_k * IN_VECTORS;
    let column = min(workgroup % tiles_n * LANES + lane, columns - 1u);
    let source = in_layer(column, size.outputs, size.rows * size.outputs);
    var sum: array<array<Out, 4>, IN_VECTORS>;
    var bias_sum: Out;
    let last = min((split + 1u) * size.split_rows, size.rows);
    for (var m = split * size.split_rows; m < last; m += ROWS) {
        var d: array<Out, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            let value = Out(dy[min(m + i, last - 1u) * size.outputs + source]);
            d[i] = select(Out(), value, m + i < last);
            if BIAS_GRADIENT {
                bias_sum += d[i];
            }
        }
        var share: array<Out, TILE_SHARE>;
        for (var s = 0u; s < TILE_SHARE; s++) {
            let e = min(s * LANES + lane, TILE - 1u);
            let row = min(m + e / IN_VECTORS, last - 1u);
            share[s] = Out(x[row * size.inputs + min(first_k + e % IN_VECTORS, size.inputs - 1u)]);
        }
        for (var t = 0u; t < IN_VECTORS; t++) {
            for (var k = 0u; k < 4u; k++) {
                for (var i = 0u; i < ROWS; i++) {
                    let e = i * IN_VECTORS + t;
                    sum[t][k] = fma(Out(subgroupShuffle(share[e / LANES][k], e % LANES)), d[i], sum[t][k]);
                }
            }
        }
    }
    if workgroup % tiles_n * LANES + lane >= columns {
        return;
    }
    let result = split * size.split_stride + in_layer(column, size.outputs, size.weight_stride);
    for (var t = 0u; t < IN_VECTORS; t++) {
        if first_k + t < size.inputs {
            for (var k = 0u; k < 4u; k++) {
                store_sum(((first_k + t) * 4u + k) * size.outputs + result, sum[t][k]);
            }
        }
    }
    if BIAS_GRADIENT && first_k == 0u {
        store_db(split * columns + column, size.bias_start + result, bias_sum);
    }
}
