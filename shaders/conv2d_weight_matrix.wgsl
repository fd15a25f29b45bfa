// The gradient of a convolution's weight from f16 tensors, as a product of matrices on matrix units (lib/gemm_matrix):
//   dw[k,ci,co] = Σ_p x[s p + k - pad, ci] dy[p,co]      rows (ky, kx, ci), depth p = (batch, oy, ox)
// and perhaps db[co] = Σ_p dy[p,co]. Gradients are f32.
//
// An invocation stages four neighbouring channels of one tap from four neighbouring pixels: the first of them is divided into row
// and column once a stage, and the others are counted on from it.

#import lib/index
#import lib/conv2d_params
#import lib/out4
#import lib/gemm_matrix

@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>; // x (batch, height, width, in)
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>; // dy (batch, out height, out width, out)
@group(0) @binding(4) var<storage, read_write> c: array<vec4<f32>>; // dw [splits][rows][columns]

// Channels are counted in vectors of four.
struct Cursor {
    end: u32, // of the split's pixels
    first: u32, // the first pixel to stage
    image: u32, // of the pixel that load_a has next
    oy: u32,
    ox: u32,
    ky: u32,
    kx: u32,
    a_inside: bool, // whether the invocation's row and column are within the matrices
    a_channel: u32,
    b_inside: bool,
    b_channel: u32,
}

// Divides the first pixel.
fn find_pixel(at: ptr<function, Cursor>) {
    let row = (*at).first / params.out_width;
    (*at).ox = (*at).first % params.out_width;
    (*at).oy = row % params.out_height;
    (*at).image = row / params.out_height;
}

fn cursor(first: vec3<u32>, lane: u32) -> Cursor {
    let m = first.x + lane % (TILE_M / 4u) * 4u;
    let n = first.y + lane % (TILE_N / 4u) * 4u;
    let position = m / params.channels;
    var at: Cursor;
    at.end = min(first.z + params.split_depth, params.depth);
    at.first = first.z + lane / (TILE_N / 4u) * 4u;
    at.ky = position / params.kernel;
    at.kx = position % params.kernel;
    at.a_inside = m < params.rows;
    at.a_channel = m % params.channels / 4u;
    at.b_inside = n < params.columns;
    at.b_channel = n / 4u;
    find_pixel(&at);
    return at;
}

fn next_stage(at: ptr<function, Cursor>) {
    (*at).first += TILE_K;
    find_pixel(at);
}

fn load_a(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    // Above and left of the picture these wrap round to huge numbers, which the comparison refuses too.
    let y = (*at).oy * params.stride + (*at).ky - params.padding;
    let x = (*at).ox * params.stride + (*at).kx - params.padding;
    var v: vec4<f16>;
    if (*at).a_inside && (*at).first + i < (*at).end && y < params.height && x < params.width {
        v = a[(((*at).image * params.height + y) * params.width + x) * (params.channels / 4u) + (*at).a_channel];
    }
    (*at).ox++;
    if (*at).ox == params.out_width {
        (*at).ox = 0u;
        (*at).oy++;
        if (*at).oy == params.out_height {
            (*at).oy = 0u;
            (*at).image++;
        }
    }
    return v;
}

fn load_b(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    let pixel = (*at).first + i;
    var v: vec4<f16>;
    if (*at).b_inside && pixel < (*at).end {
        v = b[pixel * (params.columns / 4u) + (*at).b_channel];
    }
    return v;
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    c[((split * params.rows + m) * params.columns + n) / 4u] = value;
}

fn store_column_sums(split: u32, n: u32, value: vec4<f32>) {
    store_db((split * params.columns + n) / 4u, 0u, value);
}

@compute @workgroup_size(INVOCATIONS)
fn convolution(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
               @builtin(num_subgroups) subgroups: u32) {
    gemm_matrix(workgroup_index(group, groups), lane, subgroup, subgroups);
}
