//! Opening a file that somebody else wrote.

use super::FileError;
use super::disk::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;

/// An ordinary file for reading, and its length in bytes. `kind` is for messages.
///
/// # Errors
/// What the operating system says, something that is not an ordinary file, and a [`placeholder`].
pub(crate) fn open_file(path: &Path, kind: &'static str) -> Result<(File, u64), FileError> {
    let (mut file, length) = open_ordinary(path, kind)?;
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head).map_err(FileError::io("read", path))?;
    if let Some((found, remedy)) = placeholder(&head) {
        return Err(FileError::malformed(path, kind, found, "the file itself", remedy));
    }
    file.rewind().map_err(FileError::io("read", path))?;
    Ok((file, length))
}

#[cfg(not(target_arch = "wasm32"))]
fn open_ordinary(path: &Path, kind: &'static str) -> Result<(File, u64), FileError> {
    let about = std::fs::metadata(path).map_err(FileError::io("open", path))?;
    if !about.is_file() {
        // Opening a pipe would wait forever, and a device may never end.
        let remedy = "Name the file itself.";
        return Err(FileError::malformed(path, kind, "a folder, pipe or device", "an ordinary file", remedy));
    }
    let file = File::open(path).map_err(FileError::io("open", path))?;
    Ok((file, about.len()))
}

#[cfg(target_arch = "wasm32")]
fn open_ordinary(path: &Path, _kind: &'static str) -> Result<(File, u64), FileError> {
    super::disk::open(path).map_err(FileError::io("open", path))
}

/// As many bytes of a file as [`placeholder`] looks at.
const HEAD: u64 = 256;

/// What lies under the name of a file in place of it, told by the file's first bytes, and the remedy. Both are left
/// behind by downloads that seem to have gone well.
pub(crate) fn placeholder(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if begins(b"version https://git-lfs.github.com/spec/") {
        Some((
            "a Git LFS pointer, which only names the file",
            "Run `git lfs pull` in the repository that it comes from, or download the file itself.",
        ))
    } else if begins(b"<!doctype html") || begins(b"<html") {
        Some((
            "a web page (HTML)",
            "The download gave a page, such as one to log in on, in place of the file: download it again.",
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_web_pages_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let refused = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            open_file(&path, "tensor file").unwrap_err().to_string()
        };
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 143194380\n";
        let message = refused(pointer);
        for words in ["x.safetensors", "Git LFS pointer", "git lfs pull"] {
            assert!(message.contains(words), "{message}");
        }
        for page in [&b"<!DOCTYPE html><html>"[..], b"\n  <HTML lang=\"en\">", b"\xef\xbb\xbf<!doctype HTML>"]
        {
            let message = refused(page);
            assert!(message.contains("a web page") && message.contains("download it again"), "{message}");
        }
        // Whatever else is there is left to its reader, from its first byte on.
        for content in [&b""[..], b"version 1", b"<htm", b"\x08\0\0\0\0\0\0\0{}      "] {
            std::fs::write(&path, content).unwrap();
            let (mut file, length) = open_file(&path, "tensor file").unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!((bytes.as_slice(), length), (content, content.len() as u64));
        }
    }
}
