//! Test cases of the convolution and its gradients.

use super::registers::INVOCATIONS;
use super::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Padding};
use crate::ops::Case;
use crate::tensor::Spec;

/// Test cases.
pub fn cases() -> Vec<Case> {
    use Padding::{BottomRight, Symmetric};
    // kernel, stride, padding; batch, height, width, input and output channels
    let convolutions = [
        (1, 1, Symmetric(0), [1, 1, 1, 1, 1]),
        (1, 1, Symmetric(0), [2, 5, 7, 5, 12]),
        (1, 1, Symmetric(0), [3, 9, 11, 32, 8]),
        (1, 2, Symmetric(0), [2, 7, 5, 4, 3]),
        (3, 1, Symmetric(1), [1, 1, 1, 4, 4]),
        (3, 1, Symmetric(1), [2, 5, 7, 3, 4]),
        (3, 1, Symmetric(1), [1, 41, 3, 8, 12]),
        (3, 1, Symmetric(1), [3, 3, 9, 1, 8]),
        (3, 1, Symmetric(1), [1, 9, 18, 32, 1]),
        (3, 1, Symmetric(1), [2, 8, 16, 12, 32]),
        (3, 1, Symmetric(0), [2, 5, 7, 5, 5]),
        (3, 1, Symmetric(2), [1, 4, 6, 4, 8]),
        (3, 1, BottomRight, [1, 6, 5, 3, 4]),
        (3, 2, Symmetric(1), [1, 1, 1, 5, 3]),
        (3, 2, Symmetric(1), [2, 5, 7, 4, 8]),
        (3, 2, Symmetric(1), [1, 16, 20, 12, 12]),
        (3, 2, Symmetric(1), [1, 3, 41, 8, 1]),
        (3, 2, BottomRight, [2, 7, 5, 8, 4]),
        (3, 2, BottomRight, [1, 10, 18, 4, 32]),
        (3, 2, BottomRight, [2, 2, 3, 1, 5]),
        (5, 1, Symmetric(2), [1, 6, 5, 4, 4]),
        (5, 2, Symmetric(2), [1, 7, 9, 3, 8]),
        // Past SMALL_FLOPS, so with the large tiles, whole and cut.
        (1, 1, Symmetric(0), [2, 19, 23, 52, 68]),
        (3, 1, Symmetric(1), [1, 13, 21, 32, 36]),
        (3, 1, Symmetric(1), [3, 5, 7, 36, 68]),
        (3, 1, Symmetric(1), [2, 17, 41, 13, 18]),
        (3, 2, Symmetric(1), [1, 33, 29, 36, 32]),
        (3, 2, BottomRight, [2, 26, 22, 20, 60]),
        // Past SMALL_FLOPS with paddings that turn around, and stride 2: invocations that load for each other.
        (3, 1, Symmetric(2), [1, 17, 19, 24, 32]),
        (3, 1, BottomRight, [2, 13, 17, 32, 32]),
        (3, 1, Symmetric(0), [3, 41, 4, 64, 40]),
        (1, 2, Symmetric(0), [2, 39, 41, 64, 48]),
        // Channels that are staged four at a time, by several taps or one: pictures smaller than a tile, rows and columns that
        // are no multiple of it, widths that no power of two divides, splits of the weight's gradient, the phases of stride 2.
        (3, 1, Symmetric(1), [9, 3, 3, 16, 32]),
        (3, 1, Symmetric(1), [1, 5, 47, 32, 16]),
        (3, 1, Symmetric(0), [3, 9, 41, 16, 48]),
        (3, 1, BottomRight, [2, 7, 2, 48, 80]),
        (3, 2, Symmetric(1), [2, 11, 41, 16, 16]),
        (3, 2, BottomRight, [3, 14, 9, 32, 48]),
        (3, 2, Symmetric(0), [5, 3, 7, 16, 144]),
        (1, 2, Symmetric(0), [3, 7, 6, 32, 16]),
        (1, 1, Symmetric(0), [4, 8, 8, 144, 32]),
        (5, 2, Symmetric(2), [2, 9, 8, 16, 16]),
        (5, 1, Symmetric(3), [1, 1, 13, 16, 32]),
        // Pixels that sixteen divides, in rows of an even number and of an odd one, and even rows of pixels that it does not divide.
        (3, 1, Symmetric(1), [2, 8, 10, 16, 32]),
        (3, 1, Symmetric(1), [16, 5, 7, 16, 16]),
        (3, 2, Symmetric(1), [4, 16, 12, 32, 16]),
        (3, 1, Symmetric(0), [3, 9, 8, 16, 48]),
        // Channels that fill the stages of matrix units, in several tiles of sums, cut, and several stages of each tap.
        (3, 2, BottomRight, [3, 14, 10, 32, 80]),
        (3, 1, Symmetric(1), [2, 5, 7, 48, 80]),
        // One to four channels beside others that are loaded four at a time: more of them than invocations, runs of pixels that are
        // cut, splits of the weight's gradient with the bias's or without.
        (3, 1, Symmetric(1), [2, 13, 19, 144, 3]),
        (3, 2, Symmetric(1), [2, 9, 37, 40, 3]),
        (3, 1, Symmetric(1), [2, 13, 19, 3, 144]),
        (3, 1, BottomRight, [1, 17, 5, 1, 20]),
        (3, 1, Symmetric(2), [2, 3, 8, 132, 4]),
        (1, 1, Symmetric(0), [5, 6, 3, 4, 24]),
        (3, 1, Symmetric(0), [3, 9, 11, 36, 2]),
    ];
    let mut cases = Vec::new();
    for (number, (kernel, stride, padding, sizes)) in convolutions.into_iter().enumerate() {
        let [batch, height, width, input, output] = sizes;
        let conv = Conv2d { kernel, stride, padding };
        let name = format!(
            "{kernel}x{kernel} stride {stride}, {padding:?}, {batch}x{height}x{width}, {input} to {output}"
        );
        let x = Spec::f32([batch, height, width, input]);
        let w = Spec::f32([kernel, kernel, input, output]);
        let y = Spec::f32(conv.output_shape(&x.shape, output).axes());
        let backward_input = Conv2dBackwardInput { conv: conv.clone(), height, width };
        let backward_weight = |bias| Conv2dBackwardWeight { conv: conv.clone(), bias };
        let (b, row) = (Spec::f32([output]), Spec::f32([batch, output]));
        let (x, w, y, b) = (&x, &w, &y, &b);
        let mut all = vec![
            (Case::new(&name, conv.clone(), &[x, w, b].map(Spec::clone)), vec![0, 1]),
            (Case::new(&name, backward_input.clone(), &[y, w].map(Spec::clone)).no_gradient(), vec![0, 1]),
            (Case::new(&name, backward_weight(false), &[x, y].map(Spec::clone)).no_gradient(), vec![0, 1]),
        ];
        // What is fused into their stores: on some of the shapes, with every size of kernel and tile among them.
        let with = |what: &str| format!("{name}, {what} added");
        if number % 4 == 1 {
            all.extend([
                (Case::new(with("picture"), conv.clone(), &[x, w, b, y].map(Spec::clone)), vec![0, 1, 3]),
                (Case::new(with("row"), conv.clone(), &[x, w, b, &row].map(Spec::clone)), vec![0, 1, 3]),
                (
                    Case::new(with("picture"), backward_input, &[y, w, x].map(Spec::clone)).no_gradient(),
                    vec![0, 1, 2],
                ),
            ]);
        }
        if number % 4 == 3 {
            let name = format!("{name}, with the bias");
            let case = Case::new(name, backward_weight(true), &[x, y].map(Spec::clone)).no_gradient();
            all.push((case, vec![0, 1]));
        }
        cases.extend(all.into_iter().flat_map(|(case, half)| case.and_in_f16(&half)));
    }

    // Enough tiles for the large ones: 128 x 64 and 128 x 128, forward, of the input's gradient and of the weight's with its
    // splits, all of them cut.
    for (kernel, stride, [batch, height, width, input, output]) in [
        (3, 1, [1, 59, 421, 16, 20]),
        (3, 1, [1, 59, 421, 20, 16]),
        (1, 1, [3, 41, 101, 16, 256]),
        (1, 1, [3, 41, 101, 256, 16]),
        (3, 2, [5, 41, 123, 240, 16]),
        (1, 1, [1, 31, 101, 256, 240]),
    ] {
        let conv = Conv2d { kernel, stride, padding: Symmetric(kernel / 2) };
        let name =
            format!("{kernel}x{kernel} stride {stride}, {batch}x{height}x{width}, {input} to {output}");
        let x = Spec::f32([batch, height, width, input]);
        let w = Spec::f32([kernel, kernel, input, output]);
        let y = Spec::f32(conv.output_shape(&x.shape, output).axes());
        let backward_input = Conv2dBackwardInput { conv: conv.clone(), height, width };
        let backward_weight = Conv2dBackwardWeight { conv: conv.clone(), bias: true };
        cases.extend([
            Case::new(&name, conv, &[x.clone(), w.clone(), Spec::f32([output])]).large(),
            Case::new(&name, backward_input, &[y.clone(), w]).large(),
            Case::new(&name, backward_weight, &[x, y]).large(),
        ]);
    }

    // One invocation per picture, or per weight: past the limit of one dimension.
    const MANY: usize = 65_536 * INVOCATIONS + 1;
    let conv = Conv2d { kernel: 1, stride: 1, padding: Symmetric(0) };
    let (pictures, one) = (Spec::f32([MANY, 1, 1, 1]), Spec::f32([1, 1, 1, 1]));
    let backward_input = Conv2dBackwardInput { conv: conv.clone(), height: 1, width: 1 };
    let backward_weight = Conv2dBackwardWeight { conv: conv.clone(), bias: false };
    let name = "past 65535 workgroups";
    cases.push(Case::new(name, conv, &[pictures.clone(), one.clone(), Spec::f32([1])]).large());
    cases.push(Case::new(name, backward_input, &[pictures, one.clone()]).no_gradient().large());
    let many_weights = [Spec::f32([1, 1, 1, MANY]), one];
    cases.push(Case::new(name, backward_weight, &many_weights).no_gradient().large());
    cases
}
