//! Test cases of attention and its gradients.

use super::{Attention, AttentionBackward};
use crate::ops::{Case, Fill};
use crate::tensor::Spec;
use std::sync::Arc;

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |batch: usize, length: usize, heads: usize, head: usize, large: bool| {
        let s = Spec::f32([batch, length, heads * head]);
        let statistic = Spec::f32([batch, heads, length]);
        let name = format!("{batch} x {length} rows, {heads} heads of {head}");
        let forward = Case::new(&name, Attention { heads }, &[s.clone(), s.clone(), s.clone()]);
        // What forward gives of these q, k and v: with made-up ones weights exceed 1, and some rows of a gradient are 15 times as
        // large as its root mean square, of which a tolerance is a part.
        let output = |number| Fill::Output(Arc::new(Attention { heads }), 3, number);
        let inputs = [s.clone(), s.clone(), s.clone(), s.clone(), statistic, s];
        let backward = Case::new(&name, AttentionBackward { heads }, &inputs)
            .fill(3, output(0))
            .fill(4, output(1))
            .no_gradient();
        let halves: [&[usize]; 2] = [&[0, 1, 2], &[0, 1, 2, 3, 5]];
        for (case, halves) in [forward, backward].into_iter().zip(halves) {
            cases.extend((if large { case.large() } else { case }).and_in_f16(halves));
        }
    };
    case(1, 1, 1, 1, false);
    case(2, 1, 2, 8, false);
    case(2, 5, 2, 8, false);
    case(1, 7, 3, 5, false);
    case(2, 64, 2, 8, false);
    case(1, 65, 1, 20, false);
    // Heads of more channels than invocations hold on any device, of lengths and widths that tiles do not divide.
    case(2, 5, 2, 64, false);
    case(1, 33, 2, 64, true);
    case(1, 67, 3, 96, true);
    case(1, 19, 1, 256, true);
    case(1, 131, 2, 256, true);
    case(1, 6, 1, 1028, true);
    // Lengths and widths that sixteen divides, or one of the two, and tiles do not: staged four at a time.
    case(2, 16, 1, 64, false);
    case(1, 80, 2, 80, true);
    case(3, 48, 1, 68, true);
    case(2, 36, 2, 112, true);
    // Enough of them for the large tiles, that with 64 columns and that with 128.
    case(64, 5, 4, 36, true);
    case(32, 70, 8, 68, true);
    case(48, 112, 4, 80, true);
    case(1, 1025, 1, 4, true);
    // On matrix units too, whose stages divide these; rows and columns of tiles are cut.
    case(2, 48, 3, 32, false);
    case(1, 96, 2, 80, true);
    // Matrices of more than one part of scratch memory, one in each.
    case(2, 2049, 1, 17, true);
    cases
}
