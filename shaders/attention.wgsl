// Attention of each head:  s[t,u] = q[t]·k[u] / sqrt(d)   p[t,u] = exp(s[t,u] - L[t])   o[t] = Σ_u p[t,u] v[u]
// with L[t] = ln Σ_u exp s[t,u], by the online softmax (Milakov & Gimelshein, arXiv 1805.02867), and its
// gradients with p recomputed from L (Dao et al., arXiv 2205.14135):
//   D[t] = do[t]·o[t]   ds[t,u] = p[t,u] (do[t]·v[u] - D[t])
//   dq[t] = Σ_u ds[t,u] k[u] / sqrt(d)   dk[u] = Σ_t ds[t,u] q[t] / sqrt(d)   dv[u] = Σ_t p[t,u] do[t]
//
// Each invocation holds HELD rows of a head in registers and streams all rows of the other side past them,
// STEP at a time; no two invocations write one result. A workgroup serves one head of one sequence.
//   forward, backward_query   hold queries (a = q, b = do), stream keys (a = k, b = v)
//   backward_key              holds keys (a = k, b = v), streams queries (a = q, b = do)
// HELD x STEP scores share each load: 16 multiply-adds for 8 loads instead of 1 for 2.
// row_products computes D, one row per invocation.
//
// q, k, v, o and their gradients may be stored as f16; L, D and all sums are f32.

#import lib/index
#import lib/vector4

const INVOCATIONS: u32 = 8u;
const HELD: u32 = 4u;
const STEP: u32 = 4u;
const HEAD_VECTORS: u32 = 2u; // Vectors in a head: d / WIDTH

// Sides of what is streamed.
const A: u32 = 0u;
const B: u32 = 1u;

#import lib/stream_direct

struct Params {
    length: u32, // T
    heads: u32,
    row_vectors: u32, // heads HEAD_VECTORS
    sequences: u32, // batch heads
    chunks: u32, // workgroups per head of a sequence
    scale: f32, // 1 / sqrt(d)
}

struct ProductParams { // row_products
    length: u32,
    heads: u32,
    rows: u32, // batch T heads
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> product_params: ProductParams;
@group(0) @binding(1) var<storage, read> held_a: array<Stored>; // (batch, T, heads, d): q; backward_key: k; row_products: do
@group(0) @binding(2) var<storage, read> held_b: array<Stored>; // (batch, T, heads, d): do; backward_key: v; row_products: o
@group(0) @binding(3) var<storage, read> streamed_a: array<Stored>; // (batch, T, heads, d): k; backward_key: q
@group(0) @binding(4) var<storage, read> streamed_b: array<Stored>; // (batch, T, heads, d): v; backward_key: do
@group(0) @binding(5) var<storage, read> log_sum_exp: array<f32>; // (batch, heads, T)
@group(0) @binding(6) var<storage, read> products: array<f32>; // (batch, heads, T): D
@group(0) @binding(7) var<storage, read_write> result_a: array<Stored>; // (batch, T, heads, d): o, dq or dk
@group(0) @binding(8) var<storage, read_write> result_b: array<Stored>; // (batch, T, heads, d): dv
@group(0) @binding(9) var<storage, read_write> statistic: array<f32>; // (batch, heads, T): L or D

// Below every score, and far enough from the largest f32 that differences stay finite.
const LOWEST: f32 = -1e38;

alias Rows = array<Vector, HELD * HEAD_VECTORS>; // [HELD][HEAD_VECTORS]: held rows, or their results
alias Pairs = array<f32, HELD * STEP>; // [HELD][STEP]: a number for each held and each streamed row

// The head of a sequence that a workgroup serves. Apart from the rows, so that it is plain that all invocations of the
// workgroup agree on it: they meet at barriers.
struct Head {
    sequence: u32, // of (batch, heads)
    base: u32, // the first Vector of its first row
}

fn head_of(workgroup: u32) -> Head {
    let sequence = workgroup / params.chunks;
    let batch = sequence / params.heads;
    return Head(sequence, batch * params.length * params.row_vectors + sequence % params.heads * HEAD_VECTORS);
}

// The first row that an invocation holds.
fn first_held(workgroup: u32, lane: u32) -> u32 {
    return (workgroup % params.chunks * INVOCATIONS + lane) * HELD;
}

// Where a held row begins; rows past the end repeat the last one, and store it again.
fn held_at(head: Head, row: u32) -> u32 {
    return head.base + min(row, params.length - 1u) * params.row_vectors;
}

// Where its L and D are.
fn statistic_at(head: Head, row: u32) -> u32 {
    return head.sequence * params.length + min(row, params.length - 1u);
}

fn load_a(rows: ptr<function, Rows>, head: Head, first_row: u32) {
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            (*rows)[i * HEAD_VECTORS + c] = params.scale * Vector(held_a[held_at(head, first_row + i) + c]);
        }
    }
}

