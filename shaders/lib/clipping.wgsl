// What is known of a gradient before it is used. `Clipping` of src/ops/optimizer.rs has the same fields.

struct Clipping {
    norm: f32,
    factor: f32, // of the gradient: min(1, max_norm / norm), divided by the scale of the loss
    finite: f32, // 1 or 0
}
