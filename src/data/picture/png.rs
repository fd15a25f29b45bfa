//! Whether a PNG is whole (ISO 15948, 5.3): decoders stop where they have enough pixels, and check no further.

use super::PictureError;
use flate2::Crc;

/// Refuses a PNG that ends before its last chunk, or a chunk of which, if it is needed for decoding, fails its
/// checksum.
pub(super) fn check(bytes: &[u8]) -> Result<(), PictureError> {
    let damaged = |what| Err(PictureError::Damaged { format: "PNG", what });
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        // Type and data, then their checksum.
        let Some((checked, after)) = after.split_at_checked(length.saturating_add(4)) else { break };
        let Some((checksum, after)) = after.split_first_chunk() else { break };
        let kind = &checked[..4];
        let mut crc = Crc::new();
        crc.update(checked);
        // Chunks whose name begins with a small letter can be done without.
        if kind[0].is_ascii_uppercase() && crc.sum() != u32::from_be_bytes(*checksum) {
            return damaged(format!("its chunk {} fails its checksum", kind.escape_ascii()));
        }
        if kind == b"IEND" {
            return Ok(());
        }
        rest = after;
    }
    damaged(format!("its {} bytes end before its last chunk (IEND)", bytes.len()))
}