fn load_b(rows: ptr<function, Rows>, head: Head, first_row: u32) {
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            (*rows)[i * HEAD_VECTORS + c] = Vector(held_b[held_at(head, first_row + i) + c]);
        }
    }
}

fn store_a(rows: ptr<function, Rows>, factor: f32, head: Head, first_row: u32) {
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            result_a[held_at(head, first_row + i) + c] = Stored(factor * (*rows)[i * HEAD_VECTORS + c]);
        }
    }
}

// Where STEP streamed rows begin, from row `u` of the tile at `first` on. Once for all that is done with them: computed at
// each load, it made the gradients a tenth slower on lavapipe.
fn streamed_rows(base: u32, first: u32, u: u32) -> array<u32, STEP> {
    var rows: array<u32, STEP>;
    for (var j = 0u; j < STEP; j++) {
        rows[j] = streamed_row(base, first, u + j);
    }
    return rows;
}

// Products of the held rows with STEP streamed rows of one side, a or b.
fn dots(held: ptr<function, Rows>, side: u32, rows: ptr<function, array<u32, STEP>>) -> Pairs {
    var sums: array<Vector, HELD * STEP>;
    for (var i = 0u; i < HELD * STEP; i++) {
        sums[i] = Vector(0.0);
    }
    for (var c = 0u; c < HEAD_VECTORS; c++) {
        for (var j = 0u; j < STEP; j++) {
            let row = streamed(side, (*rows)[j] + c);
            for (var i = 0u; i < HELD; i++) {
                sums[i * STEP + j] = fma((*held)[i * HEAD_VECTORS + c], row, sums[i * STEP + j]);
            }
        }
    }
    var results: Pairs;
    for (var i = 0u; i < HELD * STEP; i++) {
        results[i] = horizontal_sum(sums[i]);
    }
    return results;
}

// Adds the same streamed rows to the results of the held ones, with these weights.
fn add(results: ptr<function, Rows>, weights: ptr<function, Pairs>, side: u32, rows: ptr<function, array<u32, STEP>>) {
    for (var c = 0u; c < HEAD_VECTORS; c++) {
        for (var j = 0u; j < STEP; j++) {
            let row = streamed(side, (*rows)[j] + c);
            for (var i = 0u; i < HELD; i++) {
                let at = i * HEAD_VECTORS + c;
                (*results)[at] = fma(Vector((*weights)[i * STEP + j]), row, (*results)[at]);
            }
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(group, groups);
    let head = head_of(workgroup);
    if head.sequence >= params.sequences {
        return;
    }
    let first_row = first_held(workgroup, lane);
    var q: Rows;
    var o: Rows;
    var largest: array<f32, HELD>;
    var sums: array<f32, HELD>;
    load_a(&q, head, first_row);
    for (var i = 0u; i < HELD; i++) {
        largest[i] = LOWEST;
    }
    for (var first = 0u; first < params.length; first += TILE) {
        stage(head.base, first, lane);
        for (var u = 0u; u < TILE; u += STEP) {
            if first + u >= params.length {
                break;
            }
            var rows = streamed_rows(head.base, first, u);
            var p = dots(&q, A, &rows);
            for (var i = 0u; i < HELD; i++) {
                var next = largest[i];
                for (var j = 0u; j < STEP; j++) {
                    p[i * STEP + j] = select(LOWEST, p[i * STEP + j], first + u + j < params.length);
                    next = max(next, p[i * STEP + j]);
                }
                let shrink = exp(largest[i] - next);
                largest[i] = next;
                sums[i] *= shrink;
                for (var c = 0u; c < HEAD_VECTORS; c++) {
                    o[i * HEAD_VECTORS + c] *= shrink;
                }
                for (var j = 0u; j < STEP; j++) {
                    p[i * STEP + j] = exp(p[i * STEP + j] - next);
                    sums[i] += p[i * STEP + j];
                }
            }
            add(&o, &p, B, &rows);
        }
        release();
    }
    if first_row >= params.length {
        return;
    }
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            o[i * HEAD_VECTORS + c] /= sums[i];
        }
        statistic[statistic_at(head, first_row + i)] = largest[i] + log(sums[i]);
    }
    store_a(&o, 1.0, head, first_row);
}

