use super::*;
use crate::diffusion::BetaSchedule;

const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];
const SAMPLERS: [Sampler; 5] =
    [Sampler::Ddpm, Sampler::Ddim, Sampler::DpmSolver, Sampler::Euler, Sampler::Heun];

/// The configuration of a sampler on the linear schedule, without a clamp.
fn free(sampler: Sampler) -> SchedulerConfig {
    SchedulerConfig { beta_start: 1e-4, beta_end: 0.02, clip_sample: false, ..SchedulerConfig::new(sampler) }
}

/// Runs a trajectory in f64 with the network f(x, signal, noise); the signal before step i is at σ_i or t_i.
fn run(
    config: &SchedulerConfig,
    trajectory: &Trajectory,
    start: f64,
    f: impl Fn(f64, f64, f64) -> f64,
) -> f64 {
    let schedule = NoiseSchedule::of(config);
    let (mut x, mut h) = (start, 0.0);
    for (i, step) in trajectory.steps.iter().enumerate() {
        let NoiseLevel { signal, noise } = match &trajectory.sigmas {
            Some(sigmas) => at_sigma(sigmas[i]),
            None => schedule.level(Some(step.timestep as usize)),
        };
        let c = step.coefficients;
        let f = f(x, signal, noise);
        let x_0 = (c.k * (c.p_x * x + c.p_f * f)).clamp(-c.range, c.range);
        let next = c.c_x * x + c.c_f * f + c.c_0 * x_0 + c.c_h * h;
        if [c.h_x, c.h_f, c.h_0] != [0.0; 3] {
            h = c.h_x * x + c.h_f * f + c.h_0 * x_0;
        }
        x = next;
    }
    x
}

fn predicted(prediction: Prediction, x_0: f64, e: f64, signal: f64, noise: f64) -> f64 {
    match prediction {
        Prediction::Epsilon => e,
        Prediction::Sample => x_0,
        Prediction::VPrediction => signal * e - noise * x_0,
    }
}

/// With the true ε for every x, every deterministic sampler walks the line x = signal x_0 + noise ε to x_0.
#[test]
fn deterministic_samplers_are_exact_for_the_true_noise() {
    let (x_0, e) = (0.4, -0.9);
    for sampler in [Sampler::Ddim, Sampler::DpmSolver, Sampler::Euler, Sampler::Heun] {
        for prediction_type in PREDICTIONS {
            for steps in [1, 2, 7, 50] {
                let config = SchedulerConfig { prediction_type, ..free(sampler) };
                let trajectory = Trajectory::new(&config, steps, 0.0).unwrap();
                let calls = if sampler == Sampler::Heun { 2 * steps - 1 } else { steps };
                assert_eq!(trajectory.steps.len(), calls);
                let NoiseLevel { signal, noise } = match &trajectory.sigmas {
                    Some(sigmas) => at_sigma(sigmas[0]),
                    None => {
                        let t = trajectory.steps[0].timestep as usize;
                        NoiseSchedule::of(&config).level(Some(t))
                    }
                };
                let end = run(&config, &trajectory, signal * x_0 + noise * e, |_, signal, noise| {
                    predicted(prediction_type, x_0, e, signal, noise)
                });
                // Signal and noise are f32 in the coefficients, which Heun multiplies by 10^4 in two steps.
                assert!((end - x_0).abs() < 5e-4, "{sampler:?} {prediction_type:?} {steps}: {end}");
            }
        }
    }
}

/// So does the rest of a trajectory from the level where it begins.
#[test]
fn a_trajectory_begins_at_any_step() {
    let (x_0, e) = (0.4, -0.9);
    for sampler in [Sampler::Ddim, Sampler::DpmSolver, Sampler::Euler, Sampler::Heun] {
        let whole = Trajectory::new(&free(sampler), 12, 0.0).unwrap();
        for first in 0..whole.steps.len() {
            let rest = whole.clone().from_step(first);
            let NoiseLevel { signal, noise } = rest.levels[0];
            // The walk of `run` asks DDIM's levels of the schedule, and theirs of the σ.
            let end = run(&free(sampler), &rest, signal * x_0 + noise * e, |_, _, _| e);
            assert!((end - x_0).abs() < 5e-4, "{sampler:?} from {first}: {end}");
            assert_eq!(rest.levels.len(), rest.steps.len() + 1);
            assert_eq!(rest.steps[0].coefficients.c_h, 0.0);
        }
    }
}

