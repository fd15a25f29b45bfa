//! PNG files.

use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use image::{ImageFormat, ImageReader, RgbImage};

use super::FileError;
use super::open::open_file;

/// What a PNG file begins with: its signature, and the length and name of its first chunk.
const HEAD: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
/// What it ends with: its last chunk, which is empty, and the checksum of that.
const END: &[u8] = b"\0\0\0\0IEND\xaeB`\x82";

/// Whether a file is a PNG of these sides from its first chunk to its last one, without decoding it.
///
/// # Errors
/// Whatever the disk says.
pub fn is_whole_png(path: &Path, height: usize, width: usize) -> Result<bool, FileError> {
    let (mut file, bytes) = open_file(path, "picture")?;
    // After the first chunk's name come the width and the height.
    const SIDES: usize = HEAD.len() + 8;
    if bytes < (SIDES + END.len()) as u64 {
        return Ok(false);
    }
    let (mut head, mut end) = ([0; SIDES], [0; END.len()]);
    let mut read = || {
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::End(-(END.len() as i64)))?;
        file.read_exact(&mut end)
    };
    read().map_err(FileError::io("read", path))?;
    let sides = [width, height].map(|side| u32::try_from(side).unwrap_or(0).to_be_bytes());
    Ok(head.starts_with(HEAD) && head[HEAD.len()..] == sides.concat() && end == END)
}

/// The pixels of what [`save_single`](super::save_single) wrote: `height × width × channels` bytes.
///
/// # Errors
/// A file that is no such picture, and whatever the disk says.
pub fn read_single(path: &Path, height: usize, width: usize, channels: usize) -> Result<Vec<u8>, FileError> {
    let unfit = |found: String| {
        let expected = format!("a PNG of {height} × {width} pixels");
        FileError::malformed(path, "picture", found, expected, "Remove it, and draw it again.")
    };
    // The sides are looked at first, so that no header can ask for more memory than the picture has.
    if !is_whole_png(path, height, width)? {
        return Err(unfit("another file or a part of one".into()));
    }
    let (file, _) = open_file(path, "picture")?;
    let reader = ImageReader::with_format(BufReader::new(file), ImageFormat::Png);
    let picture = reader.decode().map_err(|e| unfit(format!("damage ({e})")))?.into_rgb8();
    Ok(picture.pixels().flat_map(|pixel| pixel.0.into_iter().take(channels)).collect())
}

/// The bytes of a PNG file. `path` is for messages.
pub(super) fn encode_png(path: &Path, image: &RgbImage) -> Result<Vec<u8>, FileError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(FileError::encoding(path))?;
    Ok(bytes.into_inner())
}
