//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011), keyed so that every draw has an address and no state is carried.
//!
//! The key is the 64-bit seed; the counter is `[index, step, stream, item]`, the item being the picture of a
//! batch on the device and 0 on the host. The same four words give the same bits here and in `shaders/lib/philox.wgsl`, on every device and under any split of the batch.

/// What a random number is for. Two streams never share bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// The diffusion noise ε of a training batch.
    Noise = 0,
    /// The timestep t of a training item.
    Timestep = 1,
    /// The starting point x_T of a sampler.
    Initial = 2,
    /// The fresh noise z of a sampler step.
    Sampler = 3,
    /// Parameter initialisation.
    Parameters = 4,
    /// The order in which pictures are visited.
    Shuffle = 5,
    /// Random crops and flips.
    Augment = 6,
    /// The poses of the built-in glyphs.
    Glyphs = 7,
    /// Inputs of test cases.
    Cases = 8,
    /// The noise of a training item's last step, where it is drawn apart from the rest.
    LastNoise = 9,
    /// The noise that is put back onto a picture.
    Renoise = 10,
    /// Whether the label of a training item is dropped.
    LabelDropout = 11,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32 with ten rounds: 128 random bits for a counter and a key.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        let high = |p: u64| (p >> 32) as u32;
        let low = |p: u64| (p & 0xFFFF_FFFF) as u32;
        (c0, c1, c2, c3) = (high(p1) ^ c1 ^ k0, low(p1), high(p0) ^ c3 ^ k1, low(p0));
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// Splits a seed into the two key words.
pub fn key(seed: u64) -> [u32; 2] {
    [(seed & 0xFFFF_FFFF) as u32, (seed >> 32) as u32]
}

/// A uniform number in (0, 1] from 32 random bits, rounded to f32 exactly as the shaders round it.
pub fn unit(bits: u32) -> f64 {
    f64::from((bits as f32 + 0.5) * (1.0 / 4_294_967_296.0))
}

/// Four standard normals from one Philox block, by Box and Muller (1958):
/// √(-2 ln u) cos 2πv and √(-2 ln u) sin 2πv, for (u, v) the words (0, 1) and (2, 3).
pub fn normal4(counter: [u32; 4], key: [u32; 2]) -> [f64; 4] {
    let bits = philox4x32(counter, key);
    let pair = |a: u32, b: u32| {
        let radius = (-2.0 * unit(a).ln()).sqrt();
        let angle = std::f64::consts::TAU * unit(b);
        (radius * angle.cos(), radius * angle.sin())
    };
    let (a, b) = pair(bits[0], bits[1]);
    let (c, d) = pair(bits[2], bits[3]);
    [a, b, c, d]
}

/// Φ(x), to 1e-15, by its power series (Marsaglia, "Evaluating the normal distribution", 2004).
pub fn normal_cdf(x: f64) -> f64 {
    // Beyond 8 the tail is below 1e-15, and the series, all of one sign, would run ever longer.
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

/// The x with Φ(x) = p, 0 < p < 1: Newton's method from the median, which runs up to x from one side, since Φ bends one
/// way beyond its middle.
pub fn normal_quantile(p: f64) -> f64 {
    let far = p.max(1.0 - p);
    let mut x = 0.0f64;
    loop {
        let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let step = (far - normal_cdf(x)) / density;
        x += step;
        // Φ is good to 1e-15, which near p = 1 is less of x; beyond 8 it is 1.
        if step < 1e-12 || x > 8.0 {
            return if p < 0.5 { -x.min(8.0) } else { x.min(8.0) };
        }
    }
}

/// Random numbers drawn one after another from one (seed, stream, step) address, for host code.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: Stream,
    step: u32,
    index: u32,
    block: [u32; 4],
    used: usize,
}

impl Philox {
    /// A sequence of its own for this seed, stream and step.
    pub fn new(seed: u64, stream: Stream, step: u32) -> Self {
        Self { key: key(seed), stream, step, index: 0, block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32([self.index, self.step, self.stream as u32, 0], self.key);
            self.index = self.index.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// A uniform number in (0, 1].
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// A uniform number in (low, high].
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A uniform index in 0..n (bias below n / 2^32). `n` must not be zero.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 32) as usize
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors published with Random123 (kat_vectors, philox 4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn sequences_are_addressed() {
        let draw = |seed, stream, step| {
            let mut p = Philox::new(seed, stream, step);
            (0..9).map(|_| p.bits()).collect::<Vec<_>>()
        };
        let base = draw(1, Stream::Noise, 2);
        assert_eq!(base, draw(1, Stream::Noise, 2));
        for other in [draw(2, Stream::Noise, 2), draw(1, Stream::Glyphs, 2), draw(1, Stream::Noise, 3)] {
            assert!(base.iter().zip(&other).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: Vec<usize> = (0..101).collect();
        Philox::new(7, Stream::Shuffle, 0).shuffle(&mut items);
        assert_ne!(items, (0..101).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..101).collect::<Vec<_>>());
    }

    #[test]
    fn the_normal_distribution_is_that_of_libm() {
        for i in -900..=900 {
            let x = f64::from(i) / 100.0;
            let expected = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            assert!((normal_cdf(x) - expected).abs() < 2e-15, "{x}");
        }
    }

    /// Against the tables of the normal distribution, and itself turned over.
    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (p, x) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.841_344_746_068_542_9, 1.0),
            (1e-6, -4.753_424_308_822_899),
        ] {
            assert!((normal_quantile(p) - x).abs() < 1e-9, "{p}: {}", normal_quantile(p));
            assert!((normal_quantile(1.0 - p) + x).abs() < 1e-9);
        }
    }
}
