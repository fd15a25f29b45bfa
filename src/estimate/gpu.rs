//! Well-known GPUs as their makers describe them.

use crate::graph::{Caps, CooperativeShape, Kernels, Limits};
use crate::tensor::DType;
use serde::Serialize;

/// What the model needs of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// As `--on` takes it.
    pub name: &'static str,
    /// f32 operations per second outside matrix units, two for a multiply-add, at the boost clock.
    pub flops_per_s: f64,
    /// Bytes per second of its memory.
    pub bytes_per_s: f64,
    /// Multiprocessors, compute units, Xe cores or GPU cores: what a workgroup runs on.
    pub units: u32,
    /// Operations per second of matrix units with f16 factors and f32 sums, without sparsity.
    pub matrix_flops_per_s: Option<f64>,
    /// How shaders reach them.
    pub tiles: Option<Tiles>,
    /// Where the numbers stand.
    pub source: &'static str,
}

/// How a Vulkan driver offers matrix units for tiles of 16 x 16 x 16.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tiles {
    /// The smallest and the largest size of a subgroup. Kernels get the largest.
    pub subgroups: (u32, u32),
    /// The part of the peak that products within a subgroup reach.
    pub share: f64,
}

impl Tiles {
    /// Rows, columns and depth.
    pub const SIDE: u32 = 16;
}

/// NVIDIA's, from Turing on.
const NVIDIA: Option<Tiles> = Some(Tiles { subgroups: (32, 32), share: 1.0 });
/// The peak of Hopper is that of products of four subgroups together (wgmma), which Vulkan does not have. Those of one (mma) reach
/// 62.9 % of it on average (Luo et al., arXiv 2402.13499).
const HOPPER: Option<Tiles> = Some(Tiles { subgroups: (32, 32), share: 0.629 });
/// AMD's RDNA 3 and 4.
const RDNA: Option<Tiles> = Some(Tiles { subgroups: (32, 64), share: 1.0 });

/// `T`, 10¹² a second.
const T: f64 = 1e12;
/// `G`, 10⁹ a second.
const G: f64 = 1e9;

const fn gpu(
    name: &'static str,
    [flops_per_s, bytes_per_s]: [f64; 2],
    units: u32,
    (matrix_flops_per_s, tiles): (Option<f64>, Option<Tiles>),
    source: &'static str,
) -> Gpu {
    Gpu { name, flops_per_s, bytes_per_s, units, matrix_flops_per_s, tiles, source }
}

/// No matrix units.
const NONE: (Option<f64>, Option<Tiles>) = (None, None);

const H100: &str =
    "NVIDIA H100 data sheet, nvidia.com/en-us/data-center/h100; units: Hopper architecture white paper";
const H200: &str =
    "NVIDIA H200 data sheet, nvidia.com/en-us/data-center/h200; units: Hopper architecture white paper";
const A100: &str =
    "NVIDIA A100 data sheet, nvidia.com/en-us/data-center/a100; units: Ampere architecture white paper";
const ADA: &str = "NVIDIA Ada GPU architecture white paper, appendix A";
const GA102: &str = "NVIDIA Ampere GA102 GPU architecture white paper, appendix A";
const RTX_3060: &str =
    "NVIDIA GeForce RTX 3060 specifications, nvidia.com: 3584 cores at 1.78 GHz, 192 bits at 15 Gbit/s";
const BLACKWELL: &str = "NVIDIA RTX Blackwell GPU architecture white paper, appendix A";
const APPLE: &str = "Apple's announcement of the chip, apple.com/newsroom";
const APPLE_CLOCK: &str = "bandwidth: Apple's announcement, apple.com/newsroom; FLOP/s: 128 multiply-adds a core at the 1.4 GHz that hmc-tech.com/gpu lists";
const APPLE_M4: &str = "bandwidth: Apple's announcement, apple.com/newsroom; FLOP/s: 128 multiply-adds a core at the 1.68 GHz that hmc-tech.com/gpu lists";

