//! `inkwash sample`.

use super::{DeviceArgs, Failure, interruption};
use crate::data::{Mask, Options, read_mask, read_picture, to_unit};
use crate::diffusion::{Sampler, SchedulerConfig, TimestepSpacing, Trajectory, VarianceType};
use crate::gpu::{Blocking as _, RunError, Store};
use crate::io::{remove_abandoned, save_grid, save_single, tensor_file};
use crate::model::Model;
use crate::rng::{Philox, Stream};
use crate::sample::{Drawing, GuidanceOptions, Inpaint, PictureSampler, Start};
use crate::train::{built_in_model, grid_columns, open_model};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use std::iter::repeat_n;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// Run folder of `inkwash train`, or a diffusers folder; the built-in glyph model if left out
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Pictures to draw
    #[arg(long, short, default_value_t = 25, value_name = "N")]
    n: usize,
    /// Steps from noise to picture; Heun evaluates the network twice in each
    #[arg(long, default_value_t = 50, value_name = "S")]
    steps: usize,
    /// Seed: picture i depends on the seed and i alone
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Class to draw, for class-conditional models; all in turn if left out
    #[arg(long, value_name = "INDEX")]
    class: Option<u32>,
    /// Pictures computed at once
    #[arg(long, default_value_t = 16, value_name = "B")]
    batch: usize,
    /// Folder for grid.png and the single pictures
    #[arg(long, value_name = "DIR", default_value = "samples")]
    out: PathBuf,
    /// Write grid.png alone
    #[arg(long)]
    grid_only: bool,
    /// Begin from this noise, tensor `x_T` (N, C, H, W) of a safetensors file, instead of the seed's
    #[arg(long, value_name = "FILE")]
    initial_noise: Option<PathBuf>,
    /// Draw pictures between those of two seeds, by turning one's noise into the other's
    #[arg(long, value_name = "A,B", value_delimiter = ',', conflicts_with_all = ["initial_noise", "from_picture"])]
    between_seeds: Option<Vec<u64>>,
    #[command(flatten)]
    guidance: GuidanceArgs,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    scheduler: SchedulerArgs,
}

/// Classifier-free guidance.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guidance (for models trained with --label-dropout)")]
struct GuidanceArgs {
    /// Answer without the class plus W times what the class changes: 1 for none, more for clearer classes and less
    /// variety, too much for pictures that are none
    #[arg(long, value_name = "W")]
    guidance: Option<f64>,
    /// Guide only where noise / signal lies above LOW and not above HIGH
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', requires = "guidance")]
    guidance_interval: Option<Vec<f64>>,
    /// Label that stands for no class, where the model does not say so itself
    #[arg(long, value_name = "INDEX", requires = "guidance")]
    null_class: Option<u32>,
}

impl GuidanceArgs {
    /// What was asked for, if anything. `null_label` is the model's own.
    fn options(
        &self,
        null_label: Option<u32>,
        classes: Option<usize>,
    ) -> Result<Option<GuidanceOptions>, Failure> {
        let Some(weight) = self.guidance else { return Ok(None) };
        if !weight.is_finite() || weight < 0.0 {
            return Err(format!("--guidance {weight}: it must be at least 0").into());
        }
        let Some(classes) = classes else {
            return Err("--guidance: this model was trained without classes, so that there is nothing to guide towards; \
                        leave it out"
                .into());
        };
        let Some(null_label) = self.null_class.or(null_label) else {
            return Err("--guidance: this model never learnt to draw without a class; train with --label-dropout 0.1, or \
                        name the label that stands for none with --null-class"
                .into());
        };
        if null_label as usize >= classes {
            return Err(
                format!("--null-class {null_label}: this model has labels 0 to {}", classes - 1).into()
            );
        }
        let interval = match self.guidance_interval.as_deref() {
            None => (0.0, f64::INFINITY),
            Some(&[low, high]) if 0.0 <= low && low < high => (low, high),
            Some(found) => {
                return Err(format!(
                    "--guidance-interval: found {found:?}; give two numbers, the first at least 0 and below the second, as \
                     0.3,3"
                )
                .into());
            }
        };
        // A weight of 1 is the answer with the class alone, for which there is no need to ask twice.
        Ok((weight != 1.0).then_some(GuidanceOptions { weight, interval, null_label }))
    }
}

