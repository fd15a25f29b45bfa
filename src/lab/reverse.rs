//! The way back: the article's deterministic update, DDPM's with its noise, and DDIM between the two.

use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::{Dataset, Options, to_unit};
use crate::diffusion::{ChainStep, NoiseLevel, NoiseSchedule, Sampler, SchedulerConfig, Trajectory};
use crate::gpu::{Blocking as _, Store};
use crate::io::{Chart, Series, Stroke, save_rows};
use crate::model::Model;
use crate::nn::ConfigError;
use crate::ops::Coefficients;
use crate::rng::{Philox, Stream};
use crate::sample::{Drawing, PictureSampler, Start};
use crate::train::built_in_model;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "reverse",
    title: "The way back: the article's update, and the noise that it leaves out",
    see: "reverse_strip.png and reverse_pictures.png: from every noise the article's update draws nearly the same upright \
          glyph of a class, having lost all noise in a few steps, and DDPM and DDIM draw a different one. \
          reverse_spread.png: they stay near the spread that noise and data have together, it falls far below.",
    equation: "x_t = (x_{t+1} - b_t ε_t) / a_t with ε_t ≈ b_t / √(1 - ā_t²) ε_θ   (the article, \"Denoising\"), the mean \
               of DDPM's step (eq. 11), to which DDPM adds √β̃_t z (eq. 7) and DDIM η √β̃_t z (arXiv 2010.02502, eq. 12)",
    shaders: &["denoise.wgsl", "lib/estimate.wgsl", "lib/normal.wgsl"],
    minutes: 2,
    run,
};

/// Steps of each sampler.
const STEPS: usize = 40;
/// The classes drawn: mouth, sun, mountain, tree, which have the most ink.
const CLASSES: [u32; 4] = [6, 7, 8, 9];
/// Pictures of each class.
const COPIES: usize = 4;
const COUNT: usize = CLASSES.len() * COPIES;
/// Steps done at the pictures of the strip.
const SHOWN: [usize; 11] = [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, STEPS];
/// Which of them is drawn again with another seed of z.
const REPEATED: usize = 2;
/// Glyphs of each class by which the spread of the data is known, to 1 %.
const GLYPHS_OF_EACH: usize = 100;

/// The four ways back, by their names.
const ARTICLE: usize = 0;
const DDPM: usize = 1;
const DDIM_0: usize = 2;
const DDIM_1: usize = 3;
const NAMES: [&str; 4] = ["article", "DDPM", "DDIM η = 0", "DDIM η = 1"];

/// (ᾱ before, ᾱ after) each step of a trajectory that goes on from each timestep to the next, and at last to the picture.
fn levels(schedule: &NoiseSchedule, trajectory: &Trajectory) -> Vec<(f64, f64)> {
    // The timesteps of DDPM and DDIM are whole and of the schedule.
    let mut all: Vec<f64> =
        trajectory.steps.iter().map(|s| schedule.alpha_bar(Some(s.timestep as usize))).collect();
    all.push(1.0);
    all.windows(2).map(|w| (w[0], w[1])).collect()
}

/// The article's update at the timesteps of DDPM: 1 / a_t x - b_t² / (a_t √(1-ā_t²)) f, where a_t is that of all the
/// schedule's steps from one timestep to the next.
fn article(schedule: &NoiseSchedule, ddpm: &Trajectory) -> Trajectory {
    let mut trajectory = ddpm.clone();
    for (step, (now, next)) in trajectory.steps.iter_mut().zip(levels(schedule, ddpm)) {
        step.coefficients = ChainStep::between(now, next).article(NoiseLevel::of_alpha_bar(now));
    }
    trajectory
}

/// The four ways back of a model. DDPM and DDIM clamp their estimate of x_0 to [-1, 1], as their authors' programs do.
/// The article's update has no such estimate.
fn trajectories(scheduler: &SchedulerConfig, steps: usize) -> Result<[Trajectory; 4], ConfigError> {
    let ddpm = Trajectory::new(&scheduler.with_sampler(Sampler::Ddpm), steps, 0.0)?;
    let ddim = scheduler.with_sampler(Sampler::Ddim);
    Ok([
        article(&NoiseSchedule::of(scheduler), &ddpm),
        ddpm,
        Trajectory::new(&ddim, steps, 0.0)?,
        Trajectory::new(&ddim, steps, 1.0)?,
    ])
}

