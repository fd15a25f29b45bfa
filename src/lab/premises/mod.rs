//! What the article takes for granted before it begins: that pictures have structure, that short steps can be foretold, and that
//! paths narrow on the way back.

mod eigen;
mod spectrum;
mod steps;

use super::{Experiment, Findings, Lab, LabError};
use crate::data::{Dataset, to_unit};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "premises",
    title: "The article's premises: low rank, short steps, narrowing paths",
    see: "spectrum.png: the variance of pictures lies in few directions, that of noise in all. origins.png: on the way back \
          ever fewer pictures are possible, until one is left. error.png and told.png: a short step back can be \
          predicted because little happens in it, not because its noise can be told.",
    equation: "Var[x_{t-1} | x_t] = β̃_t + (ā_{t-2} b_{t-1}² / (1 - ā_{t-1}²))² Var[x_0 | x_t]   (the article, the three \
               premises; DDPM, eq. 7)",
    shaders: &["denoise.wgsl", "lib/normal.wgsl", "lib/philox.wgsl"],
    minutes: 2,
    run,
};

/// Side of the pictures, which are grey.
const SIDE: usize = 16;

/// A picture in [-1, 1].
fn pixels(pictures: &Dataset, i: usize) -> Vec<f64> {
    pictures.image(i).iter().map(|&byte| to_unit(byte).into()).collect()
}

fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    spectrum::run(lab, findings)?;
    steps::run(lab, findings)
}
