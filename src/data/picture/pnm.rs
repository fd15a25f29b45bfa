//! Whether the samples of a PNM keep to its largest value; the decoder clamps them.

use super::PictureError;
use image::codecs::pnm::PnmDecoder;
use std::io::Cursor;

/// Refuses a binary PNM with a sample above the largest value that its header gives.
pub(super) fn check(encoded: &[u8]) -> Result<(), PictureError> {
    // What is wrong with the header, decoding says.
    let Ok(decoder) = PnmDecoder::new(Cursor::new(encoded)) else { return Ok(()) };
    // P4 has bits, P1 to P3 have texts.
    if !matches!(encoded, [b'P', b'5' | b'6' | b'7', ..]) {
        return Ok(());
    }
    let (reader, header) = decoder.into_inner();
    let most = header.maximal_sample();
    let from = usize::try_from(reader.position()).unwrap_or(usize::MAX);
    let channels = match (header.as_pixmap(), header.as_arbitrary()) {
        (Some(_), _) => 3,
        (_, Some(header)) => u64::from(header.depth),
        _ => 1,
    };
    let pixels = u64::from(header.width()) * u64::from(header.height());
    let samples = pixels.saturating_mul(channels);
    let samples = usize::try_from(samples).unwrap_or(usize::MAX);
    let raster = encoded.get(from..).unwrap_or_default();
    let found = if most > 255 {
        raster.chunks_exact(2).take(samples).map(|s| u32::from(u16::from_be_bytes([s[0], s[1]]))).max()
    } else {
        raster.iter().take(samples).map(|&s| u32::from(s)).max()
    };
    match found {
        Some(found) if found > most => Err(PictureError::Values {
            found: format!("a value of {found} where the header gives {most} as the largest"),
            expected: "none above it",
            remedy: "save it again, with the right largest value in the header",
        }),
        _ => Ok(()),
    }
}
