//! The built-in data set: ten brush-drawn ideographs, each drawn anew in its own pose, weight and ink.
//!
//! A glyph is a list of brush strokes in the unit square (x to the right, y down), written by hand. A
//! stroke is a quadratic Bézier curve whose width is a quadratic Bézier of its own, so that it can swell
//! and taper. Drawing takes, for each pixel, the distance to the nearest stroke. Everything random comes
//! from [`Stream::Glyphs`] at (seed, index), and only exactly rounded operations (+ - * / sqrt) are
//! used, so that the same pictures come out on every machine.

use super::{DataError, Dataset, Options};
use crate::rng::{Philox, Stream};

/// The shortest side glyphs are drawn at, in pixels.
pub const MIN_SIDE: usize = 8;
/// The longest side glyphs are drawn at, in pixels.
pub const MAX_SIDE: usize = 64;
/// What the classes mean, by label: 一 二 三 十 人 大 口 日 山 木.
pub const CLASS_NAMES: [&str; 10] =
    ["one", "two", "three", "ten", "person", "big", "mouth", "sun", "mountain", "tree"];

type Point = [f32; 2];

/// A brush stroke: the control points of its path, and of its width relative to the brush.
#[derive(Clone, Copy)]
struct Stroke {
    path: [Point; 3],
    width: [f32; 3],
}

/// A straight stroke with firm ends.
const fn bar(from: Point, to: Point) -> Stroke {
    let middle = [(from[0] + to[0]) / 2.0, (from[1] + to[1]) / 2.0];
    Stroke { path: [from, middle, to], width: [1.1, 0.75, 1.15] }
}

/// A stroke to the lower left that lifts off to a tip.
const fn fall(from: Point, bend: Point, to: Point) -> Stroke {
    Stroke { path: [from, bend, to], width: [1.1, 1.1, 0.25] }
}

/// A stroke to the lower right that starts thin, presses down and lifts off.
const fn press(from: Point, bend: Point, to: Point) -> Stroke {
    Stroke { path: [from, bend, to], width: [0.45, 1.6, 0.65] }
}

const GLYPHS: [&[Stroke]; 10] = [
    &[bar([0.08, 0.53], [0.92, 0.49])],
    &[bar([0.24, 0.28], [0.76, 0.26]), bar([0.08, 0.78], [0.92, 0.75])],
    &[bar([0.18, 0.17], [0.82, 0.15]), bar([0.26, 0.50], [0.74, 0.48]), bar([0.08, 0.84], [0.92, 0.82])],
    &[bar([0.08, 0.46], [0.92, 0.43]), bar([0.50, 0.06], [0.50, 0.95])],
    &[fall([0.50, 0.08], [0.50, 0.62], [0.08, 0.92]), press([0.48, 0.38], [0.60, 0.72], [0.93, 0.91])],
    &[
        bar([0.08, 0.38], [0.92, 0.35]),
        fall([0.50, 0.06], [0.52, 0.66], [0.09, 0.94]),
        press([0.51, 0.42], [0.60, 0.74], [0.92, 0.93]),
    ],
    &[
        bar([0.16, 0.20], [0.19, 0.85]),
        bar([0.16, 0.20], [0.84, 0.20]),
        bar([0.84, 0.20], [0.81, 0.85]),
        bar([0.19, 0.80], [0.81, 0.80]),
    ],
    &[
        bar([0.25, 0.10], [0.25, 0.93]),
        bar([0.25, 0.10], [0.75, 0.10]),
        bar([0.75, 0.10], [0.75, 0.93]),
        bar([0.25, 0.50], [0.75, 0.50]),
        bar([0.25, 0.89], [0.75, 0.89]),
    ],
    &[
        bar([0.50, 0.08], [0.50, 0.84]),
        bar([0.14, 0.40], [0.14, 0.85]),
        bar([0.14, 0.85], [0.86, 0.85]),
        bar([0.86, 0.38], [0.86, 0.90]),
    ],
    &[
        bar([0.08, 0.31], [0.92, 0.29]),
        bar([0.50, 0.05], [0.50, 0.96]),
        fall([0.48, 0.32], [0.38, 0.62], [0.06, 0.80]),
        press([0.52, 0.32], [0.64, 0.64], [0.95, 0.78]),
    ],
];

/// Straight pieces a stroke is drawn with.
const PIECES: u8 = 8;

/// Draws `options.glyph_count` glyphs; picture i is of class i mod 10.
///
/// # Errors
///
/// A size outside [`MIN_SIDE`]..=[`MAX_SIDE`], no glyphs at all, or more than fit in memory.
pub fn dataset(options: &Options) -> Result<Dataset, DataError> {
    let (height, width) = options.size;
    let sides = MIN_SIDE..=MAX_SIDE;
    if !sides.contains(&height) || !sides.contains(&width) {
        return Err(DataError::GlyphSize { height, width });
    }
    if options.glyph_count == 0 {
        let (found, expected) = ("glyph_count is 0".into(), "at least 1".into());
        return Err(DataError::Options { found, expected });
    }
    // This also keeps the count, at 64 bytes a glyph or more, within u32.
    options.check_memory("builtin:glyphs", options.glyph_count as u64)?;
    let mut pixels = vec![0; options.glyph_count * options.stride()];
    let mut labels = Vec::with_capacity(options.glyph_count);
    let mut coverage = vec![0.0; height * width];
    for (index, picture) in (0u32..).zip(pixels.chunks_exact_mut(options.stride())) {
        let mut rng = Philox::new(options.seed, Stream::Glyphs, index);
        let label = index % 10;
        draw(GLYPHS[label as usize], &mut rng, options.size, &mut coverage);
        dip(&coverage, &mut rng, options.channels, picture);
        labels.push(label);
    }
    Ok(Dataset::from_parts(options, CLASS_NAMES.map(String::from).into(), pixels, labels))
}

