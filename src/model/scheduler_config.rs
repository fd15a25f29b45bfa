//! `scheduler_config.json` of those of diffusers' schedulers that inkwash has.

use super::ModelError;
use super::options::{Options, VERSION};
use crate::diffusion::{Sampler, SchedulerConfig, VarianceType};
use crate::io::quoted;
use serde_json::{Value, json};
use std::path::Path;

/// What every one of their classes has; the rest is in [`Sampler::options`].
const COMMON: [&str; 8] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
];

/// Options of diffusers' other schedulers, and of the first releases. A scheduler that was made from another one's
/// configuration carries them along, and diffusers drops them when it opens the file.
const DROPPED: [&str; 12] = [
    "disable_corrector",
    "noise_sampler_seed",
    "predict_x0",
    "rho",
    "shift_terminal",
    "sigma_data",
    "sigma_schedule",
    "skip_prk_steps",
    "solver_p",
    "tensor_format",
    "timestep_values",
    "timesteps",
];

/// The options of a sampler's class that have one supported value, which is diffusers' default.
fn fixed(sampler: Sampler) -> Vec<(&'static str, Value)> {
    let spacing = [("use_exponential_sigmas", json!(false)), ("use_beta_sigmas", json!(false))];
    let mut fixed = vec![];
    match sampler {
        Sampler::Ddpm | Sampler::Ddim | Sampler::EulerAncestral => {}
        Sampler::DpmSolver => {
            fixed.extend(spacing);
            fixed.extend([
                ("algorithm_type", json!("dpmsolver++")),
                ("use_lu_lambdas", json!(false)),
                ("use_flow_sigmas", json!(false)),
                ("flow_shift", json!(1.0)),
                ("use_dynamic_shifting", json!(false)),
                ("time_shift_type", json!("exponential")),
            ]);
        }
        Sampler::Euler => {
            fixed.extend(spacing);
            fixed.extend([("interpolation_type", json!("linear")), ("timestep_type", json!("discrete"))]);
        }
        Sampler::Heun => fixed.extend(spacing),
    }
    fixed
}

/// Whether a sampler's class has this option.
fn has(sampler: Sampler, key: &str) -> bool {
    COMMON.contains(&key) || sampler.options().contains(&key)
}

/// The name of a sampler's class in diffusers: what a file of ours has.
pub(super) fn class_name(sampler: Sampler) -> String {
    serde_json::to_value(sampler).ok().and_then(|name| Some(name.as_str()?.to_string())).unwrap_or_default()
}

/// The sampler of a class's name, or a message that names those that there are.
pub(super) fn sampler_of(name: &str) -> Result<Sampler, String> {
    Sampler::ALL.into_iter().find(|&sampler| class_name(sampler) == name).ok_or_else(|| {
        format!(
            "found {}, expected one of {}; save the model with one of these, as \
             `Class.from_config(scheduler.config)` makes it",
            quoted(name),
            Sampler::ALL.map(class_name).join(", ")
        )
    })
}

/// Reads a scheduler's configuration. The class is `sampler` if the pipeline names it, else the file's own. What
/// diffusers drops goes into `warnings`.
///
/// # Errors
/// An option that is unknown, of the wrong type, or of a value that is not supported.
pub(super) fn read(
    path: &Path,
    sampler: Option<Sampler>,
    warnings: &mut Vec<String>,
) -> Result<SchedulerConfig, ModelError> {
    parse(path, Options::read(path)?, sampler, warnings)
}

