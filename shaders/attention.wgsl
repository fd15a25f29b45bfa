// Attention of each head:  s[t,u] = q[t]·k[u] / sqrt(d)   p[t,u] = exp(s[t,u] - L[t])   o[t] = Σ_u p[t,u] v[u]
// with L[t] = ln Σ_u exp s[t,u], by the online softmax (Milakov & Gimelshein, arXiv 1805.02867), and its
// gradients with p recomputed from L (Dao et al., arXiv 2205.14135):
//   D[t] = do[t]·o[t]   ds[t,u] = p[t,u] (do[t]·v[u] - D[t])
//   dq[t] = Σ_u ds[t,u] k[u] / sqrt(d)   dk[u] = Σ_t ds[t,u] q[t] / sqrt(d)   dv[u] = Σ_t p[t,u] do[t]
//
// Each invocation holds HELD rows of a head in registers and streams all rows of the other side past them,
// STEP at a time; no two invocations write one result. A workgroup serves one head of one sequence.
//   forward, backward_query   hold queries (a = q, b = do), stream keys (a = k, b = v)
//   backward_key              holds keys, streams queries
// HELD x STEP scores share each load: 16 multiply-adds for 8 loads instead of 1 for 2.

#import lib/index
#import lib/vector4

const INVOCATIONS: u32 = 8u;
const HELD: u32 = 4u;
const STEP: u32 = 4u;
const HEAD_VECTORS: u32 = 2u; // Vectors in a head: d / WIDTH

#import lib/stream_direct

struct Params {
    length: u32, // T
    heads: u32,
    row_vectors: u32, // heads HEAD_VECTORS
    sequences: u32, // batch heads
    chunks: u32, // workgroups per head of a sequence
    scale: f32, // 1 / sqrt(d)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> held_a: array<Vector>; // (batch, T, heads, d): q; backward_key: k
@group(0) @binding(2) var<storage, read> held_b: array<Vector>; // (batch, T, heads, d): do; backward_key: v
@group(0) @binding(3) var<storage, read> streamed_a: array<Vector>; // (batch, T, heads, d): k; backward_key: q
@group(0) @binding(4) var<storage, read> streamed_b: array<Vector>; // (batch, T, heads, d): v; backward_key: do
@group(0) @binding(5) var<storage, read> log_sum_exp: array<f32>; // (batch, heads, T)
@group(0) @binding(6) var<storage, read> products: array<f32>; // (batch, heads, T): D
@group(0) @binding(7) var<storage, read_write> result_a: array<Vector>; // (batch, T, heads, d): o, dq or dk
@group(0) @binding(8) var<storage, read_write> result_b: array<Vector>; // (batch, T, heads, d): dv
@group(0) @binding(9) var<storage, read_write> statistic: array<f32>; // (batch, heads, T): L or D

// Below every score, and far enough from the largest f32 that differences stay finite.
const LOWEST: f32 = -1e38;

// The first Vector of a head of a sequence.
fn head_base(sequence: u32) -> u32 {
    return sequence / params.heads * params.length * params.row_vectors + sequence % params.heads * HEAD_VECTORS;
}

// Where a held row begins; rows past the end repeat the last one, and store it again.
fn held_at(base: u32, row: u32) -> u32 {
    return base + min(row, params.length - 1u) * params.row_vectors;
}

@compute @workgroup_size(INVOCATIONS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let sequence = workgroup_index(group, groups) / params.chunks;
    if sequence >= params.sequences {
        return;
    }
    let base = head_base(sequence);
    let first_row = (workgroup_index(group, groups) % params.chunks * INVOCATIONS + lane) * HELD;
    var q: array<Vector, HELD * HEAD_VECTORS>;
    var o: array<Vector, HELD * HEAD_VECTORS>;
    var largest: array<f32, HELD>;
    var sums: array<f32, HELD>;
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            q[i * HEAD_VECTORS + c] = params.scale * held_a[held_at(base, first_row + i) + c];
            o[i * HEAD_VECTORS + c] = Vector(0.0);
        }
        largest[i] = LOWEST;
        sums[i] = 0.0;
    }
    for (var first = 0u; first < params.length; first += TILE) {
        stage(base, first, lane);
        for (var u = 0u; u < TILE; u += STEP) {
            if first + u >= params.length {
                break;
            }
            var s: array<Vector, HELD * STEP>;
            for (var i = 0u; i < HELD * STEP; i++) {
                s[i] = Vector(0.0);
            }
            for (var c = 0u; c < HEAD_VECTORS; c++) {
                for (var j = 0u; j < STEP; j++) {
                    let k = stream_a(base, first, u + j, c);
                    for (var i = 0u; i < HELD; i++) {
                        s[i * STEP + j] = fma(q[i * HEAD_VECTORS + c], k, s[i * STEP + j]);
                    }
                }
            }
            var p: array<f32, HELD * STEP>;
            var shrink: array<f32, HELD>;
            for (var i = 0u; i < HELD; i++) {
                var next = largest[i];
                for (var j = 0u; j < STEP; j++) {
                    let score = horizontal_sum(s[i * STEP + j]);
                    p[i * STEP + j] = select(LOWEST, score, first + u + j < params.length);
                    next = max(next, p[i * STEP + j]);
                }
                shrink[i] = exp(largest[i] - next);
                largest[i] = next;
                sums[i] *= shrink[i];
                for (var j = 0u; j < STEP; j++) {
                    p[i * STEP + j] = exp(p[i * STEP + j] - next);
                    sums[i] += p[i * STEP + j];
                }
            }
            for (var c = 0u; c < HEAD_VECTORS; c++) {
                for (var i = 0u; i < HELD; i++) {
                    o[i * HEAD_VECTORS + c] *= shrink[i];
                }
                for (var j = 0u; j < STEP; j++) {
                    let v = stream_b(base, first, u + j, c);
                    for (var i = 0u; i < HELD; i++) {
                        o[i * HEAD_VECTORS + c] = fma(Vector(p[i * STEP + j]), v, o[i * HEAD_VECTORS + c]);
                    }
                }
            }
        }
        release();
    }
    if first_row >= params.length {
        return;
    }
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            result_a[held_at(base, first_row + i) + c] = o[i * HEAD_VECTORS + c] / sums[i];
        }
        statistic[sequence * params.length + min(first_row + i, params.length - 1u)] = largest[i] + log(sums[i]);
    }
}

