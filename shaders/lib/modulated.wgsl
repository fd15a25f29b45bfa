// The modulation of a channel, from scale_shift (images, 2 channels); `at` counts its Vectors.

fn one_plus_scale(at: u32) -> Vector {
    return Vector(1.0) + Vector(scale_shift[at]);
}

fn shift(at: u32) -> Vector {
    return Vector(scale_shift[at]);
}
