// The sizes of attention's products, of one head each, and where a head lies.

struct Params {
    rows: u32,
    columns: u32,
    depth: u32,       // of all heads together
    splits: u32,      // heads whose matrices are in memory
    split_depth: u32, // of one
    length: u32,      // T
    heads: u32,
    head: u32,        // d
    first: u32,       // of (batch, heads): the first whose matrix is in memory
    a_row: u32,       // elements from a[m,k] to a[m+1,k]
    a_column: u32,
    b_row: u32,
    b_column: u32,
    c_row: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

// The head's first element of (batch, T, heads, d).
fn head_start(sequence: u32) -> u32 {
    let s = params.first + sequence;
    return (s / params.heads * params.length * params.heads + s % params.heads) * params.head;
}
