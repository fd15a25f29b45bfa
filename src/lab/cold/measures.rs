//! What is measured of pictures, and the greys that drawing starts from.

use super::{CLASSES, COUNT, ELEMENTS, PER_CLASS, REFERENCES, SIDE};
use crate::data::{Dataset, to_unit};
use crate::rng::{Philox, Stream};

/// The first pictures of each class, class after class.
pub(super) fn of_each_class(data: &Dataset, count: usize) -> Vec<f32> {
    let mut pictures = Vec::new();
    for class in 0..CLASSES {
        let members = (0..data.len()).filter(|&i| data.label(i) as usize == class).take(count);
        pictures.extend(members.flat_map(|i| data.image(i)).map(|&byte| to_unit(byte)));
    }
    pictures
}

/// The mean squared difference of two sets of pictures, per element.
pub(super) fn error(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>() / a.len() as f64
}

pub(super) fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

/// The largest of numbers that are not negative; NaN if one of them is.
pub(super) fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |largest: f64, v| if largest.is_nan() || v <= largest { largest } else { v })
}

/// The largest distance of a pixel from the mean of its picture.
pub(super) fn unevenness(pictures: &[f32]) -> f64 {
    let of_picture = |picture: &[f32]| {
        let mean = mean(picture);
        largest(picture.iter().map(|&x| (f64::from(x) - mean).abs()))
    };
    largest(pictures.chunks_exact(ELEMENTS).map(of_picture))
}

/// The mean squared difference of a pixel from the next in its row: how sharp pictures are.
pub(super) fn detail(pictures: &[f32]) -> f64 {
    let pairs = || pictures.chunks_exact(SIDE).flat_map(|row| row.windows(2));
    pairs().map(|pair| f64::from(pair[1] - pair[0]).powi(2)).sum::<f64>() / pairs().count() as f64
}

/// Starts of one grey each. For each class the greys are those of a Gaussian fitted to the means of its pictures, as the
/// paper fits one to the means of all.
pub(super) fn greys(references: &[f32], seed: u64) -> Vec<f32> {
    let mut random = Philox::new(seed, Stream::Initial, 0);
    let mut greys = Vec::new();
    for class in references.chunks_exact(REFERENCES * ELEMENTS) {
        let means: Vec<f64> = class.chunks_exact(ELEMENTS).map(mean).collect();
        let centre = means.iter().sum::<f64>() / means.len() as f64;
        let variance = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (means.len() - 1) as f64;
        for _ in 0..PER_CLASS {
            greys.extend([(centre + variance.sqrt() * random.normal()) as f32; ELEMENTS]);
        }
    }
    greys
}

/// The share of pictures to which, of the mean pictures of all classes, that of their own is the nearest.
pub(super) fn recognised(pictures: &[f32], references: &[f32]) -> f64 {
    let means: Vec<Vec<f32>> = references
        .chunks_exact(REFERENCES * ELEMENTS)
        .map(|class| {
            let at = |i: usize| class.iter().skip(i).step_by(ELEMENTS).sum::<f32>() / REFERENCES as f32;
            (0..ELEMENTS).map(at).collect()
        })
        .collect();
    let nearest = |picture: &[f32]| {
        (0..CLASSES).min_by(|&a, &b| error(picture, &means[a]).total_cmp(&error(picture, &means[b])))
    };
    let right =
        pictures.chunks_exact(ELEMENTS).enumerate().filter(|(i, p)| nearest(p) == Some(i / PER_CLASS));
    right.count() as f64 / COUNT as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        let mut picture = [0.5; ELEMENTS];
        assert_eq!((unevenness(&picture), detail(&picture)), (0.0, 0.0));
        // The first pixel of a row has one neighbour, the mean moves by 1/256.
        picture[SIDE] = 1.5;
        assert!((unevenness(&picture) - 255.0 / 256.0).abs() < 1e-12);
        assert!((detail(&picture) - 1.0 / 240.0).abs() < 1e-12);
        assert!((error(&picture, &[0.5; ELEMENTS]) - 1.0 / 256.0).abs() < 1e-12);
        assert_eq!(largest([1.0, 3.0, 2.0].into_iter()), 3.0);
        assert!(largest([1.0, f64::NAN, 2.0].into_iter()).is_nan());
    }

    /// Class k is the grey k / 10, give or take.
    fn references() -> Vec<f32> {
        let grey = |i: usize| (i / REFERENCES) as f32 / 10.0 + if i.is_multiple_of(2) { 0.01 } else { -0.01 };
        (0..CLASSES * REFERENCES).flat_map(|i| [grey(i); ELEMENTS]).collect()
    }

    #[test]
    fn greys_are_those_of_their_class_and_recognised() {
        let references = references();
        let greys = greys(&references, 3);
        assert_eq!(greys.len(), COUNT * ELEMENTS);
        for (i, picture) in greys.chunks_exact(ELEMENTS).enumerate() {
            let off = (picture[0] - (i / PER_CLASS) as f32 / 10.0).abs();
            assert!(off < 0.04 && picture.iter().all(|&g| g == picture[0]), "{i}: {off}");
        }
        assert!(greys[0] != greys[ELEMENTS]);
        assert_eq!(recognised(&greys, &references), 1.0);
        let shifted: Vec<f32> = greys.iter().map(|g| g + 0.1).collect();
        // The last class has no next one.
        assert_eq!(recognised(&shifted, &references), 0.1);
    }
}
