//! `inkwash bench scale`.

use super::{DeviceArgs, Failure, tell};
use crate::io::columns;
use crate::scale::{Measured, Network, measure};
use crate::train::{Group, TrainConfig};
use std::time::Duration;

/// Ranks and links (Gbit/s) that are modelled.
const RANKS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
const LINKS: [f64; 6] = [1.0, 10.0, 25.0, 100.0, 200.0, 400.0];

/// Measures with the ranks that mpirun has started, and prints the model on the first.
pub fn run(config: &TrainConfig, runs: usize, latency_us: f64, device: &DeviceArgs) -> Result<(), Failure> {
    let group = Group::join(Duration::from_secs(60), tell)?;
    if group.size() == 1 {
        return Err("bench scale measures what ranks cost each other, and this is one process; start it as `mpirun -n 2 \
                    inkwash bench scale` (docs/scale.md)"
            .into());
    }
    let measured = device
        .open_for(group.local_rank())
        .map_err(Failure::from)
        .and_then(|device| Ok(measure(&device, config, &group, runs)?));
    match measured {
        Ok(measured) => {
            if group.is_first() {
                print(&measured, latency_us);
            }
            group.finish();
            Ok(())
        }
        Err(e) => {
            group.fail(&e.to_string());
            Err(e)
        }
    }
}

fn print(measured: &Measured, latency_us: f64) {
    let Measured { ranks, batch, compute_s, together_s, waited_s, message_s, byte_s, ref buckets } =
        *measured;
    let images = |ranks: usize, seconds: f64| (ranks * batch) as f64 / seconds;
    let bytes: f64 = buckets.iter().map(|bucket| bucket.1).sum();
    println!("a rank          {compute_s:.4} s for {batch} pictures: {:.2} images/s", images(1, compute_s));
    println!(
        "{ranks} ranks         {together_s:.4} s: {:.2} images/s, {:.2} times one; {:.1} % of it in waiting",
        images(ranks, together_s),
        ranks as f64 * compute_s / together_s,
        100.0 * waited_s / together_s
    );
    println!("                {:.4} s by the model below", measured.step_s(ranks, None));
    println!(
        "exchange        {:.1} us for each other rank, and {:.3} ms/MiB; {:.2} MiB of gradients in {} buckets",
        message_s * 1e6,
        byte_s * 1e3 * f64::from(1 << 20),
        bytes / f64::from(1 << 20),
        buckets.len()
    );
    let done: Vec<String> = buckets.iter().map(|(done, _)| format!("{:.0}", 100.0 * done)).collect();
    println!("                done at {} % of the arithmetic", done.join(", "));
    println!(
        "\nModelled: images/s, and in parentheses the share of so many single ranks, for links of so many Gbit/s each way and \
         {latency_us} us per message (assumed)"
    );
    let heads: Vec<String> = LINKS.iter().map(|gbit| format!("{gbit:.0} Gbit/s")).collect();
    let heads: Vec<&str> = std::iter::once("ranks").chain(heads.iter().map(String::as_str)).collect();
    let rows: Vec<Vec<String>> = RANKS
        .iter()
        .map(|&ranks| {
            let cells = LINKS.iter().map(|gbit| {
                let network = Network { bits_per_s: gbit * 1e9, latency_s: latency_us * 1e-6 };
                let seconds = measured.step_s(ranks, Some(network));
                format!("{:.0} ({:.0} %)", images(ranks, seconds), 100.0 * compute_s / seconds)
            });
            std::iter::once(ranks.to_string()).chain(cells).collect()
        })
        .collect();
    print!("{}", columns(&heads, &rows, 0));
}