/// The same of options that are part of the file at `path`.
pub(super) fn parse(
    path: &Path,
    mut options: Options,
    sampler: Option<Sampler>,
    warnings: &mut Vec<String>,
) -> Result<SchedulerConfig, ModelError> {
    // 1. The class.
    let own = options.class.as_deref().map(sampler_of).transpose();
    let own = own.map_err(|message| options.refuse("_class_name", message))?;
    let sampler = sampler.or(own).unwrap_or(Sampler::Ddpm);
    let class = class_name(sampler);
    if let Some(own) = own.filter(|own| *own != sampler) {
        warnings.push(format!(
            "{}: written by {}; the pipeline names {}, which counts, as in diffusers",
            path.display(),
            class_name(own),
            class
        ));
    }
    // 2. What has one supported value.
    for (key, only) in fixed(sampler) {
        let remedy = format!("inkwash's {} has no other kind: sample with another scheduler", class);
        options.must_be(key, &only, &remedy)?;
    }
    let predicts_noise = "this model predicts the picture: set prediction_type to \"sample\" instead, as diffusers has \
                          it now, or it would draw nothing but noise";
    let old = options.map.contains_key("predict_epsilon");
    options.must_be("predict_epsilon", &json!(true), predicts_noise)?;
    let learned = options.map.get("variance_type").is_some_and(|v| v == "learned_range");
    if sampler.counts_as_dpm_solver() && !learned {
        options.must_be(
            "variance_type",
            &Value::Null,
            "or \"learned_range\", where the network puts out a variance",
        )?;
    }
    // What is inkwash's own is not diffusers'.
    options.must_be_one_of("beta_schedule", &["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])?;
    options.must_be_one_of("prediction_type", &["epsilon", "sample", "v_prediction"])?;
    // 3. What diffusers drops. What a network puts out does not change with the class, so its variance is kept.
    let known = |key: &str| {
        DROPPED.contains(&key)
            || Sampler::ALL.into_iter().any(|s| has(s, key) || fixed(s).iter().any(|(name, _)| *name == key))
    };
    let kept = |key: &str| has(sampler, key) || (key == "variance_type" && learned);
    let dropped: Vec<String> = options.map.keys().filter(|key| known(key) && !kept(key)).cloned().collect();
    options.map.retain(|key, _| !dropped.contains(key));
    if old || !dropped.is_empty() {
        let mut names: Vec<String> = dropped.iter().map(|key| format!("`{key}`")).collect();
        names.extend(old.then(|| "`predict_epsilon`".into()));
        warnings.push(format!(
            "{}: {} has no option {}: ignored, as in diffusers",
            path.display(),
            class,
            names.join(", ")
        ));
    }
    // 4. The rest, over the defaults of the class.
    let defaults = SchedulerConfig::new(sampler);
    let Ok(Value::Object(mut all)) = serde_json::to_value(&defaults) else { return Ok(defaults) };
    for (key, value) in std::mem::take(&mut options.map) {
        // Python takes null where a switch is off.
        let off = value.is_null() && all.get(&key) == Some(&json!(false));
        if !off {
            all.insert(key, value);
        }
    }
    options.map = all;
    let unknown = format!(
        "unknown option; expected those of {} in diffusers {VERSION}. Remove it if the model does not need it",
        class
    );
    let config: SchedulerConfig = options.finish(&unknown)?;
    config.validate().map_err(|source| ModelError::Config { path: path.into(), source })?;
    Ok(config)
}

/// The configuration as diffusers writes it: the options of its class and no others.
pub(super) fn to_json(config: &SchedulerConfig) -> serde_json::Result<Value> {
    let sampler = config.sampler;
    let own = serde_json::to_value(config)?;
    let mut value = json!({"_class_name": class_name(sampler), "_diffusers_version": VERSION});
    for key in COMMON.iter().chain(sampler.options()) {
        value[*key] = own[*key].clone();
    }
    for (key, only) in fixed(sampler) {
        value[key] = only;
    }
    match config.variance_type {
        VarianceType::LearnedRange => value["variance_type"] = json!("learned_range"),
        VarianceType::FixedSmall | VarianceType::FixedLarge if sampler.counts_as_dpm_solver() => {
            value["variance_type"] = Value::Null;
        }
        VarianceType::FixedSmall | VarianceType::FixedLarge => {}
    }
    Ok(value)
}
