// The tile of A in lib/gemm_vectors, where the four numbers of a vec4 of A lie along the rows, as they do in the tile. lib/a_along_k
// has the same names.

const A_ALONG_K: bool = false;

var<workgroup> a_tile: array<vec4<f32>, TILE_K * TILE_M / 4u>; // [TILE_K][TILE_M / 4], in the order of `tile_place`

// The first of four rows, and of two k, that an invocation stages.
fn a_origin(lane: u32) -> vec2<u32> {
    return vec2<u32>(lane % (TILE_M / 4u) * 4u, lane / (TILE_M / 4u) * 2u);
}

fn a_place(origin: vec2<u32>) -> u32 {
    return tile_place(origin.x / 4u, origin.y, TILE_M / 4u);
}

fn stage_a(to: u32, two: mat2x4<f32>) {
    a_tile[to] = two[0];
    a_tile[to + TILE_M / 4u] = two[1];
}

// Four rows of one k.
fn a_vector(place: u32) -> vec4<f32> {
    return a_tile[place];
}
