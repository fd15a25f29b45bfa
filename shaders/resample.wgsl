// Nearest-neighbour upsampling by two, pixels counted through all images of width W:
//   upsample: y[2h + i, 2w + j] = x[h, w] for i, j in {0, 1}
//   upsample_backward: dx[h, w] = Σ_ij dy[2h + i, 2w + j]
//
// One invocation per run of PIXELS pixels of the small image and one Vector of channels: each pixel is one
// Vector on the small side and four on the large one.

#import lib/index
#import lib/vector4
#import lib/pixel_run

struct Params {
    pixels: u32,  // of all small images together
    width: u32,   // of the small image
    vectors: u32, // of one pixel
    count: u32,   // runs
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;       // (N, H, W, C); dy (N, 2H, 2W, C) in the gradient
@group(0) @binding(2) var<storage, read_write> y: array<Stored>; // (N, 2H, 2W, C); dx (N, H, W, C) in the gradient

// Vector 0 of the upper left of a small pixel's four: its row is pixel - w of the small image, twice as
// far down and twice as wide, its column 2w.
fn upper_left(pixel: u32) -> u32 {
    let w = pixel % params.width;
    return (4u * (pixel - w) + 2u * w) * params.vectors;
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn upsample(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let below = 2u * params.width * params.vectors;
    for (var p = run.pixel; p < min(run.pixel + PIXELS, params.pixels); p++) {
        let value = x[p * params.vectors + run.vector];
        let corner = upper_left(p) + run.vector;
        y[corner] = value;
        y[corner + params.vectors] = value;
        y[corner + below] = value;
        y[corner + below + params.vectors] = value;
    }
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn upsample_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let below = 2u * params.width * params.vectors;
    for (var p = run.pixel; p < min(run.pixel + PIXELS, params.pixels); p++) {
        let corner = upper_left(p) + run.vector;
        let upper = Vector(x[corner]) + Vector(x[corner + params.vectors]);
        let lower = Vector(x[corner + below]) + Vector(x[corner + below + params.vectors]);
        y[p * params.vectors + run.vector] = Stored(upper + lower);
    }
}
