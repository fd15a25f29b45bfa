// What the gradient of the loss was multiplied by. `LossScale` of src/ops/loss_scale.rs has the same fields.

struct LossScale {
    scale: f32, // a power of two; 1 without
    steps: f32, // with a finite gradient, since it was changed
    skips: f32, // steps whose gradient, so scaled, was not finite
}