/// The table, by maker and age.
pub const GPUS: &[Gpu] = &[
    gpu("H100", [66.9 * T, 3.35 * T], 132, (Some(989.4 * T), HOPPER), H100),
    gpu("H100 PCIe", [51.2 * T, 2.0 * T], 114, (Some(756.0 * T), HOPPER), H100),
    gpu("H200", [66.9 * T, 4.8 * T], 132, (Some(989.4 * T), HOPPER), H200),
    gpu("A100", [19.5 * T, 2.039 * T], 108, (Some(312.0 * T), NVIDIA), A100),
    gpu("A100 40GB", [19.5 * T, 1.555 * T], 108, (Some(312.0 * T), NVIDIA), A100),
    gpu(
        "L4",
        [30.3 * T, 300.0 * G],
        58,
        (Some(121.0 * T), NVIDIA),
        "NVIDIA L4 data sheet, nvidia.com/en-us/data-center/l4",
    ),
    gpu(
        "T4",
        [8.1 * T, 320.0 * G],
        40,
        (Some(65.0 * T), NVIDIA),
        "NVIDIA Turing GPU architecture white paper, appendix",
    ),
    gpu("RTX 5090", [104.8 * T, 1792.0 * G], 170, (Some(209.5 * T), NVIDIA), BLACKWELL),
    gpu("RTX 4090", [82.6 * T, 1008.0 * G], 128, (Some(165.2 * T), NVIDIA), ADA),
    gpu("RTX 4080", [48.7 * T, 716.8 * G], 76, (Some(97.5 * T), NVIDIA), ADA),
    gpu(
        "RTX 4070",
        [29.1 * T, 504.2 * G],
        46,
        (Some(58.3 * T), NVIDIA),
        "NVIDIA GeForce RTX 4070 specifications, nvidia.com",
    ),
    gpu("RTX 3090", [35.6 * T, 936.0 * G], 82, (Some(71.0 * T), NVIDIA), GA102),
    gpu("RTX 3060", [12.7 * T, 360.0 * G], 28, (Some(25.5 * T), NVIDIA), RTX_3060),
    gpu(
        "MI300X",
        [163.4 * T, 5.3 * T],
        304,
        (Some(1307.4 * T), None),
        "AMD Instinct MI300X data sheet, amd.com",
    ),
    gpu(
        "RX 9070 XT",
        [48.7 * T, 640.0 * G],
        64,
        (Some(195.0 * T), RDNA),
        "AMD Radeon RX 9070 XT specifications, amd.com",
    ),
    gpu(
        "RX 7900 XTX",
        [61.4 * T, 960.0 * G],
        96,
        (Some(122.8 * T), RDNA),
        "AMD Radeon RX 7900 XTX specifications, amd.com",
    ),
    gpu(
        "Steam Deck",
        [1.6 * T, 88.0 * G],
        8,
        NONE,
        "Valve, steamdeck.com/tech: 8 compute units, 1.6 TFLOP/s, 88 GB/s",
    ),
    gpu(
        "Arc B580",
        [13.67 * T, 456.0 * G],
        20,
        (Some(116.6 * T), None),
        "Intel Arc B580 specifications, intel.com: 20 Xe cores of 128 lanes at 2.67 GHz, 233 TOPS of int8",
    ),
    gpu(
        "Arc A770",
        [17.2 * T, 560.0 * G],
        32,
        (Some(137.6 * T), None),
        "Intel Arc A770 16GB specifications, intel.com: 32 Xe cores of 128 lanes at 2.1 GHz",
    ),
    gpu("M1", [2.6 * T, 68.25 * G], 8, NONE, APPLE),
    gpu("M1 Pro", [5.2 * T, 200.0 * G], 16, NONE, APPLE),
    gpu("M1 Max", [10.4 * T, 400.0 * G], 32, NONE, APPLE),
    gpu("M1 Ultra", [20.8 * T, 800.0 * G], 64, NONE, APPLE),
    gpu("M2", [3.6 * T, 100.0 * G], 10, NONE, APPLE),
    gpu("M3 Pro", [6.44 * T, 150.0 * G], 18, NONE, APPLE_CLOCK),
    gpu("M3 Max", [14.32 * T, 400.0 * G], 40, NONE, APPLE_CLOCK),
    gpu("M4 Max 32-core", [13.74 * T, 410.0 * G], 32, NONE, APPLE_M4),
];

/// FLOP/s of a unit, for a GPU that is not in the table: the H100's 66.9 T / 132.
const FLOPS_OF_A_UNIT: f64 = 0.5 * T;

/// What is wrong with the argument of `--on`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` {problem}. Give a GPU of the table ({}), or FLOPS,BANDWIDTH as in 67T,3.35T: f32 operations per second \
     outside matrix units, of which a multiply-add is two, and bytes of memory per second; T is 10^12, G is 10^9",
    GPUS.iter().map(|gpu| gpu.name).collect::<Vec<_>>().join(", ")
)]
pub struct UnknownGpu {
    found: String,
    problem: String,
}

impl Gpu {
    /// What plans may ask of it. Every GPU of the table stores f16 and binds as much as it holds; those whose matrix units shaders
    /// reach launch workgroups of 1024 invocations with 48 KiB.
    pub fn caps(&self, kernels: Kernels) -> Caps {
        let mut caps = Caps::webgpu(kernels).with_f16();
        caps.limits = Limits { binding_bytes: u64::MAX, buffer_bytes: u64::MAX, ..caps.limits };
        if let Some(tiles) = self.tiles {
            (caps.limits.workgroup_bytes, caps.limits.workgroup_invocations) = (48 << 10, 1024);
            let (m, n, k) = (Tiles::SIDE, Tiles::SIDE, Tiles::SIDE);
            caps.features.subgroups = Some(tiles.subgroups);
            caps.features.cooperative =
                vec![CooperativeShape { m, n, k, factors: DType::F16, sum: DType::F32 }];
        }
        caps
    }

