// Group normalization (Wu & He, arXiv 1803.08494), fused with a modulation and SiLU:
//   xh = (x - mean_g) rstd_g, rstd_g = 1 / sqrt(var_g + ε), over the pixels and channels of a group g
//   v = xh Γ + B, Γ = γ (1 + scale), B = β (1 + scale) + shift;   Γ = γ, B = β without a modulation
//   y = silu(v), or v
// and its gradient, with dv = dy silu'(v), or dy, recomputed from x:
//   sums: A[n,c] = Σ_p dv, B[n,c] = Σ_p dv xh          group_means: of Γ dv and Γ dv xh over the group
//   dx = rstd (Γ dv - mean_g(Γ dv) - xh mean_g(Γ dv xh))
//   dγ = Σ_n (1 + scale) B, dβ = Σ_n (1 + scale) A     dscale = γ B + β A, dshift = A
//
// statistics, group_means: one workgroup of LANES per image and group.
// sums, backward_parameters: one workgroup per COLUMNS Vectors of channels (and image), whose ROWS share
// the pixels (images). The others: one invocation per run of PIXELS pixels of one Vector of channels.
// Four channels make a Vector only if four divides the channels of a group, so it lies in one group.

#import lib/index
#import lib/vector4
#import lib/activation
#import lib/reduce
#import lib/pixel_run
#import lib/column_sum

const SILU: bool = true;

