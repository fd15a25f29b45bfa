// A weight's gradient alone; lib/bias_gradient has the same names.

const BIAS_GRADIENT: bool = false;

fn store_db(i: u32, value: Out) {}