/// A network that answers with the expected noise of the last step takes every sampler where one that answers with
/// all of the noise goes.
#[test]
fn the_last_noise_leads_where_all_noise_leads() {
    let (x_0, e) = (0.4, -0.9);
    for sampler in SAMPLERS {
        let config = |objective| SchedulerConfig { objective, ..free(sampler) };
        let schedule = NoiseSchedule::of(&config(Objective::LastNoise));
        let shares: Vec<f64> = (0..1000).map(|t| schedule.last_noise_share(t)).collect();
        let trajectory = |objective| Trajectory::new(&config(objective), 20, 0.0).unwrap();
        let (all, last) = (trajectory(Objective::MergedNoise), trajectory(Objective::LastNoise));
        let (mut x, mut y, mut h_x, mut h_y) = (0.7, 0.7, 0.0, 0.0);
        for (all, last) in all.steps.iter().zip(&last.steps) {
            let update = |c: Coefficients, x: f64, h: &mut f64, f: f64| {
                let x_0 = c.k * (c.p_x * x + c.p_f * f);
                let next = c.c_x * x + c.c_f * f + c.c_0 * x_0 + c.c_h * *h;
                *h = c.h_x * x + c.h_f * f + c.h_0 * x_0;
                next
            };
            let f = e + 0.1 * x_0;
            x = update(all.coefficients, x, &mut h_x, f);
            y = update(last.coefficients, y, &mut h_y, f * interpolated(&shares, last.timestep));
        }
        assert!((x - y).abs() < 1e-6 * x.abs().max(1.0), "{sampler:?}: {x} and {y}");
    }
}

/// x' = f is the posterior's mean if f is: what DDPM's step makes of the same knowledge.
#[test]
fn the_previous_picture_is_a_step_by_itself() {
    let config = |objective| SchedulerConfig {
        num_train_timesteps: 50,
        objective,
        without_time: true,
        ..free(Sampler::Ddpm)
    };
    let previous = Trajectory::new(&config(Objective::Previous), 50, 0.0).unwrap();
    let schedule = NoiseSchedule::of(&config(Objective::Previous));
    let all = Trajectory::new(&config(Objective::MergedNoise), 50, 0.0).unwrap();
    let (x, e) = (0.3, -1.1);
    for (t, (own, ddpm)) in (0..50).rev().zip(previous.steps.iter().zip(&all.steps)) {
        assert_eq!((own.timestep, own.coefficients.c_z), (0.0, ddpm.coefficients.c_z));
        let ChainStep { alpha, beta, .. } = schedule.step(t, t.checked_sub(1));
        let f = (x - beta.sqrt() * schedule.last_noise_share(t) * e) / alpha.sqrt();
        let c = ddpm.coefficients;
        let expected = c.c_x * x + c.c_0 * c.k * (c.p_x * x + c.p_f * e);
        assert!((own.coefficients.c_f * f - expected).abs() < 1e-5, "t = {t}: {f} and {expected}");
    }
    let error =
        |config: SchedulerConfig, steps| Trajectory::new(&config, steps, 0.0).unwrap_err().to_string();
    assert!(error(config(Objective::Previous), 10).contains("no step of the chain can be left out: give 50"));
    let euler = SchedulerConfig { objective: Objective::Previous, ..free(Sampler::Euler) };
    assert!(error(euler, 1000).starts_with("sampler: found Euler"));
    let sample = SchedulerConfig {
        objective: Objective::LastNoise,
        prediction_type: Prediction::Sample,
        ..free(Sampler::Ddim)
    };
    assert!(error(sample, 10).contains("leave --prediction out"));
}

/// On data from N(0, s²) the flow is known: x stays at its quantile. The error falls with the order of the method:
/// 1 for Euler and DDIM, 2 for DPM-Solver++ 2M and Heun.
#[test]
fn the_error_falls_with_the_order() {
    const S: f64 = 0.5;
    let error = |sampler: Sampler, steps: usize| {
        let config = SchedulerConfig {
            timestep_spacing: TimestepSpacing::Linspace,
            use_karras_sigmas: true,
            final_sigmas_type: FinalSigma::SigmaMin,
            lower_order_final: false,
            ..free(sampler)
        };
        let mut trajectory = Trajectory::new(&config, steps, 0.0).unwrap();
        let sigmas = trajectory.sigmas.clone().unwrap();
        // Heun's last step, to 0, is Euler's.
        trajectory.steps.pop();
        let width = |i: usize| {
            let NoiseLevel { signal, noise } = at_sigma(sigmas[i]);
            ((signal * S).powi(2) + noise.powi(2)).sqrt()
        };
        let end = run(&config, &trajectory, width(0), |x, signal, noise| {
            noise * x / ((signal * S).powi(2) + noise * noise)
        });
        (end - width(sigmas.len() - 2)).abs()
    };
    for (sampler, order) in [(Sampler::Euler, 1.0), (Sampler::DpmSolver, 2.0), (Sampler::Heun, 2.0)] {
        let fitted = (error(sampler, 80) / error(sampler, 320)).log2() / 2.0;
        println!("{sampler:?}: order {fitted:.2}");
        assert!((fitted - order).abs() < 0.25, "{sampler:?}: order {fitted}");
    }
}

