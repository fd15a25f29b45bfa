//! Training that begins from the weights of a model: what it takes over, and the classes by name.

use super::validate::shown;
use super::{FolderError, NetworkKind, TrainConfig, TrainError, built_in_model, open_model};
use crate::diffusion::UNetConfig;
use crate::model::Model;
use crate::nn::{Parameter, Parameters};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The name of the model that the program carries.
const BUILT_IN: &str = "builtin:glyphs";

/// The model that a run begins from: `builtin:glyphs`, or whatever [`open_model`] opens.
///
/// # Errors
/// As [`open_model`].
pub fn open_initial_model(name: &str) -> Result<Model, FolderError> {
    if name == BUILT_IN { built_in_model() } else { open_model(Path::new(name)) }
}

/// What became of the settings of a run that begins from a model, in sentences without their full stops.
#[derive(Debug, Default)]
pub struct Inherited {
    /// What was taken over from the model.
    pub notes: Vec<String>,
    /// What was given otherwise.
    pub warnings: Vec<String>,
}

impl TrainConfig {
    /// Takes over from the model that the run begins from whatever decides what its answers mean, and its network without
    /// classes; but not the fields in `given`, nor a network in place of a preset that is given.
    pub fn inherit(&mut self, model: &Model, given: &BTreeSet<String>) -> Inherited {
        let from = &model.scheduler;
        let (mut taken, mut other) = (Vec::new(), Vec::new());
        macro_rules! inherit {
            ($($field:ident = $value:expr;)*) => {$(
                let (name, value) = (stringify!($field), $value);
                if self.$field != value {
                    if given.contains(name) {
                        other.push(format!("{name} {}, where the model has {}", shown(&self.$field), shown(&value)));
                    } else {
                        taken.push(format!("{name} {}", shown(&value)));
                        self.$field = value;
                    }
                }
            )*};
        }
        inherit! {
            prediction = from.prediction_type;
            objective = from.objective;
            time_conditioning = !from.without_time;
            noise_schedule = from.beta_schedule;
            beta_start = from.beta_start;
            beta_end = from.beta_end;
            timesteps = from.num_train_timesteps;
            zero_terminal_snr = from.rescale_betas_zero_snr;
        }
        let mut inherited = Inherited::default();
        if !taken.is_empty() {
            inherited.notes.push(format!("taken over from the model: {}", taken.join(", ")));
        }
        if !other.is_empty() {
            inherited.warnings.push(format!(
                "what the network has learned must change with what is asked of it: {}",
                other.join("; ")
            ));
        }
        if from.trained_betas.is_some() && !given.contains("noise_schedule") {
            inherited.warnings.push(format!(
                "the model's chain has β of its own (trained_betas), which training has not; it trains with {}",
                shown(&self.noise_schedule)
            ));
        }
        if self.unet.is_none() && !given.contains("preset") {
            self.unet = Some(UNetConfig { num_class_embeds: None, ..model.unet.config.clone() });
        }
        inherited
    }
}

/// What the weights of a run are before its first step.
pub(super) struct Initial {
    /// A flat vector in device order.
    pub weights: Vec<f32>,
    /// Where they come from, in sentences without their full stops; none if they are all drawn at random.
    pub notes: Vec<String>,
}

impl Initial {
    /// The weights at which a run with the network in full begins: its model's, if it has one, or random ones.
    ///
    /// # Errors
    /// A model that cannot be opened or that is of another network.
    pub fn new(config: &TrainConfig, parameters: &Parameters) -> Result<Self, TrainError> {
        let weights = parameters.initial(config.seed);
        match (&config.init, config.network) {
            (Some(name), NetworkKind::Unet) => {
                let model = open_initial_model(name)?;
                let mut initial =
                    Self { weights, notes: vec![format!("the weights begin as those of {name}")] };
                initial.notes.extend(model.warnings.iter().cloned());
                initial.copy(&model, config, parameters).map_err(|message| {
                    TrainError::Mismatch(format!(
                        "{name}, from which the run should begin, has another network: {message}. Leave --preset and \
                         [unet] out to have the model's own"
                    ))
                })?;
                Ok(initial)
            }
            _ => Ok(Self { weights, notes: Vec::new() }),
        }
    }

