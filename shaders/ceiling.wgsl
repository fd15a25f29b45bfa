// What the device can do at most.   fma: z = z m + c in sixteen independent chains, registers only
//                                   copy: y = x, four elements at a time
//                                   workgroup: y = sums of what lies in workgroup memory, four elements at a time
// ceiling_subgroup.wgsl and ceiling_matrix.wgsl have what needs extensions.

#import lib/index

struct LoopParams {
    count: u32,  // invocations
    rounds: u32, // turns of LINKS links each
}

struct CopyParams {
    count: u32, // vectors
}

alias Element = f32; // of the multiply-adds, whose arithmetic is in this type too
alias Four = vec4<Element>;
const LINKS: u32 = 8u;

@group(0) @binding(0) var<uniform> loop_params: LoopParams;
@group(0) @binding(0) var<uniform> copy_params: CopyParams;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>; // (invocations)
@group(0) @binding(3) var<storage, read> x4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y4: array<vec4<f32>>;

var<workgroup> tile: array<vec4<f32>, 512>; // half of what WebGPU allows, so that workgroups share a core

@compute @workgroup_size(64)
fn fma_ceiling(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < loop_params.count {
        // |m| < 1, so the chains stay finite; m comes from memory, so nothing can be folded away.
        let m = Four(0.5 + 0.25 * clamp(x[0], -1.0, 1.0));
        let c = Four(Element(f32(i % 256u) / 256.0));
        var z0 = c;
        var z1 = c + 1.0;
        var z2 = c + 2.0;
        var z3 = c + 3.0;
        for (var k = 0u; k < loop_params.rounds; k++) {
            // Eight links per turn, or the loop itself is a third of the work on a CPU driver.
            for (var link = 0u; link < LINKS; link++) {
                z0 = fma(z0, m, c);
                z1 = fma(z1, m, c);
                z2 = fma(z2, m, c);
                z3 = fma(z3, m, c);
            }
        }
        let s = (z0 + z1) + (z2 + z3);
        y[i] = (s.x + s.y) + (s.z + s.w);
    }
}

@compute @workgroup_size(64)
fn copy_ceiling(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < copy_params.count {
        y4[i] = x4[i];
    }
}

@compute @workgroup_size(256)
fn workgroup_ceiling(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 256u);
    tile[lane] = x4[lane];
    tile[lane + 256u] = x4[lane + 256u];
    workgroupBarrier();
    var sum = vec4<f32>();
    for (var turn = 0u; turn < loop_params.rounds; turn++) {
        // Another place in each turn, or the loads would be moved out of the loop. Neighbours read neighbouring vectors.
        let first = (lane + turn) % 256u;
        for (var link = 0u; link < LINKS; link++) {
            sum += tile[first + 32u * link];
        }
    }
    if i < loop_params.count {
        y[i] = Element((sum.x + sum.y) + (sum.z + sum.w));
    }
}