/// DDPM's posterior mean and variance against Bayes' rule for Gaussians, at every t.
#[test]
fn ddpm_is_the_posterior() {
    let config = SchedulerConfig {
        num_train_timesteps: 100,
        prediction_type: Prediction::Sample,
        ..free(Sampler::Ddpm)
    };
    let schedule = NoiseSchedule::of(&config);
    for step in Trajectory::new(&config, 100, 0.0).unwrap().steps {
        let t = step.timestep as usize;
        if t == 0 {
            continue;
        }
        let (now, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(Some(t - 1)));
        // Prior x' ~ N(√ᾱ' x_0, 1 - ᾱ'), likelihood x ~ N(√α x', 1 - α).
        let alpha = now / next;
        let precision = 1.0 / (1.0 - next) + alpha / (1.0 - alpha);
        let c = step.coefficients;
        assert!((c.c_0 - next.sqrt() / (1.0 - next) / precision).abs() < 1e-3 * c.c_0);
        assert!((c.c_x - alpha.sqrt() / (1.0 - alpha) / precision).abs() < 1e-3 * c.c_x);
        assert!((c.c_z - (1.0 / precision).sqrt()).abs() < 1e-3 * c.c_z);
    }
}

#[test]
fn ddim_with_eta_one_has_the_posterior_variance() {
    let ddim = Trajectory::new(&free(Sampler::Ddim), 50, 1.0).unwrap();
    let ddpm = Trajectory::new(&free(Sampler::Ddpm), 50, 0.0).unwrap();
    for (a, b) in ddim.steps.iter().zip(&ddpm.steps).filter(|(a, _)| a.timestep > 0.0) {
        assert!((a.coefficients.c_z - b.coefficients.c_z).abs() < 1e-12);
    }
}

/// exp(c_v v) c_z is β̃'s root at v = -1, β's at v = 1.
#[test]
fn a_learned_variance_lies_between_the_fixed_ones() {
    let of = |variance_type| {
        Trajectory::new(&SchedulerConfig { variance_type, ..free(Sampler::Ddpm) }, 25, 0.0).unwrap().steps
    };
    let (small, large) = (of(VarianceType::FixedSmall), of(VarianceType::FixedLarge));
    for ((learned, small), large) in of(VarianceType::LearnedRange).iter().zip(&small).zip(&large) {
        let (c, small, large) = (learned.coefficients, small.coefficients.c_z, large.coefficients.c_z);
        assert!((c.c_z * (-c.c_v).exp() - small).abs() <= 1e-12);
        assert!((c.c_z * c.c_v.exp() - large).abs() <= 1e-12);
    }
}

#[test]
fn spacings_are_those_of_the_paper() {
    let times = |timestep_spacing, steps| -> Vec<f64> {
        let config = SchedulerConfig { timestep_spacing, ..free(Sampler::Ddim) };
        Trajectory::new(&config, steps, 0.0).unwrap().steps.iter().map(|s| s.timestep).collect()
    };
    assert_eq!(times(TimestepSpacing::Leading, 4), [750.0, 500.0, 250.0, 0.0]);
    assert_eq!(times(TimestepSpacing::Linspace, 4), [999.0, 666.0, 333.0, 0.0]);
    assert_eq!(times(TimestepSpacing::Trailing, 4), [999.0, 749.0, 499.0, 249.0]);
    // 1000 / 27 times 27 is more than 1000 in f64.
    assert_eq!(times(TimestepSpacing::Trailing, 27).len(), 27);
}

/// Any number of steps gives finite coefficients at timesteps of the schedule, or an error.
#[test]
fn any_configuration_is_finite_or_refused() {
    let mut refused = 0;
    for sampler in SAMPLERS {
        for beta_schedule in
            [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::Cosine, BetaSchedule::Sigmoid]
        {
            for timestep_spacing in
                [TimestepSpacing::Leading, TimestepSpacing::Linspace, TimestepSpacing::Trailing]
            {
                for (total, zero, karras, offset) in [
                    (1000, false, false, 0),
                    (1000, true, true, 1),
                    (7, false, false, 0),
                    (1, false, true, 0),
                ] {
                    let config = SchedulerConfig {
                        num_train_timesteps: total,
                        beta_schedule,
                        timestep_spacing,
                        rescale_betas_zero_snr: zero,
                        use_karras_sigmas: karras,
                        steps_offset: offset,
                        prediction_type: Prediction::VPrediction,
                        ..free(sampler)
                    };
                    for steps in [0, 1, 2, 5, total - 1, total, total + 1] {
                        let Ok(trajectory) = Trajectory::new(&config, steps, 1.0) else {
                            refused += 1;
                            continue;
                        };
                        assert!(trajectory.initial_scale > 0.0 && trajectory.initial_scale <= 1.0);
                        for step in &trajectory.steps {
                            let words = step.coefficients.words();
                            assert!(words.iter().all(|c| c.is_finite()), "{config:?} {steps}: {words:?}");
                            assert!(step.timestep >= 0.0 && step.timestep < total as f64);
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn what_cannot_be_is_refused_with_the_remedy() {
    let error =
        |config: &SchedulerConfig, steps, eta| Trajectory::new(config, steps, eta).unwrap_err().to_string();
    assert!(error(&free(Sampler::Ddim), 1001, 0.0).starts_with("steps: found 1001"));
    assert!(error(&free(Sampler::Ddim), 50, 1.5).starts_with("eta: found 1.5"));
    let config = SchedulerConfig {
        rescale_betas_zero_snr: true,
        timestep_spacing: TimestepSpacing::Trailing,
        ..free(Sampler::Ddpm)
    };
    assert!(error(&config, 50, 0.0).contains("must predict v_prediction or sample"));
}
