// The streamed rows of attention, read from memory by every invocation for itself; the same names as
// lib/stream_staged. Rows past the end repeat the last one.

const TILE: u32 = STEP;

fn stage(base: u32, first: u32, lane: u32) {}

fn release() {}

fn stream_a(base: u32, first: u32, row: u32, c: u32) -> Vector {
    return streamed_a[base + min(first + row, params.length - 1u) * params.row_vectors + c];
}

fn stream_b(base: u32, first: u32, row: u32, c: u32) -> Vector {
    return streamed_b[base + min(first + row, params.length - 1u) * params.row_vectors + c];
}
