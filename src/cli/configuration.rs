//! The configuration of a training run: the file's or the run's, with the model's that it begins from and the command line
//! put over it.

use super::Failure;
use crate::train::{
    Inherited, ModelFolder, NetworkKind, TrainConfig, open_initial_model, read_config_and_fields,
};
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::collections::BTreeSet;
use std::path::Path;

/// Of a new run: of the file, if there is one, and the flags. What neither gives comes from the model that the run begins
/// from, if it begins from one.
pub fn of_new_run(
    file: Option<&Path>,
    flags: &TrainConfig,
    matches: &ArgMatches,
) -> Result<(TrainConfig, Inherited), Failure> {
    let (of_file, mut given) = file.map(read_config_and_fields).transpose()?.unwrap_or_default();
    let mut config = merge(&of_file, flags, matches)?;
    given.extend(given_flags(matches));
    let mut inherited = Inherited::default();
    if let Some(name) = config.init.clone().filter(|_| config.network == NetworkKind::Unet) {
        inherited = config.inherit(&open_initial_model(&name)?, &given);
    }
    Ok((config, inherited))
}

/// Of a run that goes on: its own, and the flags.
pub fn of_resumed_run(
    folder: &Path,
    flags: &TrainConfig,
    matches: &ArgMatches,
) -> Result<TrainConfig, Failure> {
    merge(&ModelFolder::new(folder).config()?, flags, matches)
}

/// What was given on the command line, by the names of fields.
fn given_flags(matches: &ArgMatches) -> BTreeSet<String> {
    let given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    matches.ids().map(clap::Id::as_str).filter(given).map(String::from).collect()
}

/// A configuration with whatever was given on the command line put over it.
fn merge(file: &TrainConfig, flags: &TrainConfig, matches: &ArgMatches) -> Result<TrainConfig, Failure> {
    let given = given_flags(matches);
    let mut merged = serde_json::to_value(file)?;
    let flags = serde_json::to_value(flags)?;
    if let (Some(merged), Some(flags)) = (merged.as_object_mut(), flags.as_object()) {
        for (name, value) in flags.iter().filter(|(name, _)| given.contains(*name)) {
            merged.insert(name.clone(), value.clone());
            if name == "preset" {
                merged.remove("unet");
                merged.remove("classifier");
            }
        }
    }
    Ok(serde_json::from_value(merged)?)
}
