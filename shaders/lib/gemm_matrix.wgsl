// Product of matrices, C[m,n] = Σ_k A[m,k] B[k,n], of f16 factors on matrix units: products are exact, sums f32.
//
// One workgroup computes TILE_M x TILE_N sums over one range of k (a split). It stages TILE_K columns of A and rows of B at a time, both
// with k side by side, and its subgroups multiply them: each keeps a unit of 2 x 4 tiles of TILE x TILE sums, and eight units
// make up the workgroup's, 4 x 2 of them. Sums leave through workgroup memory, a tile of each unit at a time, since WGSL gives no
// access to an element of a matrix.
//
// Nothing is taken for granted of the size of a subgroup. Where there are more subgroups than units the others only stage; where
// there are fewer, the product is gone through several times. INVOCATIONS is a multiple of the largest size that the device has.
//
// Barriers. naga writes modules of cooperative matrices for the Vulkan memory model, but marks no access to workgroup memory as
// NonPrivate (gfx-rs/wgpu#8805), so that by the letter of that model not even a barrier makes one invocation's stores visible to
// another. Hence nothing is built upon but barriers of the whole workgroup: one stands between any two accesses to a place by
// different invocations of which one is a store, and none is left out where a subgroup reads what it wrote itself. Whether
// a device's driver takes them as meant is found out by its values: `train --tune` refuses an algorithm whose results differ.
//
// The importing file defines what A, B and C are:
//   struct Cursor                        what an invocation knows of the vectors that it stages
//   fn cursor(first: vec3<u32>, lane: u32) -> Cursor     at the stage with this m, n, k first
//   fn next_stage(at: ptr<function, Cursor>)             TILE_K further along k
//   fn load_a(at: ptr<function, Cursor>, i: u32) -> vec4<f16>      its i-th of four vectors, in turn; zero past the end
//   fn load_b(at: ptr<function, Cursor>, i: u32) -> vec4<f16>
//   fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>)       of columns n, ..., n + 3
//   fn store_column_sums(split: u32, n: u32, value: vec4<f32>)     likewise
// Where k is side by side in memory too (A_ALONG_K, B_ALONG_K), the four vectors of an invocation are 16 neighbours in k, of row
// or column `lane / ROW_LANES`, from `lane % ROW_LANES * 16` on. Otherwise the i-th is four neighbours in m or n, from
// `lane % (TILE_M / 4) * 4` on, at the k of `lane / (TILE_M / 4) * 4 + i`.
// It imports lib/out4 before this file, and may put lib/bias_gradient in the place of lib/no_bias_gradient: then the workgroups of
// the first rows of C also sum the columns of B, as they stage them, into db[split,n]; that is for B not along k.
// Its Params have, as plain u32: rows (m), columns (n), depth (k), splits, split_depth (k per split). Four divides columns.

#import lib/no_bias_gradient
#import lib/matrix8

const INVOCATIONS: u32 = 64u;
const A_ALONG_K: bool = true;
const B_ALONG_K: bool = true;

const UNITS: u32 = 8u;
const TILE_M: u32 = 64u; // 8 TILE
const TILE_N: u32 = 64u; // 8 TILE
const TILE_K: u32 = 16u; // 16 INVOCATIONS / TILE_M: four vectors of A and of B for each invocation; a multiple of 16
const ROW_LANES: u32 = TILE_K / 16u;
// 16 bytes of padding, which leave tiles aligned and spread their rows over the banks.
const PITCH: u32 = TILE_K + 8u;

// Of scalars: matrices loaded through pointers to vec4<f16> break the MSL that naga writes.
var<workgroup> a_tile: array<f16, TILE_M * PITCH>; // [TILE_M][PITCH], k side by side
var<workgroup> b_tile: array<f16, TILE_N * PITCH>; // [TILE_N][PITCH], k side by side
// [UNITS][TILE][TILE]; or sums of four columns of B by each invocation, [INVOCATIONS][4]
var<workgroup> c_tile: array<f32, max(UNITS * TILE * TILE, 4u * INVOCATIONS)>;

