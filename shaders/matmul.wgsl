// The linear layer in register tiles, without workgroup memory or barriers.
//   forward          y[m,n]  = b[n] + Σ_k x[m,k] w[k,n]
//   backward_input   dx[m,k] = Σ_n dy[m,n] w[k,n]
//   backward_weight  dw[k,n] = Σ_m x[m,k] dy[m,n], and perhaps db[n] = Σ_m dy[m,n], m over one range of rows (a split)
//
// y and dx may have a further tensor added to them.
//
// Several layers of one x, each with K x N weights, its bias behind them and its y or dy in a place of its own, are one product:
// n then counts through all of them.
//
// One invocation per tile of ROWS x COLUMNS results. A tile that hangs over an edge computes and stores its
// last row or column again: a branch around every store costs more on lavapipe.
//
// x, w, y and their gradients dx and dy may be stored as f16; b, dw and all sums are f32.

#import lib/index
#import lib/in4
#import lib/out4
#import lib/no_added
#import lib/no_bias_gradient

const INVOCATIONS: u32 = 8u;
const ROWS: u32 = 8u;    // forward, backward_input: rows m; backward_weight: In vectors of k
const COLUMNS: u32 = 2u; // forward, backward_weight: Out vectors of n; backward_input: single k
const LAYERED: bool = false; // several layers; without the divisions, LLVM unrolls what is around them
const STEP: u32 = 4u;    // backward_weight: rows m taken at once; CPU registers hold few of the 64 sums at a time

