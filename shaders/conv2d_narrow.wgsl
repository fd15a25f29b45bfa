// Convolution to one to four channels: y[p,co] = b[co] + Σ_{ky,kx,ci} x[s p + k - pad, ci] w[k,ci,co], for GPUs. A tile of
// lib/gemm_vectors has 64 columns at least, of which three channels would leave 61 empty.
//
// LANES invocations share a run of eight pixels of y in one row and divide the channels of x among them, four at a time; they add
// their sums in workgroup memory, in the order of the lanes. y may have a further tensor added to it.

#import lib/index
#import lib/out1
#import lib/no_added

const COLUMNS: u32 = 3u; // channels of y
const LANES: u32 = 32u;
const RUNS: u32 = 2u; // runs of a workgroup

const INVOCATIONS: u32 = LANES * RUNS;
const PIXELS: u32 = 8u;

struct Params {
    batch: u32,
    height: u32,
    width: u32,
    vectors: u32, // channels of x / 4
    out_height: u32,
    out_width: u32,
    kernel: u32,
    stride: u32,
    padding: u32, // at the top and at the left
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<Element>>; // (batch, height, width, vectors)
@group(0) @binding(2) var<storage, read> w: array<Element>; // (kernel, kernel, 4 vectors, COLUMNS)
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (COLUMNS)
@group(0) @binding(4) var<storage, read_write> y: array<Element>; // (batch, out height, out width, COLUMNS)

var<workgroup> shares: array<vec4<f32>, INVOCATIONS * PIXELS>; // [RUNS][LANES][PIXELS]

// The weights of an input channel, from its first on.
fn weights(at: u32) -> vec4<f32> {
    var v = vec4<f32>(f32(w[at]), 0.0, 0.0, 0.0);
    if COLUMNS > 1u {
        v.y = f32(w[at + 1u]);
    }
    if COLUMNS > 2u {
        v.z = f32(w[at + 2u]);
    }
    if COLUMNS > 3u {
        v.w = f32(w[at + 3u]);
    }
    return v;
}

// Four channels of the pixel in column `column` of a row of x, zero outside the picture, where the column wraps round.
fn pixel(row: u32, column: u32, vector: u32) -> vec4<f32> {
    let inside = column < params.width;
    let value = vec4<f32>(x[select(0u, (row * params.width + column) * params.vectors + vector, inside)]);
    return select(vec4<f32>(), value, inside);
}

fn plus_product(sum: vec4<f32>, x: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(x.w), w[3], fma(vec4<f32>(x.z), w[2], fma(vec4<f32>(x.y), w[1], fma(vec4<f32>(x.x), w[0], sum))));
}

@compute @workgroup_size(INVOCATIONS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let runs_a_row = (params.out_width + PIXELS - 1u) / PIXELS;
    let first_run = workgroup_index(group, groups) * RUNS;
    let run = first_run + lane / LANES;
    let out_row = run / runs_a_row; // of all pictures
    let first = run % runs_a_row * PIXELS;

    // Names of their own, and no array: some compilers would keep it in memory.
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    var s4 = vec4<f32>();
    var s5 = vec4<f32>();
    var s6 = vec4<f32>();
    var s7 = vec4<f32>();
    if out_row < params.batch * params.out_height {
        let image = out_row / params.out_height;
        for (var vector = lane % LANES; vector < params.vectors; vector += LANES) {
            for (var tap = 0u; tap < params.kernel * params.kernel; tap++) {
                // Above and left of the picture these wrap round to huge numbers, which comparisons refuse.
                let in_row = out_row % params.out_height * params.stride + tap / params.kernel - params.padding;
                let column = first * params.stride + tap % params.kernel - params.padding;
                if in_row >= params.height {
                    continue;
                }
                let row = image * params.height + in_row;
                let at = (tap * params.vectors + vector) * 4u * COLUMNS;
                let m = mat4x4<f32>(weights(at), weights(at + COLUMNS), weights(at + 2u * COLUMNS),
                                    weights(at + 3u * COLUMNS));
                s0 = plus_product(s0, pixel(row, column, vector), m);
                s1 = plus_product(s1, pixel(row, column + params.stride, vector), m);
                s2 = plus_product(s2, pixel(row, column + 2u * params.stride, vector), m);
                s3 = plus_product(s3, pixel(row, column + 3u * params.stride, vector), m);
                s4 = plus_product(s4, pixel(row, column + 4u * params.stride, vector), m);
                s5 = plus_product(s5, pixel(row, column + 5u * params.stride, vector), m);
                s6 = plus_product(s6, pixel(row, column + 6u * params.stride, vector), m);
                s7 = plus_product(s7, pixel(row, column + 7u * params.stride, vector), m);
            }
        }
    }

    let mine = lane * PIXELS;
    shares[mine] = s0;
    shares[mine + 1u] = s1;
    shares[mine + 2u] = s2;
    shares[mine + 3u] = s3;
    shares[mine + 4u] = s4;
    shares[mine + 5u] = s5;
    shares[mine + 6u] = s6;
    shares[mine + 7u] = s7;
    workgroupBarrier();
    for (var i = lane; i < RUNS * PIXELS; i += INVOCATIONS) {
        let of_run = first_run + i / PIXELS;
        let column = of_run % runs_a_row * PIXELS + i % PIXELS;
        let row = of_run / runs_a_row;
        if row < params.batch * params.out_height && column < params.out_width {
            var sum = vec4<f32>();
            for (var share = 0u; share < LANES; share++) {
                sum += shares[(i / PIXELS * LANES + share) * PIXELS + i % PIXELS];
            }
            let at = (row * params.out_width + column) * COLUMNS;
            for (var n = 0u; n < COLUMNS; n++) {
                let image = row / params.out_height * COLUMNS;
                y[at + n] = Element(plus_added(bias[n] + sum[n], at + n, image + n));
            }
        }
    }
}
