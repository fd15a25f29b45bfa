//! Batches: shuffled, augmented, and made ahead of time by a thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use super::{Dataset, to_unit};
use crate::rng::{Philox, Stream};

/// Batches made ahead of the one in use.
const PREFETCH: usize = 3;

/// B pictures for one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B, H, W, C]` in [-1, 1].
    pub images: Vec<f32>,
    /// `[B]`, indices into the class names.
    pub labels: Vec<u32>,
    /// `[B]`, which pictures of the data set these are.
    pub indices: Vec<usize>,
}

/// How each visit to a picture varies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AugmentOptions {
    /// Mirror left and right, every other time.
    pub flip: bool,
    /// Shift by up to this many pixels each way, filling in by reflection about the edge pixels; 0 is
    /// off.
    pub crop_padding: usize,
}

/// An endless run of batches, made ahead by a thread that ends when the loader is dropped.
pub struct Loader {
    /// None only while dropping.
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts at batch `first_batch`, of which every `stride`-th follows; a run resumed at batch k sees what the run before it
    /// would have.
    ///
    /// # Panics
    ///
    /// If the data set is empty or `batch` or `stride` is zero.
    pub fn new(
        dataset: Arc<Dataset>,
        batch: usize,
        seed: u64,
        augment: AugmentOptions,
        first_batch: u64,
        stride: usize,
    ) -> Self {
        check(&dataset, batch);
        let (sender, receiver) = sync_channel(PREFETCH);
        let thread = thread::spawn(move || {
            let mut order = Order::new(dataset.len(), seed);
            // Sending fails once the loader is gone.
            for k in (first_batch..).step_by(stride) {
                if sender.send(assemble(&dataset, batch, &mut order, augment, k)).is_err() {
                    break;
                }
            }
        });
        Self { batches: Some(receiver), thread: Some(thread) }
    }

    /// The next batch; waits for it if need be.
    #[expect(clippy::should_implement_trait, reason = "there is always a next batch, so no Option")]
    pub fn next(&mut self) -> Batch {
        match self.batches.as_ref().map(Receiver::recv) {
            Some(Ok(batch)) => batch,
            // The thread outlives the receiver unless it panicked; pass the panic on.
            _ => match self.thread.take().map(JoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => unreachable!("the loader's thread ended before the loader"),
            },
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // The receiver goes first: it is what tells the thread to end.
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported on its own standard error; do not panic in a drop.
            let _ = thread.join();
        }
    }
}

/// The k-th batch of the run with this seed: a function of its arguments alone.
///
/// Each epoch visits every picture once, in an order of its own; batches run across the border between
/// epochs.
///
/// # Panics
///
/// If the data set is empty or `batch` is zero.
pub fn batch_at(dataset: &Dataset, batch: usize, seed: u64, augment: AugmentOptions, k: u64) -> Batch {
    check(dataset, batch);
    assemble(dataset, batch, &mut Order::new(dataset.len(), seed), augment, k)
}

fn check(dataset: &Dataset, batch: usize) {
    assert!(!dataset.is_empty(), "batches need at least one picture; the data set is empty");
    assert!(batch > 0, "batches need at least one item; the batch size is zero");
}

fn assemble(dataset: &Dataset, batch: usize, order: &mut Order, augment: AugmentOptions, k: u64) -> Batch {
    let stride = dataset.height * dataset.width * dataset.channels;
    let mut images = Vec::with_capacity(batch * stride);
    let first = u128::from(k) * batch as u128;
    let indices: Vec<usize> = (0..batch).map(|item| order.at(first + item as u128)).collect();
    let mut rng = Philox::new(order.seed, Stream::Augment, low_word(k.into()));
    for &index in &indices {
        push_augmented(dataset, index, augment, &mut rng, &mut images);
    }
    let labels = indices.iter().map(|&index| dataset.label(index)).collect();
    Batch { images, labels, indices }
}

/// Appends picture `index` as f32, mirrored and shifted as drawn.
fn push_augmented(
    dataset: &Dataset,
    index: usize,
    augment: AugmentOptions,
    rng: &mut Philox,
    images: &mut Vec<f32>,
) {
    let image = dataset.image(index);
    if augment == AugmentOptions::default() {
        images.extend(image.iter().map(|&byte| to_unit(byte)));
        return;
    }
    let (height, width, channels) = (dataset.height, dataset.width, dataset.channels);
    // A shift beyond the picture shows nothing new.
    let padding = augment.crop_padding.min(height.max(width));
    // Three draws an item, used or not, so that one setting does not change what another draws.
    let flip = rng.below(2) == 1 && augment.flip;
    let (down, right) = (rng.below(2 * padding + 1), rng.below(2 * padding + 1));
    for row in 0..height {
        let y = reflect(row + down, padding, height);
        for column in 0..width {
            let column = if flip { width - 1 - column } else { column };
            let x = reflect(column + right, padding, width);
            let pixel = &image[(y * width + x) * channels..][..channels];
            images.extend(pixel.iter().map(|&byte| to_unit(byte)));
        }
    }
}

