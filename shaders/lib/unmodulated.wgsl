// The modulation of a channel: none. lib/modulated has the same names.

fn one_plus_scale(at: u32) -> Vector {
    return Vector(1.0);
}

fn shift(at: u32) -> Vector {
    return Vector();
}
