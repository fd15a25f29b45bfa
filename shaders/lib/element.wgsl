// What lies in a buffer of activations or weights: f32, or f16. Arithmetic is done in f32.

alias Element = f32;
