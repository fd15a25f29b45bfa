// Four neighbouring channels per element of a buffer: one load where a scalar kernel needs four.
// lib/vector1 has the same names for channel counts that four does not divide.
//
// Stored is what lies in memory, Vector what is computed with: Vector(x[i]) loads, y[i] = Stored(v) stores.

#import lib/element

alias Stored = vec4<Element>;
alias Vector = vec4<f32>;
const WIDTH: u32 = 4u;

fn horizontal_sum(v: Vector) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn horizontal_max(v: Vector) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// 1 in component i, 0 in the others; i may be past the last one.
fn unit_vector(i: u32) -> Vector {
    return select(Vector(), Vector(1.0), vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(i));
}
