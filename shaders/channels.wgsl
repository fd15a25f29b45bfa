// Along the channels of (images, pixels, channels):
//   add_channels: y[n,p,c] = x[n,p,c] + e[n,c]        sum_pixels: y[n,c] = Σ_p x[n,p,c]
//   spread_pixels: y[n,p,c] = e[n,c]
//   concat: y[r,:] = a[r,:] then b[r,:]               slice_channels: y[r,c] = x[r, start + c]
//
// sum_pixels: one workgroup per image and COLUMNS Vectors of channels; each of its ROWS takes every
// ROWS-th pixel. The others: one invocation per run of PIXELS pixels of one Vector of y.

#import lib/index
#import lib/vector4
#import lib/pixel_run
#import lib/column_sum

struct Params {
    images: u32,
    pixels: u32,   // of one image
    vectors: u32,  // of one pixel of y; of x in sum_pixels
    count: u32,    // runs; workgroups in sum_pixels
    before: u32,   // concat: Vectors of one pixel of a; slice_channels: Vectors left out before the first
    stride: u32,   // concat: Vectors of one pixel of b; slice_channels: of x
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Vector>;       // (images, pixels, channels)
@group(0) @binding(2) var<storage, read> e: array<Vector>;       // (images, channels)
@group(0) @binding(3) var<storage, read> a: array<Vector>;       // (pixels, channels of a)
@group(0) @binding(4) var<storage, read> b: array<Vector>;       // (pixels, channels of b)
@group(0) @binding(5) var<storage, read_write> y: array<Vector>; // (images, pixels, channels); (images, channels) in sum_pixels

@compute @workgroup_size(64)
fn add_channels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let addend = e[run.image * params.vectors + run.vector];
    for (var k = run.first; k < run.end; k += params.vectors) {
        y[k] = x[k] + addend;
    }
}

@compute @workgroup_size(64)
fn spread_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let value = e[run.image * params.vectors + run.vector];
    for (var k = run.first; k < run.end; k += params.vectors) {
        y[k] = value;
    }
}

@compute @workgroup_size(COLUMNS, ROWS)
fn sum_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let blocks = (params.vectors + COLUMNS - 1u) / COLUMNS;
    let image = index / blocks;
    let vector = (index % blocks) * COLUMNS + lane % COLUMNS;
    var sum = Vector();
    if vector < params.vectors {
        for (var p = lane / COLUMNS; p < params.pixels; p += ROWS) {
            sum += x[(image * params.pixels + p) * params.vectors + vector];
        }
    }
    sum = column_sum(sum, lane);
    if lane < COLUMNS && vector < params.vectors {
        y[image * params.vectors + vector] = sum;
    }
}

@compute @workgroup_size(64)
fn concat(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    if run.vector < params.before {
        var source = run.pixel * params.before + run.vector;
        for (var k = run.first; k < run.end; k += params.vectors) {
            y[k] = a[source];
            source += params.before;
        }
    } else {
        var source = run.pixel * params.stride + run.vector - params.before;
        for (var k = run.first; k < run.end; k += params.vectors) {
            y[k] = b[source];
            source += params.stride;
        }
    }
}

@compute @workgroup_size(64)
fn slice_channels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    var source = run.pixel * params.stride + params.before + run.vector;
    for (var k = run.first; k < run.end; k += params.vectors) {
        y[k] = x[source];
        source += params.stride;
    }
}