/// Pictures to begin from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "From a picture")]
struct GivenArgs {
    /// Begin from this picture with noise on it, instead of noise alone (SDEdit)
    #[arg(long, value_name = "FILE", conflicts_with = "initial_noise")]
    from_picture: Option<PathBuf>,
    /// How much of the way from noise is gone again: 1 all of it, 0.1 little
    #[arg(long, default_value_t = 0.6, value_name = "X", requires = "from_picture")]
    strength: f64,
    /// Keep this picture and draw anew what --mask shows (RePaint; ddpm, ddim, euler or euler-ancestral)
    #[arg(long, value_name = "FILE", requires = "mask")]
    inpaint: Option<PathBuf>,
    /// White where --inpaint is to be drawn anew, black where it stays
    #[arg(long, value_name = "FILE", requires = "inpaint")]
    mask: Option<PathBuf>,
    /// How often each step of --inpaint is taken, with noise put back between
    #[arg(long, default_value_t = 5, value_name = "N", requires = "inpaint")]
    resamples: usize,
}

/// What is left out follows the model: its `scheduler_config.json`, or DDIM for a run of this program.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Scheduler (left out: the model's own)")]
struct SchedulerArgs {
    /// Way back from noise
    #[arg(long, value_enum)]
    sampler: Option<Sampler>,
    /// Noise of DDIM: 0 deterministic, 1 as much as DDPM
    #[arg(long, value_name = "X")]
    eta: Option<f64>,
    /// Variance of DDPM's step
    #[arg(long, value_enum)]
    variance_type: Option<VarianceType>,
    /// Which timesteps are visited
    #[arg(long, value_enum)]
    timestep_spacing: Option<TimestepSpacing>,
    /// Space the noise levels as EDM does (any sampler but ddpm and ddim; of an edm or flow model, all)
    #[arg(long)]
    karras_sigmas: bool,
    /// Clamp the predicted picture to ±X at every step
    #[arg(long, value_name = "X")]
    clip_range: Option<f64>,
    /// Do not clamp the predicted picture
    #[arg(long, conflicts_with_all = ["clip_range", "thresholding"])]
    no_clip: bool,
    /// Dynamic thresholding of the predicted picture, up to this threshold
    #[arg(long, value_name = "MAX", conflicts_with = "clip_range")]
    thresholding: Option<f64>,
}

impl SchedulerArgs {
    /// The model's configuration with what was given in its place, and η.
    fn apply(&self, model: &SchedulerConfig) -> Result<(SchedulerConfig, f64), Failure> {
        let mut config = model.with_sampler(self.sampler.unwrap_or(model.sampler));
        let only = |given: bool, flag: &str, has_meaning: bool| -> Result<(), Failure> {
            if given && !has_meaning {
                return Err(
                    format!("{flag} has no meaning for {}; leave it out", name(config.sampler)).into()
                );
            }
            Ok(())
        };
        only(self.eta.is_some(), "--eta", config.sampler == Sampler::Ddim)?;
        only(self.variance_type.is_some(), "--variance-type", config.sampler == Sampler::Ddpm)?;
        let continuous = config.beta_schedule.is_continuous();
        only(self.karras_sigmas, "--karras-sigmas", continuous || config.sampler.is_by_sigma())?;
        if let Some(variance) = self.variance_type {
            if (variance == VarianceType::LearnedRange) != (model.variance_type == VarianceType::LearnedRange)
            {
                return Err(
                    "--variance-type: learned_range is for the models that learn their variance, and for \
                            them alone; leave it out"
                        .into(),
                );
            }
            config.variance_type = variance;
        }
        config.timestep_spacing = self.timestep_spacing.unwrap_or(config.timestep_spacing);
        // A spacing that is asked for takes the place of EDM's own.
        config.use_karras_sigmas &= !(continuous && self.timestep_spacing.is_some());
        config.use_karras_sigmas |= self.karras_sigmas;
        if let Some(range) = self.clip_range {
            (config.clip_sample, config.clip_sample_range, config.thresholding) = (true, range, false);
        }
        if self.no_clip {
            (config.clip_sample, config.thresholding) = (false, false);
        }
        if let Some(max) = self.thresholding {
            (config.thresholding, config.sample_max_value) = (true, max);
        }
        Ok((config, self.eta.unwrap_or(0.0)))
    }
}

