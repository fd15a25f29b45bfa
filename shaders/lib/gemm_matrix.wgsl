// Product of matrices, C[m,n] = Σ_k A[m,k] B[k,n], of f16 factors on matrix units: products are exact, sums f32. It stands in the
// place of lib/gemm_vectors, and what that file says of the importing file holds here too, but that a vec4 of A is rounded to f16.
//
// One workgroup computes TILE_M x TILE_N sums over one range of k (a split). It stages TILE_K columns of A and rows of B at a time
// as they lie in memory, and its subgroups multiply them: each keeps a unit of 4 x 4 tiles of TILE x TILE sums, and 2 x 2 units
// make up the workgroup's. A unit of 4 x 4 reads two tiles of workgroup memory for four products, where 2 x 4 read three: by their
// bytes, reading took as long as multiplying on an H200. Sums leave through workgroup memory, a row of tiles of each unit at a time,
// since WGSL gives no access to an element of a matrix.
//
// Neighbouring invocations load neighbouring vec4, and nothing is done with a vec4 before it is staged, after the products of the
// stage before: whatever used it earlier would wait for memory. No iteration hands a vec4 to the next, since a compiler may copy what
// is handed on, and wait for it, before the products.
//
// Nothing is taken for granted of the size of a subgroup. Where there are more subgroups than units, the others multiply what the
// last unit does, for nothing; where there are fewer, the product is gone through several times. INVOCATIONS is a multiple of the
// largest size that the device has.
//
// Barriers. naga writes modules of cooperative matrices for the Vulkan memory model, but marks no access to workgroup memory as
// NonPrivate (gfx-rs/wgpu#8805), so that by the letter of that model not even a barrier makes one invocation's stores visible to
// another. Hence nothing is built upon but barriers of the whole workgroup: one stands between any two accesses to a place by
// different invocations of which one is a store, and none is left out where a subgroup reads what it wrote itself. Whether
// a device's driver takes them as meant is found out by its values: `train --tune` refuses an algorithm whose results differ.

#import lib/no_bias_gradient
#import lib/gemm_places
#import lib/matrix8

const INVOCATIONS: u32 = 32u;
const A_ALONG_K: bool = true;
const B_ALONG_K: bool = false;

const UNITS: u32 = 4u;
const TILE_M: u32 = 64u; // 8 TILE
const TILE_N: u32 = 64u; // 8 TILE
const TILE_K: u32 = 16u; // 32 INVOCATIONS / TILE_M: eight vec4 of A and of B for each invocation; a multiple of 16

// Numbers from row to row of what is staged: 16 bytes more than those, which leave tiles aligned and spread rows over the banks.
const A_PITCH: u32 = select(TILE_M, TILE_K, A_ALONG_K) + 8u;
const B_PITCH: u32 = select(TILE_N, TILE_K, B_ALONG_K) + 8u;

// Of scalars: matrices loaded through pointers to vec4<f16> break the MSL that naga writes.
var<workgroup> a_tile: array<f16, select(TILE_K, TILE_M, A_ALONG_K) * A_PITCH>; // [TILE_M][k], or [TILE_K][m]
var<workgroup> b_tile: array<f16, select(TILE_K, TILE_N, B_ALONG_K) * B_PITCH>; // [TILE_N][k], or [TILE_K][n]
// [UNITS][TILE][4 TILE]; or sums of four columns of B by each invocation, [INVOCATIONS][4]
var<workgroup> c_tile: array<f32, max(UNITS * 4u * TILE * TILE, 4u * INVOCATIONS)>;

// The (m or n, k) of the first of two neighbouring vec4 that an invocation stages; its further pairs come `pair_step` later.
fn origin(lane: u32, along_k: bool) -> vec2<u32> {
    if along_k {
        return vec2<u32>(lane / (TILE_K / 4u) * 2u, lane % (TILE_K / 4u) * 4u);
    }
    return vec2<u32>(lane % (TILE_M / 4u) * 4u, lane / (TILE_M / 4u) * 2u);
}

fn pair_step(along_k: bool) -> vec2<u32> {
    if along_k {
        return vec2<u32>(INVOCATIONS / (TILE_K / 4u) * 2u, 0u);
    }
    return vec2<u32>(0u, INVOCATIONS / (TILE_M / 4u) * 2u);
}

