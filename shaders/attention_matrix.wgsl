// Attention of each head through its matrix of weights, in register tiles and without barriers; notation as in
// attention.wgsl:
//   scores         p[t,u] = q[t]·k[u] / sqrt(d)
//   softmax        p[t,u] = exp(p[t,u] - L[t]), L[t] = ln Σ_u exp p[t,u], in place
//   gradients      p[t,u] = exp(q[t]·k[u] / sqrt(d) - L[t]) again,   ds[t,u] = p[t,u] (do[t]·v[u] - D[t])
//   weighted_sum   y[r] = factor Σ_j m[r,j] x[j]: o from (p, v), dq from (ds, k), and with the matrix
//                  transposed dk from (ds, q) and dv from (p, do)
//
// The matrices of a few sequences and heads at a time are in scratch memory. One invocation per tile of
// ROWS x COLUMNS results (softmax: per row). A tile that hangs over an edge computes and stores its last row or
// column again: a branch around every store makes the whole kernel three times slower on lavapipe.
//
// q, k, v, o and their gradients may be stored as f16; the matrices, L, D and all sums are f32.

#import lib/index
#import lib/in4
#import lib/vector4
#import lib/softmax

const INVOCATIONS: u32 = 8u;
const ROWS: u32 = 8u;
const COLUMNS: u32 = 4u; // weighted_sum: In vectors
const STEP: u32 = 4u; // weighted_sum: terms taken at once; CPU registers hold few of the 64 sums at a time

const TRANSPOSED: bool = false; // weighted_sum: m[r,j] lies at [j][r]

struct Params {
    length: u32, // T
    heads: u32,
    head_vectors: u32, // In vectors in a head
    first: u32, // of (batch, heads): the first whose matrix is in memory
    sequences: u32, // how many are
    factor: f32,
}

