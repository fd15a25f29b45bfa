//! JSON files, and append-only logs with one JSON value a line.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::FileError;
use super::atomic::write_atomic;
use super::disk;
use super::error::quoted;

/// Writes one value as a JSON file, indented.
///
/// # Errors
/// Whatever the disk says; an earlier file is then as it was.
pub fn write_json(path: &Path, value: &Value) -> Result<(), FileError> {
    let text = serde_json::to_vec_pretty(value).map_err(FileError::encoding(path))?;
    write_atomic(path, |out| {
        out.write_all(&text)?;
        out.write_all(b"\n")
    })
}

/// A log open for appending.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the log at `path`, or begins one. A last line that an interrupted run left cut is taken off, so that
    /// the next record does not run into it.
    ///
    /// # Errors
    /// What [`read`] says of a log with a bad line, and whatever the disk says.
    pub fn open_append(path: impl Into<PathBuf>) -> Result<JsonLines, FileError> {
        let path = path.into();
        // Not in append mode, in which Windows refuses to cut a file (rust-lang/rust#105437). Reading leaves the
        // position at the end, where it stays.
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(FileError::io("open", &path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(FileError::io("read", &path))?;
        let (_, whole) = parse(&path, &bytes)?;
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(FileError::io("cut", &path))?;
            file.seek(SeekFrom::End(0)).map_err(FileError::io("seek in", &path))?;
        } else if bytes.last().is_some_and(|&last| last != b'\n') {
            file.write_all(b"\n").map_err(FileError::io("write", &path))?;
        }
        Ok(JsonLines { path, file })
    }

    /// Puts these records in the place of the log at `path`, if there is one, and opens it for more.
    ///
    /// # Errors
    /// Whatever the disk says; an earlier log is then as it was.
    pub fn replace(path: impl Into<PathBuf>, records: &[Value]) -> Result<JsonLines, FileError> {
        let path = path.into();
        write_atomic(&path, |file| records.iter().try_for_each(|record| writeln!(file, "{record}")))?;
        Self::open_append(path)
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::io("flush to disk", &self.path))
    }

    /// Appends one record as one line, which is with the operating system when this returns. JSON has no NaN or
    /// infinity: serde writes them as null.
    ///
    /// # Errors
    /// A record that is not JSON (such as a map with keys that are not text), and whatever the disk says.
    pub fn write(&mut self, record: &impl Serialize) -> Result<(), FileError> {
        let mut line = serde_json::to_vec(record).map_err(FileError::encoding(&self.path))?;
        line.push(b'\n');
        // One call for the whole line, so that an interruption cuts the last line at worst.
        self.file.write_all(&line).map_err(FileError::io("write", &self.path))
    }
}

/// All records of the log at `path`. A last line without an end that does not parse is what an interrupted run
/// leaves, and is passed over.
///
/// # Errors
/// A line that is not JSON, by its number, and whatever the disk says.
pub fn read(path: &Path) -> Result<Vec<Value>, FileError> {
    let bytes = disk::read(path).map_err(FileError::io("read", path))?;
    parse(path, &bytes).map(|(records, _)| records)
}

/// The records, and how many bytes they take: all but a cut last line.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Vec<Value>, usize), FileError> {
    let mut records = Vec::new();
    let mut reached = 0;
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            match serde_json::from_slice(line) {
                Ok(record) => records.push(record),
                Err(_) if !line.ends_with(b"\n") => break,
                Err(error) => {
                    let shown = quoted(&String::from_utf8_lossy(line.trim_ascii_end()));
                    return Err(FileError::Malformed {
                        path: path.to_path_buf(),
                        kind: "log",
                        found: format!("{shown} on line {} ({error})", index + 1),
                        expected: "one JSON value on each line".into(),
                        remedy: "Remove that line, or begin a new log.",
                        source: Some(error.into()),
                    });
                }
            }
        }
        reached += line.len();
    }
    Ok((records, reached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log_with(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn records_come_back_across_openings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        for step in 0..3 {
            let record = json!({"step": step, "note": "two\nlines", "loss": f64::NAN});
            JsonLines::open_append(&path).unwrap().write(&record).unwrap();
        }
        let records = read(&path).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(records[2], json!({"step": 2, "note": "two\nlines", "loss": null}));
    }

    #[test]
    fn a_cut_last_line_is_passed_over_and_taken_off() {
        // Cut within a two-byte letter, as a crash may do.
        let (_folder, path) = log_with(b"{\"a\":1}\n\n{\"b\":\"\xc3");
        assert_eq!(read(&path).unwrap(), [json!({"a": 1})]);
        JsonLines::open_append(&path).unwrap().write(&json!({"c": 3})).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"a\":1}\n\n{\"c\":3}\n");
    }

    /// As Windows needs it: cutting takes a file that is not open for appending, which then has no mode to bring each
    /// write to the end.
    #[test]
    fn records_follow_each_other_from_the_end_of_what_is_whole() {
        for cut in ["", "{\"a cut line, longer than all that will be written after it\":"] {
            let (_folder, path) = log_with(format!("{{\"a\":1}}\n{cut}").as_bytes());
            let mut log = JsonLines::open_append(&path).unwrap();
            log.write(&json!({"b": 2})).unwrap();
            log.write(&json!({"c": 3})).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n", "{cut}");
            #[cfg(target_os = "linux")]
            {
                use std::os::fd::AsRawFd;
                let about =
                    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", log.file.as_raw_fd())).unwrap();
                let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
                assert_eq!(
                    u32::from_str_radix(flags, 8).unwrap() & 0o2000,
                    0,
                    "open for appending (O_APPEND)"
                );
            }
        }
    }

    #[test]
    fn a_whole_last_line_without_an_end_is_kept() {
        let (_folder, path) = log_with(b"{\"a\":1}");
        JsonLines::open_append(&path).unwrap().write(&json!({"b": 2})).unwrap();
        assert_eq!(read(&path).unwrap(), [json!({"a": 1}), json!({"b": 2})]);
    }

    #[test]
    fn a_bad_line_in_the_middle_is_named() {
        let (_folder, path) = log_with(b"{\"a\":1}\nnot json\n{\"b\":2}\n");
        for error in [read(&path).unwrap_err(), JsonLines::open_append(&path).unwrap_err()] {
            let error = error.to_string();
            assert!(
                error.contains("log.jsonl") && error.contains("not json") && error.contains("line 2"),
                "{error}"
            );
        }
        assert!(read(Path::new("no such log")).unwrap_err().to_string().contains("no such log"));
    }
}
