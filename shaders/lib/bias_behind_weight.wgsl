// As lib/bias_gradient, but the gradient of the bias lies behind that of the weight: `behind` is its place there. The importing
// file has fn store_sum(at: u32, value: Out).

const BIAS_GRADIENT: bool = true;

fn store_db(beside: u32, behind: u32, value: Out) {
    store_sum(behind, value);
}
