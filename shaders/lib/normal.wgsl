// Standard normals by Box and Muller (1958): sqrt(-2 ln u) (cos 2πv, sin 2πv).
//
// Logarithm and sine are our own polynomials: drivers may be off by 2^-21 absolute near ln 1 = 0, where
// the square root turns it into 1e-3, and every driver errs in its own way. Ours are the same everywhere.

#import lib/philox

// (bits + 1/2) / 2^32 in (0, 1]: never 0, so the logarithm is finite; 1 only by rounding, where it is 0.
fn unit(bits: u32) -> f32 {
    return (f32(bits) + 0.5) * 2.3283064365386963e-10;
}

// ln x for a normal positive x: x = m 2^e with m in [sqrt(1/2), sqrt 2), then
// ln m = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1), |s| < 0.172:
// the first neglected term is 2 s^13 / 13 < 2e-11.
fn natural_log(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    // 0x3f3504f3 is sqrt(1/2); adding the difference makes the exponent field round at sqrt 2.
    let shifted = bits + (0x3f800000u - 0x3f3504f3u);
    let exponent = f32(i32(shifted >> 23u) - 127);
    let m = bitcast<f32>((shifted & 0x007fffffu) + 0x3f3504f3u);
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series = q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0)))));
    return exponent * 0.6931472 + 2.0 * (s + s * series);
}

// (cos 2πv, sin 2πv) for v in (0, 1): the nearest quarter turn is taken off exactly, and the rest,
// an angle within ±π/4, goes through the Taylor series (first neglected terms below 1e-9).
fn unit_circle(v: f32) -> vec2<f32> {
    let quarter = round(v * 4.0);
    let a = (v - quarter * 0.25) * 6.2831855;
    let q = a * a;
    let s = a * (1.0 - q * (1.0 / 6.0 - q * (1.0 / 120.0 - q * (1.0 / 5040.0 - q * (1.0 / 362880.0)))));
    let c = 1.0 - q * (0.5 - q * (1.0 / 24.0 - q * (1.0 / 720.0 - q * (1.0 / 40320.0 - q * (1.0 / 3628800.0)))));
    let turn = u32(quarter) & 3u;
    var p = vec2<f32>(c, s);
    if turn == 1u { p = vec2<f32>(-s, c); }
    if turn == 2u { p = vec2<f32>(-c, -s); }
    if turn == 3u { p = vec2<f32>(s, -c); }
    return p;
}

fn normal_pair(a: u32, b: u32) -> vec2<f32> {
    return sqrt(-2.0 * natural_log(unit(a))) * unit_circle(unit(b));
}

// Four normals from one Philox block; the words (0, 1) and (2, 3) make a pair each.
fn normal4(counter: vec4<u32>, key: vec2<u32>) -> vec4<f32> {
    let bits = philox4x32(counter, key);
    return vec4<f32>(normal_pair(bits.x, bits.y), normal_pair(bits.z, bits.w));
}
