//! Pictures have low rank: the spectrum of their covariance, beside that of white noise.

use super::eigen::eigen;
use super::{SIDE, pixels};
use crate::data::{Dataset, Options};
use crate::io::{Chart, Series, save_rows};
use crate::lab::finite_set::dot;
use crate::lab::{Expected, Findings, Lab, LabError};
use crate::rng::{Philox, Stream};

/// Pictures of each kind.
const PICTURES: usize = 2000;
/// The fewest by which as many eigenvalues as a picture has pixels can be told: four for each. White noise then has them
/// between (1 ± √(1/4))², 0.25 and 2.25; with fewer pictures than pixels the rest would be zero, whatever the pictures.
const FEWEST: usize = 4 * SIDE * SIDE;
/// The picture of each kind that the strip shows; of the glyphs it is a tree, which has the most strokes.
const EXAMPLE: usize = 9;
/// Components that pictures are put together from, in the strip.
const SHOWN: [usize; 8] = [1, 4, 8, 16, 32, 64, 128, SIDE * SIDE];

/// Pictures and the eigenvalues of their covariance.
struct Spectrum {
    name: String,
    /// Picture [`EXAMPLE`], less the mean.
    example: Vec<f64>,
    mean: Vec<f64>,
    /// Variance along each component and its direction, the largest first.
    components: Vec<(f64, Vec<f64>)>,
    pictures: usize,
}

impl Spectrum {
    fn new(name: &str, pictures: &[Vec<f64>]) -> Self {
        let (n, d) = (pictures.len() as f64, pictures[0].len());
        let mut mean = vec![0.0; d];
        pictures.iter().for_each(|p| mean.iter_mut().zip(p).for_each(|(m, x)| *m += x / n));
        let centred: Vec<Vec<f64>> =
            pictures.iter().map(|p| p.iter().zip(&mean).map(|(x, m)| x - m).collect()).collect();
        let mut covariance = vec![0.0; d * d];
        for picture in &centred {
            for (row, x) in covariance.chunks_exact_mut(d).zip(picture) {
                row.iter_mut().zip(picture).for_each(|(sum, y)| *sum += x * y / (n - 1.0));
            }
        }
        let components = eigen(covariance, d);
        Self {
            name: name.into(),
            example: centred[EXAMPLE % centred.len()].clone(),
            mean,
            components,
            pictures: pictures.len(),
        }
    }

    fn total(&self) -> f64 {
        self.components.iter().map(|(value, _)| value).sum()
    }

    /// The share of variance in the first 1, 2, 3, … components.
    fn shares(&self) -> Vec<f64> {
        let total = self.total();
        let sum = |sum: &mut f64, (value, _): &(f64, Vec<f64>)| {
            *sum += value / total;
            Some(*sum)
        };
        self.components.iter().scan(0.0, sum).collect()
    }

    /// How many components have this share of the variance.
    fn needed(&self, share: f64) -> f64 {
        self.shares().iter().take_while(|s| **s < share).count() as f64 + 1.0
    }

    /// (Σ λ)² / Σ λ²: d where all components have the same variance, 1 where one has all.
    fn effective_rank(&self) -> f64 {
        self.total().powi(2) / self.components.iter().map(|(value, _)| value * value).sum::<f64>()
    }

    /// The example put together from the mean and the first `count` components.
    fn rebuilt(&self, count: usize) -> Vec<f32> {
        let mut picture = self.mean.clone();
        for (_, direction) in &self.components[..count] {
            let along = dot(&self.example, direction);
            picture.iter_mut().zip(direction).for_each(|(x, d)| *x += along * d);
        }
        picture.into_iter().map(|x| x as f32).collect()
    }
}

/// Real pictures, evenly from all that `spec` names.
fn real(spec: &str) -> Result<Vec<Vec<f64>>, LabError> {
    let pictures = Dataset::open(spec, &Options::new((SIDE, SIDE), 1))?;
    let (count, found) = (PICTURES.min(pictures.len()), pictures.len());
    if count < FEWEST {
        return Err(LabError::FewPictures { spec: spec.into(), found, needed: FEWEST });
    }
    Ok((0..count).map(|i| pixels(&pictures, i * found / count)).collect())
}

