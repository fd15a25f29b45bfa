// Attention of each head through its matrix of weights, in tiles staged in workgroup memory (lib/gemm_tile), for GPUs and heads
// that their registers do not hold. attention_vectors.wgsl has the product for most sizes. Notation as in attention.wgsl:
//   product   c = a b, one for each head whose matrix is in scratch memory. Scores, c the matrix:
//               p[t,u] = q[t]·k[u] / sqrt(d)                lib/scaled_sum
//               p[t,u] = exp(q[t]·k[u] / sqrt(d) - L[t])    lib/softmax_weight: the weights again, for the gradients
//               ds[t,u] = p[t,u] (do[t]·v[u] - D[t])        lib/softmax_gradient: in the place of p
//             Or, with WEIGHTED_SUM, a the matrix, perhaps transposed, and lib/scaled_sum:
//               y[r] = factor Σ_j m[r,j] x[j]               o from (p, v), dv from (pᵀ, do), dq from (ds, k), dk from (dsᵀ, q)
//   softmax   p[t,u] = exp(p[t,u] - L[t]), L[t] = ln Σ_u exp p[t,u], in place, one workgroup of LANES per row
//
// The matrices of a few sequences and heads at a time are in scratch memory. To lib/gemm_tile each head is a split of one
// product, whose depth goes through the heads one after the other.
//
// q, k, v, o and their gradients may be stored as f16; the matrices, L, D and all sums are f32.

#import lib/index
#import lib/attention_params
#import lib/out1
#import lib/gemm_tile
#import lib/scaled_sum

const LANES: u32 = 64u; // softmax; a power of two

const WEIGHTED_SUM: bool = false;

alias Left = Element;   // of a; f32 where it is the matrix
alias Result = Element; // of c; likewise

struct SoftmaxParams { // softmax
    length: u32,
    first: u32,
    sequences: u32,
}

@group(0) @binding(0) var<uniform> softmax_params: SoftmaxParams;
@group(0) @binding(1) var<storage, read> a: array<Left>;             // (batch, T, heads, d), or [sequences][T][T]
@group(0) @binding(2) var<storage, read> b: array<Element>;          // (batch, T, heads, d)
@group(0) @binding(3) var<storage, read_write> c: array<Result>;     // [sequences][T][T], or (batch, T, heads, d)
@group(0) @binding(4) var<storage, read_write> p: array<f32>;        // [sequences][T][T]
@group(0) @binding(5) var<storage, read_write> statistic: array<f32>; // (batch, heads, T): L

// Where the operands of this workgroup's head begin; of a and b as if k began at 0 in it.
var<private> a_start: u32;
var<private> b_start: u32;
var<private> c_start: u32;

fn load_a(m: u32, k: u32) -> f32 {
    return f32(a[a_start + m * params.a_row + k * params.a_column]);
}

fn load_b(k: u32, n: u32) -> f32 {
    return f32(b[b_start + k * params.b_row + n * params.b_column]);
}

fn store_c(split: u32, m: u32, n: u32, value: f32) {
    let at = c_start + m * params.c_row + n;
    c[at] = Result(finished(value, (params.first + split) * params.length + m, at));
}

fn store_column_sum(split: u32, n: u32, value: f32) {}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(group, groups);
    let tiles = ((params.rows + TILE_M - 1u) / TILE_M) * ((params.columns + TILE_N - 1u) / TILE_N);
    let sequence = workgroup / tiles;
    let head = head_start(sequence);
    let matrix = sequence * params.length * params.length;
    // What k has counted before this head is taken off here, modulo 2^32, and needs no division at every load.
    let counted = sequence * params.split_depth;
    a_start = select(head, matrix, WEIGHTED_SUM) - counted * params.a_column;
    b_start = head - counted * params.b_row;
    c_start = select(matrix, head, WEIGHTED_SUM);
    gemm(workgroup, lane);
}

// Below every score, and far enough from the largest f32 that differences stay finite.
const LOWEST: f32 = -1e38;

// The largest of some scores, and the sum of exp(score - largest) over them.
struct Exponentials {
    largest: f32,
    sum: f32,
}

var<workgroup> shares: array<Exponentials, LANES>;

fn joined(x: Exponentials, y: Exponentials) -> Exponentials {
    let largest = max(x.largest, y.largest);
    return Exponentials(largest, x.sum * exp(x.largest - largest) + y.sum * exp(y.largest - largest));
}

@compute @workgroup_size(LANES)
fn softmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups); // of [sequences][T]
    let length = softmax_params.length;
    if row >= softmax_params.sequences * length {
        return;
    }
    let first = row * length;
    var share = Exponentials(LOWEST, 0.0);
    for (var u = lane; u < length; u += LANES) {
        share = joined(share, Exponentials(p[first + u], 1.0));
    }
    // A tree, so that the order of the sum is fixed.
    shares[lane] = share;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            shares[lane] = joined(shares[lane], shares[lane + half]);
        }
        workgroupBarrier();
    }
    let whole = shares[0];
    for (var u = lane; u < length; u += LANES) {
        p[first + u] = exp(p[first + u] - whole.largest) / whole.sum;
    }
    if lane == 0u {
        statistic[softmax_params.first * length + row] = whole.largest + log(whole.sum);
    }
}