/// What `--sampler` calls it.
fn name(sampler: Sampler) -> String {
    sampler.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
}

/// The noise of a file as (N, H, W, C).
fn initial_noise(path: &Path, n: usize, [h, w, c]: [usize; 3]) -> Result<Vec<f32>, Failure> {
    let file = tensor_file::read(path)?;
    let expected = [n, c, h, w];
    let found =
        file.tensors.get("x_T").ok_or_else(|| format!("{}: tensor `x_T` is missing", path.display()))?;
    if found.shape != expected {
        return Err(format!(
            "{}: tensor `x_T` has shape {:?}; --n {n} pictures of this model need {expected:?}",
            path.display(),
            found.shape
        )
        .into());
    }
    let pixel = |i: usize| ((i / (h * w * c) * c + i % c) * h * w) + i / c % (h * w);
    Ok((0..found.data.len()).map(|i| found.data[pixel(i)]).collect())
}

/// A picture file as `n` copies (N, H, W, C) in [-1, 1].
fn copies(path: &Path, n: usize, [height, width, channels]: [usize; 3]) -> Result<Vec<f32>, Failure> {
    let options = Options::new((height, width), channels);
    let picture = read_picture(path, &options)?;
    Ok(repeat_n(picture.into_iter().map(to_unit), n).flatten().collect())
}

/// `n` noises from that of one seed to that of another, along the great circle between them, on which all have the
/// length that noise has (Shoemake, SIGGRAPH 1985).
fn between(seeds: [u64; 2], n: usize, item: usize) -> Vec<f32> {
    let noise = seeds.map(|seed| -> Vec<f64> {
        let mut rng = Philox::new(seed, Stream::Initial, 0);
        (0..item).map(|_| rng.normal()).collect()
    });
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let [a, b] = &noise;
    let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
    let share = |u: f64| if angle < 1e-6 { u } else { (u * angle).sin() / angle.sin() };
    (0..n)
        .flat_map(|i| {
            let u = if n > 1 { i as f64 / (n - 1) as f64 } else { 0.5 };
            let (from, to) = (share(1.0 - u), share(u));
            a.iter().zip(b).map(move |(a, b)| (from * a + to * b) as f32)
        })
        .collect()
}

