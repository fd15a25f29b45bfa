// The tile of B in lib/gemm_vectors, where the four numbers of a vec4 of B lie along the columns, as they do in the tile. lib/b_along_k
// has the same names.

const B_ALONG_K: bool = false;

var<workgroup> b_tile: array<vec4<f32>, TILE_K * TILE_N / 4u>; // [TILE_K][TILE_N / 4], in the order of `tile_place`

// The first of four columns, and of two k, that an invocation stages.
fn b_origin(lane: u32) -> vec2<u32> {
    return vec2<u32>(lane % (TILE_N / 4u) * 4u, lane / (TILE_N / 4u) * 2u);
}

fn b_place(origin: vec2<u32>) -> u32 {
    return tile_place(origin.x / 4u, origin.y, TILE_N / 4u);
}

fn stage_b(to: u32, two: mat2x4<f32>) {
    b_tile[to] = two[0];
    b_tile[to + TILE_N / 4u] = two[1];
}

// Four columns of one k.
fn b_vector(place: u32) -> vec4<f32> {
    return b_tile[place];
}