// Where in a_tile or b_tile the first number goes.
fn staged_at(origin: vec2<u32>, pitch: u32, along_k: bool) -> u32 {
    return select(origin.y * pitch + origin.x, origin.x * pitch + origin.y, along_k);
}

fn stage_a(at: u32, v: vec4<f16>) {
    a_tile[at] = v.x;
    a_tile[at + 1u] = v.y;
    a_tile[at + 2u] = v.z;
    a_tile[at + 3u] = v.w;
}

fn stage_b(at: u32, v: vec4<f16>) {
    b_tile[at] = v.x;
    b_tile[at + 1u] = v.y;
    b_tile[at + 2u] = v.z;
    b_tile[at + 3u] = v.w;
}

// What an invocation knows of its four pairs of A, and of B; and the depth of each, which is the same but where it knows their places.
struct AllLines {
    a0: Lines,
    a1: Lines,
    a2: Lines,
    a3: Lines,
    b0: Lines,
    b1: Lines,
    b2: Lines,
    b3: Lines,
}

struct Depths {
    d0: Depth,
    d1: Depth,
    d2: Depth,
    d3: Depth,
}

fn all_lines(split: u32, first_m: u32, first_n: u32, lane: u32) -> AllLines {
    let of_a = vec2<u32>(first_m, 0u) + origin(lane, A_ALONG_K);
    let of_b = vec2<u32>(first_n, 0u) + origin(lane, B_ALONG_K);
    let to_a = pair_step(A_ALONG_K);
    let to_b = pair_step(B_ALONG_K);
    return AllLines(
        a_lines(split, of_a.x, of_a.y), a_lines(split, of_a.x + to_a.x, of_a.y + to_a.y),
        a_lines(split, of_a.x + 2u * to_a.x, of_a.y + 2u * to_a.y),
        a_lines(split, of_a.x + 3u * to_a.x, of_a.y + 3u * to_a.y),
        b_lines(split, of_b.x, of_b.y), b_lines(split, of_b.x + to_b.x, of_b.y + to_b.y),
        b_lines(split, of_b.x + 2u * to_b.x, of_b.y + 2u * to_b.y),
        b_lines(split, of_b.x + 3u * to_b.x, of_b.y + 3u * to_b.y));
}

fn first_depths(split: u32, lines: AllLines) -> Depths {
    return Depths(first_depth(split, lines.a0, lines.b0), first_depth(split, lines.a1, lines.b1),
                  first_depth(split, lines.a2, lines.b2), first_depth(split, lines.a3, lines.b3));
}

fn next_depths(d: Depths) -> Depths {
    return Depths(next_depth(d.d0), next_depth(d.d1), next_depth(d.d2), next_depth(d.d3));
}

// Not every compiler sees that four depths are one.
fn own(depth: Depth, d: Depths) -> Depth {
    if DEPTH_IS_SHARED {
        return d.d0;
    }
    return depth;
}

struct Loaded {
    a0: LoadedA,
    a1: LoadedA,
    a2: LoadedA,
    a3: LoadedA,
    b0: LoadedB,
    b1: LoadedB,
    b2: LoadedB,
    b3: LoadedB,
}

fn load(lines: AllLines, d: Depths) -> Loaded {
    return Loaded(load_a(a_places(lines.a0, d.d0)), load_a(a_places(lines.a1, own(d.d1, d))),
                  load_a(a_places(lines.a2, own(d.d2, d))), load_a(a_places(lines.a3, own(d.d3, d))),
                  load_b(b_places(lines.b0, d.d0)), load_b(b_places(lines.b1, own(d.d1, d))),
                  load_b(b_places(lines.b2, own(d.d2, d))), load_b(b_places(lines.b3, own(d.d3, d))));
}

fn stage_pair_a(at: u32, pair: LoadedA) {
    stage_a(at, select(vec4<f16>(), vec4<f16>(pair.v0), !A_HAS_ZEROS || pair.inside.x));
    stage_a(at + A_PITCH, select(vec4<f16>(), vec4<f16>(pair.v1), !A_HAS_ZEROS || pair.inside.y));
}

// The zeros of A serve for products, but not for sums of columns. Gives the sum of the two.
fn stage_pair_b(at: u32, pair: LoadedB) -> vec4<f32> {
    const ALL_COUNT = !BIAS_GRADIENT || WHOLE_STAGES;
    let v0 = select(vec4<f16>(), vec4<f16>(pair.v0), ALL_COUNT || pair.inside.x);
    let v1 = select(vec4<f16>(), vec4<f16>(pair.v1), ALL_COUNT || pair.inside.y);
    stage_b(at, v0);
    stage_b(at + B_PITCH, v1);
    return vec4<f32>(v0) + vec4<f32>(v1);
}

