// Group normalization (Wu & He, arXiv 1803.08494), fused with a modulation and SiLU:
//   xh = (x - mean_g) rstd_g, rstd_g = 1 / sqrt(var_g + ε), over the pixels and channels of a group g
//   v = Γ xh + Δ, Γ = γ (1 + scale), Δ = β (1 + scale) + shift
//   y = silu(v), or v
// and its gradient, with dv = dy silu'(v), or dy, recomputed from x:
//   A[n,c] = Σ_p dv, B[n,c] = Σ_p dv xh, the sums, kept with mean, rstd, Γ and Δ, so that nothing else need be bound
//   dx = rstd (Γ dv - mean_g(Γ dv) - xh mean_g(Γ dv xh)), the means from A and B, and perhaps a further tensor added to it
//   dγ = Σ_n (1 + scale) B, dβ = Σ_n (1 + scale) A    dscale = γ B + β A, dshift = A
// lib/unmodulated has scale = shift = 0; a variant puts lib/modulated in its place.
//
//   measure                one workgroup of LANES per image and group
//   sum_pixels             one workgroup per COLUMNS Vectors of channels of an image, whose ROWS share the pixels
//   normalize, backward    one invocation per run of PIXELS pixels of one Vector of channels; in backward, behind the
//                          workgroups of dγ and dβ, each of COLUMNS Vectors, whose ROWS share the images
//   backward_scale_shift   one invocation per run of PIXELS images of one Vector
// Four channels make a Vector only if four divides the channels of a group, so it lies in one group.
//
// x, y, dx and dy, the modulation and its gradient may be stored as f16; parameters, statistics, sums are f32.

#import lib/index
#import lib/vector4
#import lib/activation
#import lib/reduce
#import lib/pixel_run
#import lib/column_sum
#import lib/unmodulated

alias Out = Vector; // as lib/no_added calls them
alias StoredOut = Stored;
#import lib/no_added

const SILU: bool = true;

struct Params {
    pixels: u32,  // of one image
    vectors: u32, // of one pixel
    groups: u32,
    count: u32,   // workgroups or invocations with work
}

struct MeasureParams { // measure
    pixels: u32,
    vectors: u32,
    groups: u32,
    count: u32,
    epsilon: f32,
}

struct BackwardParams { // backward
    images: u32,
    pixels: u32,
    vectors: u32,
    groups: u32,
    parameter_groups: u32, // workgroups with dγ and dβ
    count: u32,            // runs
}

