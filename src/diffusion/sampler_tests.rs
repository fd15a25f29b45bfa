use super::*;

/// Those that need no noise on the way.
fn deterministic() -> impl Iterator<Item = Sampler> {
    Sampler::ALL.into_iter().filter(|sampler| sampler.order().is_some())
}

const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];

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
        Prediction::Edm | Prediction::Flow => {
            let (of_e, of_x_0) = NoiseLevel { signal, noise }.target(prediction);
            of_e * e + of_x_0 * x_0
        }
    }
}

/// A model of a continuous schedule, without a clamp.
fn continuous(kind: ScheduleKind, prediction_type: Prediction, sampler: Sampler) -> SchedulerConfig {
    SchedulerConfig {
        beta_schedule: kind,
        prediction_type,
        timestep_spacing: TimestepSpacing::Trailing,
        use_karras_sigmas: kind == ScheduleKind::Edm,
        ..free(sampler)
    }
}

/// Runs a trajectory in f64 with the network f(x, signal, noise), where x is what the network is given and its level
/// that of signal² + noise² = 1.
fn run_rescaled(trajectory: &Trajectory, start: f64, f: impl Fn(f64, NoiseLevel) -> f64) -> f64 {
    let (mut x, mut h) = (start, 0.0);
    for (step, level) in trajectory.steps.iter().zip(&trajectory.levels) {
        let length = level.signal.hypot(level.noise);
        let unit = NoiseLevel { signal: level.signal / length, noise: level.noise / length };
        let c = step.coefficients;
        let f = f(x / length, unit);
        let x_0 = c.k * (c.p_x * x + c.p_f * f);
        let next = c.c_x * x + c.c_f * f + c.c_0 * x_0 + c.c_h * h;
        h = c.h_x * x + c.h_f * f + c.h_0 * x_0;
        x = next;
    }
    x
}

/// EDM's and flow matching's models: with the true ε, every deterministic sampler walks to x_0, whatever the network
/// predicts and is given.
#[test]
fn continuous_samplers_are_exact_for_the_true_noise() {
    let (x_0, e) = (0.4, -0.9);
    for (kind, spacing, karras) in [
        (ScheduleKind::Edm, TimestepSpacing::Trailing, true),
        (ScheduleKind::Edm, TimestepSpacing::Quadratic, false),
        (ScheduleKind::Flow, TimestepSpacing::Trailing, false),
        (ScheduleKind::Flow, TimestepSpacing::Quadratic, false),
        (ScheduleKind::Flow, TimestepSpacing::Trailing, true),
    ] {
        for sampler in deterministic() {
            for prediction in PREDICTIONS.into_iter().chain([Prediction::Edm, Prediction::Flow]) {
                let config = SchedulerConfig {
                    timestep_spacing: spacing,
                    use_karras_sigmas: karras,
                    ..continuous(kind, prediction, sampler)
                };
                for steps in [1, 2, 7, 50] {
                    let what = format!("{kind:?} {spacing:?} {sampler:?} {prediction:?} {steps}");
                    let trajectory = match Trajectory::new(&config, steps, 0.0) {
                        Err(error) => {
                            // From noise alone the noise tells nothing.
                            assert!(kind == ScheduleKind::Flow && !karras, "{what}: {error}");
                            assert_eq!(prediction, Prediction::Epsilon, "{what}: {error}");
                            continue;
                        }
                        Ok(trajectory) => trajectory,
                    };
                    let level = trajectory.levels[0];
                    assert!((trajectory.initial_scale - level.noise).abs() < 1e-12, "{what}");
                    let end = run_rescaled(&trajectory, level.signal * x_0 + level.noise * e, |_, level| {
                        let (of_e, of_x_0) = level.target(prediction);
                        of_e * e + of_x_0 * x_0
                    });
                    assert!((end - x_0).abs() < 1e-9, "{what}: {end}");
                    let last = trajectory.levels[trajectory.steps.len()];
                    assert_eq!((last.signal, last.noise), (1.0, 0.0), "{what}");
                }
            }
        }
    }
}

/// On data from N(m, s²) the flow is known, x keeps its quantile, and so is what each network would predict. The error of
/// EDM's and flow matching's samplers falls with the order of the method.
#[test]
fn the_error_of_continuous_samplers_falls_with_the_order() {
    const M: f64 = 0.3;
    const S: f64 = 0.5;
    const Z: f64 = 1.3;
    let error = |config: &SchedulerConfig, steps: usize| {
        let trajectory = Trajectory::new(config, steps, 0.0).unwrap();
        let first = trajectory.levels[0];
        let width = |l: NoiseLevel| (l.signal * S).hypot(l.noise);
        let end = run_rescaled(&trajectory, first.signal * M + width(first) * Z, |x, level| {
            // E[ε | x] and E[x_0 | x] of a Gaussian.
            let z = (x - level.signal * M) / width(level).powi(2);
            let (e, x_0) = (level.noise * z, M + level.signal * S * S * z);
            let (of_e, of_x_0) = level.target(config.prediction_type);
            of_e * e + of_x_0 * x_0
        });
        (end - (M + S * Z)).abs()
    };
    for (kind, prediction) in [(ScheduleKind::Edm, Prediction::Edm), (ScheduleKind::Flow, Prediction::Flow)] {
        for sampler in deterministic() {
            let order = f64::from(sampler.order().unwrap());
            let mut config = continuous(kind, prediction, sampler);
            // Its theory is in λ = ln(signal / noise), of which flow matching's first and last steps take much: 1.74 in
            // equal steps of t.
            config.use_karras_sigmas |= sampler == Sampler::DpmSolver;
            let fitted = (error(&config, 50) / error(&config, 400)).log2() / 3.0;
            println!("{kind:?} {sampler:?}: order {fitted:.2}, error {:.1e} in 50 steps", error(&config, 50));
            assert!((fitted - order).abs() < 0.2, "{kind:?} {sampler:?}: order {fitted}");
        }
    }
}

