//! Files in and out: tensors by name, arrays, picture grids, line charts and line-by-line logs.
//!
//! Nothing here knows what a model is. Every file but the log is written beside its destination and renamed
//! into place, so a reader sees the old file or the new one and never half of one. Everything read is taken
//! to be hostile until checked.

pub(crate) mod atomic;
#[cfg(feature = "charts")]
mod axis;
#[cfg(feature = "charts")]
pub mod chart;
mod checksum;
#[cfg(not(target_arch = "wasm32"))]
mod columns;
pub(crate) mod disk;
#[cfg(feature = "charts")]
mod drawing;
mod error;
mod header;
pub mod image_grid;
pub mod jsonl;
#[cfg(feature = "charts")]
mod labelled_rows;
pub mod npz;
mod open;
#[cfg(feature = "charts")]
mod palette;
mod png;
pub mod tensor_file;
mod text;

pub use atomic::remove_abandoned;
#[cfg(feature = "charts")]
pub use chart::{Chart, Series, Stroke, smooth};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use columns::{columns, short};
pub use error::FileError;
pub(crate) use error::{quoted, shortened};
pub use image_grid::{GridExtent, encode_grid, save_grid, save_single, to_bytes};
pub use jsonl::{JsonLines, write_json};
#[cfg(feature = "charts")]
pub use labelled_rows::save_rows;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use open::open_file;
pub(crate) use open::placeholder;
pub use png::{is_whole_png, read_single};
pub use tensor_file::{Tensor, TensorFile};
pub(crate) use text::read_text;
