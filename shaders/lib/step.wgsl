// Where a run stands, and the Philox address of what it draws. `StepWords` of src/ops/noise.rs has the same fields.

struct Step {
    seed: vec2<u32>, // low word first; the key of Philox
    step: u32,       // of the optimizer or the sampler, from 0
    first_item: u32, // of the batch, among all items of the step
    micro: u32,      // micro-batch, from 0
    row: u32,        // of the log
}

// The counter of a block of four numbers of item n of the batch.
fn counter(step: Step, block: u32, stream: u32, n: u32) -> vec4<u32> {
    return vec4<u32>(block, step.step, stream, step.first_item + n);
}
