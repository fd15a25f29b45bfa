// Sum over a workgroup of LANES invocations, by a tree in workgroup memory: the order is fixed, so the
// result is the same bits on every run. Every invocation must call it, and all get the sum.

const LANES: u32 = 64u; // a power of two

var<workgroup> partial_sums: array<f32, LANES>;

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    partial_sums[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            partial_sums[lane] += partial_sums[lane + half];
        }
        workgroupBarrier();
    }
    let sum = partial_sums[0];
    // Nobody may start the next sum before everybody has read this one.
    workgroupBarrier();
    return sum;
}
