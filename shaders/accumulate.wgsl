// Sums over the micro-batches of a step, and the log of steps, both in place:
//
//     accumulate: sum ← x on the first micro-batch, sum + x on the others
//     record:     log[row] ← (loss, norm, factor, finite, scale of the loss)

#import lib/index
#import lib/vector4
#import lib/step
#import lib/clipping
#import lib/loss_scale

struct AccumulateParams {
    count: u32, // Vectors bound
}

struct RecordParams {
    rows: u32, // of the log
}

struct LogRow {
    loss: f32,
    norm: f32,
    factor: f32,
    finite: f32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> accumulate_params: AccumulateParams;
@group(0) @binding(0) var<uniform> record_params: RecordParams;
@group(0) @binding(1) var<storage, read_write> sum: array<Vector>; // (count)
@group(0) @binding(2) var<storage, read> x: array<Vector>;         // (count)
@group(0) @binding(3) var<storage, read> step: Step;
@group(0) @binding(4) var<storage, read_write> log_rows: array<LogRow>; // (rows)
@group(0) @binding(5) var<storage, read> loss: array<f32>;      // (1)
@group(0) @binding(6) var<storage, read> clipping: Clipping;
@group(0) @binding(7) var<storage, read> loss_scale: LossScale;

@compute @workgroup_size(64)
fn accumulate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = invocation_index(group, groups, lane, 64u);
    if i < accumulate_params.count {
        var value = x[i];
        if step.micro > 0u {
            value += sum[i];
        }
        sum[i] = value;
    }
}

// One invocation.
@compute @workgroup_size(1)
fn record() {
    log_rows[step.row % record_params.rows] =
        LogRow(loss[0], clipping.norm, clipping.factor, clipping.finite, loss_scale.scale);
}
