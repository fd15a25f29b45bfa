// Sums over the micro-batches of a step, and the log of steps, both in place:
//
//     accumulate: sum ← x on the first micro-batch, sum + x on the others
//     record:     log[row] ← (loss, norm, factor, finite)

#import lib/index

struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> sum: array<f32>; // (count)
@group(0) @binding(2) var<storage, read> x: array<f32>;         // (count)
@group(0) @binding(3) var<storage, read> step: array<u32>;      // (8): [4] is the micro-batch, [5] the row of the log
@group(0) @binding(4) var<storage, read_write> log_rows: array<f32>; // (rows, 4)
@group(0) @binding(5) var<storage, read> loss: array<f32>;      // (1)
@group(0) @binding(6) var<storage, read> norm: array<f32>;      // (4): norm, factor, finite, 0

@compute @workgroup_size(64)
fn accumulate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < params.count {
        if step[4] == 0u {
            sum[i] = x[i];
        } else {
            sum[i] += x[i];
        }
    }
}

// One workgroup, of which four invocations write a column each.
@compute @workgroup_size(64)
fn record(@builtin(local_invocation_index) lane: u32) {
    if lane < 4u {
        var value = loss[0];
        if lane > 0u {
            value = norm[lane - 1u];
        }
        log_rows[(step[5] % params.count) * 4u + lane] = value;
    }
}
