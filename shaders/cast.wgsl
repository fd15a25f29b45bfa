// y = x in another storage type, or a copy in the same one. One invocation per Vector.

#import lib/index
#import lib/vector4

alias Target = Stored; // vec4<f16> or f16 where the result is stored so

struct Params {
    count: u32, // Vectors
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<Target>;

@compute @workgroup_size(64)
fn convert(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        y[i] = Target(x[i]);
    }
}
