// The output channels of a product, one per element of a buffer; the same names as lib/out4.

#import lib/element

alias StoredOut = Element;
alias Out = f32;
const OUT_WIDTH: u32 = 1u;

fn out_component(v: Out, i: u32) -> f32 {
    return v;
}

fn out_dot(a: Out, b: Out) -> f32 {
    return a * b;
}
