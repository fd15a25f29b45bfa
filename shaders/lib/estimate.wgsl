// What a sampler makes of the network's answer f at x before anything is clamped:
//
//     raw = k (p_x x + p_f f)
//
// k is taken last: where signal is lost in noise, x - σ f nearly cancels and k = 1/α reaches 2e4, so that
// k x - k σ f would be wrong by 2e4 roundings of x.

// `Coefficients` of src/ops/denoise.rs has the same fields and says what each is.
struct Coefficients {
    p_x: f32,
    p_f: f32,
    k: f32,
    range: f32,
    c_x: f32,
    c_f: f32,
    c_0: f32,
    c_h: f32,
    c_z: f32,
    c_v: f32,
    h_x: f32,
    h_f: f32,
    h_0: f32,
}

fn raw_estimate(c: Coefficients, x: f32, f: f32) -> f32 {
    return c.k * (c.p_x * x + c.p_f * f);
}

// Where f (pixels, f_channels) answers for element i of x (pixels, channels).
fn answer_index(i: u32, channels: u32, f_channels: u32) -> u32 {
    return i + i / channels * (f_channels - channels);
}