@compute @workgroup_size(INVOCATIONS)
fn row_products(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row = invocation_index(group, groups, lane, INVOCATIONS); // of (batch, T, heads)
    if row >= product_params.rows {
        return;
    }
    var sum = Vector(0.0);
    for (var c = 0u; c < HEAD_VECTORS; c++) {
        sum = fma(Vector(held_a[row * HEAD_VECTORS + c]), Vector(held_b[row * HEAD_VECTORS + c]), sum);
    }
    let t = row / product_params.heads; // of (batch, T)
    let sequence = t / product_params.length * product_params.heads + row % product_params.heads;
    statistic[sequence * product_params.length + t % product_params.length] = horizontal_sum(sum);
}

@compute @workgroup_size(INVOCATIONS)
fn backward_query(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(group, groups);
    let head = head_of(workgroup);
    if head.sequence >= params.sequences {
        return;
    }
    let first_row = first_held(workgroup, lane);
    var q: Rows;
    var d_o: Rows;
    var dq: Rows;
    var l: array<f32, HELD>;
    var d: array<f32, HELD>;
    load_a(&q, head, first_row);
    load_b(&d_o, head, first_row);
    for (var i = 0u; i < HELD; i++) {
        l[i] = log_sum_exp[statistic_at(head, first_row + i)];
        d[i] = products[statistic_at(head, first_row + i)];
    }
    for (var first = 0u; first < params.length; first += TILE) {
        stage(head.base, first, lane);
        for (var u = 0u; u < TILE; u += STEP) {
            if first + u >= params.length {
                break;
            }
            var rows = streamed_rows(head.base, first, u);
            var s = dots(&q, A, &rows);
            var dp = dots(&d_o, B, &rows);
            var ds: Pairs;
            for (var i = 0u; i < HELD; i++) {
                for (var j = 0u; j < STEP; j++) {
                    let value = exp(s[i * STEP + j] - l[i]) * (dp[i * STEP + j] - d[i]);
                    ds[i * STEP + j] = select(0.0, value, first + u + j < params.length);
                }
            }
            add(&dq, &ds, A, &rows);
        }
        release();
    }
    if first_row >= params.length {
        return;
    }
    store_a(&dq, params.scale, head, first_row);
}

@compute @workgroup_size(INVOCATIONS)
fn backward_key(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(group, groups);
    let head = head_of(workgroup);
    if head.sequence >= params.sequences {
        return;
    }
    let first_row = first_held(workgroup, lane);
    var k: Rows;
    var v: Rows;
    var dk: Rows;
    var dv: Rows;
    load_a(&k, head, first_row);
    load_b(&v, head, first_row);
    for (var first = 0u; first < params.length; first += TILE) {
        stage(head.base, first, lane);
        stage_statistics(head, first, lane);
        for (var t = 0u; t < TILE; t += STEP) {
            if first + t >= params.length {
                break;
            }
            var rows = streamed_rows(head.base, first, t);
            var s = dots(&k, A, &rows);
            var dp = dots(&v, B, &rows);
            var p: Pairs;
            var ds: Pairs;
            for (var j = 0u; j < STEP; j++) {
                let statistics = streamed_statistics(head, first, t + j);
                for (var i = 0u; i < HELD; i++) {
                    let value = exp(s[i * STEP + j] - statistics.x);
                    p[i * STEP + j] = select(0.0, value, first + t + j < params.length);
                    ds[i * STEP + j] = p[i * STEP + j] * (dp[i * STEP + j] - statistics.y);
                }
            }
            add(&dk, &ds, A, &rows);
            add(&dv, &p, B, &rows);
        }
        release();
    }
    if first_row >= params.length {
        return;
    }
    store_a(&dk, params.scale, head, first_row);
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            result_b[held_at(head, first_row + i) + c] = Stored(dv[i * HEAD_VECTORS + c]);
        }
    }
}
