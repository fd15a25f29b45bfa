// What a random number is for: `Stream` of src/rng.rs, as far as kernels draw.

const STREAM_NOISE: u32 = 0u;
const STREAM_TIMESTEP: u32 = 1u;
const STREAM_SAMPLER: u32 = 3u;
const STREAM_LAST_NOISE: u32 = 9u;
const STREAM_RENOISE: u32 = 10u;
