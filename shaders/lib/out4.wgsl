// The output channels of a product, four per element of a buffer: StoredOut in memory, Out in registers.

#import lib/element

alias StoredOut = vec4<Element>;
alias Out = vec4<f32>;
const OUT_WIDTH: u32 = 4u;

fn out_component(v: Out, i: u32) -> f32 {
    return v[i];
}

fn out_dot(a: Out, b: Out) -> f32 {
    return dot(a, b);
}
