// The gradient of a score from do[t]·v[u] and the weight, which lies where it goes; the same names as lib/scaled_sum.

@group(0) @binding(7) var<storage, read> products: array<f32>; // (batch, heads, T): D

fn finished(sum: Out, row: u32, at: u32) -> Out {
    return Out(c[at]) * (sum - products[row]);
}
