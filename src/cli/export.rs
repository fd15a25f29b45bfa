//! `inkwash export`.

use super::Failure;
use crate::diffusion::Sampler;
use crate::model::{Model, diffusers};
use crate::train::{ModelFolder, built_in_model};
use indicatif::HumanCount;
use std::path::PathBuf;
use std::process::ExitCode;

const BUILT_IN: &str = "builtin:glyphs";

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Run folder of `inkwash train`, or builtin:glyphs
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Folder to write; must be new or empty
    #[arg(value_name = "DIR")]
    out: PathBuf,
    /// Which weights
    #[arg(long, value_enum, default_value_t = Weights::Ema)]
    weights: Weights,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Weights {
    /// The moving average, which samples are drawn from
    Ema,
    /// Those of the newest checkpoint as they are
    Raw,
}

pub fn run(args: &ExportArgs) -> Result<ExitCode, Failure> {
    // 1. The model.
    let model = match (args.run.to_str(), args.weights) {
        (Some(BUILT_IN), Weights::Raw) => {
            return Err(
                format!("--weights raw: {BUILT_IN} has averaged weights alone; leave the flag out").into()
            );
        }
        (Some(BUILT_IN), Weights::Ema) => built_in_model()?,
        (_, Weights::Ema) => ModelFolder::new(&args.run).open()?,
        (_, Weights::Raw) => {
            let folder = ModelFolder::new(&args.run);
            let model = folder.open()?;
            let [parameters, ..] = folder.load_checkpoint(&model.unet.parameters)?.states;
            Model { weights: parameters, ..model }
        }
    };

    // 2. The folder.
    let model = Model { scheduler: model.scheduler.with_sampler(Sampler::Ddpm), ..model };
    diffusers::save(&args.out, &model)?;
    let unet = &model.unet;

    // 3. What to do with it.
    let kind = match args.weights {
        Weights::Ema => "averaged",
        Weights::Raw => "not averaged",
    };
    println!("{}   {} parameters, {kind}", args.out.display(), HumanCount(unet.parameters.count() as u64));
    println!("\nfrom diffusers import DDPMPipeline; pipeline = DDPMPipeline.from_pretrained({:?})", args.out);
    if !model.class_names.is_empty() {
        println!("\nLabels from 0 on: {}.", model.class_names.join(", "));
    }
    if let Some(null) = model.null_label {
        println!("\nLabel {null} stands for no class.");
    }
    if let Some(classes) = unet.config.num_class_embeds {
        println!(
            "\nThe model is told one of {classes} classes, and DDPMPipeline gives none. Call the network itself, once for \
             each step:\n\noutput = pipeline.unet(sample, timestep, class_labels=torch.tensor([0])).sample"
        );
    }
    Ok(ExitCode::SUCCESS)
}
