// One step of any sampler, in place:
//
//     x_0 = clamp(k_x x + k_f f, low, high)
//     x'  = c_x x + c_f f + c_0 x_0 + c_z z,   z standard normal
//
// f is what the network returned. The coefficients of DDPM (arXiv 2006.11239, eq. 7) and DDIM (arXiv
// 2010.02502, eq. 12) are computed on the host in f64 for each step: src/diffusion/sampler.rs.
//
// One invocation per four elements of an item; z comes from the Philox address (block, step, stream, item)
// and is not drawn at all when c_z is zero.

#import lib/index
#import lib/normal

struct Params {
    items: u32,
    item: u32,   // elements of one item
    blocks: u32, // ceil(item / 4)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;       // (items, item)
@group(0) @binding(2) var<storage, read> f: array<f32>;             // (items, item)
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;  // (8): k_x, k_f, low, high, c_x, c_f, c_0, c_z
@group(0) @binding(4) var<storage, read> step: array<u32>;          // (8): seed low, seed high, step, first item, ...

const STREAM_SAMPLER: u32 = 3u;

@compute @workgroup_size(64)
fn denoise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.items * params.blocks {
        return;
    }
    let n = i / params.blocks;
    let block = i % params.blocks;
    var z = vec4<f32>(0.0);
    if coefficients[7] != 0.0 {
        z = normal4(vec4<u32>(block, step[2], STREAM_SAMPLER, step[3] + n), vec2<u32>(step[0], step[1]));
    }
    let first = block * 4u;
    for (var k = 0u; k < min(4u, params.item - first); k++) {
        let j = n * params.item + first + k;
        let x_0 = clamp(coefficients[0] * x[j] + coefficients[1] * f[j], coefficients[2], coefficients[3]);
        x[j] = coefficients[4] * x[j] + coefficients[5] * f[j] + coefficients[6] * x_0 + coefficients[7] * z[k];
    }
}
