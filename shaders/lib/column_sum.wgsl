// Sums down the columns of a workgroup of ROWS x COLUMNS invocations, by a tree in workgroup memory: the
// order is fixed, so the result is the same bits on every run. Import lib/vector4 before it.
//
// CPU drivers take workgroups of 8 invocations, mostly in one row, where the tree and its barriers vanish.

const COLUMNS: u32 = 8u;
const ROWS: u32 = 32u; // a power of two
const EACH: u32 = 1u; // columns that an invocation may take, COLUMNS apart, so that a CPU reads whole rows

var<workgroup> row_sums: array<Vector, ROWS * COLUMNS>;

// Every invocation must call it with its `lane`, row * COLUMNS + column, and gets the sum of its column.
fn column_sum(value: Vector, lane: u32) -> Vector {
    if ROWS == 1u {
        return value;
    }
    row_sums[lane] = value;
    workgroupBarrier();
    for (var half = ROWS / 2u; half > 0u; half = half / 2u) {
        if lane < half * COLUMNS {
            row_sums[lane] += row_sums[lane + half * COLUMNS];
        }
        workgroupBarrier();
    }
    let sum = row_sums[lane % COLUMNS];
    // Nobody may start the next sum before everybody has read this one.
    workgroupBarrier();
    return sum;
}
