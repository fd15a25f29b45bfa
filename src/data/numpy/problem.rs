//! What can be wrong with an array. [`DataError::Numpy`](crate::data::DataError) says where.
#![expect(missing_docs, reason = "each variant's message says what it means")]

use std::io;

/// Why an array of a `.npy` or `.npz` file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("this is no .npy data: {0}; write it again with numpy.save or numpy.savez")]
    Header(String),

    #[error(
        "an object array is stored as a Python pickle, which can run any program when it is opened, and is not read; stack \
         the pictures into one array of numbers, numpy.stack(list(x)), and save that"
    )]
    Objects,

    #[error(
        "a structured array is not read; save its field of pictures and its field of labels as arrays of their own"
    )]
    Structured,

    #[error(
        "found elements of type `{0}`; expected bool, uint8 to uint64, int8 to int64 or float16 to float64; convert with \
         x.astype(numpy.uint8)"
    )]
    Type(String),

    #[error(
        "found the shape {shape:?}{hint}; expected pictures as (N, H, W), (N, H, W, C) or (N, C, H, W), at least one of \
         them, with sides of 1 to {limit} pixels and C = 1 or 3"
    )]
    Shape { shape: Vec<usize>, hint: &'static str, limit: u32 },

    #[error(
        "found {found} bytes, but the header announces {expected}; the file is cut short, padded or damaged"
    )]
    Length { found: u64, expected: u64 },

    #[error("the data is damaged or cannot be read ({0}); save or download the file again")]
    Read(#[from] io::Error),

    #[error(
        "Fortran order needs the whole array of {bytes} bytes in memory, above the limit of {limit}; save \
         numpy.ascontiguousarray(x)"
    )]
    Fortran { bytes: u64, limit: u64 },

    #[error(
        "picture {picture} holds a number that is not finite; remove it, or repair the program that made it"
    )]
    NotFinite { picture: usize },

    #[error(
        "the {element} values lie from {low} to {high}; expected {expected}; scale them to one of these, or save uint8 from \
         0 to 255"
    )]
    Range { element: String, low: f32, high: f32, expected: &'static str },

    #[error(
        "found labels of type {element} and shape {shape:?}; expected whole numbers as (N) or (N, 1){hint}"
    )]
    Labels { element: String, shape: Vec<usize>, hint: &'static str },

    #[error(
        "label {index} is {label}; expected 0 or more; number the classes from 0, and leave out what has no class"
    )]
    NegativeLabel { index: usize, label: i128 },
}
