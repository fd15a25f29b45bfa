//! Noise schedules: how much of the picture is left at each step.
//!
//! The article writes x_{t+1} = a_t x_t + b_t ε_t with a_t² + b_t² = 1 and ā_t = a_0 … a_t. DDPM (arXiv
//! 2006.11239) writes α_t = a_t², β_t = b_t² and ᾱ_t = ā_t². Both say the same; everything here is f64.

use super::{ChainStep, NoiseLevel, SchedulerConfig, name_in_files};
use crate::rng::normal_quantile;
use serde::{Deserialize, Serialize};

/// How the noise grows from the first step to the last. The first four are chains of β_t; the other two are continuous,
/// and their steps are levels that training draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
pub enum ScheduleKind {
    /// β from 1e-4 to 0.02 in equal steps (DDPM, section 4).
    Linear,
    /// √β in equal steps between the same ends (latent diffusion, arXiv 2112.10752).
    ScaledLinear,
    /// ᾱ_t as a squared cosine, β at most 0.999 (arXiv 2102.09672, eq. 17).
    #[cfg_attr(feature = "cli", value(name = "squaredcos_cap_v2"))]
    #[serde(rename = "squaredcos_cap_v2")]
    Cosine,
    /// β along a logistic curve from -6 to 6 between the same ends (GeoDiff, arXiv 2203.02923).
    Sigmoid,
    /// ln σ normal with mean -1.2 and deviation 1.2 (EDM, arXiv 2206.00364, table 1). The network is conditioned on ln(σ) / 4.
    Edm,
    /// (1-t) x_0 + t ε with t up to 1 in equal steps (rectified flow, arXiv 2209.03003). The network is conditioned on 1000 t.
    Flow,
}

impl ScheduleKind {
    /// Its name on the command line and in files.
    pub fn name(self) -> String {
        name_in_files(&self)
    }

    /// Whether it is a function of a continuous time, of which any level can be sampled, and not a chain.
    pub fn is_continuous(self) -> bool {
        match self {
            Self::Edm | Self::Flow => true,
            Self::Linear | Self::ScaledLinear | Self::Cosine | Self::Sigmoid => false,
        }
    }

    /// Whether it ends in noise alone as it is.
    pub fn ends_in_noise(self) -> bool {
        match self {
            Self::Flow => true,
            Self::Linear | Self::ScaledLinear | Self::Cosine | Self::Sigmoid | Self::Edm => false,
        }
    }

    /// Whether its levels are draws from a distribution, so that training must not draw from another one.
    pub fn is_a_distribution(self) -> bool {
        match self {
            Self::Edm => true,
            Self::Linear | Self::ScaledLinear | Self::Cosine | Self::Sigmoid | Self::Flow => false,
        }
    }

    /// Whether its paper samples it at Karras' σ (EDM, eq. 5).
    pub fn has_karras_sigmas(self) -> bool {
        match self {
            Self::Edm => true,
            Self::Linear | Self::ScaledLinear | Self::Cosine | Self::Sigmoid | Self::Flow => false,
        }
    }

    /// Whether diffusers' multistep solvers round the timesteps of Karras' σ on it.
    pub(super) fn has_whole_karras_timesteps(self) -> bool {
        match self {
            Self::Linear | Self::ScaledLinear | Self::Sigmoid | Self::Edm | Self::Flow => true,
            Self::Cosine => false,
        }
    }

    /// What conditions a network at a level of a continuous schedule; on a chain it is the step.
    pub fn conditioning(self, level: NoiseLevel) -> Option<f64> {
        match self {
            Self::Edm => Some(0.25 * level.sigma().ln()),
            // The scale on which the time embedding keeps a thousand times apart.
            Self::Flow => Some(1000.0 * level.flow_time()),
            Self::Linear | Self::ScaledLinear | Self::Cosine | Self::Sigmoid => None,
        }
    }
}

/// What the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
pub enum Prediction {
    /// The noise ε (DDPM, eq. 12).
    Epsilon,
    /// The clean picture x_0.
    Sample,
    /// v = ā ε - √(1-ā²) x_0 (Salimans & Ho, arXiv 2202.00512, appendix D).
    VPrediction,
    /// The residual of EDM's preconditioning, (x_0 - c_skip x) / c_out with σ_data = 0.5 (arXiv 2206.00364, eq. 7 and
    /// table 1).
    Edm,
    /// The velocity ε - x_0 of rectified flow (arXiv 2209.03003, eq. 1, with the picture at t = 0).
    Flow,
}

impl Prediction {
    /// Its name on the command line and in files.
    pub fn name(self) -> String {
        name_in_files(&self)
    }

    /// Whether x_0 follows from it only where some signal is left.
    pub fn needs_signal(self) -> bool {
        match self {
            Self::Epsilon => true,
            Self::Sample | Self::VPrediction | Self::Edm | Self::Flow => false,
        }
    }
}

