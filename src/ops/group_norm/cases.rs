//! Test cases of group normalization and its gradients.

use super::backward::SUMS;
use super::{GroupNorm, GroupNormBackward, GroupNormBackwardScaleShift, GroupNormSums};
use crate::ops::channels::Extent;
use crate::ops::{Case, Fill};
use crate::tensor::{DType, Shape, Spec, Tolerance};

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [(&[usize], usize); 9] = [
        (&[3, 1, 1, 4], 1),
        (&[2, 1, 1, 6], 2),
        (&[2, 5, 7, 7], 1),
        (&[1, 5, 7, 6], 6),
        (&[2, 41, 47, 5], 5),
        (&[2, 9, 112], 16),
        (&[2, 16, 16, 32], 8),
        (&[3, 4, 4, 48], 1),
        (&[2, 23, 64], 2),
    ];
    for (axes, groups) in shapes {
        for (silu, scale_shift) in [(false, false), (true, false), (false, true), (true, true)] {
            let norm = GroupNorm { groups, eps: 1e-5, silu, scale_shift };
            let name = format!(
                "{}, {groups} groups{}{}",
                Shape::new(axes),
                if silu { ", silu" } else { "" },
                if scale_shift { ", modulated" } else { "" }
            );
            cases.extend(norm.cases(&name, axes, DType::F32));
            cases.extend(norm.cases(&format!("{name}, f16"), axes, DType::F16));
        }
    }

    // One value per group: its variance is 0 and y does not depend on x.
    let norm = GroupNorm { groups: 6, eps: 1e-5, silu: true, scale_shift: true };
    cases.push(norm.cases("(3, 1, 1, 6), 6 groups", &[3, 1, 1, 6], DType::F32).swap_remove(0));

    // The mean is stored in f32, so it is off by up to 2^-18 = 4e-6 near 100, and with it x̂ at standard
    // deviation 1: y is off by 4e-6 γ, and γ, normal, reaches 4. Without centring the squares it is off by
    // 1e-3, and without correcting the mean by 3e-5 over 256 x 256 pixels.
    let norm = GroupNorm { groups: 2, eps: 1e-5, silu: false, scale_shift: false };
    let tolerance = Tolerance { absolute: 1.5e-5, relative: 1e-5 };
    for axes in [[2, 16, 16, 8], [1, 256, 256, 8]] {
        let forward =
            norm.cases(&format!("{}, mean 100", Shape::new(axes)), &axes, DType::F32).swap_remove(0);
        cases.push(forward.fill(0, Fill::Uniform(98.0, 102.0)).tolerance(tolerance).large());
    }

    // Groups enough for one launch: as many as workgroups have places for, and two more; and far from zero.
    for (axes, groups) in [([129, 1, 3, 24], 8), ([171, 1, 11, 72], 6)] {
        for modulated in [false, true] {
            let norm = GroupNorm { groups, eps: 1e-5, silu: modulated, scale_shift: modulated };
            for dtype in [DType::F32, DType::F16] {
                let name = format!("{}, {groups} groups, {}", Shape::new(axes), dtype.name());
                cases.push(norm.cases(&name, &axes, dtype).swap_remove(0).large());
            }
        }
    }
    // Two and four Vectors, and groups, to each invocation of a CPU driver.
    for (axes, groups) in [([17, 3, 5, 64], 16), ([17, 3, 5, 128], 32)] {
        let norm = GroupNorm { groups, eps: 1e-5, silu: true, scale_shift: true };
        for dtype in [DType::F32, DType::F16] {
            let name = format!("{}, {groups} groups, {}", Shape::new(axes), dtype.name());
            cases.extend(norm.cases(&name, &axes, dtype).into_iter().map(Case::large));
        }
    }
    let axes = [512, 16, 16, 8];
    let forward = norm.cases(&format!("{}, mean 100", Shape::new(axes)), &axes, DType::F32).swap_remove(0);
    cases.push(forward.fill(0, Fill::Uniform(98.0, 102.0)).tolerance(tolerance).large());

    // One-pixel images: the most runs and groups for their size; and of one channel, the most workgroups
    // of sums, which are slow on a CPU driver when they are made for a GPU.
    let norm = GroupNorm { groups: 1, eps: 1e-5, silu: true, scale_shift: false };
    let name = "past 65535 workgroups";
    let wide = norm.cases(name, &[65_600, 1, 65], DType::F32).into_iter().step_by(2).take(2);
    let narrow = norm.cases(name, &[65_600, 1, 1], DType::F32).into_iter().skip(1);
    cases.extend(wide.chain(narrow).map(Case::large));

    // More pixels than the 65535 rounds that llvmpipe gives a loop, for one and for eight invocations.
    let norm = GroupNorm { groups: 1, eps: 1e-5, silu: false, scale_shift: true };
    for axes in [[1, 256, 257, 32], [1, 1024, 520, 1]] {
        let all = norm.cases(&Shape::new(axes).to_string(), &axes, DType::F32);
        cases.extend(all.into_iter().take(2).map(Case::large));
    }
    cases
}

impl GroupNorm {
    /// The operator, then its gradients, on an activation of this shape stored in this type.
    fn cases(&self, name: &str, axes: &[usize], dtype: DType) -> Vec<Case> {
        let x = Spec::new(axes, dtype);
        let Extent { images, channels, .. } = Extent::of(&x.shape);
        let parameters = Spec::f32([channels]);
        let statistics = Spec::f32([images, self.groups, 2]);
        let sums = Spec::f32([images, SUMS, channels]);
        let scale_shift = Some(Spec::new([images, 2 * channels], dtype));
        let inputs = |tensors: &[&Spec]| {
            let tensors: Vec<Spec> = tensors.iter().map(|&s| s.clone()).collect();
            self.with_scale_shift(&tensors, scale_shift.clone())
        };
        let (gamma, beta) = (&parameters, &parameters);
        let mut cases = vec![
            Case::new(name, self.clone(), &inputs(&[&x, gamma, beta])),
            Case::new(name, GroupNormSums(self.clone()), &inputs(&[&x, &x, &statistics, gamma, beta])),
            Case::new(name, GroupNormBackward(self.clone()), &inputs(&[&x, &x, &sums])),
        ];
        if self.scale_shift {
            let op = GroupNormBackwardScaleShift { norm: self.clone(), dtype };
            cases.push(Case::new(name, op, &[sums.clone(), parameters.clone(), parameters]));
        }
        let mut with_addend = inputs(&[&x, &x, &sums]);
        with_addend.push(x);
        cases.push(Case::new(format!("{name}, dx added"), GroupNormBackward(self.clone()), &with_addend));
        // The gradients have none, and that of the operator in f16 is that in f32: f16 is only how devices store.
        let differentiable = usize::from(dtype == DType::F32);
        cases[differentiable..].iter_mut().for_each(|case| case.gradients.clear());
        cases
    }
}