struct SoftmaxParams { // softmax
    vectors: u32, // of a row
    length: u32,
    first: u32,
    sequences: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> softmax_params: SoftmaxParams;
@group(0) @binding(1) var<storage, read> q: array<StoredIn>; // (batch, T, heads, d)
@group(0) @binding(2) var<storage, read> k: array<StoredIn>; // (batch, T, heads, d)
@group(0) @binding(3) var<storage, read> v: array<StoredIn>; // (batch, T, heads, d)
@group(0) @binding(4) var<storage, read> d_o: array<StoredIn>; // (batch, T, heads, d)
@group(0) @binding(5) var<storage, read> log_sum_exp: array<f32>; // (batch, heads, T): L
@group(0) @binding(6) var<storage, read> products: array<f32>; // (batch, heads, T): D
@group(0) @binding(7) var<storage, read_write> p: array<f32>; // [sequences][T][T]
@group(0) @binding(8) var<storage, read_write> ds: array<f32>; // [sequences][T][T]
@group(0) @binding(9) var<storage, read_write> statistic: array<f32>; // (batch, heads, T): L
@group(0) @binding(10) var<storage, read> m: array<f32>; // [sequences][T][T]
@group(0) @binding(11) var<storage, read> x: array<StoredIn>; // (batch, T, heads, d)
@group(0) @binding(12) var<storage, read_write> y: array<StoredIn>; // (batch, T, heads, d)
@group(0) @binding(13) var<storage, read_write> rows: array<Vector>; // p in softmax

struct Tile {
    sequence: u32, // from 0: its place in scratch memory
    row: u32,
    column: u32,
}

// Tile number `index` of matrices of T rows and so many columns.
fn tile_at(index: u32, columns: u32) -> Tile {
    let across = (columns + COLUMNS - 1u) / COLUMNS;
    let down = (params.length + ROWS - 1u) / ROWS;
    let row = index / across;
    return Tile(row / down, row % down * ROWS, index % across * COLUMNS);
}

// Where row `row` of a head begins; rows past the end repeat the last one.
fn row_at(sequence: u32, row: u32) -> u32 {
    let s = params.first + sequence;
    let t = min(row, params.length - 1u);
    return ((s / params.heads * params.length + t) * params.heads + s % params.heads) * params.head_vectors;
}

@compute @workgroup_size(INVOCATIONS)
fn scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let tile = tile_at(invocation_index(group, groups, lane, INVOCATIONS), params.length);
    if tile.sequence >= params.sequences {
        return;
    }
    var row: array<u32, ROWS>;
    var column: array<u32, COLUMNS>;
    var sums: array<f32, ROWS * COLUMNS>;
    for (var i = 0u; i < ROWS; i++) {
        row[i] = row_at(tile.sequence, tile.row + i);
    }
    for (var j = 0u; j < COLUMNS; j++) {
        column[j] = row_at(tile.sequence, tile.column + j);
    }
    for (var i = 0u; i < ROWS * COLUMNS; i++) {
        sums[i] = 0.0;
    }
    for (var c = 0u; c < params.head_vectors; c++) {
        var a: array<In, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            a[i] = In(q[row[i] + c]);
        }
        for (var j = 0u; j < COLUMNS; j++) {
            let b = In(k[column[j] + c]);
            for (var i = 0u; i < ROWS; i++) {
                for (var e = 0u; e < IN_WIDTH; e++) {
                    let at = i * COLUMNS + j;
                    sums[at] = fma(in_component(a[i], e), in_component(b, e), sums[at]);
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        let t = tile.sequence * params.length + min(tile.row + i, params.length - 1u);
        for (var j = 0u; j < COLUMNS; j++) {
            p[t * params.length + min(tile.column + j, params.length - 1u)] = params.factor * sums[i * COLUMNS + j];
        }
    }
}

fn score(at: u32) -> Vector {
    return rows[at];
}

@compute @workgroup_size(INVOCATIONS)
fn softmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = invocation_index(group, groups, lane, INVOCATIONS); // of [sequences][T]
    if row >= softmax_params.sequences * softmax_params.length {
        return;
    }
    let first = row * softmax_params.vectors;
    let measured = measure_row(first, softmax_params.vectors);
    let share = 1.0 / measured.sum;
    for (var u = first; u < first + softmax_params.vectors; u++) {
        rows[u] = share * exp(rows[u] - Vector(measured.largest));
    }
    statistic[softmax_params.first * softmax_params.length + row] = measured.largest + log(measured.sum);
}

@compute @workgroup_size(INVOCATIONS)
fn gradients(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let tile = tile_at(invocation_index(group, groups, lane, INVOCATIONS), params.length);
    if tile.sequence >= params.sequences {
        return;
    }
    var row: array<u32, ROWS>;
    var column: array<u32, COLUMNS>;
    var s: array<f32, ROWS * COLUMNS>;
    var dp: array<f32, ROWS * COLUMNS>;
    for (var i = 0u; i < ROWS; i++) {
        row[i] = row_at(tile.sequence, tile.row + i);
    }
    for (var j = 0u; j < COLUMNS; j++) {
        column[j] = row_at(tile.sequence, tile.column + j);
    }
    for (var i = 0u; i < ROWS * COLUMNS; i++) {
        s[i] = 0.0;
        dp[i] = 0.0;
    }
    for (var c = 0u; c < params.head_vectors; c++) {
        var a: array<In, ROWS>;
        var b: array<In, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            a[i] = In(q[row[i] + c]);
            b[i] = In(d_o[row[i] + c]);
        }
        for (var j = 0u; j < COLUMNS; j++) {
            let key = In(k[column[j] + c]);
            let value = In(v[column[j] + c]);
            for (var i = 0u; i < ROWS; i++) {
                for (var e = 0u; e < IN_WIDTH; e++) {
                    let at = i * COLUMNS + j;
                    s[at] = fma(in_component(a[i], e), in_component(key, e), s[at]);
                    dp[at] = fma(in_component(b[i], e), in_component(value, e), dp[at]);
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        let t = tile.sequence * params.length + min(tile.row + i, params.length - 1u);
        let l = log_sum_exp[params.first * params.length + t];
        let d = products[params.first * params.length + t];
        for (var j = 0u; j < COLUMNS; j++) {
            let at = t * params.length + min(tile.column + j, params.length - 1u);
            let weight = exp(params.factor * s[i * COLUMNS + j] - l);
            p[at] = weight;
            ds[at] = weight * (dp[i * COLUMNS + j] - d);
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn weighted_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let tile = tile_at(invocation_index(group, groups, lane, INVOCATIONS), params.head_vectors);
    if tile.sequence >= params.sequences {
        return;
    }
    var row: array<u32, ROWS>;
    var column: array<u32, COLUMNS>;
    var sums: array<In, ROWS * COLUMNS>;
    let row_stride = select(params.length, 1u, TRANSPOSED);
    let column_stride = select(1u, params.length, TRANSPOSED);
    for (var i = 0u; i < ROWS; i++) {
        let r = min(tile.row + i, params.length - 1u);
        row[i] = tile.sequence * params.length * params.length + r * row_stride;
    }
    for (var j = 0u; j < COLUMNS; j++) {
        column[j] = min(tile.column + j, params.head_vectors - 1u);
    }
    for (var i = 0u; i < ROWS * COLUMNS; i++) {
        sums[i] = In(0.0);
    }
    for (var first = 0u; first < params.length; first += STEP) {
        var terms: array<In, STEP * COLUMNS>; // [STEP][COLUMNS]
        for (var s = 0u; s < STEP; s++) {
            let at = row_at(tile.sequence, first + s);
            for (var j = 0u; j < COLUMNS; j++) {
                terms[s * COLUMNS + j] = select(In(0.0), In(x[at + column[j]]), first + s < params.length);
            }
        }
        for (var i = 0u; i < ROWS; i++) {
            var weights: array<f32, STEP>;
            for (var s = 0u; s < STEP; s++) {
                weights[s] = m[row[i] + min(first + s, params.length - 1u) * column_stride];
            }
            for (var j = 0u; j < COLUMNS; j++) {
                for (var s = 0u; s < STEP; s++) {
                    let at = i * COLUMNS + j;
                    sums[at] = fma(In(weights[s]), terms[s * COLUMNS + j], sums[at]);
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            y[row_at(tile.sequence, tile.row + i) + column[j]] = StoredIn(params.factor * sums[i * COLUMNS + j]);
        }
    }
}
