// Product of matrices, C[m,n] = Σ_k A[m,k] B[k,n], in tiles staged in workgroup memory.
//
// One workgroup computes a tile of TILE_M x TILE_N over one range of k (a split): it stages TILE_K columns of
// A and rows of B at a time, and each invocation keeps THREAD_M x THREAD_N sums in registers. The tiles are
// stored k-major in vec4, so that one load gives an invocation four rows or columns.
//
// The importing file defines what A, B and C are:
//   fn load_a(m: u32, k: u32) -> f32        fn load_b(k: u32, n: u32) -> f32      (within bounds)
//   fn store_c(split: u32, m: u32, n: u32, value: f32)
//   fn store_column_sum(split: u32, n: u32, value: f32)
// It imports lib/out1 before this file, and may put lib/bias_gradient in the place of lib/no_bias_gradient: then the workgroups
// of the first rows of C also sum the columns of B, as they stage them, into db[split,n]; that is for B_ALONG_N.
// It reads whatever is stored into f32, and has in its Params, as plain u32: rows (m), columns (n), depth (k), splits, split_depth (k per split).

#import lib/no_bias_gradient

const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const THREAD_M: u32 = 4u; // multiples of 4
const THREAD_N: u32 = 4u;

// The axis along which neighbours of A and B lie side by side in memory: neighbouring invocations load them.
const A_ALONG_K: bool = true;
const B_ALONG_N: bool = true;

const THREADS_M: u32 = TILE_M / THREAD_M;
const THREADS_N: u32 = TILE_N / THREAD_N;
const INVOCATIONS: u32 = THREADS_M * THREADS_N;

const VECTORS_M: u32 = TILE_M / 4u;
const VECTORS_N: u32 = TILE_N / 4u;

// One vec4 of padding: eight invocations that store the same m at eight k hit eight different bank groups.
const A_STRIDE: u32 = VECTORS_M + 1u;
const B_STRIDE: u32 = VECTORS_N + 1u;

var<workgroup> a_tile: array<vec4<f32>, TILE_K * A_STRIDE>; // [TILE_K][TILE_M + 4]
var<workgroup> b_tile: array<vec4<f32>, TILE_K * B_STRIDE>; // [TILE_K][TILE_N + 4]

fn a_or_zero(m: u32, k: u32, k_end: u32) -> f32 {
    if m < params.rows && k < k_end {
        return load_a(m, k);
    }
    return 0.0;
}

fn b_or_zero(k: u32, n: u32, k_end: u32) -> f32 {
    if n < params.columns && k < k_end {
        return load_b(k, n);
    }
    return 0.0;
}

// `group` counts tiles of C within a split, then splits. Every invocation of the workgroup must call it.
fn gemm(group: u32, lane: u32) {
    let tiles_n = (params.columns + TILE_N - 1u) / TILE_N;
    let tiles = (params.rows + TILE_M - 1u) / TILE_M * tiles_n;
    let split = group / tiles;
    if split >= params.splits {
        return;
    }
    let first_m = group % tiles / tiles_n * TILE_M;
    let first_n = group % tiles % tiles_n * TILE_N;
    let k_end = min((split + 1u) * params.split_depth, params.depth);
    let thread_m = lane / THREADS_N;
    let thread_n = lane % THREADS_N;

    var sums: array<vec4<f32>, THREAD_M * THREAD_N / 4u>; // [THREAD_M][THREAD_N / 4]
    for (var i = 0u; i < THREAD_M * THREAD_N / 4u; i++) {
        sums[i] = vec4<f32>(0.0);
    }
    // What an invocation stages of B is always of the same four columns where B_ALONG_N.
    var column_sums = vec4<f32>(0.0);
    for (var first_k = split * params.split_depth; first_k < k_end; first_k += TILE_K) {
        for (var i = lane; i < TILE_K * VECTORS_M; i += INVOCATIONS) {
            let at = select(vec2<u32>(i % VECTORS_M, i / VECTORS_M), vec2<u32>(i / TILE_K, i % TILE_K), A_ALONG_K);
            let m = first_m + 4u * at.x;
            let k = first_k + at.y;
            a_tile[at.y * A_STRIDE + at.x] = vec4<f32>(a_or_zero(m, k, k_end), a_or_zero(m + 1u, k, k_end),
                                                       a_or_zero(m + 2u, k, k_end), a_or_zero(m + 3u, k, k_end));
        }
        for (var i = lane; i < TILE_K * VECTORS_N; i += INVOCATIONS) {
            let at = select(vec2<u32>(i / TILE_K, i % TILE_K), vec2<u32>(i % VECTORS_N, i / VECTORS_N), B_ALONG_N);
            let n = first_n + 4u * at.x;
            let k = first_k + at.y;
            let staged = vec4<f32>(b_or_zero(k, n, k_end), b_or_zero(k, n + 1u, k_end),
                                   b_or_zero(k, n + 2u, k_end), b_or_zero(k, n + 3u, k_end));
            b_tile[at.y * B_STRIDE + at.x] = staged;
            if BIAS_GRADIENT {
                column_sums += staged;
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k++) {
            var b: array<vec4<f32>, THREAD_N / 4u>;
            for (var j = 0u; j < THREAD_N / 4u; j++) {
                b[j] = b_tile[k * B_STRIDE + j * THREADS_N + thread_n];
            }
            for (var i = 0u; i < THREAD_M / 4u; i++) {
                let a = a_tile[k * A_STRIDE + i * THREADS_M + thread_m];
                for (var r = 0u; r < 4u; r++) {
                    for (var j = 0u; j < THREAD_N / 4u; j++) {
                        let at = (4u * i + r) * (THREAD_N / 4u) + j;
                        sums[at] = fma(vec4<f32>(a[r]), b[j], sums[at]);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < THREAD_M; i++) {
        let m = first_m + 4u * (i / 4u * THREADS_M + thread_m) + i % 4u;
        for (var j = 0u; j < THREAD_N; j++) {
            let n = first_n + 4u * (j / 4u * THREADS_N + thread_n) + j % 4u;
            if m < params.rows && n < params.columns {
                store_c(split, m, n, sums[i * (THREAD_N / 4u) + j / 4u][j % 4u]);
            }
        }
    }
    if BIAS_GRADIENT && first_m == 0u {
        b_tile[lane] = column_sums;
        workgroupBarrier();
        if lane < VECTORS_N {
            var total = vec4<f32>(0.0);
            for (var i = lane; i < INVOCATIONS; i += VECTORS_N) {
                total += b_tile[i];
            }
            for (var c = 0u; c < 4u; c++) {
                let n = first_n + 4u * lane + c;
                if n < params.columns {
                    store_column_sum(split, n, total[c]);
                }
            }
        }
    }
}
