// What attention stores of a sum of products: the sum times a factor. lib/softmax_weight and lib/softmax_gradient have the same names.
//
// `row` is the place of L and D, `at` that of the result in c.

fn finished(sum: f32, row: u32, at: u32) -> f32 {
    return params.factor * sum;
}