    /// Puts the weights of a model in the place of random ones.
    fn copy(&mut self, model: &Model, config: &TrainConfig, parameters: &Parameters) -> Result<(), String> {
        // 1. Every tensor but the embedding of classes is the same.
        let theirs: BTreeMap<&str, &Parameter> =
            model.unet.parameters.iter().map(|p| (p.name.as_str(), p)).collect();
        for p in parameters.iter().filter(|p| p.name != CLASSES) {
            let from = theirs.get(p.name.as_str()).ok_or_else(|| format!("it has no tensor {}", p.name))?;
            if from.shape != p.shape {
                return Err(format!("its tensor {} has shape {:?}, here {:?}", p.name, from.shape, p.shape));
            }
            let values = &model.weights[from.offset..from.offset + from.elements()];
            self.weights[p.offset..p.offset + p.elements()].copy_from_slice(values);
        }
        let ours: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        if let Some(name) = theirs.keys().find(|name| **name != CLASSES && !ours.contains(**name)) {
            return Err(format!("it also has a tensor {name}"));
        }
        // 2. And means the same.
        if let Some(unet) = &config.unet {
            same_but_for_size_and_classes(&model.unet.config, unet)?;
        }
        // 3. The classes.
        match (theirs.get(CLASSES), parameters.iter().find(|p| p.name == CLASSES)) {
            (None, None) => {}
            (None, Some(table)) => self.add_classes(config, table),
            (Some(from), None) => self.remove_classes(model, from, parameters),
            (Some(from), Some(table)) => self.match_classes(model, from, config, table)?,
        }
        Ok(())
    }

    /// A model without classes learns some. With the label that stands for none it is what it was.
    fn add_classes(&mut self, config: &TrainConfig, table: &Parameter) {
        self.notes.push(format!(
            "the model had no classes; their embeddings begin at random ({})",
            config.class_names.len()
        ));
        if let Some(label) = config.null_label() {
            self.weights[row(table, label as usize)].fill(0.0);
        }
    }

    /// A model with classes goes on without: what stood for none, or for all of them, goes into the bias of the layer to
    /// whose result embeddings are added.
    fn remove_classes(&mut self, model: &Model, from: &Parameter, parameters: &Parameters) {
        let labels = match model.null_label {
            Some(label) => label as usize..label as usize + 1,
            None => 0..from.shape[0],
        };
        let share = 1.0 / labels.len() as f32;
        let bias = parameters.iter().find(|p| p.name == TIME_BIAS).map_or(0, |p| p.offset);
        for label in labels {
            let embedding = &model.weights[row(from, label)];
            for (to, value) in self.weights[bias..].iter_mut().zip(embedding) {
                *to += share * value;
            }
        }
        let what =
            if model.null_label.is_some() { "of the label that stood for none" } else { "of their mean" };
        self.notes.push(format!(
            "the model's classes are left out, and the network begins as {what}; --class-conditional keeps those that the \
             pictures have"
        ));
    }

    /// Classes keep their embedding by name.
    fn match_classes(
        &mut self,
        model: &Model,
        from: &Parameter,
        config: &TrainConfig,
        table: &Parameter,
    ) -> Result<(), String> {
        if from.shape[1..] != table.shape[1..] {
            return Err(format!("its tensor {CLASSES} has shape {:?}, here {:?}", from.shape, table.shape));
        }
        let mut keep = |label: usize, theirs: usize| {
            self.weights[row(table, label)].copy_from_slice(&model.weights[row(from, theirs)]);
        };
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for (label, name) in config.class_names.iter().enumerate() {
            match model.class_names.iter().position(|other| other == name) {
                Some(theirs) => {
                    keep(label, theirs);
                    kept.push(name);
                }
                None => new.push(name),
            }
        }
        if let (Some(label), Some(theirs)) = (config.null_label(), model.null_label) {
            keep(label as usize, theirs as usize);
        }
        let gone: Vec<&String> =
            model.class_names.iter().filter(|name| !config.class_names.contains(name)).collect();
        if model.class_names.is_empty() {
            self.notes.push(
                "the model's classes have no names, so that none can be kept; to give them some, write them in the order \
                 of their labels into class_names of its config.toml, or _class_names of its unet/config.json"
                    .into(),
            );
        }
        for (what, names) in [
            ("classes that keep their embedding", &kept),
            ("new classes, whose embedding begins at random", &new),
            ("classes of the model that the pictures do not have", &gone),
        ] {
            if !names.is_empty() {
                self.notes.push(format!("{what}: {}", listed(names)));
            }
        }
        if config.null_label().is_some() && model.null_label.is_none() {
            self.notes.push(
                "the model has no label that stands for none; its embedding begins at random".to_string(),
            );
        }
        Ok(())
    }
}

/// The table of class embeddings, (labels, width), a row for each.
const CLASSES: &str = "class_embedding.weight";
/// The last that is added before them.
const TIME_BIAS: &str = "time_embedding.linear_2.bias";