pub(super) fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    // 1. Glyphs, real pictures if there are any, and white noise.
    let options = Options { seed: lab.seed, glyph_count: PICTURES, ..Options::new((SIDE, SIDE), 1) };
    let glyphs = Dataset::open("builtin:glyphs", &options)?;
    let mut kinds = vec![("glyphs", (0..PICTURES).map(|i| pixels(&glyphs, i)).collect::<Vec<_>>())];
    if let Some(spec) = lab.data {
        kinds.push(("real pictures", real(spec)?));
    }
    let mut rng = Philox::new(lab.seed, Stream::Cases, 0);
    let noise = (0..PICTURES).map(|_| (0..SIDE * SIDE).map(|_| rng.normal()).collect()).collect();
    kinds.push(("white noise", noise));
    let mut spectra = Vec::new();
    for (name, pictures) in &kinds {
        spectra.push(Spectrum::new(name, pictures));
        (lab.progress)(&format!("{name}: {} eigenvalues of {} pictures", SIDE * SIDE, pictures.len()));
    }

    // 2. Verdicts.
    let d = (SIDE * SIDE) as f64;
    for spectrum in &spectra[..spectra.len() - 1] {
        findings.verdict(
            format!("{}: components with 90 % of the variance, of {d}", spectrum.name),
            spectrum.needed(0.9),
            Expected::AtMost(d / 4.0),
        );
    }
    let noise = &spectra[spectra.len() - 1];
    findings.verdict(
        format!("white noise: components with 90 % of the variance, of {d}"),
        noise.needed(0.9),
        Expected::AtLeast(0.75 * d),
    );
    // Marchenko and Pastur (1967): of d pixels and n pictures the eigenvalues lie between (1 ± √(d/n))², and the mean of
    // their squares is 1 + d/n. The largest strays from the edge by some n^(-2/3), here 0.6 %.
    let ratio = d / noise.pictures as f64;
    findings.verdict(
        "white noise: its largest eigenvalue, in that of Marchenko and Pastur's law",
        noise.components[0].0 / (1.0 + ratio.sqrt()).powi(2),
        Expected::About(1.0, 0.03),
    );
    findings.verdict(
        "white noise: its effective rank, in that of the same law",
        noise.effective_rank() * (1.0 + ratio) / d,
        Expected::About(1.0, 0.01),
    );

    // 3. Table, chart and strip.
    let row = |s: &Spectrum| {
        let words = vec![s.name.clone(), s.pictures.to_string()];
        let numbers = [0.5, 0.9, 0.99].map(|share| s.needed(share).to_string());
        [words, numbers.to_vec(), vec![format!("{:.1}", s.effective_rank())]].concat()
    };
    findings.table(
        "spectrum",
        &["pictures of", "count", "50 %", "90 %", "99 % of the variance", "effective rank"],
        spectra.iter().map(row).collect(),
    );
    for spectrum in &spectra {
        let name = spectrum.name.replace(' ', "_");
        findings.number(&format!("effective_rank_{name}"), spectrum.effective_rank());
        let values: Vec<f64> = spectrum.components.iter().map(|(value, _)| *value).collect();
        findings.number(&format!("eigenvalues_{name}"), values);
    }
    let line = |(colour, spectrum): (usize, &Spectrum)| Series {
        name: spectrum.name.clone(),
        points: (1u32..).map(f64::from).zip(spectrum.shares()).collect(),
        colour,
        ..Series::default()
    };
    findings.chart(
        "spectrum",
        &Chart {
            title: "How many directions the variance of pictures lies in".into(),
            x_label: format!("components, of {d}"),
            y_label: "share of the variance".into(),
            log_x: true,
            series: spectra.iter().enumerate().map(line).collect(),
            ..Chart::default()
        },
    )?;
    let strip = |s: &Spectrum| (s.name.clone(), SHOWN.iter().flat_map(|&count| s.rebuilt(count)).collect());
    let rows: Vec<(String, Vec<f32>)> = spectra.iter().map(strip).collect();
    findings.number("rebuilt_from", SHOWN);
    Ok(save_rows(&findings.file("rebuilt.png"), &rows, SIDE, SIDE, 1, 64)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of two pixels whose covariance is known: components of variance 8 and 2 along the diagonals.
    #[test]
    fn a_spectrum_by_hand() {
        let pictures = [[3.0, 3.0], [-1.0, -1.0], [2.0, 0.0], [0.0, 2.0]].map(Vec::from);
        let spectrum = Spectrum::new("four", &pictures);
        assert_eq!(spectrum.mean, [1.0, 1.0]);
        // Squares along (1, 1)/√2: 8 + 8; along (1, -1)/√2: 2 + 2; over n - 1 = 3.
        let values: Vec<f64> = spectrum.components.iter().map(|(value, _)| *value).collect();
        assert!(
            (values[0] - 16.0 / 3.0).abs() < 1e-12 && (values[1] - 4.0 / 3.0).abs() < 1e-12,
            "{values:?}"
        );
        assert!((spectrum.shares()[0] - 0.8).abs() < 1e-12);
        assert_eq!((spectrum.needed(0.7), spectrum.needed(0.9)), (1.0, 2.0));
        assert!((spectrum.effective_rank() - 25.0 / 17.0).abs() < 1e-12);
        // The example, number 9 modulo 4, lies on the first diagonal.
        for x in [spectrum.rebuilt(1), spectrum.rebuilt(2)].concat() {
            assert!((x + 1.0).abs() < 1e-6, "{x}");
        }
    }
}
