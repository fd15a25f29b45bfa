// The sizes of a convolution as a product of matrices: of rows, columns and depth.

struct Params {
    rows: u32, // of each of the splits, where these are phases of pixels
    columns: u32,
    depth: u32,
    splits: u32,
    split_depth: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    channels: u32, // of a
    kernel: u32,
    stride: u32,
    padding: u32, // at the top and at the left
}

@group(0) @binding(0) var<uniform> params: Params;
