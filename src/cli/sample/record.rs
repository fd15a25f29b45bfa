//! `samples.json`: what decides the pictures in a folder, so that the same command goes on with them and another does not.

use crate::cli::Failure;
use crate::io::{quoted, shortened};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Differences that a message names.
const NAMED: usize = 4;
/// A record has some kilobytes; what is larger is another file.
const MAX_BYTES: u64 = 16 << 20;

/// The content of `samples.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version that wrote it.
    pub inkwash: String,
    /// The device that drew, and its driver.
    pub device: String,
    /// Pictures computed at once.
    pub batch: usize,
    /// Pictures that were asked for.
    pub count: usize,
    /// Of how many pictures `grid.png` and `samples.npz` were made; 0 before they are.
    pub finished: usize,
    /// All that decides the pictures.
    pub settings: Map<String, Value>,
}

impl Record {
    /// The record at this path, if there is a file.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let foreign = |why: String| -> Failure {
            format!(
                "{} is not what `inkwash sample` writes under this name ({why}); choose another --out, or move it away",
                path.display()
            )
            .into()
        };
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("{}: {e}", path.display()).into()),
            Ok(about) if !about.is_file() => return Err(foreign("it is no ordinary file".into())),
            Ok(about) if about.len() > MAX_BYTES => return Err(foreign(format!("{} bytes", about.len()))),
            Ok(_) => {}
        }
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(record) if record.finished <= record.count => Ok(Some(record)),
            Ok(_) => Err(foreign("more pictures are finished than were asked for".into())),
            Err(e) => Err(foreign(shortened(&e.to_string()).into())),
        }
    }
}

/// How two sets of settings differ, for a message: `steps is 50 there and 20 now`. Empty if they do not.
pub fn differences(there: &Map<String, Value>, now: &Map<String, Value>) -> String {
    let mut found = Vec::new();
    compare("", &Value::Object(there.clone()), &Value::Object(now.clone()), &mut found);
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    found.join("; ") + &more
}

fn compare(name: &str, there: &Value, now: &Value, found: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (there, now) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        for key in keys {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
            compare(&name, &value(a), &value(b), found);
        }
    } else if there != now {
        let show = |value: &Value| match value {
            Value::Null => "left out".to_string(),
            Value::String(text) => quoted(text),
            other => shortened(&other.to_string()).into_owned(),
        };
        found.push(format!("{name} is {} there and {} now", show(there), show(now)));
    }
}

/// A checksum of numbers, bit for bit.
pub fn checksum(values: &[f32]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for part in values.chunks(1 << 16) {
        let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    format!("crc32 {:08x} of {} numbers", hasher.finalize(), values.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let there =
            map(json!({ "steps": 50, "scheduler": { "eta": 0.5, "clip": true }, "seed": 1, "old": 1 }));
        assert_eq!(differences(&there, &there), "");
        let now =
            map(json!({ "steps": 20, "scheduler": { "eta": 0.5, "clip": false }, "seed": 1, "new": "x" }));
        let expected = "old is 1 there and left out now; scheduler.clip is true there and false now; steps is 50 there \
                        and 20 now; new is left out there and \"x\" now";
        assert_eq!(differences(&there, &now), expected);
    }

    #[test]
    fn another_file_is_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.json");
        assert_eq!(Record::read(&path).unwrap(), None);
        let record = json!({
            "inkwash": "0.1.0", "device": "", "batch": 1, "count": 3, "finished": 3, "settings": {}
        });
        let record = record.to_string();
        std::fs::write(&path, &record).unwrap();
        assert_eq!(Record::read(&path).unwrap().unwrap().count, 3);
        let (less, negative) =
            (record.replace("count\":3", "count\":2"), record.replace("count\":3", "count\":-3"));
        for content in ["", "[1, 2]", "{\"count\": 3}", "\u{feff}{}", &less, &negative, &record[1..]] {
            std::fs::write(&path, content).unwrap();
            let message = Record::read(&path).unwrap_err().to_string();
            assert!(message.contains("samples.json") && message.contains("--out"), "{message}");
        }
    }

    #[test]
    fn one_bit_changes_a_checksum() {
        let mut values = vec![0.5_f32; 70_000];
        let before = checksum(&values);
        values[69_999] = f32::from_bits(0.5_f32.to_bits() ^ 1);
        assert_ne!(before, checksum(&values));
    }
}
