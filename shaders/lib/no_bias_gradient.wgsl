// A weight's gradient alone; lib/bias_gradient and lib/bias_behind_weight have the same names.

const BIAS_GRADIENT: bool = false;

fn store_db(beside: u32, behind: u32, value: Out) {}