/// Where a row of a table lies in the flat vector.
fn row(table: &Parameter, label: usize) -> std::ops::Range<usize> {
    let width = table.elements() / table.shape[0].max(1);
    let start = table.offset + label * width;
    start..start + width
}

/// How many names there are, and the first of them.
fn listed(names: &[&String]) -> String {
    const SHOWN: usize = 10;
    let first: Vec<&str> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more} ({})", first.join(", "), names.len())
}

/// Options that change no shape change what the weights do.
fn same_but_for_size_and_classes(theirs: &UNetConfig, ours: &UNetConfig) -> Result<(), String> {
    let plain = |config: &UNetConfig| UNetConfig {
        sample_size: UNetConfig::default().sample_size,
        num_class_embeds: None,
        ..config.clone()
    };
    let [Ok(Value::Object(theirs)), Ok(Value::Object(ours))] =
        [theirs, ours].map(|config| serde_json::to_value(plain(config)))
    else {
        return Ok(());
    };
    let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    match keys.into_iter().find(|key| theirs.get(*key) != ours.get(*key)) {
        None => Ok(()),
        Some(key) => {
            let [a, b] = [&theirs, &ours]
                .map(|config| config.get(key))
                .map(|v| v.map_or("absent".to_string(), Value::to_string));
            Err(format!("its {key} is {a}, here {b}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{
        DownBlock, Prediction, Preset, Sampler, ScheduleKind, SchedulerConfig, UNet, UpBlock,
    };

    fn config(classes: &[&str], dropout: f64) -> TrainConfig {
        let unet = UNetConfig {
            block_out_channels: vec![8],
            down_block_types: vec![DownBlock::DownBlock2D],
            up_block_types: vec![UpBlock::UpBlock2D],
            norm_num_groups: 4,
            ..UNetConfig::preset(Preset::TinyGray)
        };
        let class_conditional = !classes.is_empty();
        let names: Vec<String> = classes.iter().map(ToString::to_string).collect();
        TrainConfig { unet: Some(unet), class_conditional, label_dropout: dropout, ..TrainConfig::default() }
            .with_network(&names)
    }

    /// A model of other weights than a run's random ones.
    fn model(config: &TrainConfig) -> Model {
        let unet = UNet::new(&config.unet_config(0)).unwrap();
        Model {
            weights: unet.parameters.initial(77),
            unet,
            scheduler: config.scheduler(Sampler::Ddim),
            null_label: config.null_label(),
            class_names: config.class_names.clone(),
            warnings: Vec::new(),
        }
    }

    fn begin(config: &TrainConfig, model: &Model) -> Result<(UNet, Initial), String> {
        let unet = UNet::new(&config.unet_config(0)).unwrap();
        let mut initial = Initial { weights: unet.parameters.initial(config.seed), notes: Vec::new() };
        initial.copy(model, config, &unet.parameters)?;
        Ok((unet, initial))
    }

    fn tensor<'a>(unet: &UNet, weights: &'a [f32], name: &str) -> &'a [f32] {
        let p = unet.parameters.iter().find(|p| p.name == name).unwrap();
        &weights[p.offset..p.offset + p.elements()]
    }

    /// Rows of the table of embeddings.
    fn rows<'a>(unet: &UNet, weights: &'a [f32]) -> Vec<&'a [f32]> {
        tensor(unet, weights, CLASSES).chunks_exact(unet.config.time_width()).collect()
    }

    #[test]
    fn classes_keep_their_embedding_by_name() {
        let ours = config(&["cat", "cow", "dog"], 0.1);
        let theirs = model(&config(&["bird", "dog", "cat"], 0.1));
        let (unet, initial) = begin(&ours, &theirs).unwrap();
        let (found, from) = (rows(&unet, &initial.weights), rows(&theirs.unet, &theirs.weights));
        let random = unet.parameters.initial(ours.seed);
        assert_eq!(found, [from[2], rows(&unet, &random)[1], from[1], from[3]]);
        let notes = initial.notes.join("\n");
        for words in ["keep their embedding: cat, dog (2)", "at random: cow (1)", "do not have: bird (1)"] {
            assert!(notes.contains(words), "{notes}");
        }
        for p in unet.parameters.iter().filter(|p| p.name != CLASSES) {
            let [a, b] = [(&unet, &initial.weights), (&theirs.unet, &theirs.weights)]
                .map(|(unet, weights)| tensor(unet, weights, &p.name));
            assert!(a == b, "{}", p.name);
        }
        // Without names nothing is known of them.
        let unnamed = Model { class_names: Vec::new(), ..theirs };
        let (unet, initial) = begin(&ours, &unnamed).unwrap();
        assert_eq!(rows(&unet, &initial.weights)[..3], rows(&unet, &random)[..3]);
        assert!(initial.notes[0].contains("have no names"), "{:?}", initial.notes);
    }

    #[test]
    fn classes_come_and_go() {
        let (with, without) = (config(&["a", "b"], 0.1), config(&[], 0.0));
        // Told of no class, the network is the model.
        let (unet, initial) = begin(&with, &model(&without)).unwrap();
        let random = unet.parameters.initial(with.seed);
        let found = rows(&unet, &initial.weights);
        assert_eq!(found[..2], rows(&unet, &random)[..2]);
        assert!(found[2].iter().all(|&x| x == 0.0) && initial.notes[0].contains("had no classes"));
        // And the other way round: the bias has what was added behind it.
        for (dropout, labels) in [(0.1, 2..3), (0.0, 0..2)] {
            let theirs = model(&config(&["a", "b"], dropout));
            let (unet, initial) = begin(&without, &theirs).unwrap();
            let share = 1.0 / labels.len() as f32;
            let mut expected = tensor(&theirs.unet, &theirs.weights, TIME_BIAS).to_vec();
            for row in &rows(&theirs.unet, &theirs.weights)[labels] {
                expected.iter_mut().zip(*row).for_each(|(to, value)| *to += share * value);
            }
            assert_eq!(tensor(&unet, &initial.weights, TIME_BIAS), expected);
            assert!(initial.notes[0].contains("left out"), "{:?}", initial.notes);
        }
    }

    #[test]
    fn another_network_is_named_by_what_differs() {
        let ours = config(&[], 0.0);
        let with = |change: &dyn Fn(&mut UNetConfig)| {
            let mut other = ours.clone();
            change(other.unet.as_mut().unwrap());
            begin(&other, &model(&ours)).err().unwrap_or_default()
        };
        assert_eq!(with(&|unet| unet.sample_size = crate::nn::Size::Square(40)), "");
        let wider = with(&|unet| unet.in_channels = 3);
        assert_eq!(wider, "its tensor conv_in.weight has shape [8, 1, 3, 3], here [8, 3, 3, 3]");
        let deeper = with(&|unet| unet.layers_per_block = 2);
        assert!(deeper.starts_with("it has no tensor down_blocks.0.resnets.1"), "{deeper}");
        let without = with(&|unet| unet.add_attention = false);
        assert!(without.starts_with("it also has a tensor mid_block.attentions.0"), "{without}");
        // Every shape is the same, and the function another.
        assert_eq!(with(&|unet| unet.attention_head_dim = None), "its attention_head_dim is 8, here absent");
        assert_eq!(with(&|unet| unet.flip_sin_to_cos = false), "its flip_sin_to_cos is true, here false");
    }

    #[test]
    fn what_is_not_given_comes_from_the_model() {
        let mut theirs = model(&config(&["a"], 0.0));
        theirs.scheduler = SchedulerConfig {
            prediction_type: Prediction::VPrediction,
            beta_schedule: ScheduleKind::Cosine,
            num_train_timesteps: 300,
            ..SchedulerConfig::new(Sampler::Ddim)
        };
        let mut run = TrainConfig { prediction: Prediction::Sample, ..TrainConfig::default() };
        let inherited = run.inherit(&theirs, &BTreeSet::from(["prediction".into(), "steps".into()]));
        let expected = (Prediction::Sample, ScheduleKind::Cosine, 300);
        assert_eq!((run.prediction, run.noise_schedule, run.timesteps), expected);
        let taken = "taken over from the model: noise_schedule squaredcos_cap_v2, timesteps 300";
        assert_eq!(inherited.notes, [taken]);
        let words = "prediction sample, where the model has v_prediction";
        assert!(inherited.warnings.len() == 1 && inherited.warnings[0].contains(words), "{inherited:?}");
        assert_eq!(run.unet, Some(UNetConfig { num_class_embeds: None, ..theirs.unet.config.clone() }));
        let mut run = TrainConfig { preset: Preset::Cifar, ..TrainConfig::default() };
        run.inherit(&theirs, &BTreeSet::from(["preset".into()]));
        assert_eq!(run.unet, None);
        // A model that is trained as a run is by default has nothing to tell.
        let told = TrainConfig::default().inherit(&model(&TrainConfig::default()), &BTreeSet::new());
        assert!(told.notes.is_empty() && told.warnings.is_empty());
    }
}