// D[t] = do[t]·o[t]: held_a = do, held_b = o, one row per invocation.
@compute @workgroup_size(INVOCATIONS)
fn row_products(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = invocation_index(group, groups, lane, INVOCATIONS); // of (batch, heads, T)
    if row >= params.sequences * params.length {
        return;
    }
    let at = head_base(row / params.length) + row % params.length * params.row_vectors;
    var sum = Vector(0.0);
    for (var c = 0u; c < HEAD_VECTORS; c++) {
        sum = fma(held_a[at + c], held_b[at + c], sum);
    }
    statistic[row] = horizontal_sum(sum);
}

@compute @workgroup_size(INVOCATIONS)
fn backward_query(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let sequence = workgroup_index(group, groups) / params.chunks;
    if sequence >= params.sequences {
        return;
    }
    let base = head_base(sequence);
    let first_row = (workgroup_index(group, groups) % params.chunks * INVOCATIONS + lane) * HELD;
    var q: array<Vector, HELD * HEAD_VECTORS>;
    var d_o: array<Vector, HELD * HEAD_VECTORS>;
    var dq: array<Vector, HELD * HEAD_VECTORS>;
    var l: array<f32, HELD>;
    var d: array<f32, HELD>;
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
        q[i * HEAD_VECTORS + c] = params.scale * held_a[held_at(base, first_row + i) + c];
        d_o[i * HEAD_VECTORS + c] = held_b[held_at(base, first_row + i) + c];
        dq[i * HEAD_VECTORS + c] = Vector(0.0);
        }
        let row = sequence * params.length + min(first_row + i, params.length - 1u);
        l[i] = log_sum_exp[row];
        d[i] = products[row];
    }
    for (var first = 0u; first < params.length; first += TILE) {
        stage(base, first, lane);
        for (var u = 0u; u < TILE; u += STEP) {
        if first + u >= params.length {
            break;
        }
        var s: array<Vector, HELD * STEP>;
        var dp: array<Vector, HELD * STEP>;
        for (var i = 0u; i < HELD * STEP; i++) {
            s[i] = Vector(0.0);
            dp[i] = Vector(0.0);
        }
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            for (var j = 0u; j < STEP; j++) {
                let k = stream_a(base, first, u + j, c);
                let v = stream_b(base, first, u + j, c);
                for (var i = 0u; i < HELD; i++) {
                    s[i * STEP + j] = fma(q[i * HEAD_VECTORS + c], k, s[i * STEP + j]);
                    dp[i * STEP + j] = fma(d_o[i * HEAD_VECTORS + c], v, dp[i * STEP + j]);
                }
            }
        }
        var ds: array<f32, HELD * STEP>;
        for (var i = 0u; i < HELD; i++) {
            for (var j = 0u; j < STEP; j++) {
                let p = exp(horizontal_sum(s[i * STEP + j]) - l[i]);
                let value = p * (horizontal_sum(dp[i * STEP + j]) - d[i]);
                ds[i * STEP + j] = select(0.0, value, first + u + j < params.length);
            }
        }
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            for (var j = 0u; j < STEP; j++) {
                let k = stream_a(base, first, u + j, c);
                for (var i = 0u; i < HELD; i++) {
                    dq[i * HEAD_VECTORS + c] = fma(Vector(ds[i * STEP + j]), k, dq[i * HEAD_VECTORS + c]);
                }
            }
        }
        }
        release();
    }
    if first_row >= params.length {
        return;
    }
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            result_a[held_at(base, first_row + i) + c] = params.scale * dq[i * HEAD_VECTORS + c];
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn backward_key(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let sequence = workgroup_index(group, groups) / params.chunks;
    if sequence >= params.sequences {
        return;
    }
    let base = head_base(sequence);
    let first_row = (workgroup_index(group, groups) % params.chunks * INVOCATIONS + lane) * HELD;
    var k: array<Vector, HELD * HEAD_VECTORS>;
    var v: array<Vector, HELD * HEAD_VECTORS>;
    var dk: array<Vector, HELD * HEAD_VECTORS>;
    var dv: array<Vector, HELD * HEAD_VECTORS>;
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
        k[i * HEAD_VECTORS + c] = params.scale * held_a[held_at(base, first_row + i) + c];
        v[i * HEAD_VECTORS + c] = held_b[held_at(base, first_row + i) + c];
        dk[i * HEAD_VECTORS + c] = Vector(0.0);
        dv[i * HEAD_VECTORS + c] = Vector(0.0);
        }
    }
    for (var first = 0u; first < params.length; first += TILE) {
        stage(base, first, lane);
        for (var t = 0u; t < TILE; t += STEP) {
        if first + t >= params.length {
            break;
        }
        var s: array<Vector, HELD * STEP>;
        var dp: array<Vector, HELD * STEP>;
        for (var i = 0u; i < HELD * STEP; i++) {
            s[i] = Vector(0.0);
            dp[i] = Vector(0.0);
        }
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            for (var j = 0u; j < STEP; j++) {
                let q = stream_a(base, first, t + j, c);
                let d_o = stream_b(base, first, t + j, c);
                for (var i = 0u; i < HELD; i++) {
                    s[i * STEP + j] = fma(k[i * HEAD_VECTORS + c], q, s[i * STEP + j]);
                    dp[i * STEP + j] = fma(v[i * HEAD_VECTORS + c], d_o, dp[i * STEP + j]);
                }
            }
        }
        var p: array<f32, HELD * STEP>;
        var ds: array<f32, HELD * STEP>;
        for (var j = 0u; j < STEP; j++) {
            let row = sequence * params.length + min(first + t + j, params.length - 1u);
            let l = log_sum_exp[row];
            let d = products[row];
            for (var i = 0u; i < HELD; i++) {
                let value = exp(horizontal_sum(s[i * STEP + j]) - l);
                p[i * STEP + j] = select(0.0, value, first + t + j < params.length);
                ds[i * STEP + j] = p[i * STEP + j] * (horizontal_sum(dp[i * STEP + j]) - d);
            }
        }
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            for (var j = 0u; j < STEP; j++) {
                let q = stream_a(base, first, t + j, c);
                let d_o = stream_b(base, first, t + j, c);
                for (var i = 0u; i < HELD; i++) {
                    dk[i * HEAD_VECTORS + c] = fma(Vector(ds[i * STEP + j]), q, dk[i * HEAD_VECTORS + c]);
                    dv[i * HEAD_VECTORS + c] = fma(Vector(p[i * STEP + j]), d_o, dv[i * HEAD_VECTORS + c]);
                }
            }
        }
        }
        release();
    }
    if first_row >= params.length {
        return;
    }
    for (var i = 0u; i < HELD; i++) {
        for (var c = 0u; c < HEAD_VECTORS; c++) {
            result_a[held_at(base, first_row + i) + c] = params.scale * dk[i * HEAD_VECTORS + c];
            result_b[held_at(base, first_row + i) + c] = dv[i * HEAD_VECTORS + c];
        }
    }
}
