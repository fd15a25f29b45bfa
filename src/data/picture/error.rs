//! Everything that can be wrong with one picture. No message names the file: [`DataError::Picture`] does, and a report
//! that lists many of them.
//!
//! [`DataError::Picture`]: crate::data::DataError::Picture
#![expect(missing_docs, reason = "each variant's message says what it means")]

use super::READ;
use crate::io::placeholder;

/// Why one picture cannot be used. Each message goes on after the file's name, and ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("{bytes} bytes that are no picture, though the name says so; expected {READ}; replace the file")]
    NotAPicture { bytes: u64 },

    #[error("{found}; expected {READ}. {remedy}")]
    Placeholder { found: &'static str, remedy: &'static str },

    #[error("{what} is not read; {remedy}")]
    NotRead { what: String, remedy: &'static str },

    #[error("the {format} is damaged: {what}; copy or download it again")]
    Damaged { format: &'static str, what: String },

    #[error("found {found}; expected {expected}; {remedy}")]
    Values { found: String, expected: &'static str, remedy: &'static str },

    #[error(
        "the picture is {width} x {height} pixels, {} decoded, above the limit of {}; shrink it or raise \
         --max-picture-mib", mib(*.bytes), mib(*.limit)
    )]
    TooLarge { width: u32, height: u32, bytes: u64, limit: u64 },

    #[error(
        "the file has {}, above the limit of {} for one picture; shrink it or raise --max-picture-mib",
        mib(*.bytes), mib(*.limit)
    )]
    FileTooLarge { bytes: u64, limit: u64 },
}

impl PictureError {
    /// Of a file whose content is no picture.
    pub(super) fn not_a_picture(content: &[u8]) -> Self {
        match placeholder(content) {
            Some((found, remedy)) => Self::Placeholder { found, remedy },
            None => Self::NotAPicture { bytes: content.len() as u64 },
        }
    }
}

/// Rounded up, so that it is never the limit that was passed.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_stands_for_a_picture_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n";
        let message = PictureError::not_a_picture(pointer).to_string();
        assert!(message.contains("Git LFS pointer") && message.contains("git lfs pull"), "{message}");
        assert!(PictureError::not_a_picture(b"<!DOCTYPE html>").to_string().contains("a web page"));
        assert!(PictureError::not_a_picture(b"notes").to_string().starts_with("5 bytes that are no picture"));
    }
}