/// What the loss compares the network's answer with. All but the first are the article's, which looks at the last
/// step alone, x_t = a x_{t-1} + b ε; the first is what every paper since DDPM does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// All of the noise in one draw, or what --prediction makes of it.
    #[default]
    MergedNoise,
    /// The picture one step before, x_{t-1}, without conditioning on t.
    PreviousWithoutTime,
    /// The picture one step before, x_{t-1}.
    Previous,
    /// The noise of the last step alone, under the weight (b/a)² that the picture's error has.
    LastNoiseWeighted,
    /// The noise of the last step alone.
    LastNoise,
}

impl Objective {
    /// Its name on the command line and in files.
    pub fn name(self) -> String {
        name_in_files(&self)
    }

    /// Whether it is one of the article's, of the last step of the chain alone.
    pub fn is_of_last_step(self) -> bool {
        match self {
            Self::PreviousWithoutTime | Self::Previous | Self::LastNoiseWeighted | Self::LastNoise => true,
            Self::MergedNoise => false,
        }
    }

    /// Whether the network is conditioned on t.
    pub fn conditions_on_time(self) -> bool {
        match self {
            Self::PreviousWithoutTime => false,
            Self::MergedNoise | Self::Previous | Self::LastNoiseWeighted | Self::LastNoise => true,
        }
    }

    /// Whether the network answers with the picture one step before.
    pub fn predicts_previous(self) -> bool {
        match self {
            Self::PreviousWithoutTime | Self::Previous => true,
            Self::MergedNoise | Self::LastNoiseWeighted | Self::LastNoise => false,
        }
    }
}

/// ᾱ_t for t = 0 .. T-1. That of a chain is rounded to f32 as in diffusers' table. Near t = 0 the rounding is seen:
/// 1 - ᾱ_0 is 1e-4, of which f32 keeps three digits, so that a network trained by one table and sampled by another
/// would be conditioned on a noise that is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alpha_bar: Vec<f64>,
    /// What conditions the network at each step.
    times: Vec<f64>,
}

/// Rounded to f32.
fn rounded(x: f64) -> f64 {
    f64::from(x as f32)
}

/// Number t of `count` numbers from `first` to `last` in f32, as `torch.linspace` counts them: from the nearer end.
/// One unit in the last place of β is 5e-6 of the variance β̃ at small t, where 1 - ᾱ keeps few digits.
fn evenly(first: f64, last: f64, count: usize, t: usize) -> f64 {
    if count < 2 {
        return rounded(first);
    }
    let step = rounded(rounded(rounded(last) - rounded(first)) / (count - 1) as f64);
    let exact = if t < count / 2 {
        rounded(first) + step * t as f64
    } else {
        rounded(last) - step * (count - 1 - t) as f64
    };
    rounded(exact)
}

impl NoiseSchedule {
    /// The schedule of `steps` steps between the usual ends, β from 1e-4 to 0.02.
    pub fn new(kind: ScheduleKind, steps: usize) -> Self {
        Self::between(kind, steps, 1e-4, 0.02)
    }

