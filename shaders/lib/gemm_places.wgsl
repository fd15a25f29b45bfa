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

// Two vec4 as they were loaded. Nothing is done with them before they are staged, so that nobody waits for them earlier.
struct LoadedA {
    v0: Left,
    v1: Left,
    inside: vec2<bool>,
}

struct LoadedB {
    v0: StoredOut,
    v1: StoredOut,
    inside: vec2<bool>,
}

fn load_a(p: Places) -> LoadedA {
    return LoadedA(a[p.at.x], a[p.at.y], p.inside);
}

fn load_b(p: Places) -> LoadedB {
    return LoadedB(b[p.at.x], b[p.at.y], p.inside);
}