struct ImageParams { // backward_scale_shift: no pixels any more
    images: u32,
    vectors: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> measure_params: MeasureParams;
@group(0) @binding(0) var<uniform> backward_params: BackwardParams;
@group(0) @binding(0) var<uniform> image_params: ImageParams;
@group(0) @binding(1) var<storage, read> x: array<Stored>;              // (images, pixels, channels)
@group(0) @binding(2) var<storage, read> gamma: array<Vector>;          // (channels)
@group(0) @binding(3) var<storage, read> beta: array<Vector>;           // (channels)
@group(0) @binding(4) var<storage, read> scale_shift: array<Stored>;    // (images, 2 channels): scale, shift
@group(0) @binding(5) var<storage, read> statistics: array<vec2<f32>>;  // (images, groups): mean, rstd
@group(0) @binding(6) var<storage, read> dy: array<Stored>;             // (images, pixels, channels)
@group(0) @binding(7) var<storage, read> sums: array<Vector>;           // (images, 6, channels): A, B, mean, rstd, Γ, Δ
@group(0) @binding(9) var<storage, read_write> y: array<Stored>;        // (images, pixels, channels): y or dx
@group(0) @binding(10) var<storage, read_write> statistics_out: array<vec2<f32>>; // as statistics
@group(0) @binding(11) var<storage, read_write> sums_out: array<Vector>;          // as sums
@group(0) @binding(13) var<storage, read_write> dgamma: array<Vector>;            // (channels)
@group(0) @binding(14) var<storage, read_write> dbeta: array<Vector>;             // (channels)
@group(0) @binding(15) var<storage, read_write> dscale_shift: array<Stored>;      // as scale_shift

// Γ and Δ of one Vector of channels.
struct Affine {
    factor: Vector,
    offset: Vector,
}

fn affine_of(image: u32, vector: u32) -> Affine {
    let at = image * 2u * params.vectors + vector;
    let factor = one_plus_scale(at);
    return Affine(gamma[vector] * factor, beta[vector] * factor + shift(at + params.vectors));
}

// The group of a Vector of channels, counted through all images.
fn group_of(image: u32, vector: u32) -> u32 {
    return image * params.groups + vector / (params.vectors / params.groups);
}

// The (pixel, Vector of the group) that comes `step` behind `at`, both given so, without a division.
fn advance(at: vec2<u32>, step: vec2<u32>, width: u32) -> vec2<u32> {
    let next = at + step;
    return select(next, vec2<u32>(next.x + 1u, next.y - width), next.y >= width);
}

// Two passes: the mean, then the centred squares. What is left of the mean of the centred values is the
// rounding error of the first pass, which the second takes back (Chan, Golub & LeVeque 1983, eq. 1.7).
@compute @workgroup_size(LANES)
fn measure(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= measure_params.count { return; }
    let width = measure_params.vectors / measure_params.groups;
    let image = index / measure_params.groups;
    let start = image * measure_params.pixels * measure_params.vectors + (index % measure_params.groups) * width;
    let size = f32(measure_params.pixels * width * WIDTH);
    let first = vec2<u32>(lane / width, lane % width);
    let step = vec2<u32>(LANES / width, LANES % width);

    var sum = Vector();
    for (var at = first; at.x < measure_params.pixels; at = advance(at, step, width)) {
        sum += Vector(x[start + at.x * measure_params.vectors + at.y]);
    }
    let first_mean = workgroup_sum(horizontal_sum(sum), lane) / size;

    var rest = Vector();
    var squares = Vector();
    for (var at = first; at.x < measure_params.pixels; at = advance(at, step, width)) {
        let d = Vector(x[start + at.x * measure_params.vectors + at.y]) - Vector(first_mean);
        rest += d;
        squares += d * d;
    }
    let correction = workgroup_sum(horizontal_sum(rest), lane) / size;
    let square = workgroup_sum(horizontal_sum(squares), lane) / size;
    if lane == 0u {
        let variance = max(square - correction * correction, 0.0);
        statistics_out[index] = vec2<f32>(first_mean + correction, 1.0 / sqrt(variance + measure_params.epsilon));
    }
}

// x - mean comes first: x rstd - mean rstd would cancel where the mean is large.
@compute @workgroup_size(RUN_INVOCATIONS)
fn normalize(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let affine = affine_of(run.image, run.vector);
    let s = statistics[group_of(run.image, run.vector)];
    let slope = s.y * affine.factor;
    for (var k = run.first; k < run.end; k += params.vectors) {
        let v = (Vector(x[k]) - Vector(s.x)) * slope + affine.offset;
        if SILU {
            y[k] = Stored(silu(v));
        } else {
            y[k] = Stored(v);
        }
    }
}

// Rows of the sums of an image.
const A: u32 = 0u;
const B: u32 = 1u;
const MEAN: u32 = 2u;
const RSTD: u32 = 3u;
const FACTOR: u32 = 4u;
const OFFSET: u32 = 5u;
const SUMS: u32 = 6u;

// dv at Vector k, where xh is given.
fn gradient_of_v(k: u32, xh: Vector, affine: Affine) -> Vector {
    if SILU {
        return Vector(dy[k]) * silu_derivative(xh * affine.factor + affine.offset);
    }
    return Vector(dy[k]);
}

// A workgroup's image, the Vector of channels of one of its lanes, and the row of that lane.
struct Column {
    image: u32,
    vector: u32, // may be past the last one
    row: u32,
}

fn column_of(index: u32, vectors: u32, lane: u32) -> Column {
    let blocks = (vectors + COLUMNS - 1u) / COLUMNS;
    return Column(index / blocks, (index % blocks) * COLUMNS + lane % COLUMNS, lane / COLUMNS);
}

@compute @workgroup_size(COLUMNS, ROWS)
fn sum_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let column = column_of(index, params.vectors, lane);
    var a = Vector();
    var b = Vector();
    var affine: Affine;
    var s: vec2<f32>;
    if column.vector < params.vectors {
        affine = affine_of(column.image, column.vector);
        s = statistics[group_of(column.image, column.vector)];
        for (var p = column.row; p < params.pixels; p += ROWS) {
            let k = (column.image * params.pixels + p) * params.vectors + column.vector;
            let xh = (Vector(x[k]) - Vector(s.x)) * s.y;
            let dv = gradient_of_v(k, xh, affine);
            a += dv;
            b += dv * xh;
        }
    }
    a = column_sum(a, lane);
    b = column_sum(b, lane);
    if column.row == 0u && column.vector < params.vectors {
        let at = column.image * SUMS * params.vectors + column.vector;
        sums_out[at + A * params.vectors] = a;
        sums_out[at + B * params.vectors] = b;
        sums_out[at + MEAN * params.vectors] = Vector(s.x);
        sums_out[at + RSTD * params.vectors] = Vector(s.y);
        sums_out[at + FACTOR * params.vectors] = affine.factor;
        sums_out[at + OFFSET * params.vectors] = affine.offset;
    }
}

