// Product of matrices, C[m,n] = Σ_k A[m,k] B[k,n], in tiles staged in workgroup memory, four numbers at a time.
//
// One workgroup computes a tile of TILE_M x TILE_N over one range of k (a split), TILE_K of it in a stage. Every invocation stages
// two vec4 of A and two of B, which it loads while the workgroup multiplies the stage before. Each of THREADS_M x THREADS_N
// invocations keeps 8 x 8 or 8 x 4 sums, in matrices of 4 x 4 with names of their own: some compilers keep an array in memory.
//
// lib/a_along_k or lib/a_along_m says along which axis the numbers of a vec4 of A lie, lib/b_along_n or lib/b_along_k that of B.
// The two vec4 of an invocation are of neighbours along the other axis.
//
// The importing file binds a: array<Left> and b: array<StoredOut>, has in its Params, as plain u32, rows (m), columns (n, which four
// divides) and splits, and defines
//   struct Depth                                           where a stage begins along k
//   fn stages(split: u32) -> u32                           the stages of a split
//   fn first_depth(split: u32, of_a: Lines, of_b: Lines) -> Depth
//   fn next_depth(depth: Depth) -> Depth
//   const DEPTH_IS_SHARED: bool                            whether it is the same for all lines
//   struct Lines                                           what an invocation knows of its two vec4 in every stage
//   fn a_lines(split: u32, m: u32, k: u32) -> Lines        from row m and k on, counted from the begin of the stage
//   fn b_lines(split: u32, n: u32, k: u32) -> Lines
//   fn a_places(lines: Lines, depth: Depth) -> Places      where they lie in a stage
//   fn b_places(lines: Lines, depth: Depth) -> Places
//   const A_HAS_ZEROS: bool                                whether vec4 of A that are not inside it must be zeros
//   fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>)      four columns from n on
//   fn store_column_sum(split: u32, n: u32, value: vec4<f32>)
// It may put lib/bias_gradient in the place of lib/no_bias_gradient: then the workgroups of the first rows of C also sum the
// columns of B, as they stage them, into db[split,n]; that is for lib/b_along_n.

#import lib/out4
#import lib/no_bias_gradient
#import lib/gemm_places
#import lib/a_along_k
#import lib/b_along_n

const TILE_M: u32 = 128u; // 64 or 128
const TILE_N: u32 = 128u; // 64 or 128, and not above TILE_M
const TILE_K: u32 = 16u;

const THREADS_M: u32 = TILE_M / 8u;
const THREADS_N: u32 = 16u;
const INVOCATIONS: u32 = THREADS_M * THREADS_N; // of which each stages two vec4 of A

const STAGE_B: u32 = TILE_N * TILE_K / 8u; // invocations that stage two vec4 of B

// The place of a vec4 of row k in a tile of so many `vectors` a row; both tiles take 16 KiB together, all that WebGPU grants. The
// exchange keeps apart what four invocations store at once for k, k + 4, k + 8 and k + 12: else they would hit the same banks.
fn tile_place(vector: u32, k: u32, vectors: u32) -> u32 {
    return k * vectors + (vector ^ (k / 4u * 2u));
}

fn numbers(v0: vec4<f32>, v1: vec4<f32>, inside: vec2<bool>, has_zeros: bool) -> mat2x4<f32> {
    if has_zeros {
        return mat2x4<f32>(select(vec4<f32>(), v0, inside.x), select(vec4<f32>(), v1, inside.y));
    }
    return mat2x4<f32>(v0, v1);
}

fn plus_outer(s: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(fma(vec4<f32>(a.x), b, s[0]), fma(vec4<f32>(a.y), b, s[1]),
                       fma(vec4<f32>(a.z), b, s[2]), fma(vec4<f32>(a.w), b, s[3]));
}

// Sums of rows 4 thread_m + {0, 1, 2, 3} and those TILE_M / 2 further on; of columns likewise.
struct Sums {
    s00: mat4x4<f32>,
    s01: mat4x4<f32>,
    s10: mat4x4<f32>,
    s11: mat4x4<f32>,
}