struct Params {
    rows: u32, // m
    inputs: u32, // k, in In vectors
    outputs: u32, // n, in Out vectors, of one layer
    layers: u32,
    weight_stride: u32, // Out vectors from the weights of a layer to the next one's
    bias_start: u32,    // Out vectors before the first bias
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
    split_stride: u32, // Out vectors from a split to the next
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> weight_params: WeightParams;
@group(0) @binding(1) var<storage, read> x: array<StoredIn>; // [rows][inputs]
@group(0) @binding(2) var<storage, read> w: array<StoredOut>; // [inputs IN_WIDTH][outputs]
@group(0) @binding(3) var<storage, read> b: array<Out>; // [outputs]
@group(0) @binding(4) var<storage, read_write> y: array<StoredOut>; // [rows][outputs]
@group(0) @binding(5) var<storage, read> dy: array<StoredOut>; // [rows][outputs]
@group(0) @binding(6) var<storage, read_write> dx: array<Element>; // [rows][inputs IN_WIDTH]
@group(0) @binding(7) var<storage, read_write> dw: array<Out>; // [splits][inputs IN_WIDTH][outputs]

// The place of an Out vector that is counted through all layers, of so many outputs, where layers are `stride` apart.
fn in_layer(column: u32, outputs: u32, stride: u32) -> u32 {
    if !LAYERED {
        return column;
    }
    return column / outputs * stride + column % outputs;
}

fn store_sum(at: u32, value: Out) {
    dw[at] = value;
}

@compute @workgroup_size(INVOCATIONS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let tile = invocation_index(group, groups, lane, INVOCATIONS);
    let columns = params.outputs * params.layers;
    let tiles = (columns + COLUMNS - 1u) / COLUMNS;
    let first_row = tile / tiles * ROWS;
    let first_column = tile % tiles * COLUMNS;
    if first_row >= params.rows {
        return;
    }
    var row: array<u32, ROWS>;
    var column: array<u32, COLUMNS>; // of w and b
    var result: array<u32, COLUMNS>; // of y
    var sums: array<Out, ROWS * COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        let n = min(first_column + j, columns - 1u);
        column[j] = in_layer(n, params.outputs, params.weight_stride);
        result[j] = in_layer(n, params.outputs, params.rows * params.outputs);
    }
    for (var i = 0u; i < ROWS; i++) {
        row[i] = min(first_row + i, params.rows - 1u) * params.inputs;
        for (var j = 0u; j < COLUMNS; j++) {
            sums[i * COLUMNS + j] = b[params.bias_start + column[j]];
        }
    }
    for (var k = 0u; k < params.inputs; k++) {
        var weights: array<Out, IN_WIDTH * COLUMNS>; // [IN_WIDTH][COLUMNS]
        for (var c = 0u; c < IN_WIDTH; c++) {
            for (var j = 0u; j < COLUMNS; j++) {
                weights[c * COLUMNS + j] = Out(w[(k * IN_WIDTH + c) * params.outputs + column[j]]);
            }
        }
        for (var i = 0u; i < ROWS; i++) {
            let a = In(x[row[i] + k]);
            for (var j = 0u; j < COLUMNS; j++) {
                // All terms of one sum in a row: CPU registers hold few of the 64 sums at a time.
                for (var c = 0u; c < IN_WIDTH; c++) {
                    sums[i * COLUMNS + j] =
                        fma(Out(in_component(a, c)), weights[c * COLUMNS + j], sums[i * COLUMNS + j]);
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            let at = min(first_row + i, params.rows - 1u) * params.outputs + result[j];
            y[at] = StoredOut(plus_added(sums[i * COLUMNS + j], at, 0u));
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let inputs = params.inputs * IN_WIDTH;
    let tile = invocation_index(group, groups, lane, INVOCATIONS);
    let tiles = (inputs + COLUMNS - 1u) / COLUMNS;
    let first_row = tile / tiles * ROWS;
    let first_column = tile % tiles * COLUMNS;
    if first_row >= params.rows {
        return;
    }
    var row: array<u32, ROWS>;
    var column: array<u32, COLUMNS>;
    var sums: array<f32, ROWS * COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        column[j] = min(first_column + j, inputs - 1u) * params.outputs;
    }
    for (var i = 0u; i < ROWS; i++) {
        row[i] = min(first_row + i, params.rows - 1u) * params.outputs;
        for (var j = 0u; j < COLUMNS; j++) {
            sums[i * COLUMNS + j] = 0.0;
        }
    }
    for (var layer = 0u; layer < select(1u, params.layers, LAYERED); layer++) {
        let first_dy = layer * params.rows * params.outputs;
        let first_w = layer * params.weight_stride;
        for (var n = 0u; n < params.outputs; n++) {
            var a: array<Out, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                a[i] = Out(dy[first_dy + row[i] + n]);
            }
            for (var j = 0u; j < COLUMNS; j++) {
                let weight = Out(w[first_w + column[j] + n]);
                for (var i = 0u; i < ROWS; i++) {
                    for (var c = 0u; c < OUT_WIDTH; c++) {
                        sums[i * COLUMNS + j] =
                            fma(out_component(a[i], c), out_component(weight, c), sums[i * COLUMNS + j]);
                    }
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            let at = min(first_row + i, params.rows - 1u) * inputs + min(first_column + j, inputs - 1u);
            dx[at] = Element(plus_added_element(sums[i * COLUMNS + j], at));
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let index = invocation_index(group, groups, lane, INVOCATIONS);
    let columns = weight_params.outputs * weight_params.layers;
    let tiles_n = (columns + COLUMNS - 1u) / COLUMNS;
    let tiles = (weight_params.inputs + ROWS - 1u) / ROWS * tiles_n;
    let split = index / tiles;
    let first_input = index % tiles / tiles_n * ROWS;
    let first_column = index % tiles % tiles_n * COLUMNS;
    if split >= weight_params.splits {
        return;
    }
    var input: array<u32, ROWS>;
    var column: array<u32, COLUMNS>;
    var source: array<u32, COLUMNS>; // of dy
    var result: array<u32, COLUMNS>; // of dw
    var sums: array<Out, ROWS * IN_WIDTH * COLUMNS>; // [ROWS][IN_WIDTH][COLUMNS]
    for (var j = 0u; j < COLUMNS; j++) {
        column[j] = min(first_column + j, columns - 1u);
        source[j] = in_layer(column[j], weight_params.outputs, weight_params.rows * weight_params.outputs);
        result[j] = split * weight_params.split_stride
            + in_layer(column[j], weight_params.outputs, weight_params.weight_stride);
    }
    for (var i = 0u; i < ROWS; i++) {
        input[i] = min(first_input + i, weight_params.inputs - 1u);
    }
    for (var i = 0u; i < ROWS * IN_WIDTH * COLUMNS; i++) {
        sums[i] = Out(0.0);
    }
    var bias_sums: array<Out, COLUMNS>;
    let last = min((split + 1u) * weight_params.split_rows, weight_params.rows);
    for (var first = split * weight_params.split_rows; first < last; first += STEP) {
        var d: array<Out, STEP * COLUMNS>; // [STEP][COLUMNS]
        var m: array<u32, STEP>;
        for (var s = 0u; s < STEP; s++) {
            m[s] = min(first + s, last - 1u);
            for (var j = 0u; j < COLUMNS; j++) {
                let value = Out(dy[m[s] * weight_params.outputs + source[j]]);
                d[s * COLUMNS + j] = select(Out(0.0), value, first + s < last);
                if BIAS_GRADIENT {
                    bias_sums[j] += d[s * COLUMNS + j];
                }
            }
        }
        for (var i = 0u; i < ROWS; i++) {
            var a: array<In, STEP>;
            for (var s = 0u; s < STEP; s++) {
                a[s] = In(x[m[s] * weight_params.inputs + input[i]]);
            }
            for (var c = 0u; c < IN_WIDTH; c++) {
                for (var j = 0u; j < COLUMNS; j++) {
                    let at = (i * IN_WIDTH + c) * COLUMNS + j;
                    for (var s = 0u; s < STEP; s++) {
                        sums[at] = fma(Out(in_component(a[s], c)), d[s * COLUMNS + j], sums[at]);
                    }
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var c = 0u; c < IN_WIDTH; c++) {
            for (var j = 0u; j < COLUMNS; j++) {
                let k = input[i] * IN_WIDTH + c;
                store_sum(k * weight_params.outputs + result[j], sums[(i * IN_WIDTH + c) * COLUMNS + j]);
            }
        }
    }
    if BIAS_GRADIENT && first_input == 0u {
        for (var j = 0u; j < COLUMNS; j++) {
            store_db(split * columns + column[j], weight_params.bias_start + result[j], bias_sums[j]);
        }
    }
}