/// (share of x, share of f) of an update where nothing is clamped: x_0 = k (p_x x + p_f f) put into
/// c_x x + c_f f + c_0 x_0.
fn shares(c: &Coefficients) -> [f64; 2] {
    [c.c_x + c.c_0 * c.k * c.p_x, c.c_f + c.c_0 * c.k * c.p_f]
}

/// The largest difference between the shares of x and f in two ways back, of each step in units of what it may be:
/// DDPM's α is rounded to f32, by 2^-25 of 1 or less, and is divided by 1 - ᾱ_t and by a_t.
fn worst_share(levels: &[(f64, f64)], a: &Trajectory, b: &Trajectory) -> f64 {
    let off = a.steps.iter().zip(&b.steps).zip(levels).map(|((a, b), &(now, next))| {
        let unit = 2f64.powi(-25) / (1.0 - now) / (now / next).sqrt();
        let pairs = shares(&a.coefficients).into_iter().zip(shares(&b.coefficients));
        pairs.map(|(a, b)| (a - b).abs() / unit).fold(0.0, f64::max)
    });
    off.fold(0.0, f64::max)
}

/// The root mean square, over classes and pixels, of the deviation of pictures of one class from their mean.
/// `pictures` has the classes one after another, `copies` pictures of each.
pub(super) fn spread(pictures: &[f32], copies: usize, elements: usize) -> f64 {
    let mut squares = 0.0;
    for class in pictures.chunks_exact(copies * elements) {
        for pixel in 0..elements {
            let values = || class.iter().skip(pixel).step_by(elements).map(|&x| f64::from(x));
            let mean = values().sum::<f64>() / copies as f64;
            squares += values().map(|x| (x - mean).powi(2)).sum::<f64>();
        }
    }
    let classes = pictures.len() / (copies * elements);
    (squares / (classes * (copies - 1) * elements) as f64).sqrt()
}

/// The built-in glyphs of the classes, class after class.
fn data(side: (usize, usize)) -> Result<Vec<f32>, LabError> {
    let options = Options { glyph_count: 10 * GLYPHS_OF_EACH, ..Options::new(side, 1) };
    let glyphs = Dataset::open("builtin:glyphs", &options)?;
    let mut pictures = Vec::new();
    for class in CLASSES {
        for i in (0..glyphs.len()).filter(|&i| glyphs.label(i) == class) {
            pictures.extend(glyphs.image(i).iter().map(|&byte| to_unit(byte)));
        }
    }
    Ok(pictures)
}

/// The share of values that differ in any bit.
pub(super) fn differing(a: &[f32], b: &[f32]) -> f64 {
    let count = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    count as f64 / a.len() as f64
}

/// What one way back left behind.
struct Way {
    /// The pictures at [`SHOWN`].
    strip: Vec<Vec<f32>>,
    /// The spread before each step and after the last.
    spread: Vec<f64>,
    pictures: Vec<f32>,
    /// The share of values that another seed of z changes; none where that was not tried.
    changed: Option<f64>,
}

/// The same pictures for every sampler: from the same noise.
fn drawing<'a>(seed: u64, labels: &'a [u32], noise: &'a [f32]) -> Drawing<'a> {
    Drawing { start: Start::Noise(noise), ..Drawing::new(COUNT, seed, labels) }
}

fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    // 1. The model, and one x_T for each picture, the same for all.
    let Model { unet, weights, scheduler, .. } = built_in_model()?;
    let side = unet.config.sample_size.get();
    let elements = side.0 * side.1;
    let schedule = NoiseSchedule::of(&scheduler);
    let trajectories = trajectories(&scheduler, STEPS)?;
    let labels: Vec<u32> = CLASSES.iter().flat_map(|&class| [class; COPIES]).collect();
    let mut random = Philox::new(lab.seed, Stream::Initial, 0);
    let noise: Vec<f32> = (0..COUNT * elements).map(|_| random.normal() as f32).collect();

    // 2. Four ways back.
    let store = Store::new(&lab.device);
    let state = unet.parameters.state("weights");
    store.write(&state, &weights)?;
    let mut ways = Vec::new();
    for (number, trajectory) in trajectories.iter().enumerate() {
        let sampler = PictureSampler::new(&store, &unet, &state, COUNT, trajectory.clone()).block_on()?;
        let (mut strip, mut over_time) = (Vec::new(), Vec::new());
        let pictures = sampler
            .draw(&drawing(lab.seed, &labels, &noise), async |progress| {
                let x = progress.read().await?;
                over_time.push(spread(&x, COPIES, elements));
                if SHOWN.contains(&progress.done) {
                    strip.push(x);
                }
                Ok(())
            })
            .block_on()?;
        // DDIM with η = 1 is DDPM's case: it shows nothing new.
        let changed = if number == DDIM_1 {
            None
        } else {
            let mut short = trajectory.clone();
            short.steps.truncate(SHOWN[REPEATED]);
            let sampler = PictureSampler::new(&store, &unet, &state, COUNT, short).block_on()?;
            let other = sampler
                .draw(&drawing(lab.seed.wrapping_add(1), &labels, &noise), async |_| Ok(()))
                .block_on()?;
            Some(differing(&strip[REPEATED], &other))
        };
        ways.push(Way { strip, spread: over_time, pictures, changed });
        (lab.progress)(&format!("{}: {STEPS} steps", NAMES[number]));
    }

    let data = spread(&data(side)?, GLYPHS_OF_EACH, elements);
    let levels = levels(&schedule, &trajectories[DDPM]);
    judge(findings, &levels, &trajectories, &ways, data);

    // 3. Pictures and the chart.
    let rows: Vec<(String, Vec<f32>)> = [0, COUNT - COPIES]
        .into_iter()
        .flat_map(|picture| NAMES.iter().zip(&ways).map(move |(name, way)| (picture, name, way)))
        .map(|(picture, name, way)| {
            let of_picture = |x: &Vec<f32>| x[picture * elements..(picture + 1) * elements].to_vec();
            ((*name).to_string(), way.strip.iter().flat_map(of_picture).collect())
        })
        .collect();
    save_rows(&findings.file("reverse_strip.png"), &rows, side.0, side.1, 1, 64)?;
    let rows: Vec<(String, Vec<f32>)> =
        NAMES.iter().zip(&ways).map(|(name, way)| ((*name).to_string(), way.pictures.clone())).collect();
    save_rows(&findings.file("reverse_pictures.png"), &rows, side.0, side.1, 1, 64)?;
    draw(findings, &expected(&levels, data), &ways)
}

/// The spread before each step and after the last of pictures that have the noise of their level and the spread of the
/// data: √(ā² s² + 1 - ā²).
fn expected(levels: &[(f64, f64)], data: f64) -> Vec<f64> {
    let spread = |alpha_bar: f64| (alpha_bar * data * data + 1.0 - alpha_bar).sqrt();
    levels.iter().map(|&(now, _)| now).chain([1.0]).map(spread).collect()
}

fn judge(
    findings: &mut Findings,
    levels: &[(f64, f64)],
    trajectories: &[Trajectory; 4],
    ways: &[Way],
    data: f64,
) {
    let [article, ddpm, ddim_0, ddim_1] = trajectories;
    // Two roundings: that of α, and those of f64, which are far smaller.
    findings.verdict(
        "the article's update is DDPM's without its noise: shares of x and ε_θ, off in units of the rounding of α",
        worst_share(levels, article, ddpm),
        Expected::AtMost(1.01),
    );
    findings.verdict(
        "DDIM with η = 1 is DDPM: shares of x and ε_θ, off in units of the rounding of α",
        worst_share(levels, ddim_1, ddpm),
        Expected::AtMost(1.01),
    );
    let noise = |t: &Trajectory| t.steps.iter().map(|s| s.coefficients.c_z).collect::<Vec<_>>();
    let off = noise(ddim_1).iter().zip(noise(ddpm)).map(|(a, b)| (a * a - b * b).abs()).fold(0.0, f64::max);
    findings.verdict(
        "DDIM with η = 1 has DDPM's variance at every step: largest difference, in roundings of f64",
        off / f64::EPSILON,
        Expected::AtMost(4.0),
    );
    let drawn = |t: &Trajectory| noise(t).iter().map(|z| z.abs()).sum::<f64>();
    findings.verdict(
        "the article's update and DDIM with η = 0 draw no noise: sum of their c_z",
        drawn(article) + drawn(ddim_0),
        Expected::AtMost(0.0),
    );
    for (way, claim, expected) in [
        (ARTICLE, "give the same bits from the same x_T", Expected::AtMost(0.0)),
        (DDIM_0, "give the same bits from the same x_T", Expected::AtMost(0.0)),
        (DDPM, "differ from the same x_T", Expected::AtLeast(0.99)),
    ] {
        findings.verdict(
            format!(
                "{} with two seeds of z: after {} steps the pictures {claim}: share of values that differ",
                NAMES[way], SHOWN[REPEATED]
            ),
            ways[way].changed.unwrap_or(f64::NAN),
            expected,
        );
    }

    // With 4 · 3 degrees of freedom a standard deviation is known to 1 / √(2 · 12) = 20 % if all pixels of a picture moved
    // as one, and better as they do not. Seeds 0 to 2 gave 0.47, 0.43 and 0.36.
    let last = |way: usize| ways[way].spread[STEPS];
    findings.verdict(
        "without the noise the pictures of a class become alike: the article's spread in that of DDPM",
        last(ARTICLE) / last(DDPM),
        Expected::AtMost(0.7),
    );
    for way in [DDPM, DDIM_0, DDIM_1] {
        findings.verdict(
            format!("{} keeps the spread of the data: its spread in theirs", NAMES[way]),
            last(way) / data,
            Expected::About(1.0, 0.4),
        );
    }
    findings.number("spread_of_data", data);
    for (name, way) in ["article", "ddpm", "ddim_0", "ddim_1"].iter().zip(ways) {
        findings.number(&format!("spread_{name}"), way.spread[STEPS]);
        findings.number(&format!("spread_{name}_after_a_tenth_of_the_steps"), way.spread[STEPS / 10]);
        findings.number(&format!("spread_{name}_over_the_steps"), &way.spread);
    }
    findings.number("spread_expected_over_the_steps", expected(levels, data));
}

