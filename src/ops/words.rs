//! Small structs that kernels read by name. In Rust their fields are numbers, in WGSL `f32`; a test compares the names and
//! the order as naga lays the WGSL struct out.

/// Declares a struct of numbers that a WGSL struct of the same name has too: one f32 word for each field.
macro_rules! words {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $name {
            $($(#[$doc])* pub $field: f64,)*
        }

        impl $name {
            pub(crate) const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The number of words.
            pub const WORDS: usize = Self::FIELDS.len();

            /// The fields in order.
            pub fn values(&self) -> [f64; Self::WORDS] {
                [$(self.$field),*]
            }

            /// The words as the shaders read them.
            pub fn words(&self) -> [f32; Self::WORDS] {
                self.values().map(|value| value as f32)
            }

            /// From the words as the shaders write them.
            pub fn from_words(words: &[f32]) -> Self {
                Self::of(&words.iter().map(|&word| word.into()).collect::<Vec<f64>>())
            }

            /// From the fields in order.
            pub(crate) fn of(values: &[f64]) -> Self {
                let [$($field),*] = std::array::from_fn(|i| values[i]);
                Self { $($field),* }
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use crate::ops::denoise::Coefficients;
    use crate::ops::gaussian_mixture::MixtureLevel;
    use crate::ops::loss_scale::LossScale;
    use crate::ops::noise::{NoisingRow, StepWords, TwoNoiseRow};
    use crate::ops::optimizer::{Clipping, Hyper, UpdateScale};
    use crate::ops::renoise::RenoiseLevel;
    use crate::ops::{ceiling, loss, optimizer};
    use crate::rng::Stream;
    use crate::shader::{self, Source, Target, Variant};
    use crate::wgsl;

    static STEP: Source = wgsl!("lib/step");
    static STREAM: Source = wgsl!("lib/stream");
    static HYPER: Source = wgsl!("lib/hyper");
    static CLIPPING: Source = wgsl!("lib/clipping");
    static LOSS_SCALE: Source = wgsl!("lib/loss_scale");
    static UPDATE_SCALE: Source = wgsl!("lib/update_scale");
    static ESTIMATE: Source = wgsl!("lib/estimate");
    static CEILING: Source = wgsl!("ceiling");
    static GRAD_NORM: Source = wgsl!("grad_norm");
    static LOSS: Source = wgsl!("loss");
    static NOISE: Source = wgsl!("noise");
    static RENOISE: Source = wgsl!("renoise");
    static GAUSSIAN_MIXTURE: Source = wgsl!("gaussian_mixture");

    fn module(source: &'static Source) -> naga::Module {
        let variant = Variant::base();
        let expanded = shader::expand(source, &variant, Target::Native).unwrap();
        shader::parse(&variant, &expanded).unwrap().0
    }

    /// Name, first byte and bytes of each member of a struct, and the bytes of all.
    fn layout(source: &'static Source, name: &str) -> (Vec<(String, usize, usize)>, usize) {
        let module = module(source);
        let found = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name));
        let (_, ty) = found.unwrap_or_else(|| panic!("{} has no struct {name}", source.name));
        let naga::TypeInner::Struct { members, span } = &ty.inner else { panic!("{name} is no struct") };
        let member = |m: &naga::StructMember| {
            let bytes = module.types[m.ty].inner.size(module.to_ctx());
            (m.name.clone().unwrap_or_default(), m.offset as usize, bytes as usize)
        };
        (members.iter().map(member).collect(), *span as usize)
    }

    #[test]
    fn structs_of_words_are_those_of_the_shaders() {
        for (source, name, fields) in [
            (&HYPER, "Hyper", Hyper::FIELDS),
            (&CLIPPING, "Clipping", Clipping::FIELDS),
            (&LOSS_SCALE, "LossScale", LossScale::FIELDS),
            (&UPDATE_SCALE, "UpdateScale", UpdateScale::FIELDS),
            (&ESTIMATE, "Coefficients", Coefficients::FIELDS),
            (&NOISE, "NoisingRow", NoisingRow::FIELDS),
            (&NOISE, "TwoNoiseRow", TwoNoiseRow::FIELDS),
            (&RENOISE, "RenoiseLevel", RenoiseLevel::FIELDS),
            (&GAUSSIAN_MIXTURE, "MixtureLevel", MixtureLevel::FIELDS),
        ] {
            let expected =
                fields.iter().enumerate().map(|(i, field)| ((*field).to_string(), 4 * i, 4)).collect();
            assert_eq!(layout(source, name), (expected, 4 * fields.len()), "{name}");
        }
    }

    /// Each field of the step is set alone, and must change the words where WGSL has it.
    #[test]
    fn the_step_is_that_of_the_shaders() {
        let zero = StepWords::default();
        let (members, bytes) = layout(&STEP, "Step");
        assert_eq!(bytes, zero.words().len() * 4);
        let set = [
            ("seed", StepWords { seed: u64::MAX, ..zero }),
            ("step", StepWords { step: 7, ..zero }),
            ("first_item", StepWords { first_item: 7, ..zero }),
            ("micro", StepWords { micro: 7, ..zero }),
            ("row", StepWords { row: 7, ..zero }),
        ];
        assert_eq!(members.len(), set.len());
        for ((name, offset, bytes), (field, step)) in members.iter().zip(set) {
            assert_eq!(name, field);
            let words = step.words();
            let changed: Vec<usize> = (0..words.len()).filter(|&i| words[i] != 0).collect();
            assert_eq!(changed, (offset / 4..(offset + bytes) / 4).collect::<Vec<_>>(), "{name}");
        }
        assert_eq!(StepWords { seed: 5, ..zero }.words()[0], 5, "the low word of the seed comes first");
    }

    /// The u32 constants that a file and its imports declare.
    fn constants(source: &'static Source) -> Vec<(String, u32)> {
        let module = module(source);
        let constant = |c: &naga::Constant| match module.global_expressions[c.init] {
            naga::Expression::Literal(naga::Literal::U32(number)) => Some((c.name.clone()?, number)),
            _ => None,
        };
        module.constants.iter().filter_map(|(_, c)| constant(c)).collect()
    }

    #[test]
    fn streams_are_those_of_the_shaders() {
        let expected = [
            ("STREAM_NOISE", Stream::Noise),
            ("STREAM_TIMESTEP", Stream::Timestep),
            ("STREAM_SAMPLER", Stream::Sampler),
            ("STREAM_LAST_NOISE", Stream::LastNoise),
            ("STREAM_RENOISE", Stream::Renoise),
        ];
        assert_eq!(constants(&STREAM), expected.map(|(name, stream)| (name.to_string(), stream as u32)));
    }

    #[test]
    fn constants_are_those_of_the_shaders() {
        for (source, name, value) in [
            (&LOSS, "CHUNK", loss::CHUNK),
            (&GRAD_NORM, "CHUNK", optimizer::NORM_CHUNK),
            (&CEILING, "LINKS", ceiling::LINKS),
        ] {
            let found = constants(source).into_iter().find(|(constant, _)| constant == name);
            assert_eq!(found.map(|(_, value)| value as usize), Some(value), "{name} of {}", source.name);
        }
    }
}
