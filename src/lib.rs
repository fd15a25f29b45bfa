pub mod check;
pub mod data;
pub mod gpu;
pub mod graph;
pub mod ops;
pub mod rng;
pub mod shader;
pub mod tensor;
