// Along the channels of (images, pixels, channels):
//   add_channels: y[n,p,c] = x[n,p,c] + e[n,c]        sum_pixels: y[n,c] = Σ_p x[n,p,c]
//   spread_pixels: y[n,p,c] = e[n,c]
//   concat: y[r,:] = a[r,:] then b[r,:]               slice_channels: y[r,c] = x[r, start + c]
//
// sum_pixels: one workgroup per image and COLUMNS * EACH Vectors of channels; each of its ROWS takes every
// ROWS-th pixel. The others: one invocation per run of PIXELS pixels of one Vector of y.

#import lib/index
#import lib/vector4
#import lib/pixel_run
#import lib/column_sum

const LOADS: u32 = 4u; // pixels in one turn of the loop of sum_pixels

struct Params {
    pixels: u32,  // of one image
    vectors: u32, // of one pixel
    count: u32,   // runs; workgroups in sum_pixels
}

struct ConcatParams {
    pixels: u32,    // of all images together
    vectors: u32,   // of one pixel of y
    vectors_a: u32, // of one pixel of a
    vectors_b: u32, // of one pixel of b
    count: u32,     // runs
}

struct SliceParams {
    pixels: u32,    // of all images together
    vectors: u32,   // of one pixel of y
    vectors_x: u32, // of one pixel of x
    start: u32,     // Vectors of x before the first of y
    count: u32,     // runs
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> concat_params: ConcatParams;
@group(0) @binding(0) var<uniform> slice_params: SliceParams;
@group(0) @binding(1) var<storage, read> x: array<Stored>;       // (images, pixels, channels)
@group(0) @binding(2) var<storage, read> e: array<Stored>;       // (images, channels)
@group(0) @binding(3) var<storage, read> a: array<Stored>;       // (pixels, channels of a)
@group(0) @binding(4) var<storage, read> b: array<Stored>;       // (pixels, channels of b)
@group(0) @binding(5) var<storage, read_write> y: array<Stored>; // (images, pixels, channels); (images, channels) in sum_pixels

@compute @workgroup_size(RUN_INVOCATIONS)
fn add_channels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let addend = Vector(e[run.image * params.vectors + run.vector]);
    for (var k = run.first; k < run.end; k += params.vectors) {
        y[k] = Stored(Vector(x[k]) + addend);
    }
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn spread_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
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
    let blocks = (params.vectors + COLUMNS * EACH - 1u) / (COLUMNS * EACH);
    let image = index / blocks;
    let vector = (index % blocks) * COLUMNS * EACH + lane % COLUMNS;
    // Past the last Vector, that one again.
    let first = image * params.pixels * params.vectors + min(vector, params.vectors - 1u);
    var sums: array<Vector, EACH>;
    var p = lane / COLUMNS;
    for (; p + (LOADS - 1u) * ROWS < params.pixels; p += LOADS * ROWS) {
        for (var i = 0u; i < LOADS; i++) {
            for (var e = 0u; e < EACH; e++) {
                sums[e] += Vector(x[first + (p + i * ROWS) * params.vectors + e * COLUMNS]);
            }
        }
    }
    for (; p < params.pixels; p += ROWS) {
        for (var e = 0u; e < EACH; e++) {
            sums[e] += Vector(x[first + p * params.vectors + e * COLUMNS]);
        }
    }
    for (var e = 0u; e < EACH; e++) {
        let sum = column_sum(sums[e], lane);
        if lane < COLUMNS && vector < params.vectors {
            y[image * params.vectors + vector + e * COLUMNS] = Stored(sum);
        }
    }
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn concat(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= concat_params.count { return; }
    let run = pixel_run(i, concat_params.pixels, concat_params.vectors);
    if run.vector < concat_params.vectors_a {
        var source = run.pixel * concat_params.vectors_a + run.vector;
        for (var k = run.first; k < run.end; k += concat_params.vectors) {
            y[k] = a[source];
            source += concat_params.vectors_a;
        }
    } else {
        var source = run.pixel * concat_params.vectors_b + run.vector - concat_params.vectors_a;
        for (var k = run.first; k < run.end; k += concat_params.vectors) {
            y[k] = b[source];
            source += concat_params.vectors_b;
        }
    }
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn slice_channels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= slice_params.count { return; }
    let run = pixel_run(i, slice_params.pixels, slice_params.vectors);
    var source = run.pixel * slice_params.vectors_x + slice_params.start + run.vector;
    for (var k = run.first; k < run.end; k += slice_params.vectors) {
        y[k] = x[source];
        source += slice_params.vectors_x;
    }
}