    /// The schedule of `steps` steps with β from `first` to `last`; the cosine schedule and the continuous ones have ends
    /// of their own.
    pub fn between(kind: ScheduleKind, steps: usize, first: f64, last: f64) -> Self {
        let count = steps as f64;
        let chain = |beta: &dyn Fn(usize) -> f64| Self::from_betas((0..steps).map(beta));
        let levels =
            |level: &dyn Fn(f64) -> NoiseLevel| Self::from_levels(kind, (0..steps).map(|t| level(t as f64)));
        match kind {
            ScheduleKind::Linear => chain(&|t| evenly(first, last, steps, t)),
            ScheduleKind::ScaledLinear => chain(&|t| evenly(first.sqrt(), last.sqrt(), steps, t).powi(2)),
            ScheduleKind::Cosine => {
                // f(t) = cos²((t/T + 0.008) / 1.008 · π/2)
                let f = |t: f64| ((t / count + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                chain(&|t| (1.0 - f(t as f64 + 1.0) / f(t as f64)).min(0.999))
            }
            ScheduleKind::Sigmoid => chain(&|t| {
                let logistic = rounded(1.0 / rounded(1.0 + rounded((-evenly(-6.0, 6.0, steps, t)).exp())));
                rounded(logistic * rounded(last - first)) + rounded(first)
            }),
            // Equally likely levels: the middles of T equal parts of the distribution.
            ScheduleKind::Edm => {
                levels(&|t| NoiseLevel::of_sigma((-1.2 + 1.2 * normal_quantile((t + 0.5) / count)).exp()))
            }
            ScheduleKind::Flow => levels(&|t| NoiseLevel::of_flow_time((t + 1.0) / count)),
        }
    }

    /// The schedule with these β.
    pub fn from_betas(betas: impl IntoIterator<Item = f64>) -> Self {
        let betas: Vec<f64> = betas.into_iter().map(rounded).collect();
        let mut product = 1.0;
        let alpha_bar = betas
            .iter()
            .map(|beta| {
                product *= rounded(1.0 - beta);
                rounded(product)
            })
            .collect();
        let times = (0..betas.len()).map(|t| t as f64).collect();
        Self { betas, alpha_bar, times }
    }

    /// Levels of a continuous schedule, least noise first.
    fn from_levels(kind: ScheduleKind, levels: impl Iterator<Item = NoiseLevel>) -> Self {
        let (mut betas, mut alpha_bar, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for (t, level) in levels.enumerate() {
            betas.push(1.0 - level.alpha_bar() / alpha_bar.last().unwrap_or(&1.0));
            alpha_bar.push(level.alpha_bar());
            times.push(kind.conditioning(level).unwrap_or(t as f64));
        }
        Self { betas, alpha_bar, times }
    }

    /// The schedule of a scheduler's configuration.
    pub fn of(config: &SchedulerConfig) -> Self {
        let schedule = match &config.trained_betas {
            Some(betas) => Self::from_betas(betas.iter().copied()),
            None => Self::between(
                config.beta_schedule,
                config.num_train_timesteps,
                config.beta_start,
                config.beta_end,
            ),
        };
        if config.rescale_betas_zero_snr { schedule.zero_terminal_snr() } else { schedule }
    }

    /// √ᾱ shifted and stretched so that its first value stays and its last is 0 (arXiv 2305.08891, algorithm 1).
    fn zero_terminal_snr(&self) -> Self {
        let root: Vec<f64> = self.alpha_bar.iter().map(|a| rounded(a.sqrt())).collect();
        let (first, last) = (root[0], root[root.len() - 1]);
        let alpha_bar: Vec<f64> =
            root.iter().map(|r| rounded(((r - last) * first / (first - last)).powi(2))).collect();
        let before = std::iter::once(&1.0).chain(&alpha_bar);
        Self::from_betas(before.zip(&alpha_bar).map(|(before, a)| 1.0 - rounded(a / before)))
    }

    /// β_t of DDPM.
    pub fn beta(&self, t: usize) -> f64 {
        self.betas[t]
    }

    /// What conditions the network at step t.
    pub fn time(&self, t: usize) -> f64 {
        self.times[t]
    }

    /// The number of timesteps T.
    pub fn timesteps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// ᾱ_t of DDPM, the squared signal; 1 for a time before the first step.
    pub fn alpha_bar(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.alpha_bar[t])
    }

    /// The step of the chain from `previous` to `t`, its α rounded to f32 as in diffusers.
    pub fn step(&self, t: usize, previous: Option<usize>) -> ChainStep {
        let (now, next) = (self.alpha_bar(Some(t)), self.alpha_bar(previous));
        ChainStep::rounded(now, next)
    }

    /// b_{t-1} / √(1 - ā_{t-1}²), at most 1: how much of all the noise in x_t is that of the last step. With x_0 and x_t
    /// known, the last noise is this times the merged noise in the mean, and its variance is 1 less the square of this.
    pub fn last_noise_share(&self, t: usize) -> f64 {
        (self.step(t, t.checked_sub(1)).beta / (1.0 - self.alpha_bar[t])).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DDPM's own numbers: with T = 1000 and linear β, √ᾱ_T is about 0.00635.
    #[test]
    fn linear_ends_in_noise() {
        let s = NoiseSchedule::new(ScheduleKind::Linear, 1000);
        assert!((s.alpha_bar(Some(0)) - 0.9999).abs() < 6e-8);
        assert!((s.alpha_bar(Some(999)) - 4.035_830e-5).abs() < 1e-9);
    }

    #[test]
    fn every_schedule_decreases_within_the_unit_interval() {
        for kind in
            [ScheduleKind::Linear, ScheduleKind::ScaledLinear, ScheduleKind::Cosine, ScheduleKind::Sigmoid]
        {
            for steps in [1, 2, 10, 1000] {
                let s = NoiseSchedule::new(kind, steps);
                assert!(s.alpha_bar.windows(2).all(|w| w[1] < w[0]));
                assert!(s.alpha_bar.iter().all(|&a| a > 0.0 && a < 1.0), "{kind:?} {steps}");
            }
        }
    }

    #[test]
    fn continuous_schedules_are_those_of_their_papers() {
        let flow = NoiseSchedule::new(ScheduleKind::Flow, 1000);
        let edm = NoiseSchedule::new(ScheduleKind::Edm, 1000);
        // Half of all σ lie below exp(-1.2); one deviation up, 84 % of them.
        let sigma = |t| edm.level(Some(t)).sigma();
        assert!(sigma(499) < (-1.2f64).exp() && sigma(500) > (-1.2f64).exp());
        assert!(sigma(840) < 1.0 && sigma(842) > 1.0);
        for t in 0..1000 {
            let level = flow.level(Some(t));
            assert!((level.flow_time() - (t + 1) as f64 / 1000.0).abs() < 1e-12);
            assert!((flow.time(t) - (t + 1) as f64).abs() < 1e-9);
            assert!((4.0 * edm.time(t) - sigma(t).ln()).abs() < 1e-6);
        }
        assert_eq!(flow.alpha_bar(Some(999)), 0.0);
    }
}
