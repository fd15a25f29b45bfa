// What both ways to stage the factors of a product have in common: lib/gemm_vectors, and lib/gemm_matrix in its place.

// Whether TILE_K divides the depth of every split, so that each stage lies inside it.
const WHOLE_STAGES: bool = false;

alias Left = StoredOut; // in a

// Where two vec4 lie in a or b: 0 where they are not inside.
struct Places {
    at: vec2<u32>,
    inside: vec2<bool>,
}

fn places(at: vec2<u32>, inside: vec2<bool>) -> Places {
    return Places(select(vec2<u32>(), at, inside), inside);
}