struct Params {
    images: u32,
    pixels: u32,  // of one image
    vectors: u32, // of one pixel
    groups: u32,
    count: u32,   // workgroups or invocations with work
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Vector>;              // (images, pixels, channels)
@group(0) @binding(2) var<storage, read> gamma: array<Vector>;          // (channels)
@group(0) @binding(3) var<storage, read> beta: array<Vector>;           // (channels)
@group(0) @binding(4) var<storage, read> scale_shift: array<Vector>;    // (images, 2 channels): scale, shift
@group(0) @binding(5) var<storage, read> statistics: array<vec2<f32>>;  // (images, groups): mean, rstd
@group(0) @binding(6) var<storage, read> dy: array<Vector>;             // (images, pixels, channels)
@group(0) @binding(7) var<storage, read> sums: array<Vector>;           // (images, 2, channels): A, B
@group(0) @binding(8) var<storage, read> means: array<vec2<f32>>;       // (images, groups): of Γ dv, Γ dv xh
@group(0) @binding(9) var<storage, read_write> y: array<Vector>;        // (images, pixels, channels): y or dx
@group(0) @binding(10) var<storage, read_write> statistics_out: array<vec2<f32>>; // as statistics
@group(0) @binding(11) var<storage, read_write> sums_out: array<Vector>;          // as sums
@group(0) @binding(12) var<storage, read_write> means_out: array<vec2<f32>>;      // as means
@group(0) @binding(13) var<storage, read_write> dgamma: array<Vector>;            // (channels)
@group(0) @binding(14) var<storage, read_write> dbeta: array<Vector>;             // (channels)
@group(0) @binding(15) var<storage, read_write> dscale_shift: array<Vector>;      // as scale_shift

// Γ and B of one Vector of channels.
struct Affine {
    factor: Vector,
    offset: Vector,
}

fn plain(vector: u32) -> Affine {
    return Affine(gamma[vector], beta[vector]);
}

fn modulated(image: u32, vector: u32) -> Affine {
    let at = image * 2u * params.vectors + vector;
    let factor = Vector(1.0) + scale_shift[at];
    return Affine(gamma[vector] * factor, beta[vector] * factor + scale_shift[at + params.vectors]);
}

// Vectors of one group in one pixel.
fn group_vectors() -> u32 {
    return params.vectors / params.groups;
}

fn statistics_of(image: u32, vector: u32) -> vec2<f32> {
    return statistics[image * params.groups + vector / group_vectors()];
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
    if index >= params.count { return; }
    let width = group_vectors();
    let start = (index / params.groups) * params.pixels * params.vectors + (index % params.groups) * width;
    let size = f32(params.pixels * width * WIDTH);
    let first = vec2<u32>(lane / width, lane % width);
    let step = vec2<u32>(LANES / width, LANES % width);

    var sum = Vector();
    for (var at = first; at.x < params.pixels; at = advance(at, step, width)) {
        sum += x[start + at.x * params.vectors + at.y];
    }
    let first_mean = workgroup_sum(horizontal_sum(sum), lane) / size;

    var rest = Vector();
    var squares = Vector();
    for (var at = first; at.x < params.pixels; at = advance(at, step, width)) {
        let d = x[start + at.x * params.vectors + at.y] - Vector(first_mean);
        rest += d;
        squares += d * d;
    }
    let correction = workgroup_sum(horizontal_sum(rest), lane) / size;
    let square = workgroup_sum(horizontal_sum(squares), lane) / size;
    if lane == 0u {
        let variance = max(square - correction * correction, 0.0);
        statistics_out[index] = vec2<f32>(first_mean + correction, 1.0 / sqrt(variance + params.epsilon));
    }
}

// x - mean comes first: x rstd - mean rstd would cancel where the mean is large.
fn normalize_run(run: PixelRun, affine: Affine) {
    let s = statistics_of(run.image, run.vector);
    let slope = s.y * affine.factor;
    for (var k = run.first; k < run.end; k += params.vectors) {
        let v = (x[k] - Vector(s.x)) * slope + affine.offset;
        if SILU {
            y[k] = silu(v);
        } else {
            y[k] = v;
        }
    }
}

@compute @workgroup_size(64)
fn normalize(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    normalize_run(run, plain(run.vector));
}

@compute @workgroup_size(64)
fn normalize_modulated(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    normalize_run(run, modulated(run.image, run.vector));
}

// dv at Vector k, where xh is given.
fn gradient_of_v(k: u32, xh: Vector, affine: Affine) -> Vector {
    if SILU {
        return dy[k] * silu_derivative(xh * affine.factor + affine.offset);
    }
    return dy[k];
}

// A workgroup's image, the Vector of channels of one of its lanes, and the row of that lane.
struct Column {
    image: u32,
    vector: u32, // may be past the last one
    row: u32,
}

fn column_of(index: u32, lane: u32) -> Column {
    let blocks = (params.vectors + COLUMNS - 1u) / COLUMNS;
    return Column(index / blocks, (index % blocks) * COLUMNS + lane % COLUMNS, lane / COLUMNS);
}

fn add_pixels(column: Column, affine: Affine) -> array<Vector, 2> {
    let s = statistics_of(column.image, column.vector);
    var a = Vector();
    var b = Vector();
    for (var p = column.row; p < params.pixels; p += ROWS) {
        let k = (column.image * params.pixels + p) * params.vectors + column.vector;
        let xh = (x[k] - Vector(s.x)) * s.y;
        let dv = gradient_of_v(k, xh, affine);
        a += dv;
        b += dv * xh;
    }
    return array<Vector, 2>(a, b);
}

fn store_sums(column: Column, partial: array<Vector, 2>, lane: u32) {
    let a = column_sum(partial[0], lane);
    let b = column_sum(partial[1], lane);
    if column.row == 0u && column.vector < params.vectors {
        let at = column.image * 2u * params.vectors + column.vector;
        sums_out[at] = a;
        sums_out[at + params.vectors] = b;
    }
}

@compute @workgroup_size(COLUMNS, ROWS)
fn sum_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let column = column_of(index, lane);
    var partial = array<Vector, 2>();
    if column.vector < params.vectors {
        partial = add_pixels(column, plain(column.vector));
    }
    store_sums(column, partial, lane);
}

@compute @workgroup_size(COLUMNS, ROWS)
fn sum_pixels_modulated(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let column = column_of(index, lane);
    var partial = array<Vector, 2>();
    if column.vector < params.vectors {
        partial = add_pixels(column, modulated(column.image, column.vector));
    }
    store_sums(column, partial, lane);
}

