// One step of any sampler, x and its history h in place:
//
//     x_0 = clamp(k (p_x x + p_f f), -r s_n, r s_n) / s_n
//     x'  = c_x x + c_f f + c_0 x_0 + exp(c_v v) (c_h h + c_z z),   z standard normal
//     h'  = h_x x + h_f f + h_0 x_0
//
// f is what the network returned: C channels that answer for those of x and, of a network that learns the
// variance, C more for v. r is `range`, s_n the threshold of item n. Everything on the right is old. h' is
// not written where its three coefficients are zero; h, v and z are not touched where theirs is.
//
// The coefficients of every sampler are computed on the host in f64: src/diffusion/sampler.rs.
//
// One invocation per four elements of an item; z comes from the Philox address (block, step, stream, item).

#import lib/index
#import lib/element
#import lib/normal
#import lib/estimate
#import lib/step
#import lib/stream

struct Params {
    items: u32,
    item: u32,       // elements of one item of x
    blocks: u32,     // ceil(item / 4)
    channels: u32,   // C
    f_channels: u32, // C or 2 C
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;         // (items, pixels, channels)
@group(0) @binding(2) var<storage, read> f: array<Element>;           // (items, pixels, f_channels)
@group(0) @binding(3) var<storage, read_write> history: array<f32>;   // as x
@group(0) @binding(4) var<storage, read> threshold: array<f32>;       // (items)
@group(0) @binding(5) var<storage, read> coefficients: Coefficients;
@group(0) @binding(6) var<storage, read> step: Step;

@compute @workgroup_size(64)
fn denoise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let n = i / params.blocks;
    let block = i % params.blocks;
    let c = coefficients;
    let remembers = c.h_x != 0.0 || c.h_f != 0.0 || c.h_0 != 0.0;
    let learned = c.c_v != 0.0 && params.f_channels > params.channels;
    let s = threshold[n];
    let bound = c.range * s;
    var z = vec4<f32>(0.0);
    if c.c_z != 0.0 {
        z = normal4(counter(step, block, STREAM_SAMPLER, n), step.seed);
    }
    let first = block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = n * params.item + first + k;
        let answer = answer_index(j, params.channels, params.f_channels);
        let x_j = x[j];
        let f_j = f32(f[answer]);
        let x_0 = clamp(raw_estimate(c, x_j, f_j), -bound, bound) / s;
        var spread = c.c_z * z[k];
        if c.c_h != 0.0 {
            spread += c.c_h * history[j];
        }
        if learned {
            spread *= exp(c.c_v * f32(f[answer + params.channels]));
        }
        x[j] = c.c_x * x_j + c.c_f * f_j + c.c_0 * x_0 + spread;
        if remembers {
            history[j] = c.h_x * x_j + c.h_f * f_j + c.h_0 * x_0;
        }
    }
}
