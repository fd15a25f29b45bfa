// A product without a bias; the same name as lib/bias.

fn initial(n: u32) -> Out {
    return Out();
}
