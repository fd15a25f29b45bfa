//! `inkwash sample`.

use super::{DeviceArgs, Failure, interruption};
use crate::diffusion::{NoiseSchedule, Sampler, SamplerOptions, UNet, sampler_steps};
use crate::gpu::{RunError, Store};
use crate::io::{save_grid, save_single};
use crate::sample::PictureSampler;
use crate::train::{EMA, TrainConfig, grid_columns, load_model};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// Run folder of `inkwash train`; the built-in glyph model if left out
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Pictures to draw
    #[arg(long, short, default_value_t = 25, value_name = "N")]
    n: usize,
    /// Network evaluations per picture
    #[arg(long, default_value_t = 50, value_name = "S")]
    steps: usize,
    /// Way back from noise
    #[arg(long, value_enum, default_value_t = Sampler::Ddim)]
    sampler: Sampler,
    /// Noise of DDIM: 0 deterministic, 1 as much as DDPM
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    eta: f64,
    /// Do not clamp the predicted picture to the range of pixels at every step
    #[arg(long)]
    no_clip: bool,
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
}

fn open_model(path: Option<&PathBuf>) -> Result<(TrainConfig, UNet, Vec<f32>), Failure> {
    match path {
        Some(path) => Ok(load_model(path)?),
        None => Ok(crate::train::built_in_model()?),
    }
}

pub fn run(args: &SampleArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    // 1. Refuse before anything is written.
    let (config, unet, weights) = open_model(args.model.as_ref())?;
    if args.n == 0 || args.batch == 0 {
        return Err("--n and --batch must be at least 1".into());
    }
    if args.steps == 0 || args.steps > config.timesteps {
        return Err(format!(
            "--steps {}: this model has {total} noise steps; give between 1 and {total}",
            args.steps,
            total = config.timesteps
        )
        .into());
    }
    if !(0.0..=1.0).contains(&args.eta) {
        return Err(format!("--eta {}: it must be between 0 and 1", args.eta).into());
    }
    let classes = unet.config.num_class_embeds;
    let labels: Vec<u32> = match (args.class, classes) {
        (Some(_), None) => return Err("--class: this model was trained without classes; leave it out".into()),
        (Some(c), Some(n)) if c as usize >= n => {
            return Err(format!("--class {c}: this model has classes 0 to {}", n - 1).into());
        }
        (Some(c), Some(_)) => vec![c; args.n],
        (None, n) => (0..args.n).map(|i| (i % n.unwrap_or(1)) as u32).collect(),
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
    store.write(EMA, &weights)?;
    let sampler = PictureSampler::new(&store, &unet, EMA, args.batch.min(args.n))?;
    let schedule = NoiseSchedule::new(config.noise_schedule, config.timesteps);
    let options =
        SamplerOptions { sampler: args.sampler, steps: args.steps, eta: args.eta, clip: !args.no_clip };
    let steps = sampler_steps(&schedule, config.prediction, &options);
    let interrupted = interruption();
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:32} step {pos}/{len}  {elapsed} gone, {eta} left")?;
    bar.set_style(style);
    let pictures = sampler.draw(args.n, args.seed, &labels, &steps, |progress| {
        bar.set_length(progress.total as u64);
        // Wait now and then, so that the bar tells the truth and the queue stays short.
        if progress.done % 10 == 0 {
            device.wait()?;
        }
        bar.set_position(progress.done as u64);
        if interrupted.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
        Ok::<(), RunError>(())
    })?;
    bar.finish_and_clear();

    // 3. Write.
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let (height, width) = unet.config.sample_size.get();
    let channels = unet.config.out_channels;
    let columns = grid_columns(args.n, if args.class.is_none() { classes.unwrap_or(1) } else { 1 });
    let grid = args.out.join("grid.png");
    save_grid(&grid, &pictures, height, width, channels, columns, 64)?;
    if !args.grid_only {
        for (i, picture) in pictures.chunks_exact(height * width * channels).enumerate() {
            save_single(&args.out.join(format!("{i:05}.png")), picture, height, width, channels)?;
        }
    }
    println!("{} picture(s) on {} ({})", args.n, device.info.name, device.info.backend);
    println!("{}", grid.display());
    Ok(ExitCode::SUCCESS)
}
