//! How much memory well-known GPUs have.

use super::Gpu;

const GIB: u64 = 1 << 30;

/// By the names of [`super::GPUS`]: GiB, as the same data sheets have them. Apple's chips are sold with several sizes.
const MEMORY_GIB: &[(&str, u64)] = &[
    ("H100", 80),
    ("H100 PCIe", 80),
    ("H200", 141),
    ("A100", 80),
    ("A100 40GB", 40),
    ("L4", 24),
    ("T4", 16),
    ("RTX 5090", 32),
    ("RTX 4090", 24),
    ("RTX 4080", 16),
    ("RTX 4070", 12),
    ("RTX 3090", 24),
    ("RTX 3060", 12),
    ("MI300X", 192),
    ("RX 9070 XT", 16),
    ("RX 7900 XTX", 24),
    ("Steam Deck", 16),
    ("Arc B580", 12),
    ("Arc A770", 16),
];

impl Gpu {
    /// Bytes of its memory, where they are known. Its driver and whatever else runs there take a part of them.
    pub fn memory_bytes(&self) -> Option<u64> {
        MEMORY_GIB.iter().find(|(name, _)| *name == self.name).map(|(_, gib)| gib * GIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::GPUS;

    #[test]
    fn every_name_is_one_of_the_table() {
        for (name, _) in MEMORY_GIB {
            assert!(GPUS.iter().any(|gpu| gpu.name == *name), "{name}");
        }
        assert_eq!(Gpu::parse("4090").unwrap().memory_bytes(), Some(24 << 30));
        assert_eq!(Gpu::parse("M1 Max").unwrap().memory_bytes(), None);
        assert_eq!(Gpu::parse("10T,1T").unwrap().memory_bytes(), None);
    }
}