pub fn run(args: &SampleArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    // 1. Refuse before anything is written.
    let Model { unet, weights, scheduler, null_label, warnings, .. } = match &args.model {
        Some(path) => open_model(path)?,
        None => built_in_model()?,
    };
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if args.n == 0 || args.batch == 0 {
        return Err("--n and --batch must be at least 1".into());
    }
    let (scheduler, eta) = args.scheduler.apply(&scheduler)?;
    let mut trajectory = Trajectory::new(&scheduler, args.steps, eta).map_err(|e| format!("--{e}"))?;
    let (height, width) = unet.config.sample_size.get();
    let channels = unet.config.in_channels;
    if !unet.config.out_channels.is_multiple_of(channels) || ![1, 3].contains(&channels) {
        return Err(format!(
            "this network takes {channels} channels and gives {}; only pictures of 1 or 3 channels can be drawn",
            unet.config.out_channels
        )
        .into());
    }
    let embeddings = unet.config.num_class_embeds;
    let guidance = args.guidance.options(null_label, embeddings)?;
    let null_label = args.guidance.null_class.or(null_label);
    // Without --class, all in turn but the one that is none.
    let classes: Vec<u32> =
        (0..).take(embeddings.unwrap_or(1)).filter(|&label| Some(label) != null_label).collect();
    let labels: Vec<u32> = match (args.class, embeddings) {
        (Some(_), None) => return Err("--class: this model was trained without classes; leave it out".into()),
        (Some(c), Some(n)) if c as usize >= n => {
            return Err(format!("--class {c}: this model has classes 0 to {}", n - 1).into());
        }
        (Some(c), Some(_)) => vec![c; args.n],
        (None, _) => classes.iter().cycle().take(args.n).copied().collect(),
    };
    let shape = [height, width, channels];
    let given = &args.given;
    let noise = match (&args.initial_noise, args.between_seeds.as_deref()) {
        (Some(path), _) => Some(initial_noise(path, args.n, shape)?),
        (None, Some(&[a, b])) => Some(between([a, b], args.n, height * width * channels)),
        (None, Some(seeds)) => {
            return Err(format!("--between-seeds: found {} seeds; give two, as 3,4", seeds.len()).into());
        }
        (None, None) => None,
    };
    let from = given.from_picture.as_deref().map(|path| copies(path, args.n, shape)).transpose()?;
    if from.is_some() {
        if !(given.strength > 0.0 && given.strength <= 1.0) {
            return Err(format!("--strength {}: it must be above 0 and at most 1", given.strength).into());
        }
        // Of the whole way, the last `strength` is walked again; never less than a step of it.
        let all = trajectory.steps.len();
        let walked = (given.strength * all as f64).ceil() as usize;
        trajectory = trajectory.from_step(all - walked.clamp(1, all));
    }
    let known = match (&given.inpaint, &given.mask) {
        (Some(picture), Some(mask)) => {
            if trajectory.remembers() {
                return Err("--inpaint puts noise back after each step, which a sampler that remembers the step before \
                            cannot bear; use --sampler ddpm, ddim, euler or euler-ancestral"
                    .into());
            }
            if given.resamples == 0 {
                return Err("--resamples must be at least 1".into());
            }
            // White is drawn anew, so the kept share is what is missing to white.
            let Mask { values, notes } = read_mask(mask, &Options::new((height, width), channels))?;
            for note in notes {
                eprintln!("warning: --mask {}: {note}", mask.display());
            }
            let keep: Vec<f32> = values.iter().flat_map(|&white| repeat_n(1.0 - white, channels)).collect();
            let keep = repeat_n(keep, args.n).flatten().collect();
            Some((copies(picture, args.n, shape)?, keep))
        }
        _ => None,
    };
    let known: Option<&(Vec<f32>, Vec<f32>)> = known.as_ref();
    let drawing = Drawing {
        start: match (&from, &noise) {
            (Some(pictures), _) => Start::Picture(pictures),
            (None, Some(noise)) => Start::Noise(noise),
            (None, None) => Start::Seed,
        },
        inpaint: known.map(|(known, mask)| Inpaint { known, mask, resamples: given.resamples }),
        ..Drawing::new(args.n, args.seed, &labels)
    };
    if args.out.join("grid.png").exists() {
        return Err(format!(
            "{} already exists; choose another --out, or remove it",
            args.out.join("grid.png").display()
        )
        .into());
    }

    // 2. Draw.
    let device = device.open()?;
    let store = Store::new(&device);
    let state = unet.parameters.state("weights");
    store.write(&state, &weights)?;
    let mut sampler =
        PictureSampler::new(&store, &unet, &state, args.batch.min(args.n), trajectory).block_on()?;
    if let Some(options) = guidance {
        sampler = sampler.guided_by(&unet, &state, options).block_on()?;
    }
    let interrupted = interruption("ending without a picture written");
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:32} step {pos}/{len}  {elapsed} gone, {eta} left")?;
    bar.set_style(style);
    let pictures = sampler
        .draw(&drawing, async |progress| {
            bar.set_length(progress.total as u64);
            // Wait now and then, so that the bar tells the truth and the queue stays short.
            if progress.done % 10 == 0 {
                device.idle().await?;
            }
            bar.set_position(progress.done as u64);
            if interrupted.load(Ordering::Relaxed) {
                std::process::exit(130);
            }
            Ok::<(), RunError>(())
        })
        .block_on()?;
    bar.finish_and_clear();

    // 3. Write.
    remove_abandoned(&args.out);
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let columns = grid_columns(args.n, if args.class.is_none() { classes.len() } else { 1 });
    let grid = args.out.join("grid.png");
    save_grid(&grid, &pictures, height, width, channels, columns, 64)?;
    if !args.grid_only {
        for (i, picture) in pictures.chunks_exact(height * width * channels).enumerate() {
            save_single(&args.out.join(format!("{i:05}.png")), picture, height, width, channels)?;
        }
    }
    println!(
        "{} picture(s) by {} steps of {} on {} ({})",
        args.n,
        args.steps,
        name(scheduler.sampler),
        device.info.name,
        device.info.backend
    );
    println!("{}", grid.display());
    Ok(ExitCode::SUCCESS)
}
