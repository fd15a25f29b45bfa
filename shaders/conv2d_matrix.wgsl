// Convolution of f16 tensors as an implicit product of matrices on matrix units (lib/gemm_matrix): the matrix of patches is never
// stored, its elements are read from the picture where they lie. PASS chooses what is multiplied:
//   0 forward          y[p,co]  = b[co] + Σ_{ky,kx,ci} x[s p + k - pad, ci] w[k,ci,co]
//                      rows p = (batch, oy, ox), depth (ky, kx, ci)
//   1 backward_input   dx[q,ci] = Σ_{ky,kx,co} dy[(q + pad - k) / s, co] w[k,ci,co], where s divides it
//                      rows q = (batch, iy, ix), depth (ky, kx, co)
// y and dx may have a further tensor added to them.
//
// A stage is TILE_K channels of one tap, so TILE_K divides the channels of a. An invocation stages A of one pixel: it is divided into
// row and column once, and where the tap falls is found out when the tap changes.

#import lib/index
#import lib/conv2d_params
#import lib/out4
#import lib/no_added
#import lib/gemm_matrix
#import lib/bias

const PASS: u32 = 0u;

@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>; // x (batch, height, width, in) or dy (batch, out height, out width, out)
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>; // w (kernel, kernel, in, out)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>; // (out / 4)
@group(0) @binding(4) var<storage, read_write> c: array<StoredOut>; // [rows][columns]

// Places are counted in vectors of four channels.
struct Cursor {
    image: u32, // of the pixel whose A is staged
    y: u32,
    x: u32,
    ky: u32,
    kx: u32,
    channel: u32, // the first of the stage
    a_inside: bool,
    a_tap: u32, // where the pixel under the tap begins, 0 if that is outside
    a_part: u32, // from there and the channel on to what this invocation stages
    b_inside: bool,
    b_at: u32,
}

// Finds out where the tap falls.
fn find_tap(at: ptr<function, Cursor>) {
    // Above and left of the picture these wrap round to huge numbers, which the comparisons refuse too.
    var y = (*at).y * params.stride + (*at).ky - params.padding;
    var x = (*at).x * params.stride + (*at).kx - params.padding;
    var height = params.height;
    var width = params.width;
    var whole = true;
    if PASS == 1u {
        let up = (*at).y + params.padding - (*at).ky;
        let left = (*at).x + params.padding - (*at).kx;
        y = up / params.stride;
        x = left / params.stride;
        height = params.out_height;
        width = params.out_width;
        whole = y * params.stride == up && x * params.stride == left;
    }
    (*at).a_inside = whole && (*at).image < NOWHERE && y < height && x < width;
    let pixel = ((*at).image * height + y) * width + x;
    (*at).a_tap = select(0u, pixel * (params.channels / 4u), (*at).a_inside);
}

const NOWHERE: u32 = 0xffffffffu; // in the place of an image, past the last row

fn cursor(first: vec3<u32>, lane: u32) -> Cursor {
    let pixel = first.x + lane / ROW_LANES;
    let height = select(params.height, params.out_height, PASS == 0u);
    let width = select(params.width, params.out_width, PASS == 0u);
    var at: Cursor;
    at.image = select(NOWHERE, pixel / width / height, pixel < params.rows);
    at.y = pixel / width % height;
    at.x = pixel % width;
    at.a_part = lane % ROW_LANES * 4u;
    if PASS == 0u {
        let n = first.y + lane % (TILE_N / 4u) * 4u;
        at.b_inside = n < params.columns;
        at.b_at = lane / (TILE_N / 4u) * params.columns + n / 4u;
    } else {
        let n = first.y + lane / ROW_LANES;
        at.b_inside = n < params.columns;
        at.b_at = n * (params.channels / 4u) + lane % ROW_LANES * 4u;
    }
    find_tap(&at);
    return at;
}

fn next_stage(at: ptr<function, Cursor>) {
    (*at).channel += TILE_K / 4u;
    // Forward, k is a row of w and goes through all taps alike.
    (*at).b_at += select(TILE_K / 4u, TILE_K * (params.columns / 4u), PASS == 0u);
    if 4u * (*at).channel >= params.channels {
        (*at).channel = 0u;
        if PASS == 1u {
            (*at).b_at += (params.columns - 1u) * (params.channels / 4u);
        }
        (*at).kx++;
        if (*at).kx == params.kernel {
            (*at).kx = 0u;
            (*at).ky++;
        }
        find_tap(at);
    }
}

fn load_a(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    var v: vec4<f16>;
    if (*at).a_inside {
        v = a[(*at).a_tap + (*at).channel + (*at).a_part + i];
    }
    return v;
}

fn load_b(at: ptr<function, Cursor>, i: u32) -> vec4<f16> {
    var v: vec4<f16>;
    if (*at).b_inside {
        v = b[(*at).b_at + i * select(1u, params.columns / 4u, PASS == 0u)];
    }
    return v;
}

fn store_c(split: u32, m: u32, n: u32, value: vec4<f32>) {
    let at = (m * params.columns + n) / 4u;
    let image = m / (params.out_height * params.out_width); // in pass 0
    c[at] = StoredOut(plus_added(initial(n / 4u) + value, at, (image * params.columns + n) / 4u));
}

fn store_column_sums(split: u32, n: u32, value: vec4<f32>) {}

@compute @workgroup_size(INVOCATIONS)
fn convolution(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
               @builtin(num_subgroups) subgroups: u32) {
    gemm_matrix(workgroup_index(group, groups), lane, subgroup, subgroups);
}
