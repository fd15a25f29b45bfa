//! A configuration file, and what was meant where it says something else.

use super::{FolderError, TrainConfig};
use crate::io::read_text;
use std::collections::BTreeSet;
use std::path::Path;

/// Reads a configuration file.
///
/// # Errors
/// A file that is not text, text that is not TOML, an unknown field or a value of the wrong type, each with its line and
/// the remedy if one suggests itself.
pub fn read_config(path: &Path) -> Result<TrainConfig, FolderError> {
    Ok(read_config_and_fields(path)?.0)
}

/// The same, and the names of the fields that the file has.
///
/// # Errors
/// As [`read_config`].
pub fn read_config_and_fields(path: &Path) -> Result<(TrainConfig, BTreeSet<String>), FolderError> {
    let fail = |message: String| FolderError::Toml { path: path.into(), message };
    let text = read_text(path, "configuration file")?;
    let table: toml::Table = text.parse().map_err(|error| fail(explain_syntax(&text, &error)))?;
    let config = toml::from_str(&text).map_err(|error| fail(explain_value(&error)))?;
    for (field, value) in &table {
        // "C:\new" is TOML, of a path with a line break in it.
        let value = value.as_str().unwrap_or_default();
        if value.contains(char::is_control) && !Path::new(value).exists() {
            return Err(fail(format!(
                "{field}: found {value:?}, with control characters in it. {BACKSLASH}"
            )));
        }
    }
    Ok((config, table.keys().cloned().collect()))
}

const BACKSLASH: &str = "In double quotes a backslash begins an escape: write a Windows path in single quotes, as \
                         'C:\\Users\\me\\photos', or with forward slashes, as \"C:/Users/me/photos\"";

/// toml's words on text that is not TOML, and a hint from the line at which it stopped.
fn explain_syntax(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let start = text.as_bytes()[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |before| before + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let hint = if line.contains('\\') {
        BACKSLASH
    } else if line.contains(['“', '”', '„', '‘', '’']) {
        "The quotes are curly: write straight ones, \" or '"
    } else {
        return error.to_string();
    };
    format!("{error}{hint}")
}

/// toml's words on a value; in place of all names that it could have, the one that is closest to what was found.
fn explain_value(error: &toml::de::Error) -> String {
    let words = error.message();
    let mut names = words.split('`').skip(1).step_by(2);
    let found = names.next().filter(|_| words.starts_with("unknown "));
    let similarity = |found: &str, name: &str| strsim::jaro(&found.to_lowercase().replace('-', "_"), name);
    let closest = found.and_then(|found| {
        let scored = names.map(|name| (similarity(found, name), name));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|best| best.0 > 0.75)?;
        let (what, _) = words.split_once(", expected")?;
        Some(format!("{what}; did you mean `{}`?", best.1))
    });
    match closest {
        Some(closest) => error.to_string().replace(words, &closest),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(content: &[u8], words: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, content).unwrap();
        let message = read_config(&path).unwrap_err().to_string();
        for word in words.iter().chain(&["run.toml"]) {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }

    #[test]
    fn what_was_meant_is_said() {
        let windows = ["single quotes", "forward slashes"];
        refused(br#"data = "C:\Users\me\photos""#, &[&["line 1"][..], &windows].concat());
        refused(b"steps = 1\ndata = \"D:\\photos\"\n", &[&["line 2"][..], &windows].concat());
        refused(br"data = C:\photos", &windows);
        // Every one of these is an escape.
        refused(br#"data = "C:\new\table""#, &[&["data:", r#""C:\new\table""#][..], &windows].concat());
        refused("data = “photos”\n".as_bytes(), &["line 1", "curly"]);
        refused(b"batch = 4\nstpes = 3\n", &["line 2", "unknown field `stpes`; did you mean `steps`?"]);
        refused(b"learning-rate = 3\n", &["did you mean `learning_rate`?"]);
        refused(b"[unet]\nin_chanels = 3\n", &["line 2", "did you mean `in_channels`?"]);
        refused(b"noise_schedule = \"scaled-linear\"\n", &["`scaled-linear`; did you mean `scaled_linear`?"]);
        // Where nothing is close, all that there is.
        refused(b"[classifier]\nzzz = 3\n", &["unknown field `zzz`, expected one of `architecture`"]);
        refused(b"data = \"caf\xe9\"\n", &["0xE9 in line 1", "UTF-8"]);
        refused(b"version https://git-lfs.github.com/spec/v1\n", &["Git LFS pointer"]);
    }

    #[test]
    fn every_encoding_of_a_file_is_the_same_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        let text = "steps = 3\ndata = 'C:\\Bilder\\für mich'\n";
        let marked = format!("\u{feff}{text}");
        let expected =
            TrainConfig { steps: 3, data: r"C:\Bilder\für mich".into(), ..TrainConfig::default() };
        let wide = |unit: fn(u16) -> [u8; 2]| marked.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        for bytes in
            [text.into(), marked.clone().into_bytes(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)]
        {
            std::fs::write(&path, bytes).unwrap();
            let (config, fields) = read_config_and_fields(&path).unwrap();
            assert_eq!(config, expected);
            assert!(fields.iter().eq(["data", "steps"]), "{fields:?}");
        }
    }
}
