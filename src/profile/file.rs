//! A profile read back from its JSON file, which is hostile until checked.

use super::{FORMAT, Profile};
use crate::io::{FileError, open_file, quoted};
use std::io::Read as _;
use std::path::Path;

const KIND: &str = "profile";
const REMEDY: &str = "Write one with `inkwash profile --out FILE`.";

/// A profile of 100 000 launches in 100 runs takes half of this.
const MOST_BYTES: u64 = 256 << 20;

impl Profile {
    /// Reads the file that `inkwash profile --out` writes.
    ///
    /// # Errors
    /// What the disk says, or what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let (file, length) = open_file(path, KIND)?;
        let malformed =
            |found: String, expected: String| FileError::malformed(path, KIND, found, expected, REMEDY);
        if length > MOST_BYTES {
            return Err(malformed(format!("{length} bytes"), format!("at most {MOST_BYTES}")));
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
        let version = serde_json::from_slice::<serde_json::Value>(&bytes)
            .map_err(|e| malformed(e.to_string(), "JSON".into()))?
            .get("format")
            .cloned();
        if version != Some(FORMAT.into()) {
            let found = version.map_or("none".into(), |found| quoted(&found.to_string()));
            return Err(malformed(format!("format {found}"), format!("format {FORMAT}")));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let profile: Self = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            malformed(format!("{} at `{}`", e.inner(), e.path()), "the fields of a profile".into())
        })?;
        let runs = profile.runs;
        if profile.rounds == 0 || profile.rounds > runs {
            let found = format!("`rounds` {} of {runs} runs", profile.rounds);
            return Err(malformed(found, "at least one round, and a run in each".into()));
        }
        for (number, launch) in profile.launches.iter().enumerate() {
            let samples = &launch.samples;
            if runs == 0 || samples.len() != runs {
                let found = format!("{} samples at `launches[{number}]`", samples.len());
                return Err(malformed(found, format!("one for each of {runs} runs, and at least one run")));
            }
            if let Some(bad) = samples.iter().find(|s| !s.is_finite() || **s < 0.0) {
                return Err(malformed(format!("{bad} seconds at `launches[{number}]`"), "0 or more".into()));
            }
        }
        if profile.timeline.device.iter().any(|span| span.launch >= profile.launches.len()) {
            return Err(malformed("a timeline of launches that are not listed".into(), "listed ones".into()));
        }
        if profile.memory.tensors.iter().any(|t| t.first > t.last || t.last >= profile.launches.len()) {
            return Err(malformed(
                "a tensor alive in launches that are not listed".into(),
                "listed ones".into(),
            ));
        }
        Ok(profile)
    }
}
