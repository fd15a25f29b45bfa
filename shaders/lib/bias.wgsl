// The term that a product is started with: bias[n], one per column.

fn initial(n: u32) -> Out {
    return bias[n];
}