/// Samplers that add noise, DDIM with η = 1 among them, given the true x_0, end every step at the noise of its level.
#[test]
fn stochastic_samplers_keep_to_the_levels() {
    let stochastic = Sampler::ALL.into_iter().filter(|sampler| sampler.order().is_none());
    for (sampler, eta) in stochastic.map(|sampler| (sampler, 0.0)).chain([(Sampler::Ddim, 1.0)]) {
        for config in [
            free(sampler),
            SchedulerConfig { timestep_spacing: TimestepSpacing::Quadratic, ..free(sampler) },
            continuous(ScheduleKind::Edm, Prediction::Edm, sampler),
            continuous(ScheduleKind::Flow, Prediction::Flow, sampler),
        ] {
            let trajectory = Trajectory::new(&config, 20, eta).unwrap();
            // A chain's α is rounded to f32, as in diffusers.
            let bound = if config.beta_schedule.is_continuous() { 1e-9 } else { 1e-4 };
            for (step, pair) in trajectory.steps.iter().zip(trajectory.levels.windows(2)) {
                // Of x = signal x_0 + noise ε, an update that is given the true ε changes the shares of both.
                let (now, next, c) = (pair[0], pair[1], step.coefficients);
                let length = now.signal.hypot(now.noise);
                let unit = NoiseLevel { signal: now.signal / length, noise: now.noise / length };
                let (of_e, of_x_0) = unit.target(config.prediction_type);
                let share = |x: f64, f: f64| c.c_x * x + c.c_f * f + c.c_0 * c.k * (c.p_x * x + c.p_f * f);
                let (signal, noise) = (share(now.signal, of_x_0), share(now.noise, of_e));
                assert!((signal - next.signal).abs() < bound, "{config:?}: {signal} {next:?}");
                assert!(
                    (noise.hypot(c.c_z) - next.noise).abs() < bound,
                    "{config:?}: {noise} {c:?} {next:?}"
                );
            }
        }
    }
}

#[test]
fn squares_are_whole_and_apart() {
    for (last, steps) in [(999, 10), (999, 50), (999, 1000), (999, 1), (6, 7), (6, 3), (0, 1)] {
        let config = SchedulerConfig {
            num_train_timesteps: last + 1,
            timestep_spacing: TimestepSpacing::Quadratic,
            ..free(Sampler::Ddim)
        };
        let trajectory = Trajectory::new(&config, steps, 0.0).unwrap();
        let times: Vec<f64> = trajectory.steps.iter().map(|s| s.timestep).collect();
        assert_eq!((times.len(), times[0]), (steps, last as f64));
        assert!(times.windows(2).all(|w| w[1] < w[0]) && times.iter().all(|t| t.fract() == 0.0));
        if steps == 10 {
            assert_eq!(times, [999.0, 789.0, 604.0, 444.0, 308.0, 197.0, 111.0, 49.0, 12.0, 0.0]);
        }
    }
}

/// With the true ε for every x, every deterministic sampler walks the line x = signal x_0 + noise ε to x_0.
#[test]
fn deterministic_samplers_are_exact_for_the_true_noise() {
    let (x_0, e) = (0.4, -0.9);
    for sampler in deterministic() {
        for prediction_type in PREDICTIONS {
            for steps in [1, 2, 7, 50] {
                let config = SchedulerConfig { prediction_type, ..free(sampler) };
                let trajectory = Trajectory::new(&config, steps, 0.0).unwrap();
                assert_eq!(sampler.steps_of(trajectory.steps.len()), steps);
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
    for sampler in deterministic() {
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
    for sampler in Sampler::ALL {
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

#[test]
fn evaluations_give_the_steps_back() {
    for sampler in Sampler::ALL {
        for steps in [1, 2, 10] {
            let trajectory = Trajectory::new(&free(sampler), steps, 0.0).unwrap();
            assert_eq!(sampler.steps_of(trajectory.steps.len()), steps, "{sampler:?}");
        }
    }
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
    for sampler in deterministic().filter(|sampler| sampler.is_by_sigma()) {
        let order = f64::from(sampler.order().unwrap());
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
    for sampler in Sampler::ALL {
        for beta_schedule in
            [ScheduleKind::Linear, ScheduleKind::ScaledLinear, ScheduleKind::Cosine, ScheduleKind::Sigmoid]
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
    assert!(error(&config, 50, 0.0).contains("must predict v_prediction, sample, edm or flow"));
}
