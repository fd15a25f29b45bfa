//! What a person may not expect of a configuration that is allowed, with its consequence.

use super::grid::grid_extent;
use super::run_folder::Checksums;
use super::{Pictures, TrainConfig};

/// By how much the learning rate may change where a run goes on before it is worth a word.
const JUMP: f64 = 2.0;

/// Of a run on these pictures.
pub(super) fn warnings(config: &TrainConfig, pictures: &Pictures) -> Vec<String> {
    let mut warnings = Vec::new();
    let TrainConfig { steps, warmup_steps, learning_rate, .. } = *config;
    if warmup_steps >= steps && learning_rate > 0.0 {
        warnings.push(format!(
            "the warm-up of {warmup_steps} steps is as long as the run of {steps} or longer, so that the learning rate \
             never reaches {learning_rate:e}, but at most {:.2e}; lower --warmup-steps",
            config.learning_rate_at(steps.saturating_sub(1))
        ));
    }
    let (batch, training) = (config.effective_batch(), pictures.training);
    if batch > training {
        warnings.push(format!(
            "each step takes {batch} pictures, but there are only {training} to train on, so that it sees the same \
             picture several times; lower --batch to {training} or less"
        ));
    }
    let all = training + pictures.held_out;
    if config.held_out > 0.0 && pictures.held_out == 0 {
        warnings.push(format!(
            "held_out = {} of {all} pictures rounds to none, so that no held-out loss is measured; give --held-out {} or \
             more",
            config.held_out,
            (1000.0 / all.max(1) as f64).ceil() / 1000.0
        ));
    }
    if config.network.draws_pictures() {
        let (shown, asked) = (grid_extent(config).shown, config.sample_count);
        if shown < asked {
            warnings.push(format!(
                "a sample grid has room for {shown} of the {asked} pictures of --sample-count; only these are drawn"
            ));
        }
    }
    warnings
}

/// Of a run that goes on after `step` under another configuration than it `had`.
pub(super) fn learning_rate_jump(had: &TrainConfig, config: &TrainConfig, step: u32) -> Option<String> {
    let changed: Vec<String> = [
        ("steps", had.steps.to_string(), config.steps.to_string()),
        ("learning_rate", had.learning_rate.to_string(), config.learning_rate.to_string()),
        ("warmup_steps", had.warmup_steps.to_string(), config.warmup_steps.to_string()),
        (
            "learning_rate_schedule",
            format!("{:?}", had.learning_rate_schedule).to_lowercase(),
            format!("{:?}", config.learning_rate_schedule).to_lowercase(),
        ),
    ]
    .into_iter()
    .filter(|(_, had, has)| had != has)
    .map(|(field, had, has)| format!("{field} was {had} and is {has}"))
    .collect();
    let (before, after) = (had.learning_rate_at(step.checked_sub(1)?), config.learning_rate_at(step));
    let jumps = after > JUMP * before || before > JUMP * after;
    (jumps && !changed.is_empty()).then(|| {
        format!(
            "the learning rate jumps from {before:.2e} in step {step} to {after:.2e} in step {}, because {}; the loss may \
             rise at first",
            step + 1,
            changed.join(", and ")
        )
    })
}

/// Of a run that goes on with another number of pictures.
pub(super) fn other_pictures(had: &Pictures, pictures: &Pictures) -> Option<String> {
    let count = |p: &Pictures| p.training + p.held_out;
    (count(had) != count(pictures)).then(|| {
        format!(
            "the data has {} pictures, and had {} when the run was last saved; it goes on with those that are there now, \
             and others may be held out",
            count(pictures),
            count(had)
        )
    })
}

