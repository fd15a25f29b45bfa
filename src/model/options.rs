//! One configuration file of diffusers: named options, each of which is understood or refused.

use super::{ModelError, json};
use crate::io::shortened;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// The release whose options, defaults and files are meant.
pub(super) const VERSION: &str = "0.42.1";

/// The options of a file. A key that begins with `_` is a note, which diffusers does not heed.
pub(super) struct Options<'a> {
    /// The file, for messages.
    pub path: &'a Path,
    /// The `_class_name`, if there is one.
    pub class: Option<String>,
    /// What is still to be understood.
    pub map: Map<String, Value>,
    /// The notes.
    pub notes: Map<String, Value>,
}

impl<'a> Options<'a> {
    pub fn read(path: &'a Path) -> Result<Self, ModelError> {
        Self::new(path, json::read(path)?)
    }

    pub fn new(path: &'a Path, value: Value) -> Result<Self, ModelError> {
        let Value::Object(mut map) = value else {
            return Err(refuse(path, ".", "found no object; expected options by name".into()));
        };
        let class = match map.remove("_class_name") {
            None => None,
            Some(Value::String(name)) => Some(name),
            Some(other) => {
                let message = format!("found {}, expected the name of a class", shown(&other));
                return Err(refuse(path, "_class_name", message));
            }
        };
        let (notes, map) = map.into_iter().partition(|(key, _)| key.starts_with('_'));
        Ok(Self { path, class, map, notes })
    }

    pub fn refuse(&self, key: &str, message: String) -> ModelError {
        refuse(self.path, key, message)
    }

    /// Takes out an option that may have one value alone.
    pub fn must_be(&mut self, key: &str, only: &Value, remedy: &str) -> Result<(), ModelError> {
        match self.map.remove(key) {
            Some(found) if !same(&found, only) => {
                Err(self.refuse(key, format!("found {}, expected {only}; {remedy}", shown(&found))))
            }
            _ => Ok(()),
        }
    }

    /// Looks at an option that may have one of these words, and leaves it. Other types are left to [`Self::finish`].
    pub fn must_be_one_of(&self, key: &str, words: &[&str]) -> Result<(), ModelError> {
        match self.map.get(key) {
            Some(Value::String(found)) if !words.contains(&found.as_str()) => {
                let words = words.join("`, `");
                let found = shortened(found);
                Err(self.refuse(key, format!("unknown variant `{found}`, expected one of `{words}`")))
            }
            _ => Ok(()),
        }
    }

    /// What is left, as a configuration. `unknown` is said of a key that it does not have.
    pub fn finish<T: DeserializeOwned>(self, unknown: &str) -> Result<T, ModelError> {
        let path = self.path;
        serde_path_to_error::deserialize(Value::Object(self.map)).map_err(|e| {
            let words = e.inner().to_string();
            let message = if words.starts_with("unknown field") { unknown } else { &words };
            refuse(path, &e.path().to_string(), shortened(message).into_owned())
        })
    }
}

/// Keys and serde's words quote the file.
fn refuse(path: &Path, key: &str, message: String) -> ModelError {
    ModelError::Option { path: path.into(), key: plain(&shortened(key)), message: plain(&message) }
}

/// Text from a file without what a terminal would act on.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Whether Python would call two values equal: 0 and 0.0, and null where a switch is off.
fn same(found: &Value, only: &Value) -> bool {
    match (found.as_f64(), only.as_f64()) {
        (Some(found), Some(only)) => found == only,
        _ => found == only || (found.is_null() && *only == Value::Bool(false)),
    }
}

/// A value in a message.
pub(super) fn shown(value: &Value) -> String {
    plain(&shortened(&value.to_string()))
}
