// The weight that belongs to q[t]·k[u], from the log-sum-exp of its row; the same names as lib/scaled_sum.

@group(0) @binding(6) var<storage, read> log_sum_exp: array<f32>; // (batch, heads, T): L

fn finished(sum: Out, row: u32, at: u32) -> Out {
    return exp(params.factor * sum - log_sum_exp[row]);
}
