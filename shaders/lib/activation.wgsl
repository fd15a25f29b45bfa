// SiLU (Elfwing et al., arXiv 1702.03118): silu(x) = x σ(x), σ(x) = 1 / (1 + e^-x).
// exp overflows to infinity for x < -88, where 1 / (1 + inf) = 0 is the right limit.
// Written on Vector, so that the same line serves one channel or four.

fn sigmoid(x: Vector) -> Vector {
    return Vector(1.0) / (Vector(1.0) + exp(-x));
}

fn silu(x: Vector) -> Vector {
    return x / (Vector(1.0) + exp(-x));
}

// silu'(x) = σ(x) (1 + x (1 - σ(x)))
fn silu_derivative(x: Vector) -> Vector {
    let s = sigmoid(x);
    return s * (Vector(1.0) + x * (Vector(1.0) - s));
}
