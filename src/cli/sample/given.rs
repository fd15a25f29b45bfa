//! What the pictures begin from and what of them is kept, made batch by batch.

use super::arguments::SampleArgs;
use super::record::checksum;
use crate::cli::Failure;
use crate::data::{Mask, Options, read_mask, read_picture, to_unit};
use crate::diffusion::Trajectory;
use crate::io::tensor_file;
use crate::rng::{Philox, Stream};
use crate::sample::{Inpaint, Start};
use serde_json::{Value, json};
use std::path::Path;

/// Where x comes from.
enum Source {
    Seed,
    /// Noise of a file, (N, C, H, W).
    Noise(Vec<f32>),
    /// Two noises, each of one picture, and the number of pictures from one to the other.
    Between([Vec<f64>; 2], [u64; 2], usize),
    /// One picture (H, W, C) in [-1, 1] for all, and the share of the way that is walked again.
    Picture(Vec<f32>, f64),
}

/// A picture that is known in part: (H, W, C) in [-1, 1], and 1 where it is kept.
struct Known {
    picture: Vec<f32>,
    keep: Vec<f32>,
    resamples: usize,
}

/// What was given to draw from.
pub struct Given {
    source: Source,
    known: Option<Known>,
    shape: [usize; 3],
}

/// What of it a batch is given: (count, H, W, C) each, and empty where there is nothing.
pub struct BatchGiven {
    begin: Vec<f32>,
    known: Vec<f32>,
    keep: Vec<f32>,
}

impl Given {
    /// What the flags say of `n` pictures of height, width and channels. `--strength` leaves out the beginning of the
    /// trajectory.
    pub fn new(
        args: &SampleArgs,
        n: usize,
        shape: [usize; 3],
        trajectory: &mut Trajectory,
    ) -> Result<Self, Failure> {
        let given = &args.given;
        let source = match (&given.from_picture, &args.initial_noise, args.between_seeds.as_deref()) {
            (Some(path), ..) => {
                let picture = picture(path, &given.data_options(shape))?;
                if !(given.strength > 0.0 && given.strength <= 1.0) {
                    return Err(
                        format!("--strength {}: it must be above 0 and at most 1", given.strength).into()
                    );
                }
                // Of the whole way, the last `strength` is walked again; never less than a step of it.
                let all = trajectory.steps.len();
                let walked = (given.strength * all as f64).ceil() as usize;
                *trajectory = trajectory.clone().from_step(all - walked.clamp(1, all));
                Source::Picture(picture, given.strength)
            }
            (None, Some(path), _) => Source::Noise(initial_noise(path, n, shape)?),
            (None, None, Some(&[a, b])) => Source::Between([a, b].map(|seed| noise(seed, shape)), [a, b], n),
            (None, None, Some(seeds)) => {
                return Err(format!("--between-seeds: found {} seeds; give two, as 3,4", seeds.len()).into());
            }
            (None, None, None) => Source::Seed,
        };
        let known = match (&given.inpaint, &given.mask) {
            (Some(path), Some(mask)) => {
                if trajectory.remembers() {
                    return Err("--inpaint puts noise back after each step, which a sampler that remembers the step before \
                                cannot bear; use --sampler ddpm, ddim, euler or euler-ancestral"
                        .into());
                }
                if given.resamples == 0 {
                    return Err("--resamples must be at least 1".into());
                }
                let options = given.data_options(shape);
                let keep = kept(mask, &options)?;
                Some(Known { picture: picture(path, &options)?, keep, resamples: given.resamples })
            }
            _ => None,
        };
        Ok(Self { source, known, shape })
    }

    /// What decides the pictures, for the record: the content of files, not their names.
    pub fn facts(&self) -> (Value, Value) {
        let start = match &self.source {
            Source::Seed => json!("noise of the seed"),
            Source::Noise(noise) => json!({ "initial_noise": checksum(noise) }),
            Source::Between(_, seeds, n) => json!({ "between_seeds": seeds, "pictures": n }),
            Source::Picture(picture, strength) => {
                json!({ "from_picture": checksum(picture), "strength": strength })
            }
        };
        let inpaint = self.known.as_ref().map(|Known { picture, keep, resamples }| {
            json!({ "picture": checksum(picture), "mask": checksum(keep), "resamples": resamples })
        });
        (start, inpaint.unwrap_or(Value::Null))
    }

