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
//   measure_and_normalize  the same with normalize, where there are many: one workgroup per COLUMNS * EACH of them, LANES = ROWS
//   sum_pixels             one workgroup per COLUMNS * EACH Vectors of channels of an image, whose ROWS share the pixels
//   normalize, backward    one invocation per run of PIXELS pixels of one Vector of channels; in backward of EACH, and behind the
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

const SIDE: u32 = 8u; // Vectors side by side, of which an invocation of backward takes EACH, as far apart
const SIDE_BY_SIDE: bool = false; // whether a workgroup has several groups of channels: measure_and_normalize

struct Params {
    pixels: u32,  // of one image
    vectors: u32, // of one pixel
    groups: u32,
    count: u32,   // workgroups or invocations with work
}

struct MeasureParams { // measure, measure_and_normalize
    pixels: u32,
    vectors: u32,
    groups: u32,
    count: u32,   // images times groups
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

fn affine_of(image: u32, vector: u32, vectors: u32) -> Affine {
    let at = image * 2u * vectors + vector;
    let factor = one_plus_scale(at);
    return Affine(gamma[vector] * factor, beta[vector] * factor + shift(at + vectors));
}

// The group of a Vector of channels, counted through all images.
fn group_of(image: u32, vector: u32) -> u32 {
    return image * params.groups + vector / (params.vectors / params.groups);
}

// How many numbers there were, their mean, and their squared distances from it, for each component of a Vector.
struct Moments {
    count: f32,
    mean: Vector,
    squares: Vector,
}

// Those of all the numbers of two such sets (Chan, Golub & LeVeque 1983, eq. 1.5).
fn joined(a: Moments, b: Moments) -> Moments {
    let count = a.count + b.count;
    let d = b.mean - a.mean;
    let share = b.count / count;
    return Moments(count, a.mean + share * d, a.squares + b.squares + (share * a.count) * d * d);
}

// Loads that are in registers together.
const BLOCK: u32 = 8u;

// The part of a group that one of its LANES invocations takes: every `rows`-th pixel, of every `columns`-th Vector.
struct Part {
    columns: u32,
    rows: u32,
    column: u32,
    row: u32, // past the pixels where the lane has no part
}

fn part_of(lane: u32, width: u32) -> Part {
    let columns = min(width, LANES);
    let rows = LANES / columns;
    let row = lane / columns;
    return Part(columns, rows, lane % columns, select(measure_params.pixels, row, row < rows));
}

// Mean and 1 / sqrt(var + ε) of the group of `width` Vectors whose first one is `start`, and of EACH - 1 more, COLUMNS apart. Every
// number is read once: the mean and the squares of a block are computed in registers, then joined to those before it. All are taken
// less the first number, so that the means are as small as the deviations and their rounding errors too.
fn group_statistics(start: u32, width: u32, lane: u32, invocation: u32) -> array<vec2<f32>, EACH> {
    let vectors = measure_params.vectors;
    let part = part_of(lane, width);
    var reference: array<Vector, EACH>;
    var moments: array<Moments, EACH>;
    for (var e = 0u; e < EACH; e++) {
        reference[e] = Vector(horizontal_sum(Vector(x[start + e * COLUMNS * width])) / f32(WIDTH));
        moments[e] = Moments();
    }
    for (var v = part.column; v < width; v += part.columns) {
        var p = part.row;
        for (; p + (BLOCK - 1u) * part.rows < measure_params.pixels; p += BLOCK * part.rows) {
            var block: array<Vector, BLOCK * EACH>;
            for (var i = 0u; i < BLOCK; i++) {
                let at = start + (p + i * part.rows) * vectors + v;
                for (var e = 0u; e < EACH; e++) {
                    block[i * EACH + e] = Vector(x[at + e * COLUMNS * width]) - reference[e];
                }
            }
            for (var e = 0u; e < EACH; e++) {
                var sum = Vector();
                for (var i = 0u; i < BLOCK; i++) {
                    sum += block[i * EACH + e];
                }
                let mean = sum / f32(BLOCK);
                var squares = Vector();
                for (var i = 0u; i < BLOCK; i++) {
                    let d = block[i * EACH + e] - mean;
                    squares += d * d;
                }
                moments[e] = joined(moments[e], Moments(f32(BLOCK), mean, squares));
            }
        }
        for (; p < measure_params.pixels; p += part.rows) {
            for (var e = 0u; e < EACH; e++) {
                let value = Vector(x[start + p * vectors + v + e * COLUMNS * width]) - reference[e];
                moments[e] = joined(moments[e], Moments(1.0, value, Vector()));
            }
        }
    }
    let size = f32(measure_params.pixels * width * WIDTH);
    var found: array<vec2<f32>, EACH>;
    for (var e = 0u; e < EACH; e++) {
        let m = moments[e];
        let mean = group_sum(m.count * m.mean, invocation) / size;
        let d = m.mean - Vector(mean);
        let variance = group_sum(m.squares + m.count * d * d, invocation) / size;
        let rstd = 1.0 / sqrt(variance + measure_params.epsilon);
        found[e] = vec2<f32>(horizontal_sum(reference[e]) / f32(WIDTH) + mean, rstd);
    }
    return found;
}

// The sum over the invocations of a group; all of the workgroup must call it.
fn group_sum(value: Vector, invocation: u32) -> f32 {
    if SIDE_BY_SIDE {
        return horizontal_sum(column_sum(value, invocation));
    }
    return workgroup_sum(horizontal_sum(value), invocation);
}

// The first Vector of a group, counted through all images.
fn group_start(index: u32, width: u32) -> u32 {
    let image = index / measure_params.groups;
    return image * measure_params.pixels * measure_params.vectors + index % measure_params.groups * width;
}

@compute @workgroup_size(LANES)
fn measure(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= measure_params.count { return; }
    let width = measure_params.vectors / measure_params.groups;
    let statistics = group_statistics(group_start(index, width), width, lane, lane);
    if lane == 0u {
        statistics_out[index] = statistics[0];
    }
}

fn activated(v: Vector) -> Vector {
    if SILU {
        return silu(v);
    }
    return v;
}

// x - mean comes first: x rstd - mean rstd would cancel where the mean is large.
@compute @workgroup_size(RUN_INVOCATIONS)
fn normalize(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, RUN_INVOCATIONS);
    if i >= params.count { return; }
    let run = pixel_run(i, params.pixels, params.vectors);
    let affine = affine_of(run.image, run.vector, params.vectors);
    let s = statistics[group_of(run.image, run.vector)];
    let slope = s.y * affine.factor;
    for (var k = run.first; k < run.end; k += params.vectors) {
        y[k] = Stored(activated((Vector(x[k]) - Vector(s.x)) * slope + affine.offset));
    }
}

