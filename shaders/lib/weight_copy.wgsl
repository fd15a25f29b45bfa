// The copy of the weights that products read, in f16, as long as the flat vector. Import lib/vector4 or lib/vector1 before it.

alias Copied = vec4<f16>; // f16 with lib/vector1

@group(0) @binding(8) var<storage, read_write> copy: array<Copied>; // (count)

fn store_copy(i: u32, weight: Vector) {
    copy[i] = Copied(weight);
}