// The products of four k of a stage.
fn plus_products(sums: Sums, thread_m: u32, thread_n: u32, first_k: u32) -> Sums {
    var s = sums;
    // The same exchange for all four.
    let place_a = tile_place(thread_m, first_k, TILE_M / 4u);
    let place_b = tile_place(thread_n, first_k, TILE_N / 4u);
    for (var k = 0u; k < 4u; k++) {
        let a0 = a_vector(place_a + k * (TILE_M / 4u));
        let a1 = a_vector(place_a + k * (TILE_M / 4u) + THREADS_M);
        let b0 = b_vector(place_b + k * (TILE_N / 4u));
        s.s00 = plus_outer(s.s00, a0, b0);
        s.s10 = plus_outer(s.s10, a1, b0);
        if TILE_N == 128u {
            let b1 = b_vector(place_b + k * (TILE_N / 4u) + THREADS_N);
            s.s01 = plus_outer(s.s01, a0, b1);
            s.s11 = plus_outer(s.s11, a1, b1);
        }
    }
    return s;
}

fn store_rows(split: u32, m: u32, n: u32, s: mat4x4<f32>) {
    if n < params.columns {
        if m < params.rows {
            store_c(split, m, n, s[0]);
        }
        if m + 1u < params.rows {
            store_c(split, m + 1u, n, s[1]);
        }
        if m + 2u < params.rows {
            store_c(split, m + 2u, n, s[2]);
        }
        if m + 3u < params.rows {
            store_c(split, m + 3u, n, s[3]);
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let group = workgroup_index(workgroup, workgroups); // counts tiles of C within a split, then splits
    let tiles_n = (params.columns + TILE_N - 1u) / TILE_N;
    let tiles = (params.rows + TILE_M - 1u) / TILE_M * tiles_n;
    let split = group / tiles;
    if split >= params.splits {
        return;
    }
    let first_m = group % tiles / tiles_n * TILE_M;
    let first_n = group % tiles % tiles_n * TILE_N;
    let thread_m = lane / THREADS_N;
    let thread_n = lane % THREADS_N;

    // (m or n, k) of what this invocation stages. Where the tile of B is the smaller one, some load it for nothing, which is
    // cheaper than a branch.
    let stages_b = TILE_N == TILE_M || lane < STAGE_B;
    let of_a = a_origin(lane);
    let of_b = b_origin(select(lane % STAGE_B, lane, TILE_N == TILE_M));
    let to_a = a_place(of_a);
    let to_b = b_place(of_b);
    let lines_a = a_lines(split, first_m + of_a.x, of_a.y);
    let lines_b = b_lines(split, first_n + of_b.x, of_b.y);
    var depth = first_depth(split, lines_a, lines_b);
    var next_a = load_a(a_places(lines_a, depth));
    var next_b = load_b(b_places(lines_b, depth));

    var sums = Sums();
    var column_sum = vec4<f32>();
    for (var left = stages(split); left > 0u; left--) {
        stage_a(to_a, numbers(Out(next_a.v0), Out(next_a.v1), next_a.inside, A_HAS_ZEROS));
        if stages_b {
            // The zeros of A serve for products, but not for sums of columns.
            let has_zeros = BIAS_GRADIENT && !WHOLE_STAGES;
            let staged = numbers(Out(next_b.v0), Out(next_b.v1), next_b.inside, has_zeros);
            stage_b(to_b, staged);
            if BIAS_GRADIENT {
                column_sum += staged[0] + staged[1];
            }
        }
        workgroupBarrier();
        // Of the last stage once more: cheaper than a branch, behind which loaded registers are exchanged.
        if left > 1u {
            depth = next_depth(depth);
        }
        next_a = load_a(a_places(lines_a, depth));
        next_b = load_b(b_places(lines_b, depth));
        sums = plus_products(sums, thread_m, thread_n, 0u);
        sums = plus_products(sums, thread_m, thread_n, 4u);
        sums = plus_products(sums, thread_m, thread_n, 8u);
        sums = plus_products(sums, thread_m, thread_n, 12u);
        workgroupBarrier();
    }

    let m = first_m + 4u * thread_m;
    let n = first_n + 4u * thread_n;
    store_rows(split, m, n, sums.s00);
    store_rows(split, m + TILE_M / 2u, n, sums.s10);
    if TILE_N == 128u {
        store_rows(split, m, n + TILE_N / 2u, sums.s01);
        store_rows(split, m + TILE_M / 2u, n + TILE_N / 2u, sums.s11);
    }
    if BIAS_GRADIENT && first_m == 0u {
        if stages_b {
            stage_b(to_b, mat2x4<f32>(column_sum, vec4<f32>()));
        }
        workgroupBarrier();
        if lane < TILE_N / 4u && first_n + 4u * lane < params.columns {
            var sum = vec4<f32>();
            for (var k = 0u; k < TILE_K; k += 2u) {
                sum += b_vector(tile_place(lane, k, TILE_N / 4u));
            }
            store_column_sum(split, first_n + 4u * lane, sum);
        }
    }
}
