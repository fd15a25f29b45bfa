// The input channels of a product, four per element of a buffer: StoredIn in memory, In in registers.

#import lib/element

alias StoredIn = vec4<Element>;
alias In = vec4<f32>;
const IN_WIDTH: u32 = 4u;

fn in_component(v: In, i: u32) -> f32 {
    return v[i];
}