    /// A GPU of the table by its name, in any case and with or without spaces and hyphens, or by a part that no other name has;
    /// or one of so many operations and bytes per second, as in `67T,3.35T`.
    ///
    /// # Errors
    /// What was found, and all that could have been said.
    pub fn parse(text: &str) -> Result<Self, UnknownGpu> {
        let unknown = |problem: String| UnknownGpu { found: text.chars().take(60).collect(), problem };
        if let Some((flops, bandwidth)) = text.split_once(',') {
            let number = |words: &str, what: &str| {
                rate(words).ok_or_else(|| unknown(format!("has `{}` for the {what}", words.trim())))
            };
            let (flops_per_s, bytes_per_s) = (number(flops, "FLOPS")?, number(bandwidth, "BANDWIDTH")?);
            // At most 2^32, which `as` saturates at; nothing reaches it.
            let units = (flops_per_s / FLOPS_OF_A_UNIT).round().max(1.0) as u32;
            let source = "given by --on; units: one for each 0.5 TFLOP/s, as on an H100";
            return Ok(gpu("as given", [flops_per_s, bytes_per_s], units, NONE, source));
        }
        let plain = |name: &str| -> String {
            name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let wanted = plain(text);
        if let Some(found) = GPUS.iter().find(|gpu| plain(gpu.name) == wanted) {
            return Ok(*found);
        }
        let found: Vec<&Gpu> = GPUS.iter().filter(|gpu| plain(gpu.name).contains(&wanted)).collect();
        match found[..] {
            [found] if !wanted.is_empty() => Ok(*found),
            [] | [_] => Err(unknown("is not in the table".into())),
            _ if wanted.is_empty() => Err(unknown("names no GPU".into())),
            _ => {
                let names: Vec<&str> = found.iter().map(|gpu| gpu.name).collect();
                Err(unknown(format!("may be any of {}", names.join(" and "))))
            }
        }
    }
}

/// A number above zero and at most 10^18, with T or G behind it or nothing.
fn rate(words: &str) -> Option<f64> {
    let words = words.trim();
    let (number, unit) = match words.strip_suffix(['T', 't']) {
        Some(number) => (number, T),
        None => words.strip_suffix(['G', 'g']).map_or((words, 1.0), |number| (number, G)),
    };
    let rate = number.trim().parse::<f64>().ok()? * unit;
    (rate > 0.0 && rate <= 1e18).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        for gpu in GPUS {
            assert_eq!(Gpu::parse(gpu.name), Ok(*gpu));
            assert!(
                gpu.flops_per_s > 1e11 && gpu.bytes_per_s > 1e10 && gpu.units > 0 && !gpu.source.is_empty()
            );
            assert!(gpu.matrix_flops_per_s.is_none_or(|flops| flops > gpu.flops_per_s), "{}", gpu.name);
            assert!(gpu.tiles.is_none() || gpu.matrix_flops_per_s.is_some(), "{}", gpu.name);
        }
        for (words, name) in
            [("h100", "H100"), ("rtx-4090", "RTX 4090"), ("4090", "RTX 4090"), ("m1max", "M1 Max")]
        {
            assert_eq!(Gpu::parse(words).unwrap().name, name);
        }
    }

    #[test]
    fn rates_have_units() {
        let gpu = Gpu::parse("67T, 3350G").unwrap();
        assert_eq!((gpu.flops_per_s, gpu.bytes_per_s, gpu.units), (67e12, 3.35e12, 134));
        assert_eq!(Gpu::parse("1e9,2.5e9").unwrap().bytes_per_s, 2.5e9);
    }

    #[test]
    fn what_is_unknown_is_answered_with_the_table() {
        for (words, problem) in [
            ("nonsense", "is not in the table"),
            ("", "names no GPU"),
            ("-", "names no GPU"),
            ("RTX 40", "may be any of RTX 4090 and RTX 4080 and RTX 4070"),
            ("67T,", "has `` for the BANDWIDTH"),
            ("67X,3T", "has `67X` for the FLOPS"),
            ("-1T,3T", "has `-1T` for the FLOPS"),
            ("1T,inf", "has `inf` for the BANDWIDTH"),
            ("nan,3T", "has `nan` for the FLOPS"),
            ("0,3T", "has `0` for the FLOPS"),
            ("1T,2T,3T", "has `2T,3T` for the BANDWIDTH"),
        ] {
            let error = Gpu::parse(words).unwrap_err().to_string();
            assert!(error.contains(problem), "{words}: {error}");
            assert!(error.contains("RTX 4090") && error.contains("67T,3.35T"), "{error}");
        }
        assert!(Gpu::parse(&"x".repeat(10_000)).unwrap_err().to_string().len() < 1000);
    }
}
