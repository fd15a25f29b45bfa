// The streamed rows of attention, STEP at a time, of which each invocation of a subgroup loads a part and hands it to the others;
// the same names as lib/stream_direct. Rows past the end repeat the last one. Workgroups are subgroups.

const TILE: u32 = STEP;

const TILE_VECTORS: u32 = TILE * HEAD_VECTORS; // [TILE][HEAD_VECTORS]
const SHARE: u32 = (TILE_VECTORS + INVOCATIONS - 1u) / INVOCATIONS;

var<private> share_a: array<Vector, SHARE>;
var<private> share_b: array<Vector, SHARE>;
var<private> share_statistics: vec2<f32>;

fn stage(base: u32, first: u32, lane: u32) {
    for (var s = 0u; s < SHARE; s++) {
        let i = min(s * INVOCATIONS + lane, TILE_VECTORS - 1u);
        let row = min(first + i / HEAD_VECTORS, params.length - 1u);
        let at = base + row * params.row_vectors + i % HEAD_VECTORS;
        share_a[s] = Vector(streamed_a[at]);
        share_b[s] = Vector(streamed_b[at]);
    }
}

fn stage_statistics(head: Head, first: u32, lane: u32) {
    let at = statistic_at(head, first + lane);
    share_statistics = vec2<f32>(log_sum_exp[at], products[at]);
}

fn release() {}

fn streamed_row(base: u32, first: u32, row: u32) -> u32 {
    return row * HEAD_VECTORS;
}

fn streamed(side: u32, at: u32) -> Vector {
    if side == A {
        return subgroupShuffle(share_a[at / INVOCATIONS], at % INVOCATIONS);
    }
    return subgroupShuffle(share_b[at / INVOCATIONS], at % INVOCATIONS);
}

fn streamed_statistics(head: Head, first: u32, row: u32) -> vec2<f32> {
    return subgroupShuffle(share_statistics, row);
}
