// What matrix units can do at most: y_g = rounds x w for each workgroup g, by adding the same products again and again. A subgroup
// keeps a column of four tiles of the result, whose sums do not wait for each other. The workgroup's subgroups share the
// columns out among them, so that the work is the same however large they are.

#import lib/index

struct MatrixParams {
    count: u32, // workgroups
    rounds: u32,
}

const SIDE: u32 = 8u; // rows and columns of a tile
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
const COLUMNS: u32 = 16u; // tiles

@group(0) @binding(0) var<uniform> matrix_params: MatrixParams;
@group(0) @binding(1) var<storage, read> x: array<f16>;       // (4 SIDE, SIDE)
@group(0) @binding(2) var<storage, read> w: array<f16>;       // (SIDE, COLUMNS SIDE)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (workgroups, 4 SIDE, COLUMNS SIDE)

@compute @workgroup_size(128)
fn matrix_ceiling(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32) {
    let g = workgroup_index(group, groups);
    if g >= matrix_params.count {
        return;
    }
    let width = COLUMNS * SIDE;
    let a0 = coopLoadT<Left>(&x[0], SIDE);
    let a1 = coopLoadT<Left>(&x[SIDE * SIDE], SIDE);
    let a2 = coopLoadT<Left>(&x[2u * SIDE * SIDE], SIDE);
    let a3 = coopLoadT<Left>(&x[3u * SIDE * SIDE], SIDE);
    for (var column = subgroup; column < COLUMNS; column += subgroups) {
        let b = coopLoadT<Right>(&w[column * SIDE], width);
        var c0 = Sum();
        var c1 = Sum();
        var c2 = Sum();
        var c3 = Sum();
        for (var k = 0u; k < matrix_params.rounds; k++) {
            c0 = coopMultiplyAdd(a0, b, c0);
            c1 = coopMultiplyAdd(a1, b, c1);
            c2 = coopMultiplyAdd(a2, b, c2);
            c3 = coopMultiplyAdd(a3, b, c3);
        }
        let at = 4u * g * SIDE * width + column * SIDE;
        coopStoreT(c0, &y[at], width);
        coopStoreT(c1, &y[at + SIDE * width], width);
        coopStoreT(c2, &y[at + 2u * SIDE * width], width);
        coopStoreT(c3, &y[at + 3u * SIDE * width], width);
    }
}