// Γ A and Γ B of one Vector of channels, added up over its channels.
fn weighted_sums(image: u32, vector: u32, factor: Vector) -> vec2<f32> {
    let at = image * 2u * params.vectors + vector;
    return vec2<f32>(horizontal_sum(factor * sums[at]), horizontal_sum(factor * sums[at + params.vectors]));
}

fn store_means(index: u32, sum: vec2<f32>, lane: u32) {
    let a = workgroup_sum(sum.x, lane);
    let b = workgroup_sum(sum.y, lane);
    if lane == 0u {
        means_out[index] = vec2<f32>(a, b) / f32(params.pixels * group_vectors() * WIDTH);
    }
}

@compute @workgroup_size(LANES)
fn group_means(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let first = (index % params.groups) * group_vectors();
    let image = index / params.groups;
    var sum = vec2<f32>();
    for (var v = lane; v < group_vectors(); v += LANES) {
        sum += weighted_sums(image, first + v, gamma[first + v]);
    }
    store_means(index, sum, lane);
}

@compute @workgroup_size(LANES)
fn group_means_modulated(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let first = (index % params.groups) * group_vectors();
    let image = index / params.groups;
    var sum = vec2<f32>();
    for (var v = lane; v < group_vectors(); v += LANES) {
        let scale = scale_shift[image * 2u * params.vectors + first + v];
        sum += weighted_sums(image, first + v, gamma[first + v] * (Vector(1.0) + scale));
    }
    store_means(index, sum, lane);
}

fn backward_run(run: PixelRun, affine: Affine) {
    let s = statistics_of(run.image, run.vector);
    let mean = means[run.image * params.groups + run.vector / group_vectors()];
    for (var k = run.first; k < run.end; k += params.vectors) {
        let xh = (x[k] - Vector(s.x)) * s.y;
        let g = gradient_of_v(k, xh, affine) * affine.factor;
        y[k] = s.y * (g - Vector(mean.x) - xh * mean.y);
    }
}

@compute @workgroup_size(64)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    backward_run(run, plain(run.vector));
}

@compute @workgroup_size(64)
fn backward_input_modulated(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    backward_run(run, modulated(run.image, run.vector));
}

fn store_parameters(column: Column, partial: array<Vector, 2>, lane: u32) {
    let a = column_sum(partial[0], lane);
    let b = column_sum(partial[1], lane);
    if column.row == 0u && column.vector < params.vectors {
        dgamma[column.vector] = b;
        dbeta[column.vector] = a;
    }
}

@compute @workgroup_size(COLUMNS, ROWS)
fn backward_parameters(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let column = column_of(index, lane);
    var partial = array<Vector, 2>();
    if column.vector < params.vectors {
        for (var n = column.row; n < params.images; n += ROWS) {
            let at = n * 2u * params.vectors + column.vector;
            partial[0] += sums[at];
            partial[1] += sums[at + params.vectors];
        }
    }
    store_parameters(column, partial, lane);
}

@compute @workgroup_size(COLUMNS, ROWS)
fn backward_parameters_modulated(@builtin(workgroup_id) group: vec3<u32>,
                                 @builtin(num_workgroups) groups: vec3<u32>,
                                 @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let column = column_of(index, lane);
    var partial = array<Vector, 2>();
    if column.vector < params.vectors {
        for (var n = column.row; n < params.images; n += ROWS) {
            let at = n * 2u * params.vectors + column.vector;
            let factor = Vector(1.0) + scale_shift[at];
            partial[0] += factor * sums[at];
            partial[1] += factor * sums[at + params.vectors];
        }
    }
    store_parameters(column, partial, lane);
}

// Here the rows of channels are the images: a run walks along them.
@compute @workgroup_size(64)
fn backward_scale_shift(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count { return; }
    let run = pixel_run(i, params.images, params.vectors);
    for (var n = run.pixel; n < min(run.pixel + PIXELS, params.images); n++) {
        let at = n * 2u * params.vectors + run.vector;
        let a = sums[at];
        dscale_shift[at] = gamma[run.vector] * sums[at + params.vectors] + beta[run.vector] * a;
        dscale_shift[at + params.vectors] = a;
    }
}
