//! How a training step over several ranks should scale, from terms that are measured: the step of a rank, and what a bucket
//! of gradients costs between ranks of one machine.
//!
//! Buckets are exchanged one after the other, each once the backward pass is done with it; the step ends with the last:
//!
//! ```text
//! t_0 = 0,   t_k = max(t_(k-1), done_k · compute) + exchange_k,   step = max(compute, t_K)
//! exchange = (R - 1) · (message + 2 latency) + (R - 1)/R · bytes · (byte + 2 · 8/link)
//! ```

use crate::bench::{Times, made_up_run};
use crate::gpu::{Blocking as _, Device};
use crate::graph::Choices;
use crate::train::{Diffusion, Group, TrainConfig, TrainError, Trainer};
use std::sync::Arc;

/// What was measured with so many ranks.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Ranks, all of which computed at once.
    pub ranks: usize,
    /// Pictures of a rank's step.
    pub batch: usize,
    /// Seconds of a rank's step without the others.
    pub compute_s: f64,
    /// Seconds of a step of all ranks.
    pub together_s: f64,
    /// Of them, those in which this rank waited for sums.
    pub waited_s: f64,
    /// Seconds of an exchange for each other rank, however small the bucket.
    pub message_s: f64,
    /// Seconds of an exchange for each byte of a bucket that belongs to another rank.
    pub byte_s: f64,
    /// Buckets in their order: the part of the arithmetic that is done when they are, and their bytes.
    pub buckets: Vec<(f64, f64)>,
}

/// A network between the ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Each way, of each rank.
    pub bits_per_s: f64,
    /// Of a message.
    pub latency_s: f64,
}

impl Measured {
    /// The seconds of a step on so many ranks, each with a device like the measured ones. `None` for a network: as fast as that
    /// between the ranks that were measured.
    pub fn step_s(&self, ranks: usize, network: Option<Network>) -> f64 {
        let others = ranks as f64 - 1.0;
        let (latency_s, wire_s) =
            network.map_or((0.0, 0.0), |network| (network.latency_s, 8.0 / network.bits_per_s));
        let exchange_s = |bytes: f64| {
            others * (self.message_s + 2.0 * latency_s)
                + others / ranks as f64 * bytes * (self.byte_s + 2.0 * wire_s)
        };
        let end = self
            .buckets
            .iter()
            .fold(0.0f64, |end, &(done, bytes)| end.max(done * self.compute_s) + exchange_s(bytes));
        end.max(self.compute_s)
    }
}

/// Measures a configuration's step with the ranks of a group, on made-up pictures.
///
/// # Errors
/// Of the device.
pub fn measure(
    device: &Arc<Device>,
    config: &TrainConfig,
    group: &Group,
    runs: usize,
) -> Result<Measured, TrainError> {
    let ranks = group.size();
    let steps = |mut trainer: Trainer<Diffusion>, pictures: &[f32]| {
        Times::of(2, runs, || {
            let hyper = config.hyper(trainer.next_step());
            trainer.step(&hyper, || (pictures.to_vec(), vec![0; config.batch])).block_on()?;
            Ok::<_, TrainError>(device.idle().block_on()?)
        })
    };

    // 1. Every rank for itself, all at once.
    let (trainer, pictures) = made_up_run(device, config, Choices::default(), &Group::alone())?;
    let gradients = &trainer.states.gradients;
    let length = Group::bucket(gradients.spec.shape.elements());
    let pieces = trainer.micro().pieces(gradients, length)?;
    let buckets = pieces.progress().map(|(done, elements)| (done, 4.0 * elements as f64)).collect();
    group.wait();
    let alone = steps(trainer, &pictures)?;
    group.wait();

    // 2. Together.
    let config_of_group =
        TrainConfig { accumulate: u32::try_from(ranks).unwrap_or(u32::MAX), ..config.clone() };
    let (trainer, pictures) = made_up_run(device, &config_of_group, Choices::default(), group)?;
    let before = group.waited().unwrap_or_default();
    let together = steps(trainer, &pictures)?;
    let waited = group.waited().unwrap_or_default() - before;

    // 3. Exchanges of buckets, with nothing to compute: a line through two sizes.
    let exchange_s = |elements: usize| {
        let mut values = vec![1.0f32; elements];
        Times::of(3, 20, || {
            group.sum(&mut values);
            Ok::<_, TrainError>(())
        })
        .map(|times| times.median())
    };
    let (small, large) = (1 << 12, 1 << 20);
    let [of_small, of_large] = [exchange_s(small)?, exchange_s(large)?];
    let others = ranks as f64 - 1.0;
    let of_byte = (of_large - of_small).max(0.0) / (4.0 * (large - small) as f64);
    Ok(Measured {
        ranks,
        batch: config.batch,
        compute_s: alone.median(),
        together_s: together.median(),
        waited_s: waited.as_secs_f64() / (runs + 2) as f64,
        message_s: (of_small - of_byte * 4.0 * small as f64).max(0.0) / others,
        byte_s: of_byte * ranks as f64 / others,
        buckets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exchanged_early_is_hidden() {
        let measured = Measured {
            ranks: 2,
            batch: 8,
            compute_s: 1.0,
            together_s: 1.0,
            waited_s: 0.0,
            message_s: 0.0,
            byte_s: 0.0,
            buckets: vec![(0.5, 1e6), (0.75, 1e6), (1.0, 1e6)],
        };
        let near =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        near(measured.step_s(2, None), 1.0);
        let network = |bits_per_s, latency_s| Some(Network { bits_per_s, latency_s });
        // 0.1 s a bucket: only the last is not hidden.
        near(measured.step_s(2, network(80e6, 0.0)), 1.1);
        // 1 s a bucket: the network is busy from the first on.
        near(measured.step_s(2, network(8e6, 0.0)), 3.5);
        // Of many ranks each sends nearly twice the bucket, and as many messages.
        near(measured.step_s(1000, network(80e6, 1e-6)), 1.0 + 2.0 * 0.999e-3 + 0.2 * 0.999);
        near(measured.step_s(1, network(1e6, 1.0)), 1.0);
    }
}
