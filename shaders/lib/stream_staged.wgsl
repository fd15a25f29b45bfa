// The streamed rows of attention, TILE at a time in workgroup memory, where a workgroup's invocations share
// them. Rows past the end repeat the last one.

const TILE: u32 = 32u; // a multiple of STEP

var<workgroup> tile_a: array<Vector, TILE * HEAD_VECTORS>; // [TILE][HEAD_VECTORS]
var<workgroup> tile_b: array<Vector, TILE * HEAD_VECTORS>; // [TILE][HEAD_VECTORS]

// Every invocation must call it, and release() before the next one.
fn stage(base: u32, first: u32, lane: u32) {
    for (var i = lane; i < TILE * HEAD_VECTORS; i += INVOCATIONS) {
        let row = min(first + i / HEAD_VECTORS, params.length - 1u);
        let at = base + row * params.row_vectors + i % HEAD_VECTORS;
        tile_a[i] = Vector(streamed_a[at]);
        tile_b[i] = Vector(streamed_b[at]);
    }
    workgroupBarrier();
}

fn stage_statistics(head: Head, first: u32, lane: u32) {}

fn release() {
    workgroupBarrier();
}

fn streamed_row(base: u32, first: u32, row: u32) -> u32 {
    return row * HEAD_VECTORS;
}

fn streamed(side: u32, at: u32) -> Vector {
    if side == A {
        return tile_a[at];
    }
    return tile_b[at];
}

// L and D of row `row` of the tile at `first`.
fn streamed_statistics(head: Head, first: u32, row: u32) -> vec2<f32> {
    let at = statistic_at(head, first + row);
    return vec2<f32>(log_sum_exp[at], products[at]);
}
