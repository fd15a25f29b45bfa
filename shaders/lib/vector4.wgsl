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
