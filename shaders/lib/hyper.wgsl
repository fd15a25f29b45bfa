// What changes from step to step of the optimizer. `Hyper` of src/ops/optimizer.rs has the same fields.

struct Hyper {
    learning_rate: f32,
    ema_decay: f32, // μ of the moving average
    max_norm: f32,  // 0 for no clipping
}