// Where the first number of an invocation goes in a_tile or b_tile.
fn staged_at(lane: u32, along_k: bool) -> u32 {
    if along_k {
        return lane / ROW_LANES * PITCH + lane % ROW_LANES * 16u;
    }
    return lane % (TILE_M / 4u) * 4u * PITCH + lane / (TILE_M / 4u) * 4u;
}

// The i-th of its vectors.
fn stage_a(first: u32, i: u32, v: vec4<f16>) {
    let at = first + select(i, 4u * i, A_ALONG_K);
    let step = select(PITCH, 1u, A_ALONG_K);
    a_tile[at] = v.x;
    a_tile[at + step] = v.y;
    a_tile[at + 2u * step] = v.z;
    a_tile[at + 3u * step] = v.w;
}

fn stage_b(first: u32, i: u32, v: vec4<f16>) {
    let at = first + select(i, 4u * i, B_ALONG_K);
    let step = select(PITCH, 1u, B_ALONG_K);
    b_tile[at] = v.x;
    b_tile[at + step] = v.y;
    b_tile[at + 2u * step] = v.z;
    b_tile[at + 3u * step] = v.w;
}

// Where the sums of a unit stand, and which are under way.
struct Place {
    split: u32,
    first_m: u32,
    first_n: u32,
    first_unit: u32, // of those that the subgroups have now
    units: u32,
    unit: u32, // this subgroup's; `units` or more for none
    lane: u32,
}

// Stores tile (i, j) of every unit that is under way. Every invocation of the workgroup must call it.
fn store_tiles(sums: TileC, i: u32, j: u32, place: Place) {
    workgroupBarrier();
    if place.unit < place.units {
        let to = place.unit * (TILE * TILE);
        coopStoreT(sums, &c_tile[to], TILE);
    }
    workgroupBarrier();
    for (var at = 4u * place.lane; at < place.units * TILE * TILE; at += 4u * INVOCATIONS) {
        let unit = place.first_unit + at / (TILE * TILE);
        let m = place.first_m + (unit / 2u * 2u + i) * TILE + at % (TILE * TILE) / TILE;
        let n = place.first_n + (unit % 2u * 4u + j) * TILE + at % TILE;
        if place.split < params.splits && m < params.rows && n < params.columns {
            store_c(place.split, m, n, vec4<f32>(c_tile[at], c_tile[at + 1u], c_tile[at + 2u], c_tile[at + 3u]));
        }
    }
}

