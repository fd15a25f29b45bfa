// What AdamW multiplies a gradient and divides its moments by. `UpdateScale` of src/ops/optimizer.rs has the same fields.

struct UpdateScale {
    factor: f32,      // of the gradient
    finite: f32,      // 1 or 0
    correction1: f32, // 1 - β1^t, t from 1
    correction2: f32, // 1 - β2^t
}
