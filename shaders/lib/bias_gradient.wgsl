// The gradient of a bias beside that of a weight: db[n] = Σ_m dy[m,n] over the rows that a split goes through anyway. `beside` is
// its place in db. Import lib/out4 or lib/out1 before it.

const BIAS_GRADIENT: bool = true;

@group(0) @binding(18) var<storage, read_write> db: array<Out>; // (splits, outputs)

fn store_db(beside: u32, behind: u32, value: Out) {
    db[beside] = value;
}