// `group` counts tiles of C within a split, then splits. Every invocation of the workgroup must call it.
fn gemm_matrix(group: u32, lane: u32, subgroup: u32, subgroups: u32) {
    let tiles_n = (params.columns + TILE_N - 1u) / TILE_N;
    let tiles = (params.rows + TILE_M - 1u) / TILE_M * tiles_n;
    let split = group / tiles;
    let first_m = group % tiles / tiles_n * TILE_M;
    let first_n = group % tiles % tiles_n * TILE_N;
    // Workgroups past the last split have no stages.
    let first_k = min(split * params.split_depth, params.depth);
    let stages = (min(first_k + params.split_depth, params.depth) - first_k + TILE_K - 1u) / TILE_K;
    let a_to = staged_at(lane, A_ALONG_K);
    let b_to = staged_at(lane, B_ALONG_K);
    for (var first_unit = 0u; first_unit < UNITS; first_unit += subgroups) {
        let units = min(subgroups, UNITS - first_unit);
        let unit = first_unit + subgroup;
        let unit_m = unit / 2u * (2u * TILE) * PITCH;
        let unit_n = unit % 2u * (4u * TILE) * PITCH;
        let first_product = select(TILE_K, 0u, subgroup < units);

        var c00 = TileC();
        var c01 = TileC();
        var c02 = TileC();
        var c03 = TileC();
        var c10 = TileC();
        var c11 = TileC();
        var c12 = TileC();
        var c13 = TileC();
        var column_sums = vec4<f32>();
        var at = cursor(vec3<u32>(first_m, first_n, first_k), lane);
        var a0 = load_a(&at, 0u);
        var a1 = load_a(&at, 1u);
        var a2 = load_a(&at, 2u);
        var a3 = load_a(&at, 3u);
        var b0 = load_b(&at, 0u);
        var b1 = load_b(&at, 1u);
        var b2 = load_b(&at, 2u);
        var b3 = load_b(&at, 3u);
        for (var stage = 0u; stage < stages; stage++) {
            // The products of the stage before have been read.
            workgroupBarrier();
            stage_a(a_to, 0u, a0);
            stage_a(a_to, 1u, a1);
            stage_a(a_to, 2u, a2);
            stage_a(a_to, 3u, a3);
            stage_b(b_to, 0u, b0);
            stage_b(b_to, 1u, b1);
            stage_b(b_to, 2u, b2);
            stage_b(b_to, 3u, b3);
            if BIAS_GRADIENT {
                column_sums += (vec4<f32>(b0) + vec4<f32>(b1)) + (vec4<f32>(b2) + vec4<f32>(b3));
            }
            workgroupBarrier();

            // The next stage's loads are under way during the products.
            if stage + 1u < stages {
                next_stage(&at);
                a0 = load_a(&at, 0u);
                a1 = load_a(&at, 1u);
                a2 = load_a(&at, 2u);
                a3 = load_a(&at, 3u);
                b0 = load_b(&at, 0u);
                b1 = load_b(&at, 1u);
                b2 = load_b(&at, 2u);
                b3 = load_b(&at, 3u);
            }
            for (var k = first_product; k < TILE_K; k += TILE) {
                // Each place by a name: naga 30 fails to write sums that stand within the call.
                let m0 = unit_m + k;
                let m1 = m0 + TILE * PITCH;
                let n0 = unit_n + k;
                let n1 = n0 + TILE * PITCH;
                let n2 = n1 + TILE * PITCH;
                let n3 = n2 + TILE * PITCH;
                let left0 = coopLoadT<TileA>(&a_tile[m0], PITCH);
                let left1 = coopLoadT<TileA>(&a_tile[m1], PITCH);
                let right0 = coopLoad<TileB>(&b_tile[n0], PITCH);
                let right1 = coopLoad<TileB>(&b_tile[n1], PITCH);
                let right2 = coopLoad<TileB>(&b_tile[n2], PITCH);
                let right3 = coopLoad<TileB>(&b_tile[n3], PITCH);
                c00 = coopMultiplyAdd(left0, right0, c00);
                c01 = coopMultiplyAdd(left0, right1, c01);
                c02 = coopMultiplyAdd(left0, right2, c02);
                c03 = coopMultiplyAdd(left0, right3, c03);
                c10 = coopMultiplyAdd(left1, right0, c10);
                c11 = coopMultiplyAdd(left1, right1, c11);
                c12 = coopMultiplyAdd(left1, right2, c12);
                c13 = coopMultiplyAdd(left1, right3, c13);
            }
        }

        let place = Place(split, first_m, first_n, first_unit, units, subgroup, lane);
        store_tiles(c00, 0u, 0u, place);
        store_tiles(c01, 0u, 1u, place);
        store_tiles(c02, 0u, 2u, place);
        store_tiles(c03, 0u, 3u, place);
        store_tiles(c10, 1u, 0u, place);
        store_tiles(c11, 1u, 1u, place);
        store_tiles(c12, 1u, 2u, place);
        store_tiles(c13, 1u, 3u, place);
        if BIAS_GRADIENT && first_m == 0u && first_unit == 0u {
            workgroupBarrier();
            c_tile[4u * lane] = column_sums.x;
            c_tile[4u * lane + 1u] = column_sums.y;
            c_tile[4u * lane + 2u] = column_sums.z;
            c_tile[4u * lane + 3u] = column_sums.w;
            workgroupBarrier();
            let n = first_n + 4u * lane;
            if lane < TILE_N / 4u && n < params.columns && split < params.splits {
                var total = vec4<f32>();
                for (var i = 4u * lane; i < 4u * INVOCATIONS; i += TILE_N) {
                    total += vec4<f32>(c_tile[i], c_tile[i + 1u], c_tile[i + 2u], c_tile[i + 3u]);
                }
                store_column_sums(split, n, total);
            }
        }
    }
}
