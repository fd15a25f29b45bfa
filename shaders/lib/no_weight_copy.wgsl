// No copy of the weights is kept; lib/weight_copy has the same name.

fn store_copy(i: u32, weight: Vector) {}
