// Dynamic thresholding (Saharia et al., Imagen, arXiv 2205.11487, section 2.3), item by item:
//
//     s = min(max(quantile of |raw|, 1), largest),   raw = k (p_x x + p_f f)
//
// The quantile lies between two numbers of the sorted |raw|, at place rank + fraction counted from 0.
//
// One workgroup per item. A number of the sorted |raw| is found without sorting: floats that are not negative
// are ordered as their bits, so four passes settle eight bits each, by counting the numbers that agree with
// the bits settled before. The counts are integers, so their order does not matter. raw is computed anew in
// every pass rather than kept.

#import lib/index
#import lib/element
#import lib/estimate

const LANES: u32 = 256u; // and bins of the histogram: each invocation clears one

struct Params {
    items: u32,
    item: u32,       // elements of one item of x
    channels: u32,   // C
    f_channels: u32, // C or 2 C
    rank: u32,
    fraction: f32,
    largest: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;               // (items, pixels, channels)
@group(0) @binding(2) var<storage, read> f: array<Element>;           // (items, pixels, f_channels)
@group(0) @binding(3) var<storage, read> coefficients: Coefficients;
@group(0) @binding(4) var<storage, read_write> threshold: array<f32>; // (items)

var<workgroup> histogram: array<atomic<u32>, LANES>;
var<workgroup> settled: vec2<u32>; // the bits settled so far, and the rank among the numbers that agree with them

// The number at place `rank` of the sorted |raw| of item n. Every invocation must call it, and all get it.
fn order_statistic(n: u32, rank: u32, lane: u32) -> f32 {
    var prefix = 0u;
    var mask = 0u;
    var left = rank;
    for (var place = 4u; place > 0u; place--) {
        let shift = 8u * (place - 1u);
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        for (var k = lane; k < params.item; k += LANES) {
            let j = n * params.item + k;
            let answer = f32(f[answer_index(j, params.channels, params.f_channels)]);
            let raw = raw_estimate(coefficients, x[j], answer);
            let bits = bitcast<u32>(raw) & 0x7fffffffu;
            if (bits & mask) == prefix {
                atomicAdd(&histogram[(bits >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if lane == 0u {
            var bin = 0u;
            var below = 0u;
            for (; bin < LANES - 1u; bin++) {
                let count = atomicLoad(&histogram[bin]);
                if below + count > left { break; }
                below += count;
            }
            settled = vec2<u32>(prefix | (bin << shift), left - below);
        }
        let now = workgroupUniformLoad(&settled);
        prefix = now.x;
        left = now.y;
        mask |= 255u << shift;
    }
    return bitcast<f32>(prefix);
}

@compute @workgroup_size(LANES)
fn dynamic_threshold(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let n = workgroup_index(group, groups);
    if n >= params.items {
        return;
    }
    var quantile = order_statistic(n, params.rank, lane);
    if params.fraction > 0.0 {
        quantile += params.fraction * (order_statistic(n, params.rank + 1u, lane) - quantile);
    }
    if lane == 0u {
        threshold[n] = clamp(quantile, 1.0, params.largest);
    }
}