// Stages what this invocation loaded, and gives the sums over k of what it loaded of B.
fn stage(lane: u32, loaded: Loaded) -> vec4<f32> {
    let a_to = staged_at(origin(lane, A_ALONG_K), A_PITCH, A_ALONG_K);
    let b_to = staged_at(origin(lane, B_ALONG_K), B_PITCH, B_ALONG_K);
    let a_step = staged_at(pair_step(A_ALONG_K), A_PITCH, A_ALONG_K);
    let b_step = staged_at(pair_step(B_ALONG_K), B_PITCH, B_ALONG_K);
    stage_pair_a(a_to, loaded.a0);
    stage_pair_a(a_to + a_step, loaded.a1);
    stage_pair_a(a_to + 2u * a_step, loaded.a2);
    stage_pair_a(a_to + 3u * a_step, loaded.a3);
    let s0 = stage_pair_b(b_to, loaded.b0);
    let s1 = stage_pair_b(b_to + b_step, loaded.b1);
    let s2 = stage_pair_b(b_to + 2u * b_step, loaded.b2);
    let s3 = stage_pair_b(b_to + 3u * b_step, loaded.b3);
    return (s0 + s1) + (s2 + s3);
}

// Where a tile of A begins whose first row and k are these, and one of B.
fn a_at(m: u32, k: u32) -> u32 {
    return select(k * A_PITCH + m, m * A_PITCH + k, A_ALONG_K);
}

fn b_at(n: u32, k: u32) -> u32 {
    return select(k * B_PITCH + n, n * B_PITCH + k, B_ALONG_K);
}

fn left(at: u32) -> TileA {
    if A_ALONG_K {
        return coopLoadT<TileA>(&a_tile[at], A_PITCH);
    }
    return coopLoad<TileA>(&a_tile[at], A_PITCH);
}

