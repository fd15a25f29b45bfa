//! `inkwash demo`: the whole road in a few minutes.

use super::progress::TrainProgress;
use super::{DeviceArgs, Failure, interruption};
use crate::diffusion::{ScheduleKind, Trajectory};
use crate::gpu::{Blocking as _, Store};
use crate::io::save_rows;
use crate::model::Model;
use crate::sample::{Drawing, PictureSampler};
use crate::train::{RunOptions, TrainConfig, open_model, train};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Folder of the run; must be new or empty
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Optimizer steps
    #[arg(long, default_value_t = 500, value_name = "N")]
    steps: u32,
}

pub fn run(args: &DemoArgs, device: &DeviceArgs) -> Result<ExitCode, Failure> {
    let device = device.open()?;
    let config = TrainConfig {
        steps: args.steps,
        // Told which glyph to draw, and with a noise schedule that suits small pictures (arXiv 2102.09672), the
        // network gets to glyphs that a person can read in 500 steps; without, it takes some 2000.
        class_conditional: true,
        noise_schedule: ScheduleKind::Cosine,
        sample_count: 30,
        warmup_steps: 50,
        learning_rate: 2e-3,
        ema_decay: 0.99,
        sample_every: 100,
        checkpoint_every: 100,
        log_every: 10,
        ..TrainConfig::default()
    };
    let interrupted = interruption("ending, with a checkpoint if the training is still under way");
    let options = RunOptions::new(&args.out);
    let mut progress = TrainProgress::new(false);
    train(|| Ok(device.clone()), &config, &options, &interrupted, |event| progress.show(event))?;
    if interrupted.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(130));
    }

    // From noise to glyphs: pictures at the beginning, half-way and end of the way back.
    let Model { unet, weights, scheduler, .. } = open_model(&args.out)?;
    let store = Store::new(&device);
    let state = unet.parameters.state("weights");
    store.write(&state, &weights)?;
    const COUNT: usize = 10;
    let trajectory = Trajectory::new(&scheduler, 100, 0.0)?;
    let sampler = PictureSampler::new(&store, &unet, &state, COUNT, trajectory).block_on()?;
    let mut rows = Vec::new();
    let labels: Vec<u32> = (0..).take(COUNT).collect();
    let pictures = sampler
        .draw(&Drawing::new(COUNT, 1, &labels), async |progress| {
            if interrupted.load(Ordering::Relaxed) {
                std::process::exit(130);
            }
            for (done, label) in [(0, "noise"), (50, "half-way")] {
                if progress.done == done {
                    rows.push((label.to_string(), progress.read().await?));
                }
            }
            Ok(())
        })
        .block_on()?;
    rows.push(("end".to_string(), pictures));
    let (height, width) = unet.config.sample_size.get();
    let path = args.out.join("denoising.png");
    save_rows(&path, &rows, height, width, unet.config.out_channels, 64)?;
    println!("\nfrom noise to glyphs   {}", path.display());
    println!("loss curve             {}", args.out.join("loss.png").display());
    println!("samples while training {}", args.out.join("samples").display());
    println!("draw more with         inkwash sample --model {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
