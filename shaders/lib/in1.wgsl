// The input channels of a product, one per element of a buffer; the same names as lib/in4.

#import lib/element

alias StoredIn = Element;
alias In = f32;
const IN_WIDTH: u32 = 1u;

fn in_component(v: In, i: u32) -> f32 {
    return v;
}