fn right(at: u32) -> TileB {
    if B_ALONG_K {
        return coopLoad<TileB>(&b_tile[at], B_PITCH);
    }
    return coopLoadT<TileB>(&b_tile[at], B_PITCH);
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

// Stores row i of the tiles of every unit that is under way. Every invocation of the workgroup must call it.
fn store_tiles(s0: TileC, s1: TileC, s2: TileC, s3: TileC, i: u32, place: Place) {
    const PITCH = 4u * TILE;
    const SUMS = PITCH * TILE; // of a unit
    workgroupBarrier();
    if place.unit < place.units {
        // Each place by a name: naga 30 fails to write sums that stand within the call.
        let to0 = place.unit * SUMS;
        let to1 = to0 + TILE;
        let to2 = to1 + TILE;
        let to3 = to2 + TILE;
        coopStoreT(s0, &c_tile[to0], PITCH);
        coopStoreT(s1, &c_tile[to1], PITCH);
        coopStoreT(s2, &c_tile[to2], PITCH);
        coopStoreT(s3, &c_tile[to3], PITCH);
    }
    workgroupBarrier();
    for (var at = 4u * place.lane; at < place.units * SUMS; at += 4u * INVOCATIONS) {
        let unit = place.first_unit + at / SUMS;
        let m = place.first_m + (unit / 2u * 4u + i) * TILE + at % SUMS / PITCH;
        let n = place.first_n + unit % 2u * PITCH + at % PITCH;
        if m < params.rows && n < params.columns {
            store_c(place.split, m, n, vec4<f32>(c_tile[at], c_tile[at + 1u], c_tile[at + 2u], c_tile[at + 3u]));
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn product(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
           @builtin(num_subgroups) subgroups: u32) {
    let group = workgroup_index(workgroup, workgroups); // counts tiles of C within a split, then splits
    let tiles_n = (params.columns + TILE_N - 1u) / TILE_N;
    let tiles = (params.rows + TILE_M - 1u) / TILE_M * tiles_n;
    // Workgroups past the last split do what it does and store nothing: naga takes a return to part the invocations of a workgroup.
    let is_past = group / tiles >= params.splits;
    let split = min(group / tiles, params.splits - 1u);
    let first_m = group % tiles / tiles_n * TILE_M;
    let first_n = group % tiles % tiles_n * TILE_N;

    let lines = all_lines(split, first_m, first_n, lane);
    for (var first_unit = 0u; first_unit < UNITS; first_unit += subgroups) {
        let units = select(min(subgroups, UNITS - first_unit), 0u, is_past);
        let unit = min(first_unit + subgroup, UNITS - 1u);
        let unit_m = unit / 2u * (4u * TILE);
        let unit_n = unit % 2u * (4u * TILE);

        var c00 = TileC();
        var c01 = TileC();
        var c02 = TileC();
        var c03 = TileC();
        var c10 = TileC();
        var c11 = TileC();
        var c12 = TileC();
        var c13 = TileC();
        var c20 = TileC();
        var c21 = TileC();
        var c22 = TileC();
        var c23 = TileC();
        var c30 = TileC();
        var c31 = TileC();
        var c32 = TileC();
        var c33 = TileC();
        var depths = first_depths(split, lines);
        // Of the last stage, what had units before.
        workgroupBarrier();
        var column_sum = stage(lane, load(lines, depths));
        for (var remaining = stages(split); remaining > 0u; remaining--) {
            workgroupBarrier();
            // The next stage is under way during the products, and touched only behind them. The last is loaded once more, for
            // nothing: cheaper than a branch.
            if remaining > 1u {
                depths = next_depths(depths);
            }
            let next = load(lines, depths);
            for (var k = 0u; k < TILE_K; k += TILE) {
                let left0 = left(a_at(unit_m, k));
                let left1 = left(a_at(unit_m + TILE, k));
                let left2 = left(a_at(unit_m + 2u * TILE, k));
                let left3 = left(a_at(unit_m + 3u * TILE, k));
                let right0 = right(b_at(unit_n, k));
                c00 = coopMultiplyAdd(left0, right0, c00);
                c10 = coopMultiplyAdd(left1, right0, c10);
                c20 = coopMultiplyAdd(left2, right0, c20);
                c30 = coopMultiplyAdd(left3, right0, c30);
                let right1 = right(b_at(unit_n + TILE, k));
                c01 = coopMultiplyAdd(left0, right1, c01);
                c11 = coopMultiplyAdd(left1, right1, c11);
                c21 = coopMultiplyAdd(left2, right1, c21);
                c31 = coopMultiplyAdd(left3, right1, c31);
                let right2 = right(b_at(unit_n + 2u * TILE, k));
                c02 = coopMultiplyAdd(left0, right2, c02);
                c12 = coopMultiplyAdd(left1, right2, c12);
                c22 = coopMultiplyAdd(left2, right2, c22);
                c32 = coopMultiplyAdd(left3, right2, c32);
                let right3 = right(b_at(unit_n + 3u * TILE, k));
                c03 = coopMultiplyAdd(left0, right3, c03);
                c13 = coopMultiplyAdd(left1, right3, c13);
                c23 = coopMultiplyAdd(left2, right3, c23);
                c33 = coopMultiplyAdd(left3, right3, c33);
            }
            workgroupBarrier();
            let sum = stage(lane, next);
            if BIAS_GRADIENT && remaining > 1u {
                column_sum += sum;
            }
        }

        let place = Place(split, first_m, first_n, first_unit, units, subgroup, lane);
        store_tiles(c00, c01, c02, c03, 0u, place);
        store_tiles(c10, c11, c12, c13, 1u, place);
        store_tiles(c20, c21, c22, c23, 2u, place);
        store_tiles(c30, c31, c32, c33, 3u, place);
        if BIAS_GRADIENT && first_m == 0u && first_unit == 0u {
            workgroupBarrier();
            c_tile[4u * lane] = column_sum.x;
            c_tile[4u * lane + 1u] = column_sum.y;
            c_tile[4u * lane + 2u] = column_sum.z;
            c_tile[4u * lane + 3u] = column_sum.w;
            workgroupBarrier();
            let n = first_n + 4u * lane;
            if lane < TILE_N / 4u && n < params.columns && !is_past {
                var total = vec4<f32>();
                for (var i = 4u * lane; i < 4u * INVOCATIONS; i += TILE_N) {
                    total += vec4<f32>(c_tile[i], c_tile[i + 1u], c_tile[i + 2u], c_tile[i + 3u]);
                }
                store_column_sum(split, n, total);
            }
        }
    }
}