/// The pixel of a line of `length` that shows at `at` when the line is padded by `padding` in front and
/// goes on forever by reflection about its end pixels.
fn reflect(at: usize, padding: usize, length: usize) -> usize {
    let period = 2 * (length - 1).max(1);
    let folded = (at + period - padding % period) % period;
    if folded < length { folded } else { period - folded }.min(length - 1)
}

/// The order in which pictures are visited: a shuffle for each epoch, the latest one kept.
struct Order {
    seed: u64,
    epoch: Option<u128>,
    permutation: Vec<usize>,
}

impl Order {
    fn new(len: usize, seed: u64) -> Self {
        Self { seed, epoch: None, permutation: (0..len).collect() }
    }

    /// The picture at a position counted from the start of the first epoch.
    fn at(&mut self, position: u128) -> usize {
        let len = self.permutation.len() as u128;
        let epoch = position / len;
        if self.epoch != Some(epoch) {
            self.permutation = (0..self.permutation.len()).collect();
            Philox::new(self.seed, Stream::Shuffle, low_word(epoch)).shuffle(&mut self.permutation);
            self.epoch = Some(epoch);
        }
        // A remainder by a usize is a usize.
        self.permutation[(position % len) as usize]
    }
}

/// The low 32 bits: random streams repeat after 2^32 epochs or batches.
fn low_word(n: u128) -> u32 {
    (n & 0xFFFF_FFFF) as u32
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    const AUGMENT: AugmentOptions = AugmentOptions { flip: true, crop_padding: 2 };

    fn glyphs(glyph_count: usize) -> Arc<Dataset> {
        let options = Options { seed: 1, glyph_count, ..Options::new((8, 12), 3) };
        Arc::new(Dataset::open("builtin:glyphs", &options).unwrap())
    }

    #[test]
    fn a_resumed_loader_sees_the_same_batches() {
        let data = glyphs(23);
        let mut straight = Loader::new(data.clone(), 5, 9, AUGMENT, 0, 1);
        let all: Vec<Batch> = (0..12).map(|_| straight.next()).collect();
        let mut resumed = Loader::new(data.clone(), 5, 9, AUGMENT, 7, 1);
        for (k, batch) in (0..).zip(&all) {
            assert_eq!(*batch, batch_at(&data, 5, 9, AUGMENT, k));
            if k >= 7 {
                assert_eq!(*batch, resumed.next());
            }
        }
        assert_ne!(all[0], batch_at(&data, 5, 10, AUGMENT, 0));
    }

    #[test]
    fn an_epoch_visits_every_picture_once_across_batches() {
        for (count, batch) in [(23, 5), (4, 9), (1, 3)] {
            let data = glyphs(count);
            let visits: Vec<usize> =
                (0..30).flat_map(|k| batch_at(&data, batch, 9, AUGMENT, k).indices).collect();
            for epoch in visits.chunks_exact(count) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                assert_eq!(epoch, (0..count).collect::<Vec<_>>());
            }
            if count == 23 {
                assert_ne!(visits[..23], visits[23..46]);
            }
        }
    }

    #[test]
    fn plain_batches_are_the_pictures_and_flips_mirror_them() {
        let data = glyphs(40);
        let stride = 8 * 12 * 3;
        let plain = batch_at(&data, 40, 2, AugmentOptions::default(), 0);
        let flip = AugmentOptions { flip: true, crop_padding: 0 };
        let flipped = batch_at(&data, 40, 2, flip, 0);
        assert_eq!((plain.images.len(), &plain.indices), (40 * stride, &flipped.indices));
        let mut mirrored = 0;
        for (item, &index) in plain.indices.iter().enumerate() {
            let (a, b) =
                (&plain.images[item * stride..][..stride], &flipped.images[item * stride..][..stride]);
            assert!(a.iter().zip(data.image(index)).all(|(&a, &p)| a == to_unit(p)));
            assert_eq!(plain.labels[item], data.label(index));
            let mirror: Vec<f32> =
                a.chunks(12 * 3).flat_map(|row| row.chunks(3).rev().flatten().copied()).collect();
            assert!(b == a || b == mirror);
            mirrored += usize::from(b == mirror);
        }
        assert!((8..32).contains(&mirrored), "{mirrored} of 40");
    }

    #[test]
    fn reflection_turns_at_the_edge_pixels() {
        let line = |padding: usize, length: usize| {
            (0..length + 2 * padding).map(|at| reflect(at, padding, length)).collect::<Vec<_>>()
        };
        assert_eq!(line(2, 4), [2, 1, 0, 1, 2, 3, 2, 1]);
        assert_eq!(line(3, 2), [1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(line(2, 1), [0; 5]);
        let wild = AugmentOptions { flip: false, crop_padding: usize::MAX };
        assert_eq!(batch_at(&glyphs(3), 2, 1, wild, u64::MAX).labels.len(), 2);
    }

    #[test]
    fn dropping_a_loader_ends_its_thread() {
        let data = glyphs(10);
        drop(Loader::new(data.clone(), 4, 1, AUGMENT, 0, 1));
        // Drop joins, so the thread's share of the data set is gone.
        assert_eq!(Arc::strong_count(&data), 1);
    }
}