/// Of a run that goes on with other WGSL files in the place of embedded ones.
pub(super) fn other_shaders(had: &Checksums, now: &Checksums) -> Option<String> {
    let words =
        |shaders: &Checksums| match shaders.keys().map(|name| format!("{name}.wgsl")).collect::<Vec<_>>() {
            names if names.is_empty() => "the embedded shaders".into(),
            names => format!("a user's {}", names.join(", ")),
        };
    (had != now).then(|| {
        let same = if words(had) == words(now) { ", whose text has changed" } else { "" };
        format!(
            "the run was last trained with {}, and goes on with {}{same} (--shaders): what follows is computed otherwise",
            words(had),
            words(now)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::LearningRate;

    #[test]
    fn each_warning_says_its_consequence() {
        let all = |config: &TrainConfig, training, held_out| {
            warnings(config, &Pictures { training, held_out, class_names: Vec::new() }).join("; ")
        };
        let config = TrainConfig { steps: 100, warmup_steps: 10, ..TrainConfig::default() };
        assert_eq!(all(&config, 16, 1), "");
        let warned = all(&TrainConfig { warmup_steps: 200, ..config.clone() }, 16, 1);
        assert!(warned.contains("never reaches 1e-3, but at most 4.95e-4"), "{warned}");
        assert!(all(&TrainConfig { warmup_steps: 100, ..config.clone() }, 16, 1).contains("warm-up"));
        let warned = all(&TrainConfig { batch: 4, accumulate: 5, ..config.clone() }, 16, 1);
        assert!(warned.contains("20 pictures") && warned.contains("only 16"), "{warned}");
        let warned = all(&TrainConfig { batch: 4, ..config.clone() }, 9, 0);
        assert!(warned.contains("0.05 of 9") && warned.contains("--held-out 0.112"), "{warned}");
        assert_eq!(all(&TrainConfig { batch: 4, held_out: 0.0, ..config.clone() }, 9, 0), "");
        // 62 of 64 + 2 pixels in each direction.
        let warned = all(&TrainConfig { sample_count: 5000, ..config }, 16, 1);
        assert_eq!(
            warned,
            "a sample grid has room for 3844 of the 5000 pictures of --sample-count; only these are drawn"
        );
    }

    #[test]
    fn a_jump_of_the_learning_rate_is_told_with_its_reason() {
        let had = TrainConfig { steps: 1000, ..TrainConfig::default() };
        let jump = |config: &TrainConfig, step| learning_rate_jump(&had, config, step);
        // The end of the cosine, and the middle of a longer one.
        let longer = TrainConfig { steps: 2000, ..had.clone() };
        let told = jump(&longer, 1000).unwrap();
        assert!(told.contains("steps was 1000 and is 2000") && told.contains("in step 1001"), "{told}");
        assert!(jump(&longer, 200).is_none(), "early, both are near the peak");
        // Within a warm-up it rises by itself.
        assert!(jump(&had, 2).is_none() && jump(&had, 0).is_none());
        let lower = TrainConfig { learning_rate: 1e-4, ..had.clone() };
        assert!(jump(&lower, 500).unwrap().contains("learning_rate was 0.001 and is 0.0001"));
        let constant = TrainConfig { learning_rate_schedule: LearningRate::Constant, ..had.clone() };
        assert!(jump(&constant, 900).unwrap().contains("was cosine and is constant"));
    }

    #[test]
    fn other_shaders_are_told() {
        let of = |files: &[(&str, &str)]| -> Checksums {
            files.iter().map(|&(name, sum)| (name.into(), sum.into())).collect()
        };
        let (none, one, other) = (of(&[]), of(&[("noise", "1")]), of(&[("noise", "2")]));
        assert!(other_shaders(&none, &none).is_none() && other_shaders(&one, &one).is_none());
        let told = other_shaders(&one, &none).unwrap();
        assert!(told.contains("with a user's noise.wgsl, and goes on with the embedded shaders"), "{told}");
        assert!(other_shaders(&one, &other).unwrap().contains("noise.wgsl, whose text has changed"));
    }

    #[test]
    fn another_number_of_pictures_is_told() {
        let of = |training, held_out| Pictures { training, held_out, class_names: Vec::new() };
        assert!(other_pictures(&of(10, 1), &of(11, 0)).is_none());
        let told = other_pictures(&of(10, 1), &of(13, 1)).unwrap();
        assert!(told.contains("has 14 pictures, and had 11"), "{told}");
    }
}
