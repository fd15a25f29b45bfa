// Classifier-free guidance (Ho & Salimans, arXiv 2207.12598, eq. 6): from the network's answer without a class, past its
// answer with one:
//
//     f = u + w (c - u)
//
// w = 1 is the answer with the class, w = 0 the one without. Where the network learns the variance too, the channels
// behind the guided ones stay as they are with the class.
//
// One invocation per element.

#import lib/index
#import lib/element

struct Params {
    count: u32,
    channels: u32, // of c and u
    guided: u32,   // the first of them
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> with_class: array<Element>; // (pixels, channels): c
@group(0) @binding(2) var<storage, read> without_class: array<Element>; // (pixels, channels): u
@group(0) @binding(3) var<storage, read> scale: array<f32>;         // (1): w
@group(0) @binding(4) var<storage, read_write> f: array<Element>; // (pixels, channels)

@compute @workgroup_size(64)
fn guidance(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count {
        return;
    }
    let c = f32(with_class[i]);
    let u = f32(without_class[i]);
    f[i] = Element(select(c, u + scale[0] * (c - u), i % params.channels < params.guided));
}
