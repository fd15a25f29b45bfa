//! The header of a safetensors file, checked in full before a byte of tensor data is read.
//!
//! The `safetensors` crate checks offsets, but it merges duplicate names, takes any name, and cannot say which
//! tensor is at fault. What passes here passes there too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::error::{Cause, quoted, shortened};

/// What is wrong with a header; the reader adds the path.
#[derive(Debug)]
pub(super) struct Fault {
    /// The tensor at fault, or `None` for the header as a whole.
    pub tensor: Option<String>,
    pub found: String,
    pub expected: String,
    pub source: Option<Cause>,
}

impl Fault {
    fn header(found: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault { tensor: None, found: found.into(), expected: expected.into(), source: None }
    }

    pub fn tensor(name: &str, found: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault { tensor: Some(name.to_owned()), found: found.into(), expected: expected.into(), source: None }
    }
}

/// A JSON object as a list, because a map would silently drop all but the last of a repeated key.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;
            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map
                        .next_value()
                        .map_err(|e| A::Error::custom(format!("in entry {}: {e}", quoted(&key))))?;
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// The header's top level: free text under [`METADATA`], a tensor under any other name.
#[derive(serde::Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Option<Pairs<String>>,
    #[serde(flatten)]
    tensors: Pairs<TensorEntry>,
}

/// Where a tensor lies. The dtype stays text so that an unknown one can be named.
#[derive(serde::Deserialize)]
struct TensorEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Checks the header's JSON against the `data_len` bytes that truly follow it, and returns its metadata.
pub(super) fn check(json: &[u8], data_len: usize) -> Result<BTreeMap<String, String>, Fault> {
    let header = serde_json::from_slice::<Header>(json).map_err(|error| Fault {
        tensor: None,
        found: format!("a header that does not parse ({})", shortened(&error.to_string())),
        expected: "a JSON object that maps each tensor's name to its dtype, shape and data_offsets".into(),
        source: Some(error.into()),
    })?;

    let mut metadata = BTreeMap::new();
    for (key, value) in header.metadata.map_or(Vec::new(), |Pairs(pairs)| pairs) {
        if metadata.contains_key(&key) {
            return Err(Fault::header(format!("the metadata key {} twice", quoted(&key)), "each key once"));
        }
        metadata.insert(key, value);
    }

    let Pairs(tensors) = &header.tensors;
    let mut names = BTreeSet::new();
    let mut ranges = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !names.insert(name) {
            return Err(Fault::tensor(name, "the name twice in the header", "each name once"));
        }
        check_name(name)?;
        check_tensor(name, tensor, data_len)?;
        ranges.push((tensor.data_offsets, name));
    }
    check_contiguous(ranges, data_len)?;
    Ok(metadata)
}

/// The name that the format reserves for free text.
pub(super) const METADATA: &str = "__metadata__";

/// A tensor's name may end up in a file name or on a terminal, so it must be harmless in both.
pub(super) fn check_name(name: &str) -> Result<(), Fault> {
    let harmful = name.contains(['/', '\\']) || name.contains("..") || name.chars().any(char::is_control);
    if name.is_empty() || name == METADATA || harmful {
        let expected =
            "a name without '/', '\\', '..' or control characters, neither empty nor `__metadata__`";
        return Err(Fault::tensor(name, "that name", expected));
    }
    Ok(())
}

/// The number of elements of a shape, or `None` where it overflows.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side))
}

fn check_tensor(name: &str, tensor: &TensorEntry, data_len: usize) -> Result<(), Fault> {
    let (start, end) = tensor.data_offsets;
    let size = match supported(&tensor.dtype) {
        Some(dtype) => dtype.bitsize() / 8,
        None => return Err(Fault::tensor(name, format!("dtype {}", quoted(&tensor.dtype)), SUPPORTED)),
    };
    if start > end || end > data_len {
        let found = format!("data_offsets [{start}, {end}]");
        let expected = format!("a range within the {data_len} bytes of data that the file holds");
        return Err(Fault::tensor(name, found, expected));
    }
    let bytes = element_count(&tensor.shape).and_then(|count| count.checked_mul(size));
    if bytes != Some(end - start) {
        let needs = bytes.map_or("more bytes than can be counted".into(), |bytes| format!("{bytes} bytes"));
        let shape = format!("{:?}", tensor.shape);
        let expected =
            format!("{needs}, which is what shape {} of {} takes", shortened(&shape), tensor.dtype);
        return Err(Fault::tensor(name, format!("{} bytes of data", end - start), expected));
    }
    Ok(())
}

/// The format wants the tensors to tile the data: no overlap, no gap, nothing left over.
fn check_contiguous(mut ranges: Vec<((usize, usize), &String)>, data_len: usize) -> Result<(), Fault> {
    ranges.sort_unstable();
    let mut reached = 0;
    for ((start, end), name) in ranges {
        if start != reached {
            let what =
                if start < reached { "an overlap with the tensor before it" } else { "a gap before it" };
            let found = format!("{what}: it starts at byte {start} of the data");
            return Err(Fault::tensor(name, found, format!("a start at byte {reached}")));
        }
        reached = end;
    }
    if reached != data_len {
        let found = format!("{} bytes after the last tensor", data_len - reached);
        return Err(Fault::header(found, "none"));
    }
    Ok(())
}

const SUPPORTED: &str = "one of F32, F16, BF16, F64, I64, I32";

fn supported(dtype: &str) -> Option<Dtype> {
    [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64, Dtype::I64, Dtype::I32]
        .into_iter()
        .find(|candidate| candidate.to_string() == dtype)
}