// The means of Γ dv and Γ dv xh over the group of a Vector. A group is a few Vectors wide, and a run has the longer for it.
fn group_means(image: u32, vector: u32) -> vec2<f32> {
    let vectors = backward_params.vectors;
    let width = vectors / backward_params.groups;
    let first = image * SUMS * vectors + vector / width * width;
    var sum = vec2<f32>();
    for (var at = first; at < first + width; at++) {
        let factor = sums[at + FACTOR * vectors];
        let a = horizontal_sum(factor * sums[at + A * vectors]);
        let b = horizontal_sum(factor * sums[at + B * vectors]);
        sum += vec2<f32>(a, b);
    }
    return sum / f32(backward_params.pixels * width * WIDTH);
}

// COLUMNS Vectors of dγ and dβ by a workgroup, whose ROWS share the images.
fn parameter_gradients(index: u32, lane: u32) {
    let vectors = backward_params.vectors;
    let vector = index * COLUMNS + lane % COLUMNS;
    var a = Vector();
    var b = Vector();
    if vector < vectors {
        for (var n = lane / COLUMNS; n < backward_params.images; n += ROWS) {
            let row = n * SUMS * vectors + vector;
            let factor = one_plus_scale(n * 2u * vectors + vector);
            a += factor * sums[row + A * vectors];
            b += factor * sums[row + B * vectors];
        }
    }
    a = column_sum(a, lane);
    b = column_sum(b, lane);
    if lane < COLUMNS && vector < vectors {
        dgamma[vector] = b;
        dbeta[vector] = a;
    }
}

@compute @workgroup_size(RUN_INVOCATIONS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let vectors = backward_params.vectors;
    if index < backward_params.parameter_groups {
        parameter_gradients(index, lane);
        return;
    }
    let i = (index - backward_params.parameter_groups) * RUN_INVOCATIONS + lane;
    if i >= backward_params.count { return; }
    let run = pixel_run(i, backward_params.pixels, vectors);
    let row = run.image * SUMS * vectors + run.vector;
    let s_mean = sums[row + MEAN * vectors];
    let rstd = sums[row + RSTD * vectors];
    let affine = Affine(sums[row + FACTOR * vectors], sums[row + OFFSET * vectors]);
    let mean = group_means(run.image, run.vector);
    for (var k = run.first; k < run.end; k += vectors) {
        let xh = (Vector(x[k]) - s_mean) * rstd;
        let g = gradient_of_v(k, xh, affine) * affine.factor;
        y[k] = Stored(plus_added(rstd * (g - Vector(mean.x) - xh * mean.y), k, 0u));
    }
}

// Here the rows of channels are the images: a run walks along them.
@compute @workgroup_size(RUN_INVOCATIONS)
fn backward_scale_shift(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= image_params.count { return; }
    let vectors = image_params.vectors;
    let run = pixel_run(i, image_params.images, vectors);
    for (var n = run.pixel; n < min(run.pixel + PIXELS, image_params.images); n++) {
        let row = n * SUMS * vectors + run.vector;
        let at = n * 2u * vectors + run.vector;
        let a = sums[row + A * vectors];
        dscale_shift[at] = Stored(gamma[run.vector] * sums[row + B * vectors] + beta[run.vector] * a);
        dscale_shift[at + vectors] = Stored(a);
    }
}