// measure and normalize in one launch: groups of channels that lie side by side, each of ROWS invocations.
@compute @workgroup_size(COLUMNS, ROWS)
fn measure_and_normalize(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) invocation: u32) {
    let first = workgroup_index(group, groups) * COLUMNS * EACH;
    if first >= measure_params.count { return; }
    // Past the last group, that one again: all of a workgroup must come to the sum.
    let index = min(first + invocation % COLUMNS, measure_params.count - 1u);
    let lane = invocation / COLUMNS;
    let vectors = measure_params.vectors;
    let width = vectors / measure_params.groups;
    let start = group_start(index, width);
    let s = group_statistics(start, width, lane, invocation);
    if lane == 0u {
        for (var e = 0u; e < EACH; e++) {
            statistics_out[index + e * COLUMNS] = s[e];
        }
    }
    let part = part_of(lane, width);
    for (var v = part.column; v < width; v += part.columns) {
        var slope: array<Vector, EACH>;
        var offset: array<Vector, EACH>;
        for (var e = 0u; e < EACH; e++) {
            let vector = (index % measure_params.groups + e * COLUMNS) * width + v;
            let affine = affine_of(index / measure_params.groups, vector, vectors);
            slope[e] = s[e].y * affine.factor;
            offset[e] = affine.offset;
        }
        for (var p = part.row; p < measure_params.pixels; p += part.rows) {
            for (var e = 0u; e < EACH; e++) {
                let k = start + p * vectors + v + e * COLUMNS * width;
                y[k] = Stored(activated((Vector(x[k]) - Vector(s[e].x)) * slope[e] + offset[e]));
            }
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
    let blocks = (vectors + COLUMNS * EACH - 1u) / (COLUMNS * EACH);
    return Column(index / blocks, (index % blocks) * COLUMNS * EACH + lane % COLUMNS, lane / COLUMNS);
}

@compute @workgroup_size(COLUMNS, ROWS)
fn sum_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count { return; }
    let column = column_of(index, params.vectors, lane);
    let vectors = params.vectors;
    // Past the last Vector, that one again.
    let vector = min(column.vector, vectors - 1u);
    var affine: array<Affine, EACH>;
    var s: array<vec2<f32>, EACH>;
    for (var e = 0u; e < EACH; e++) {
        affine[e] = affine_of(column.image, vector + e * COLUMNS, vectors);
        s[e] = statistics[group_of(column.image, vector + e * COLUMNS)];
    }
    let first = column.image * params.pixels * vectors + vector;
    var sums_a: array<Vector, EACH>;
    var sums_b: array<Vector, EACH>;
    for (var p = column.row; p < params.pixels; p += ROWS) {
        for (var e = 0u; e < EACH; e++) {
            let k = first + p * vectors + e * COLUMNS;
            let xh = (Vector(x[k]) - Vector(s[e].x)) * s[e].y;
            let dv = gradient_of_v(k, xh, affine[e]);
            sums_a[e] += dv;
            sums_b[e] += dv * xh;
        }
    }
    for (var e = 0u; e < EACH; e++) {
        let a = column_sum(sums_a[e], lane);
        let b = column_sum(sums_b[e], lane);
        if column.row == 0u && column.vector < vectors {
            let at = column.image * SUMS * vectors + vector + e * COLUMNS;
            sums_out[at + A * vectors] = a;
            sums_out[at + B * vectors] = b;
            sums_out[at + MEAN * vectors] = Vector(s[e].x);
            sums_out[at + RSTD * vectors] = Vector(s[e].y);
            sums_out[at + FACTOR * vectors] = affine[e].factor;
            sums_out[at + OFFSET * vectors] = affine[e].offset;
        }
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
    let pixels = backward_params.pixels;
    let run = pixel_run(i, pixels, vectors / EACH);
    let vector = run.vector / SIDE * (SIDE * EACH) + run.vector % SIDE;
    var s_mean: array<Vector, EACH>;
    var rstd: array<Vector, EACH>;
    var affine: array<Affine, EACH>;
    var mean: array<vec2<f32>, EACH>;
    for (var e = 0u; e < EACH; e++) {
        let row = run.image * SUMS * vectors + vector + e * SIDE;
        s_mean[e] = sums[row + MEAN * vectors];
        rstd[e] = sums[row + RSTD * vectors];
        affine[e] = Affine(sums[row + FACTOR * vectors], sums[row + OFFSET * vectors]);
        mean[e] = group_means(run.image, vector + e * SIDE);
    }
    let first = run.image * pixels * vectors + vector;
    for (var p = run.pixel; p < min(run.pixel + PIXELS, pixels); p++) {
        for (var e = 0u; e < EACH; e++) {
            let k = first + p * vectors + e * SIDE;
            let xh = (Vector(x[k]) - s_mean[e]) * rstd[e];
            let g = gradient_of_v(k, xh, affine[e]) * affine[e].factor;
            y[k] = Stored(plus_added(rstd[e] * (g - Vector(mean[e].x) - xh * mean[e].y), k, 0u));
        }
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
