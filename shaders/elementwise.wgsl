// Element by element:  add: y = a + b    scale: y = factor a    silu: y = a σ(a)
//                      silu_backward: dx = b silu'(a), a = x and b = dy
//
// One invocation per Vector (four elements where four divides their number).

#import lib/index
#import lib/vector4
#import lib/activation

struct Params {
    count: u32, // Vectors
}

struct ScaleParams {
    count: u32, // Vectors
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> scale_params: ScaleParams;
@group(0) @binding(1) var<storage, read> a: array<Stored>;
@group(0) @binding(2) var<storage, read> b: array<Stored>;
@group(0) @binding(3) var<storage, read_write> y: array<Stored>;

@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        y[i] = Stored(Vector(a[i]) + Vector(b[i]));
    }
}

@compute @workgroup_size(64)
fn scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < scale_params.count {
        y[i] = Stored(scale_params.factor * Vector(a[i]));
    }
}

@compute @workgroup_size(64)
fn silu_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        y[i] = Stored(silu(Vector(a[i])));
    }
}

@compute @workgroup_size(64)
fn silu_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        y[i] = Stored(Vector(b[i]) * silu_derivative(Vector(a[i])));
    }
}
