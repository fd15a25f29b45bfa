//! The samplers and the reverse SDE as updates of points whose score is known.

use super::mixture::{Update, updates};
use crate::diffusion::{
    FinalSigma, NoiseLevel, NoiseSchedule, Sampler, ScheduleKind, SchedulerConfig, TimestepSpacing,
    Trajectory,
};
use crate::lab::LabError;
use crate::ops::Coefficients;

/// The ends of the σ-grid on which the orders are measured; 0 is left out, where Heun's and the multistep method
/// fall back to first order.
pub(super) const SIGMA_ENDS: (f64, f64) = (80.0, 0.02);

/// The reverse SDE dx = [-½β x - β ∇log p(x)] dt + √β dw (Song et al., arXiv 2011.13456, eq. 6 and 11) by Euler and
/// Maruyama: over a step from t to s < t with b = ∫ β = ln(ᾱ_s / ᾱ_t), and with ∇log p = -ε / noise,
///
/// x' = (1 + b/2) x - b/noise ε + √b z.
///
/// The last step, from the first timestep to no noise, takes x_0 as it is expected to be, as DDPM does.
fn reverse_sde(schedule: &NoiseSchedule, steps: usize) -> Vec<Update> {
    let stride = schedule.timesteps() / steps;
    let update = |i: usize| {
        let t = stride * (steps - i) - 1;
        let now = schedule.alpha_bar(Some(t));
        let level = NoiseLevel::of_alpha_bar(now);
        let NoiseLevel { signal, noise } = level;
        let coefficients = match t.checked_sub(stride) {
            Some(s) => {
                let b = (schedule.alpha_bar(Some(s)) / now).ln();
                Coefficients { c_x: 1.0 + 0.5 * b, c_f: -b / noise, c_z: b.sqrt(), ..Coefficients::default() }
            }
            None => Coefficients { c_x: 1.0 / signal, c_f: -noise / signal, ..Coefficients::default() },
        };
        Update { level, coefficients }
    };
    (0..steps).map(update).collect()
}

/// A way from noise to the data, as updates of the denoising kernel for a number of steps.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    Ddpm,
    DdimStochastic,
    ReverseSde,
    Ddim,
    Euler,
    Heun,
    DpmSolver,
    /// A sampler on a continuous schedule, from σ = 80 to no noise.
    Continuous(ScheduleKind, Sampler),
    /// DDPM's mean without its noise, which samples nothing in particular: it has to be seen.
    DdpmSilenced,
}

impl Method {
    pub(super) fn name(self) -> String {
        let name = match self {
            Self::Ddpm => "DDPM",
            Self::DdimStochastic => "DDIM η = 1",
            Self::ReverseSde => "reverse SDE, Euler-Maruyama",
            Self::Ddim => "DDIM η = 0",
            Self::Euler => "ODE, Euler",
            Self::Heun => "ODE, Heun",
            Self::DpmSolver => "ODE, DPM-Solver++ 2M",
            Self::Continuous(kind, sampler) => {
                let kind = if kind == ScheduleKind::Edm { "EDM".into() } else { kind.name() };
                return format!("{kind}, {}", sampler.title());
            }
            Self::DdpmSilenced => "DDPM without its noise",
        };
        name.into()
    }

    pub(super) fn config(self) -> SchedulerConfig {
        let (kind, sampler) = match self {
            Self::Continuous(kind, sampler) => (kind, sampler),
            Self::Ddpm | Self::DdpmSilenced | Self::ReverseSde => (ScheduleKind::Linear, Sampler::Ddpm),
            Self::DdimStochastic | Self::Ddim => (ScheduleKind::Linear, Sampler::Ddim),
            Self::Euler => (ScheduleKind::Linear, Sampler::Euler),
            Self::Heun => (ScheduleKind::Linear, Sampler::Heun),
            Self::DpmSolver => (ScheduleKind::Linear, Sampler::DpmSolver),
        };
        // On flow matching's schedule Euler and Heun take equal steps of t. For DPM-Solver++, whose theory is in ln σ, those
        // are too long at both ends: its order would be 1.7. With Karras' it takes the same steps there as on EDM's.
        let by_sigma = matches!(sampler, Sampler::Euler | Sampler::Heun) && kind != ScheduleKind::Flow;
        SchedulerConfig {
            beta_schedule: kind,
            beta_start: 1e-4,
            beta_end: 0.02,
            timestep_spacing: TimestepSpacing::Trailing,
            clip_sample: false,
            use_karras_sigmas: by_sigma || sampler == Sampler::DpmSolver,
            // The answer here is ε, which tells of the picture only where some signal is left.
            sigma_max: kind.is_continuous().then_some(SIGMA_ENDS.0),
            ..SchedulerConfig::new(sampler)
        }
    }

    /// The updates of so many steps, from noise to the data.
    pub(super) fn updates(self, steps: usize) -> Result<Vec<Update>, LabError> {
        let config = self.config();
        if self == Self::ReverseSde {
            return Ok(reverse_sde(&NoiseSchedule::of(&config), steps));
        }
        let eta = if self == Self::DdimStochastic { 1.0 } else { 0.0 };
        let mut updates = updates(&Trajectory::new(&config, steps, eta)?);
        if self == Self::DdpmSilenced {
            updates.iter_mut().for_each(|u| u.coefficients.c_z = 0.0);
        }
        Ok(updates)
    }

    /// `steps` steps between the two [`SIGMA_ENDS`].
    pub(super) fn updates_between(self, steps: usize) -> Result<Vec<Update>, LabError> {
        let config = SchedulerConfig {
            final_sigmas_type: FinalSigma::SigmaMin,
            lower_order_final: false,
            sigma_max: Some(SIGMA_ENDS.0),
            sigma_min: Some(SIGMA_ENDS.1),
            ..self.config()
        };
        let mut updates = updates(&Trajectory::new(&config, steps + 1, 0.0)?);
        // The last goes on from the smallest σ of the grid.
        updates.pop();
        Ok(updates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over one small step the discretised SDE is DDPM's step but for terms of second order.
    #[test]
    fn the_reverse_sde_is_ancestral_sampling_in_small_steps() {
        let schedule = NoiseSchedule::of(&Method::Ddpm.config());
        let sde = reverse_sde(&schedule, 1000);
        let ddpm = Method::Ddpm.updates(1000).unwrap();
        assert_eq!(sde.len(), ddpm.len());
        for (i, (a, b)) in sde.iter().zip(&ddpm).enumerate() {
            assert!((a.level.signal - b.level.signal).abs() < 1e-12);
            let c = b.coefficients;
            // x' = c_x x + c_0 k (p_x x + p_f ε)
            let (x, e) = (c.c_x + c.c_0 * c.k * c.p_x, c.c_0 * c.k * c.p_f);
            let (beta, variance) = (schedule.beta(999 - i), a.level.noise * a.level.noise);
            // ᾱ and α are rounded to f32, and β is what is left of them.
            let rounding = 2f64.powi(-22);
            assert!((a.coefficients.c_x - x).abs() < beta * beta + rounding / variance, "{i}");
            assert!((a.coefficients.c_f / e - 1.0).abs() < beta + rounding / beta, "{i}");
            // The posterior's variance β̃ is β but for the share of x_0, which counts where the noise is small.
            if i < 999 {
                let ratio = a.coefficients.c_z / c.c_z;
                assert!((ratio - 1.0).abs() < beta / variance + rounding / beta, "{i}: {ratio}");
            }
        }
    }
}
