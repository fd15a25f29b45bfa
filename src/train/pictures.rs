//! What a run is trained on, as far as it must stay the same.

use crate::io::quoted;
use std::collections::BTreeMap;

/// What a run is trained on, as its checkpoints and its log keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Pictures to train on.
    pub training: usize,
    /// Pictures held out.
    pub held_out: usize,
    /// The classes by name, in the order of their labels; empty if the run learns none.
    pub class_names: Vec<String>,
}

/// Keys of a checkpoint's metadata.
const TRAINING: &str = "training_pictures";
const HELD_OUT: &str = "held_out_pictures";
const CLASS_NAMES: &str = "class_names";

impl Pictures {
    /// As a checkpoint's metadata has it.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        let names = serde_json::Value::from(self.class_names.clone()).to_string();
        [(TRAINING, self.training.to_string()), (HELD_OUT, self.held_out.to_string()), (CLASS_NAMES, names)]
            .map(|(key, value)| (key.into(), value))
            .into()
    }

    /// From there; `None` in a checkpoint of a version that did not keep it.
    ///
    /// # Errors
    /// A value of the wrong kind, in words.
    pub(super) fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let (Some(training), Some(held_out), Some(names)) =
            (metadata.get(TRAINING), metadata.get(HELD_OUT), metadata.get(CLASS_NAMES))
        else {
            return Ok(None);
        };
        let wrong = |key: &str, found: &str, expected: &str| {
            format!("the metadata has {key} = {}; expected {expected}", quoted(found))
        };
        let number = |key, text: &str| text.parse().map_err(|_| wrong(key, text, "a number of pictures"));
        Ok(Some(Self {
            training: number(TRAINING, training)?,
            held_out: number(HELD_OUT, held_out)?,
            class_names: serde_json::from_str(names)
                .map_err(|_| wrong(CLASS_NAMES, names, "a list of names"))?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_keeps_what_it_was_trained_on() {
        let pictures = Pictures {
            training: 7,
            held_out: 2,
            class_names: ["cat", "\"dog\"", "猫"].map(String::from).into(),
        };
        let mut metadata = pictures.metadata();
        assert_eq!(Pictures::from_metadata(&metadata), Ok(Some(pictures)));
        metadata.insert(CLASS_NAMES.into(), "cat".into());
        assert!(Pictures::from_metadata(&metadata).unwrap_err().contains("class_names = \"cat\""));
        assert_eq!(Pictures::from_metadata(&BTreeMap::new()), Ok(None));
    }
}
