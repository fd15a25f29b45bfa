//! Text that somebody else wrote, in whatever encoding their editor or shell chose.

use super::error::FileError;
use super::open::open_file;
use std::io::Read as _;
use std::path::Path;

/// Far more than a configuration takes: the longest, of a scheduler with 1000 β of its own, has 30 KB.
const MAX_BYTES: u64 = 16 << 20;

/// The text of the file at `path`, which may have 16 MiB. `kind` is for messages.
///
/// # Errors
/// As [`open_file`] and [`decode`], and a file that is too long.
pub(crate) fn read_text(path: &Path, kind: &'static str) -> Result<String, FileError> {
    let (file, length) = open_file(path, kind)?;
    if length > MAX_BYTES {
        let (found, expected) = (format!("{length} bytes"), format!("at most {MAX_BYTES}"));
        return Err(FileError::malformed(path, kind, found, expected, "Is it a file of another kind?"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    decode(bytes).map_err(|found| {
        FileError::malformed(path, kind, found, "text in UTF-8", "Save it again as UTF-8 in your editor.")
    })
}

/// UTF-8 with or without a byte order mark, or UTF-16 with one, as PowerShell's `>` writes it.
///
/// # Errors
/// What was found in place of that, with the line.
fn decode(mut bytes: Vec<u8>) -> Result<String, String> {
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, ..] => drop(bytes.drain(..3)),
        _ => {}
    }
    if bytes.contains(&0) {
        let (every_other, rest) = bytes.as_chunks::<2>();
        let is_wide = rest.is_empty() && every_other.iter().all(|pair| pair.contains(&0));
        let found = if is_wide { "text in UTF-16 without a byte order mark" } else { "binary data" };
        return Err(found.into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        format!("the byte 0x{:02X} in line {line}, as in Latin-1 or another old encoding", bytes[at])
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|&pair| unit(pair));
    let text: Option<String> = char::decode_utf16(units).collect::<Result<_, _>>().ok();
    text.filter(|_| rest.is_empty()).ok_or_else(|| "damaged text in UTF-16".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_in_the_encodings_that_editors_and_shells_write() {
        let text = "data = \"目录\" # é 𝄞\n";
        let units: Vec<u16> = std::iter::once(0xfeff).chain(text.encode_utf16()).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        let marked = format!("\u{feff}{text}");
        for bytes in [text.as_bytes(), marked.as_bytes(), &little, &big] {
            assert_eq!(decode(bytes.to_vec()).unwrap(), text);
        }
        let unmarked: Vec<u8> = "a = 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, words) in [
            (&b"a = 1\nb = \"caf\xe9\"\n"[..], &["0xE9", "line 2", "Latin-1"][..]),
            (&unmarked, &["UTF-16 without a byte order mark"]),
            (&little[..little.len() - 1], &["damaged", "UTF-16"]),
            (&[0xff, 0xfe, 0x00, 0xd8], &["damaged", "UTF-16"]),
            (b"PK\x03\x04\0\0", &["binary data"]),
        ] {
            let found = decode(bytes.to_vec()).unwrap_err();
            assert!(words.iter().all(|word| found.contains(word)), "{found}");
        }
    }
}
