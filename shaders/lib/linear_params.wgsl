// The sizes of a linear layer or of several of one x as a product of matrices, c = a b, and the strides by which its operands are
// reached.

struct Params {
    rows: u32,
    columns: u32,
    depth: u32,
    splits: u32,
    split_depth: u32,
    a_row: u32, // elements from a[m,k] to a[m+1,k]
    a_column: u32,
    b_row: u32,
    b_column: u32,
    c_row: u32,
    c_split: u32,
    outputs: u32,    // N of one layer
    a_layer: u32,    // elements from a layer to the next, where a, b or c has layers
    b_layer: u32,
    c_layer: u32,
    bias_start: u32, // elements before the first bias, where it lies behind a weight
}

@group(0) @binding(0) var<uniform> params: Params;

// Whether what is multiplied along the depth, or the columns, belongs to several layers.
const LAYERED_DEPTH: bool = false;
const LAYERED_COLUMNS: bool = false;

fn along_columns(n: u32, layer: u32) -> u32 {
    if LAYERED_COLUMNS {
        return n / params.outputs * layer + n % params.outputs;
    }
    return n;
}
