// Matrices that a subgroup multiplies at once, of 8 x 8 numbers each: TileC = TileA TileB + TileC.

const TILE: u32 = 8u;
alias TileA = coop_mat8x8<f16, A>;
alias TileB = coop_mat8x8<f16, B>;
alias TileC = coop_mat8x8<f32, C>;
