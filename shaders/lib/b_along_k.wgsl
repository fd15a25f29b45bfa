// The tile of B in lib/gemm_vectors, where the four numbers of a vec4 of B lie along k: transposed as they are staged, so that the
// numbers of two neighbouring columns lie side by side.

const B_ALONG_K: bool = true;

var<workgroup> b_tile: array<vec2<f32>, TILE_K * TILE_N / 2u>; // [TILE_K][TILE_N / 2], in the order of `tile_place`

// The first of two columns, and of four k, that an invocation stages.
fn b_origin(lane: u32) -> vec2<u32> {
    return vec2<u32>(lane / (TILE_K / 4u) * 2u, lane % (TILE_K / 4u) * 4u);
}

fn b_place(origin: vec2<u32>) -> u32 {
    return 2u * tile_place(origin.x / 4u, origin.y, TILE_N / 4u) + origin.x / 2u % 2u;
}

fn stage_b(to: u32, two: mat2x4<f32>) {
    b_tile[to] = vec2<f32>(two[0].x, two[1].x);
    b_tile[to + TILE_N / 2u] = vec2<f32>(two[0].y, two[1].y);
    b_tile[to + TILE_N] = vec2<f32>(two[0].z, two[1].z);
    b_tile[to + TILE_N / 2u * 3u] = vec2<f32>(two[0].w, two[1].w);
}

// Four columns of one k.
fn b_vector(place: u32) -> vec4<f32> {
    return vec4<f32>(b_tile[2u * place], b_tile[2u * place + 1u]);
}