/// How one picture holds its glyph.
struct Pose {
    cos: f32,
    sin: f32,
    slant: f32,
    scale: Point,
    shift: Point,
    /// Half the width of the brush, in units of the square.
    brush: f32,
}

fn uniform(rng: &mut Philox, low: f64, high: f64) -> f32 {
    rng.uniform(low, high) as f32
}

impl Pose {
    fn random(rng: &mut Philox) -> Self {
        // The half-angle formula turns by up to 10° without a library sine, which differs by platform.
        let tangent = uniform(rng, -0.0875, 0.0875);
        let norm = 1.0 + tangent * tangent;
        let scale = uniform(rng, 0.74, 0.92);
        Self {
            cos: (1.0 - tangent * tangent) / norm,
            sin: 2.0 * tangent / norm,
            slant: uniform(rng, -0.12, 0.12),
            scale: [scale * uniform(rng, 0.94, 1.06), scale],
            shift: [uniform(rng, -0.04, 0.04), uniform(rng, -0.04, 0.04)],
            brush: uniform(rng, 0.036, 0.056),
        }
    }

    /// Moves a point of the unit square, turning about the middle.
    fn place(&self, [x, y]: Point) -> Point {
        let (x, y) = ((x - 0.5) * self.scale[0], (y - 0.5) * self.scale[1]);
        let x = x - self.slant * y;
        [0.5 + self.cos * x - self.sin * y + self.shift[0], 0.5 + self.sin * x + self.cos * y + self.shift[1]]
    }
}

fn bezier([a, b, c]: [f32; 3], t: f32) -> f32 {
    let s = 1.0 - t;
    s * s * a + 2.0 * s * t * b + t * t * c
}

/// Draws a glyph in a random pose: the share of each pixel that is inked, `[H, W]`.
fn draw(glyph: &[Stroke], rng: &mut Philox, (height, width): (usize, usize), coverage: &mut [f32]) {
    coverage.fill(0.0);
    let pose = Pose::random(rng);
    let side = height.min(width) as f32;
    let corner = [(width as f32 - side) / 2.0, (height as f32 - side) / 2.0];
    for stroke in glyph {
        // A hand does not hit the same points twice.
        let path = stroke.path.map(|[x, y]| {
            let [x, y] = pose.place([x + uniform(rng, -0.015, 0.015), y + uniform(rng, -0.015, 0.015)]);
            [x * side + corner[0], y * side + corner[1]]
        });
        let brush = pose.brush * side * uniform(rng, 0.9, 1.1);
        let at = |t: f32| Dab {
            x: bezier(path.map(|p| p[0]), t),
            y: bezier(path.map(|p| p[1]), t),
            radius: bezier(stroke.width, t) * brush,
        };
        for piece in 0..PIECES {
            let t = |k: u8| f32::from(k) / f32::from(PIECES);
            ink(&at(t(piece)), &at(t(piece + 1)), (height, width), coverage);
        }
    }
}

/// The brush at one moment, in pixels.
struct Dab {
    x: f32,
    y: f32,
    radius: f32,
}

/// Inks the piece between two dabs: a pixel is covered by how far its middle lies within the edge, over
/// one pixel's width.
fn ink(from: &Dab, to: &Dab, (height, width): (usize, usize), coverage: &mut [f32]) {
    let reach = from.radius.max(to.radius) + 0.5;
    // Float to usize saturates, so what lies outside the picture is cut off here.
    let span = |a: f32, b: f32, end: usize| {
        let (low, high) = (a.min(b) - reach - 0.5, a.max(b) + reach + 0.5);
        low.floor() as usize..(high.ceil() as usize).min(end)
    };
    let (dx, dy) = (to.x - from.x, to.y - from.y);
    let length2 = (dx * dx + dy * dy).max(1e-12);
    for row in span(from.y, to.y, height) {
        for column in span(from.x, to.x, width) {
            let (x, y) = (column as f32 + 0.5 - from.x, row as f32 + 0.5 - from.y);
            let t = ((x * dx + y * dy) / length2).clamp(0.0, 1.0);
            let (ex, ey) = (x - t * dx, y - t * dy);
            let distance = (ex * ex + ey * ey).sqrt();
            let radius = from.radius + t * (to.radius - from.radius);
            let covered = (radius - distance + 0.5).clamp(0.0, 1.0);
            let pixel = &mut coverage[row * width + column];
            *pixel = pixel.max(covered);
        }
    }
}

/// Turns coverage to dark ink on light paper: `[H, W, C]`. Grey has white paper; RGB has warm paper and
/// ink between blue-black and brown-black.
fn dip(coverage: &[f32], rng: &mut Philox, channels: usize, picture: &mut [u8]) {
    let darkness = uniform(rng, 0.0, 45.0);
    let tint = uniform(rng, -16.0, 16.0);
    let (paper, ink) = match channels {
        1 => ([255.0; 3], [darkness; 3]),
        _ => ([252.0, 247.0, 236.0], [darkness + 16.0 + tint, darkness + 14.0, darkness + 16.0 - tint]),
    };
    for (pixel, &covered) in picture.chunks_exact_mut(channels).zip(coverage) {
        for (byte, (paper, ink)) in pixel.iter_mut().zip(paper.into_iter().zip(ink)) {
            *byte = (paper + covered * (ink - paper)).round() as u8;
        }
    }
}