fn draw(findings: &mut Findings, expected: &[f64], ways: &[Way]) -> Result<(), LabError> {
    let mut chart = Chart {
        title: "Spread of the pictures of one class, on the way from noise to picture".into(),
        x_label: "steps done".into(),
        y_label: "standard deviation of a pixel".into(),
        ..Chart::default()
    };
    let names = NAMES.into_iter().chain(["noise and data"]);
    let spreads = ways.iter().map(|way| way.spread.as_slice()).chain([expected]);
    for (colour, (name, spread)) in names.zip(spreads).enumerate() {
        let points = (0u32..).zip(spread).map(|(i, &s)| (f64::from(i), s)).collect();
        chart.series.push(Series { name: name.into(), points, stroke: Stroke::Thick, colour });
    }
    findings.chart("reverse_spread", &chart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::ScheduleKind;

    /// At any number of steps, on every schedule: a coefficient that were wrong by more than rounding would be seen.
    #[test]
    fn ddpm_without_its_noise_is_the_articles_update() {
        for beta_schedule in [ScheduleKind::Linear, ScheduleKind::ScaledLinear, ScheduleKind::Cosine] {
            let config = SchedulerConfig { beta_schedule, ..SchedulerConfig::new(Sampler::Ddpm) };
            let schedule = NoiseSchedule::of(&config);
            for steps in [1, 7, 40, 1000] {
                let [mut article, ddpm, _, ddim_1] = trajectories(&config, steps).unwrap();
                let levels = levels(&schedule, &ddpm);
                assert!(worst_share(&levels, &article, &ddpm) < 1.01, "{beta_schedule:?} {steps}");
                assert!(worst_share(&levels, &ddim_1, &ddpm) < 1.01, "{beta_schedule:?} {steps}");
                assert!(article.steps.iter().all(|s| s.coefficients.c_z == 0.0 && s.coefficients.c_0 == 0.0));
                for step in &mut article.steps {
                    step.coefficients.c_f *= 0.999;
                }
                // The one step at t = 0 hardly touches x.
                assert!(steps == 1 || worst_share(&levels, &article, &ddpm) > 100.0);
            }
        }
    }

    #[test]
    fn spread_is_within_classes() {
        // Two classes of two pictures of two pixels: deviations 1 and 0, and 2 and 0.
        let pictures = [1.0, 5.0, 3.0, 5.0, -8.0, 7.0, -4.0, 7.0];
        // Squares 2 · 1 + 2 · 4 over 2 classes, 1 degree of freedom and 2 pixels.
        assert!((spread(&pictures, 2, 2) - (10.0f64 / 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(differing(&[0.0, 1.0], &[-0.0, 1.0]), 0.5);
    }
}
