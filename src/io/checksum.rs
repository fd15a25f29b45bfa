//! The checksum that a tensor file carries of its own content.

use std::collections::BTreeMap;

/// The metadata key under which it lies.
pub(super) const KEY: &str = "inkwash_crc32";

/// What a checksum is taken of: everything that a file says but the checksum itself. Any damage of up to 32 bits in a row
/// changes it, and any other with a probability of all but 2⁻³².
pub(super) struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// Of a file with this metadata; [`KEY`] does not count.
    pub fn new(metadata: &BTreeMap<String, String>) -> Self {
        let mut checksum = Self(crc32fast::Hasher::new());
        for (key, value) in metadata.iter().filter(|(key, _)| *key != KEY) {
            checksum.part(key.as_bytes());
            checksum.part(value.as_bytes());
        }
        checksum
    }

    /// Goes on with a tensor. They come in the order of their names.
    pub fn tensor(&mut self, name: &str, dtype: &str, shape: &[usize], data: &[u8]) {
        self.part(name.as_bytes());
        self.part(dtype.as_bytes());
        self.part(format!("{shape:?}").as_bytes());
        self.part(data);
    }

    /// As the metadata has it.
    pub fn text(self) -> String {
        format!("{:08x}", self.0.finalize())
    }

    /// With its length, so that no two lists of parts read alike.
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}
