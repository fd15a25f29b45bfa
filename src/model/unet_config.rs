//! `config.json` of diffusers' `UNet2DModel`.

use super::ModelError;
use super::options::{Options, VERSION, plain, shown};
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

/// What diffusers' `EMAModel.save_pretrained` writes beside the network's own options: how its average was taken.
const AVERAGE: [&str; 7] =
    ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"];

/// What a network's labels stand for. The keys are notes to diffusers, which keeps and does not heed them.
#[derive(Default)]
pub(super) struct Classes {
    /// Names in the order of their labels; empty if they are not known.
    pub names: Vec<String>,
    /// The label that stands for none.
    pub null_label: Option<u32>,
}

const CLASS_NAMES: &str = "_class_names";
const NULL_LABEL: &str = "_null_label";

impl Classes {
    /// Takes them from the options of a network with so many labels.
    fn take(options: &mut Options, labels: usize) -> Result<Self, ModelError> {
        let names = match options.notes.remove(CLASS_NAMES) {
            None | Some(Value::Null) => Vec::new(),
            Some(found) => {
                let list: Option<Vec<String>> = serde_json::from_value(found.clone()).ok();
                list.filter(|names| names.len() <= labels).ok_or_else(|| {
                    let expected = format!("a list of at most num_class_embeds = {labels} names");
                    options.refuse(CLASS_NAMES, format!("found {}, expected {expected}", shown(&found)))
                })?
            }
        };
        let null_label = match options.notes.remove(NULL_LABEL) {
            None | Some(Value::Null) => None,
            Some(found) => {
                let label = found.as_u64().and_then(|label| u32::try_from(label).ok());
                let label = label.filter(|&label| (label as usize) < labels && label as usize >= names.len());
                Some(label.ok_or_else(|| {
                    let expected =
                        format!("a label from {} on, below num_class_embeds = {labels}", names.len());
                    options.refuse(NULL_LABEL, format!("found {}, expected {expected}", shown(&found)))
                })?)
            }
        };
        Ok(Self { names: names.iter().map(|name| plain(name)).collect(), null_label })
    }

    /// Adds the notes that there are something to say of.
    fn put(&self, value: &mut Value) {
        if !self.names.is_empty() {
            value[CLASS_NAMES] = json!(self.names);
        }
        if let Some(label) = self.null_label {
            value[NULL_LABEL] = json!(label);
        }
    }
}

/// Reads the configuration of a network, and adds to `warnings` what diffusers passes over in silence.
///
/// # Errors
/// An option that is unknown, of the wrong type, or of a value that is not supported.
pub(super) fn read(path: &Path, warnings: &mut Vec<String>) -> Result<(UNetConfig, Classes), ModelError> {
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
    // 4. What is not of the network.
    let average = AVERAGE.iter().filter(|key| options.map.remove(**key).is_some()).count();
    if average > 0 {
        warnings.push(format!(
            "{}: an averaged network of diffusers' EMAModel; the average's own settings ({average}) are not needed",
            path.display()
        ));
    }
    // 5. What only some networks heed.
    let resamplers = ["downsample_type", "upsample_type"].map(|key| (key, options.map.remove(key)));
    let timesteps = options.map.remove("num_train_timesteps");
    let unknown = format!(
        "unknown option; expected those of {CLASS} in diffusers {VERSION}. Remove it if the network does not need it"
    );
    let labels = options.map.get("num_class_embeds").and_then(Value::as_u64).unwrap_or(0);
    let classes = Classes::take(&mut options, usize::try_from(labels).unwrap_or(usize::MAX))?;
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
    Ok((config, classes))
}

/// The configuration as diffusers writes it, and the notes on its classes.
pub(super) fn to_json(config: &UNetConfig, classes: &Classes) -> serde_json::Result<Value> {
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
    classes.put(&mut value);
    Ok(value)
}
