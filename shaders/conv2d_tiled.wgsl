// Convolution as an implicit product of matrices in staged tiles (lib/gemm_tile): the matrix of patches is
// never stored, its elements are read from the picture where they lie. PASS chooses what is multiplied:
//   0 forward          y[p,co]     = b[co] + Σ_{ky,kx,ci} x[s p + k - pad, ci] w[k,ci,co]
//                      rows p = (batch, oy, ox), depth (ky, kx, ci)
//   1 backward_input   dx[q,ci]    = Σ_{ky,kx,co} dy[(q + pad - k) / s, co] w[k,ci,co], where s divides it
//                      rows q = (batch, iy, ix), depth (ky, kx, co)
//   2 backward_weight  dw[k,ci,co] = Σ_p x[s p + k - pad, ci] dy[p,co]
//                      rows (ky, kx, ci), depth p = (batch, oy, ox); and perhaps db[co] = Σ_p dy[p,co]
// y and dx may have a further tensor added to them.

#import lib/index
#import lib/conv2d_params
#import lib/out1
#import lib/no_added
#import lib/gemm_tile
#import lib/bias

const PASS: u32 = 0u;

alias Result = Element; // f32 in pass 2: sums over pixels

@group(0) @binding(1) var<storage, read> a: array<Element>; // x (batch, height, width, in) or dy (batch, out height, out width, out)
@group(0) @binding(2) var<storage, read> b: array<Element>; // w (kernel, kernel, in, out) or dy
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (out)
@group(0) @binding(4) var<storage, read_write> c: array<Result>; // [splits][rows][columns]

// (batch, y, x) of a pixel of a picture.
fn pixel(index: u32, height: u32, width: u32) -> vec3<u32> {
    let row = index / width;
    return vec3<u32>(row / height, row % height, index % width);
}

// (ky, kx, channel) of an element of a patch.
fn tap(index: u32) -> vec3<u32> {
    let position = index / params.channels;
    return vec3<u32>(position / params.kernel, position % params.kernel, index % params.channels);
}

// x[s p + k - pad, ci], zero outside the picture.
fn x_at(p: vec3<u32>, k: vec3<u32>) -> f32 {
    // Above and left of the picture these wrap round to huge numbers, which the comparison refuses too.
    let y = p.y * params.stride + k.x - params.padding;
    let x = p.z * params.stride + k.y - params.padding;
    if y >= params.height || x >= params.width {
        return 0.0;
    }
    return f32(a[((p.x * params.height + y) * params.width + x) * params.channels + k.z]);
}

// dy[(q + pad - k) / s, co], zero where s does not divide and outside the picture.
fn dy_at(q: vec3<u32>, k: vec3<u32>) -> f32 {
    let y = q.y + params.padding - k.x;
    let x = q.z + params.padding - k.y;
    let oy = y / params.stride;
    let ox = x / params.stride;
    // A negative difference wraps round to nearly 2^32, and even its quotient is refused.
    if oy >= params.out_height || ox >= params.out_width || oy * params.stride != y || ox * params.stride != x {
        return 0.0;
    }
    return f32(a[((q.x * params.out_height + oy) * params.out_width + ox) * params.channels + k.z]);
}

fn load_a(m: u32, k: u32) -> f32 {
    switch PASS {
        case 0u: {
            return x_at(pixel(m, params.out_height, params.out_width), tap(k));
        }
        case 1u: {
            return dy_at(pixel(m, params.height, params.width), tap(k));
        }
        default: {
            return x_at(pixel(k, params.out_height, params.out_width), tap(m));
        }
    }
}

fn load_b(k: u32, n: u32) -> f32 {
    if PASS == 1u {
        let t = tap(k);
        let position = t.x * params.kernel + t.y;
        return f32(b[(position * params.columns + n) * params.channels + t.z]);
    }
    return f32(b[k * params.columns + n]);
}

fn store_c(split: u32, m: u32, n: u32, value: f32) {
    let at = (split * params.rows + m) * params.columns + n;
    let image = m / (params.out_height * params.out_width); // in pass 0
    c[at] = Result(plus_added(initial(n) + value, at, image * params.columns + n));
}

fn store_column_sum(split: u32, n: u32, value: f32) {
    store_db(split * params.columns + n, 0u, value);
}

@compute @workgroup_size(INVOCATIONS)
fn convolution(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    gemm(workgroup_index(group, groups), lane);
}
