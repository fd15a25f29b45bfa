// The streamed rows of attention, read from memory by every invocation for itself; the same names as
// lib/stream_staged. Rows past the end repeat the last one.

const TILE: u32 = STEP;

fn stage(base: u32, first: u32, lane: u32) {}

fn stage_statistics(head: Head, first: u32, lane: u32) {}

fn release() {}

// Where row `row` of the tile at `first` begins.
fn streamed_row(base: u32, first: u32, row: u32) -> u32 {
    return base + min(first + row, params.length - 1u) * params.row_vectors;
}

// The Vector there, on side A or B.
fn streamed(side: u32, at: u32) -> Vector {
    if side == A {
        return Vector(streamed_a[at]);
    }
    return Vector(streamed_b[at]);
}

// L and D of row `row` of the tile at `first`.
fn streamed_statistics(head: Head, first: u32, row: u32) -> vec2<f32> {
    let at = statistic_at(head, first + row);
    return vec2<f32>(log_sum_exp[at], products[at]);
}
