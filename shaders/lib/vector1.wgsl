// One channel per element of a buffer; the same names as lib/vector4.

#import lib/element

alias Stored = Element;
alias Vector = f32;
const WIDTH: u32 = 1u;

fn horizontal_sum(v: Vector) -> f32 {
    return v;
}

fn horizontal_max(v: Vector) -> f32 {
    return v;
}

fn unit_vector(i: u32) -> Vector {
    return select(0.0, 1.0, i == 0u);
}
