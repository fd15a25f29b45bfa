// The tile of A in lib/gemm_vectors, where the four numbers of a vec4 of A lie along k: transposed as they are staged, so that the
// numbers of two neighbouring rows lie side by side.

const A_ALONG_K: bool = true;

var<workgroup> a_tile: array<vec2<f32>, TILE_K * TILE_M / 2u>; // [TILE_K][TILE_M / 2], in the order of `tile_place`

// The first of two rows, and of four k, that an invocation stages.
fn a_origin(lane: u32) -> vec2<u32> {
    return vec2<u32>(lane / (TILE_K / 4u) * 2u, lane % (TILE_K / 4u) * 4u);
}

fn a_place(origin: vec2<u32>) -> u32 {
    return 2u * tile_place(origin.x / 4u, origin.y, TILE_M / 4u) + origin.x / 2u % 2u;
}

fn stage_a(to: u32, two: mat2x4<f32>) {
    a_tile[to] = vec2<f32>(two[0].x, two[1].x);
    a_tile[to + TILE_M / 2u] = vec2<f32>(two[0].y, two[1].y);
    a_tile[to + TILE_M] = vec2<f32>(two[0].z, two[1].z);
    a_tile[to + TILE_M / 2u * 3u] = vec2<f32>(two[0].w, two[1].w);
}

// Four rows of one k.
fn a_vector(place: u32) -> vec4<f32> {
    return vec4<f32>(a_tile[2u * place], a_tile[2u * place + 1u]);
}
