// Matrices that a subgroup multiplies at once, of 16 x 16 numbers each: TileC = TileA TileB + TileC.

const TILE: u32 = 16u;
alias TileA = coop_mat16x16<f16, A>;
alias TileB = coop_mat16x16<f16, B>;
alias TileC = coop_mat16x16<f32, C>;