    /// For pictures `first` to `first + count`.
    pub fn of_batch(&self, first: usize, count: usize) -> BatchGiven {
        let [h, w, c] = self.shape;
        let item = h * w * c;
        let copies =
            |one: &[f32]| -> Vec<f32> { std::iter::repeat_n(one, count).flatten().copied().collect() };
        let begin = match &self.source {
            Source::Seed => Vec::new(),
            Source::Noise(noise) => {
                let pixel = |i: usize| (i / item * c + i % c) * h * w + i / c % (h * w);
                (first * item..(first + count) * item).map(|i| noise[pixel(i)]).collect()
            }
            Source::Between(ends, _, n) => {
                (first..first + count).flat_map(|i| between(ends, i, *n)).collect()
            }
            Source::Picture(picture, _) => copies(picture),
        };
        let (known, keep) = match &self.known {
            Some(known) => (copies(&known.picture), copies(&known.keep)),
            None => (Vec::new(), Vec::new()),
        };
        BatchGiven { begin, known, keep }
    }

    /// What a batch of it begins from.
    pub fn start<'a>(&self, batch: &'a BatchGiven) -> Start<'a> {
        match self.source {
            Source::Seed => Start::Seed,
            Source::Noise(_) | Source::Between(..) => Start::Noise(&batch.begin),
            Source::Picture(..) => Start::Picture(&batch.begin),
        }
    }

    /// What of a batch is known.
    pub fn inpaint<'a>(&self, batch: &'a BatchGiven) -> Option<Inpaint<'a>> {
        let resamples = self.known.as_ref()?.resamples;
        Some(Inpaint { known: &batch.known, mask: &batch.keep, resamples })
    }
}

/// The noise of a file, (N, C, H, W).
fn initial_noise(path: &Path, n: usize, [h, w, c]: [usize; 3]) -> Result<Vec<f32>, Failure> {
    let mut file = tensor_file::read(path)?;
    let expected = [n, c, h, w];
    let found =
        file.tensors.remove("x_T").ok_or_else(|| format!("{}: tensor `x_T` is missing", path.display()))?;
    if found.shape != expected {
        return Err(format!(
            "{}: tensor `x_T` has shape {:?}; --n {n} pictures of this model need {expected:?}",
            path.display(),
            found.shape
        )
        .into());
    }
    Ok(found.data)
}

/// What a mask keeps, for each channel: white is drawn anew, so the kept share is what is missing to white.
fn kept(path: &Path, options: &Options) -> Result<Vec<f32>, Failure> {
    let Mask { values, notes } = read_mask(path, options)?;
    for note in notes {
        eprintln!("warning: --mask {}: {note}", path.display());
    }
    Ok(values.iter().flat_map(|&white| std::iter::repeat_n(1.0 - white, options.channels)).collect())
}

/// A picture file as (H, W, C) in [-1, 1].
fn picture(path: &Path, options: &Options) -> Result<Vec<f32>, Failure> {
    Ok(read_picture(path, options)?.into_iter().map(to_unit).collect())
}

/// The noise of a seed for one picture.
fn noise(seed: u64, shape: [usize; 3]) -> Vec<f64> {
    let mut rng = Philox::new(seed, Stream::Initial, 0);
    (0..shape.iter().product()).map(|_| rng.normal()).collect()
}

/// The noise of picture `i` of `n` from one noise to another, along the great circle between them, on which all have the
/// length that noise has (Shoemake, SIGGRAPH 1985).
fn between([a, b]: &[Vec<f64>; 2], i: usize, n: usize) -> Vec<f32> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
    let share = |u: f64| if angle < 1e-6 { u } else { (u * angle).sin() / angle.sin() };
    let u = if n > 1 { i as f64 / (n - 1) as f64 } else { 0.5 };
    let (from, to) = (share(1.0 - u), share(u));
    a.iter().zip(b).map(|(a, b)| (from * a + to * b) as f32).collect()
}
