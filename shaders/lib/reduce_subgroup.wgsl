// lib/reduce where the workgroup is one subgroup: nothing passes through memory, and nobody waits. Each step adds what the same
// step of the tree adds, so the bits are the same.

const LANES: u32 = 8u; // the subgroup's size

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    var sum = value;
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        sum += subgroupShuffleXor(sum, half);
    }
    return sum;
}
