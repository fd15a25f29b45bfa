// What matrix units can do at most: y_g = rounds x w for each workgroup g, by adding the same products again and again. A subgroup
// keeps a column of four tiles of the result, whose sums do not wait for each other. The workgroup's subgroups share the
// columns out among them, so that the work is the same however large they are.

#import lib/matrix8

struct MatrixParams {
    rounds: u32,
}

const COLUMNS: u32 = 16u; // tiles

@group(0) @binding(0) var<uniform> matrix_params: MatrixParams;
@group(0) @binding(1) var<storage, read> x: array<f16>;       // (4 TILE, TILE)
@group(0) @binding(2) var<storage, read> w: array<f16>;       // (TILE, COLUMNS TILE)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (workgroups, 4 TILE, COLUMNS TILE)

@compute @workgroup_size(128)
fn matrix_ceiling(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_id) subgroup: u32,
                  @builtin(num_subgroups) subgroups: u32) {
    let width = COLUMNS * TILE;
    let a0 = coopLoadT<TileA>(&x[0], TILE);
    let a1 = coopLoadT<TileA>(&x[TILE * TILE], TILE);
    let a2 = coopLoadT<TileA>(&x[2u * TILE * TILE], TILE);
    let a3 = coopLoadT<TileA>(&x[3u * TILE * TILE], TILE);
    for (var column = subgroup; column < COLUMNS; column += subgroups) {
        let start = column * TILE;
        let b = coopLoadT<TileB>(&w[start], width);
        var c0 = TileC();
        var c1 = TileC();
        var c2 = TileC();
        var c3 = TileC();
        for (var k = 0u; k < matrix_params.rounds; k++) {
            c0 = coopMultiplyAdd(a0, b, c0);
            c1 = coopMultiplyAdd(a1, b, c1);
            c2 = coopMultiplyAdd(a2, b, c2);
            c3 = coopMultiplyAdd(a3, b, c3);
        }
        // Each place by a name: naga 30 fails to write sums that stand within the call.
        let y0 = 4u * group.x * TILE * width + start;
        let y1 = y0 + TILE * width;
        let y2 = y1 + TILE * width;
        let y3 = y2 + TILE * width;
        coopStoreT(c0, &y[y0], width);
        coopStoreT(c1, &y[y1], width);
        coopStoreT(c2, &y[y2], width);
        coopStoreT(c3, &y[y3], width);
    }
}
