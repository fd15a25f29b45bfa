// Counts the steps that were taken, and what AdamW divides its moments by at the t-th of them:
//
//     t ← t + finite        1 - β^t for β1 and β2
//
// (Kingma & Ba, arXiv 1412.6980, algorithm 1.) A step whose gradient was not finite is none. 1 - β^t has no digits left
// for a t near 1 and a β near 1 if it is computed in f32, so the host gives it for the digits of t to the base 1024, and
// they are put together by 1 - β^(s + t) = (1 - β^s) + β^s (1 - β^t), which loses nothing. One invocation.

#import lib/clipping
#import lib/update_scale

struct Params {
    base: u32, // 1024: rows for each digit
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> taken: array<u32>; // (1)
@group(0) @binding(2) var<storage, read> clipping: Clipping;
@group(0) @binding(3) var<storage, read> powers: array<vec2<f32>>; // (3 base): 1 - β^(k base^digit) for β1 and β2
@group(0) @binding(4) var<storage, read_write> scale: UpdateScale;

@compute @workgroup_size(1)
fn bias_correction() {
    let t = taken[0] + select(0u, 1u, clipping.finite != 0.0);
    let base = params.base;
    let low = powers[t % base];
    let middle = powers[base + t / base % base];
    let high = powers[2u * base + min(t / base / base, base - 1u)];
    let upper = high + (vec2<f32>(1.0) - high) * middle;
    let correction = low + (vec2<f32>(1.0) - low) * upper;
    taken[0] = t;
    scale = UpdateScale(clipping.factor, clipping.finite, correction.x, correction.y);
}
