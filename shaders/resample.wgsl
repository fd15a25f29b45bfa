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

// Where a run is, on both sides. A division for each pixel would take as long as its stores on a CPU driver.
struct Place {
    column: u32, // of the small image
    corner: u32, // the Vector at the upper left of the pixel's four
}

// A small pixel is twice as far down and right on the large side: rows are pixel - column, twice as wide.
fn place_of(run: PixelRun) -> Place {
    let column = run.pixel % params.width;
    return Place(column, (4u * (run.pixel - column) + 2u * column) * params.vectors + run.vector);
}

fn next(place: Place) -> Place {
    let column = place.column + 1u;
    let ends = column == params.width; // and the row below was written with this one
    let step = select(2u, 2u + 2u * params.width, ends);
    return Place(select(column, 0u, ends), place.corner + step * params.vectors);
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn upsample(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let below = 2u * params.width * params.vectors;
    var place = place_of(run);
    for (var k = run.first; k < run.end; k += params.vectors) {
        let value = x[k];
        let corner = place.corner;
        y[corner] = value;
        y[corner + params.vectors] = value;
        y[corner + below] = value;
        y[corner + below + params.vectors] = value;
        place = next(place);
    }
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn upsample_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let below = 2u * params.width * params.vectors;
    var place = place_of(run);
    for (var k = run.first; k < run.end; k += params.vectors) {
        let corner = place.corner;
        let upper = Vector(x[corner]) + Vector(x[corner + params.vectors]);
        let lower = Vector(x[corner + below]) + Vector(x[corner + below + params.vectors]);
        y[k] = Stored(upper + lower);
        place = next(place);
    }
}
