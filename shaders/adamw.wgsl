// AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) with the exponential moving average of the
// weights, in one pass over flat vectors:
//
//     g ← factor g                        m ← β1 m + (1 - β1) g         v ← β2 v + (1 - β2) g²
//     p ← (1 - lr decay) p - lr (m / (1 - β1^t)) / (sqrt(v / (1 - β2^t)) + eps)
//     ema ← μ ema + (1 - μ) p
//
// and a copy of p in f16, where one is kept. Nothing changes when the gradient was not finite (finite = 0). One invocation
// per Vector.

#import lib/index
#import lib/vector4
#import lib/no_weight_copy
#import lib/hyper
#import lib/update_scale

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
@group(0) @binding(6) var<storage, read> scale: UpdateScale;
@group(0) @binding(7) var<storage, read> hyper: Hyper;

@compute @workgroup_size(64)
fn adamw(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i >= params.count {
        return;
    }
    if scale.finite == 0.0 {
        store_copy(i, p[i]);
        return;
    }
    let gradient = scale.factor * g[i];
    let first = params.beta1 * m[i] + (1.0 - params.beta1) * gradient;
    let second = params.beta2 * v[i] + (1.0 - params.beta2) * gradient * gradient;
    let decayed = (1.0 - hyper.learning_rate * params.weight_decay) * p[i];
    let root = sqrt(second / scale.correction2);
    let updated = decayed - hyper.learning_rate * (first / scale.correction1) / (root + Vector(params.epsilon));
    m[i] = first;
    v[i] = second;
    p[i] = updated;
    store_copy(i, updated);
    ema[i] = hyper.ema_decay * ema[i] + (1.0 - hyper.ema_decay) * updated;
}
