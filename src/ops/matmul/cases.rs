//! Test cases of the linear layer and its gradients.

use super::{
    Linear, LinearLayers, LinearLayersBackwardInput, LinearLayersBackwardWeight, MatmulBackwardInput,
    MatmulBackwardWeight,
};
use crate::ops::Case;
use crate::tensor::{DType, Spec};

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |rows: &[usize], inputs: usize, outputs: usize, large: bool| {
        let tensor = |last: usize| Spec::f32([rows, &[last]].concat());
        let (x, dy) = (tensor(inputs), tensor(outputs));
        let (w, b) = (Spec::f32([inputs, outputs]), Spec::f32([outputs]));
        let name = format!("{rows:?} rows, {inputs} to {outputs}");
        let (x, w, b, dy) = (&x, &w, &b, &dy);
        let of = |op: &str| format!("{name}, {op} added");
        let weight = |name: &str, bias: bool| {
            Case::new(name, MatmulBackwardWeight { bias }, &[x, dy].map(Spec::clone)).no_gradient()
        };
        let mut all = vec![
            (Case::new(&name, Linear, &[x, w, b].map(Spec::clone)), vec![0, 1]),
            (Case::new(&name, MatmulBackwardInput, &[dy, w].map(Spec::clone)).no_gradient(), vec![0, 1]),
            (weight(&name, false), vec![0, 1]),
        ];
        if x.shape.rows() <= 1000 {
            all.extend([
                (Case::new(of("rows"), Linear, &[x, w, b, dy].map(Spec::clone)), vec![0, 1, 3]),
                (
                    Case::new(of("rows"), MatmulBackwardInput, &[dy, w, x].map(Spec::clone)).no_gradient(),
                    vec![0, 1, 2],
                ),
                (weight(&format!("{name}, with the bias"), true), vec![0, 1]),
            ]);
        }
        let all = all.into_iter().map(|(c, half)| (if large { c.large() } else { c }, half));
        cases.extend(all.flat_map(|(c, half)| c.and_in_f16(&half)));
    };
    // Both, one and none of the channel counts divisible by four; tiles that hang over every edge.
    case(&[1], 1, 1, false);
    case(&[5], 7, 3, false);
    case(&[3, 5], 8, 6, false);
    case(&[41], 9, 20, false);
    case(&[2, 3, 3], 12, 16, false);
    case(&[16], 128, 128, false);
    case(&[47], 67, 130, false);
    case(&[2, 35], 48, 80, false);
    case(&[], 12, 5, false);
    case(&[3, 43], 44, 72, false);
    // Splits of the weight gradient, the last of them short.
    case(&[1000], 20, 12, true);
    case(&[2, 1537], 6, 9, true);
    // Enough tiles of 128 x 64 and of 128 x 128 for the large tiles.
    case(&[32_769], 4, 33, true);
    case(&[16_500], 5, 180, true);

    // Staged four numbers at a time: tiles cut along rows and columns, splits, and the large tiles, those of the weight's gradient
    // with its splits.
    case(&[47], 48, 132, false);
    case(&[130], 64, 20, false);
    case(&[2, 500], 32, 12, true);
    case(&[24_500], 16, 48, true);
    case(&[12_500], 16, 240, true);
    case(&[12_500], 240, 16, true);
    case(&[3_100], 256, 240, true);

    // Several layers at once: with a vector in each load or without, splits, and every tile cut.
    for (count, rows, inputs, outputs) in [
        (2, vec![5], 7, 3),
        (3, vec![2, 9], 12, 8),
        (22, vec![16], 20, 12),
        (3, vec![70], 36, 64),
        (2, vec![1, 1], 4, 5),
        (3, vec![70], 48, 20),
        (5, vec![3, 9], 20, 16),
        // On matrix units too, whose stages divide these: rows and columns cut, and layers that end within a tile of columns.
        (3, vec![70], 32, 80),
        (2, vec![5, 27], 96, 32),
    ] {
        let name = format!("{count} of {rows:?} rows, {inputs} to {outputs}");
        let parameters = Spec::f32([count * (inputs + 1) * outputs]);
        let x = Spec::f32([rows.as_slice(), &[inputs]].concat());
        let dy = Spec::f32([&[count], rows.as_slice(), &[outputs]].concat());
        let backward_input = LinearLayersBackwardInput { count };
        let half = |spec: &Spec| Spec::new(spec.shape.axes(), DType::F16);
        let in_f16 = [half(&x), half(&parameters), parameters.clone()];
        cases.extend([
            Case::new(&name, LinearLayers { count }, &[x.clone(), parameters.clone()]).no_gradient(),
            Case::new(format!("{name}, f16"), LinearLayers { count }, &in_f16).no_gradient(),
        ]);
        let rows_added = [dy.clone(), parameters.clone(), x.clone()];
        let backward = [
            (Case::new(&name, backward_input.clone(), &[dy.clone(), parameters]), vec![0, 1]),
            (Case::new(format!("{name}, rows added"), backward_input, &rows_added), vec![0, 1, 2]),
            (Case::new(&name, LinearLayersBackwardWeight { count }, &[x, dy]), vec![0, 1]),
        ];
        cases.extend(backward.into_iter().flat_map(|(c, half)| c.no_gradient().and_in_f16(&half)));
    }
    cases
}
