//! `config.json` of diffusers' `UNet2DModel`.

use super::ModelError;
use super::options::{Options, VERSION, shown};
use crate::diffusion::{DownBlock, UNetConfig, UpBlock};
use crate::io::quoted;
use serde_json::{Value, json};
use std::path::Path;

pub(super) const CLASS: &str = "UNet2DModel";

/// The options of which one value is supported: that value, and what to do about another.
fn fixed() -> [(&'static str, Value, &'static str); 6] {
    const RETRAIN: &str = "inkwash has no other kind, so this model cannot be run here";
    [
        ("center_input_sample", json!(false), "scale the pictures to [-1, 1] before they come here instead"),
        ("time_embedding_type", json!("positional"), RETRAIN),
        ("mid_block_type", json!("UNetMidBlock2D"), RETRAIN),
        ("dropout", json!(0.0), "it acts in training alone: set it to 0 for the same pictures"),
        ("act_fn", json!("silu"), RETRAIN),
        (
            "class_embed_type",
            Value::Null,
            "of class embeddings, the table of num_class_embeds alone is supported",
        ),
    ]
}

/// Reads the configuration of a network, and adds to `warnings` what diffusers passes over in silence.
///
/// # Errors
/// An option that is unknown, of the wrong type, or of a value that is not supported.
pub(super) fn read(path: &Path, warnings: &mut Vec<String>) -> Result<UNetConfig, ModelError> {
    let mut options = Options::read(path)?;
    if let Some(class) = options.class.as_deref().filter(|class| *class != CLASS) {
        let message =
            format!("found {}, expected {CLASS:?}, the one network that inkwash can run", quoted(class));
        return Err(options.refuse("_class_name", message));
    }
    // 1. Where diffusers' default is not that of our own configuration.
    options.map.entry("attention_head_dim").or_insert(json!(8));
    if options.map.get("sample_size").is_none_or(Value::is_null) {
        let message = "found no size, expected one number or [height, width]: set it to the size of the pictures \
                       that the model was trained on";
        return Err(options.refuse("sample_size", message.into()));
    }
    // 2. Names that diffusers still takes.
    for key in ["down_block_types", "up_block_types"] {
        for kind in options.map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(name) = kind.as_str().and_then(|name| name.strip_prefix("UNetRes")) {
                *kind = name.into();
            }
        }
    }
    if options.map.get("act_fn").is_some_and(|name| name == "swish") {
        options.map.remove("act_fn");
    }
    // 3. What has one supported value.
    for (key, only, remedy) in fixed() {
        options.must_be(key, &only, remedy)?;
    }
    // 4. What only some networks heed.
    let resamplers = ["downsample_type", "upsample_type"].map(|key| (key, options.map.remove(key)));
    let timesteps = options.map.remove("num_train_timesteps");
    let unknown = format!(
        "unknown option; expected those of {CLASS} in diffusers {VERSION}. Remove it if the network does not need it"
    );
    let config: UNetConfig = options.finish(&unknown)?;
    config.validate().map_err(|source| ModelError::Config { path: path.into(), source })?;
    // The last block of each way has no sampler, and those of blocks without attention are always convolutions.
    let sampled = config.block_out_channels.len() - 1;
    let heeded = [
        config.down_block_types[..sampled].contains(&DownBlock::AttnDownBlock2D),
        config.up_block_types[..sampled].contains(&UpBlock::AttnUpBlock2D),
    ];
    for ((key, value), heeded) in resamplers.into_iter().zip(heeded) {
        let Some(value) = value.filter(|value| !value.is_null() && value != "conv") else { continue };
        if heeded {
            let message = format!(
                "found {}, expected \"conv\"; inkwash resamples by convolutions alone",
                shown(&value)
            );
            return Err(ModelError::Option { path: path.into(), key: key.into(), message });
        }
        warnings.push(format!(
            "{}: `{key}` is {}, but no block of this network heeds it: it resamples by convolutions, as in diffusers",
            path.display(),
            shown(&value)
        ));
    }
    if let Some(value) = timesteps.filter(|value| !value.is_null()) {
        warnings.push(format!(
            "{}: `num_train_timesteps` is {}, which a positional time embedding does not use, as in diffusers; the \
             scheduler's number counts",
            path.display(),
            shown(&value)
        ));
    }
    Ok(config)
}

/// The configuration as diffusers writes it.
pub(super) fn to_json(config: &UNetConfig) -> serde_json::Result<Value> {
    let mut value = json!({
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "downsample_type": "conv",
        "upsample_type": "conv",
        "num_train_timesteps": null,
        // What our own configuration leaves out where it is absent.
        "attention_head_dim": null,
        "attn_norm_num_groups": null,
        "num_class_embeds": null,
        "time_embedding_dim": null,
    });
    for (key, only, _) in fixed() {
        value[key] = only;
    }
    let Value::Object(own) = serde_json::to_value(config)? else { return Ok(value) };
    for (key, own) in own {
        value[key] = own;
    }
    // Integers by default in diffusers.
    for key in ["freq_shift", "mid_block_scale_factor"] {
        if let Some(x) = value[key].as_f64().filter(|x| x.fract() == 0.0) {
            value[key] = json!(x as i64);
        }
    }
    Ok(value)
}
