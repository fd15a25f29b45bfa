// AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) with the exponential moving average of the
// weights, in one pass over flat vectors:
//
//     g ← factor g                        m ← β1 m + (1 - β1) g         v ← β2 v + (1 - β2) g²
//     p ← (1 - lr decay) p - lr (m / (1 - β1^t)) / (sqrt(v / (1 - β2^t)) + eps)
//     ema ← μ ema + (1 - μ) p
//
// Nothing changes when the gradient was not finite (scale[1] = 0). One invocation per Vector.

#import lib/index
#import lib/vector4

struct Params {
    count: u32, // Vectors
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> p: array<Vector>;   // (count)
@group(0) @binding(2) var<storage, read> g: array<Vector>;         // (count)
@group(0) @binding(3) var<storage, read_write> m: array<Vector>;   // (count)
@group(0) @binding(4) var<storage, read_write> v: array<Vector>;   // (count)
@group(0) @binding(5) var<storage, read_write> ema: array<Vector>; // (count)
@group(0) @binding(6) var<storage, read> scale: array<f32>;     // (4): factor, finite, 1 - β1^t, 1 - β2^t
@group(0) @binding(7) var<storage, read> hyper: array<f32>;     // (8): lr, μ, ...

@compute @workgroup_size(64)
fn adamw(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count || scale[1] == 0.0 {
        return;
    }
    let gradient = scale[0] * g[i];
    let first = params.beta1 * m[i] + (1.0 - params.beta1) * gradient;
    let second = params.beta2 * v[i] + (1.0 - params.beta2) * gradient * gradient;
    let decayed = (1.0 - hyper[0] * params.weight_decay) * p[i];
    let updated = decayed - hyper[0] * (first / scale[2]) / (sqrt(second / scale[3]) + Vector(params.epsilon));
    m[i] = first;
    v[i] = second;
    p[i] = updated;
    ema[i] = hyper[1] * ema[i] + (1.0 - hyper[1]) * updated;
}
