//! The header of a `.npy` file: a magic, a version, a length, and a Python dictionary with three entries
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::io::Read;

use super::super::raw::printable;
use super::Problem;

pub(in crate::data) const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy itself refuses headers of more than 10,000 bytes.
const MAX_HEADER: u32 = 1 << 16;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
}

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub kind: Kind,
    /// 1, 2, 4 or 8.
    pub bytes: usize,
    big_endian: bool,
}

impl Element {
    fn parse(descr: &str) -> Option<Self> {
        let (order, rest) = match descr.chars().next()? {
            order @ ('<' | '>' | '|' | '=') => (order, &descr[1..]),
            _ => ('=', descr),
        };
        let kind = match rest.chars().next()? {
            'b' => Kind::Bool,
            'u' => Kind::Unsigned,
            'i' => Kind::Signed,
            'f' => Kind::Float,
            _ => return None,
        };
        let bytes = rest[1..].parse().ok()?;
        let sizes: &[usize] = match kind {
            Kind::Bool => &[1],
            Kind::Unsigned | Kind::Signed => &[1, 2, 4, 8],
            Kind::Float => &[2, 4, 8],
        };
        // `=` is the order of the machine that wrote the file, which is little-endian wherever this is used.
        sizes.contains(&bytes).then_some(Self { kind, bytes, big_endian: order == '>' })
    }

    /// As NumPy calls it: uint8, float32.
    pub fn name(self) -> String {
        let bits = 8 * self.bytes;
        match self.kind {
            Kind::Bool => "bool".into(),
            Kind::Unsigned => format!("uint{bits}"),
            Kind::Signed => format!("int{bits}"),
            Kind::Float => format!("float{bits}"),
        }
    }

    /// The number in `raw`, which has as many bytes as the element, if it is whole.
    pub fn integer(self, raw: &[u8]) -> Option<i128> {
        let bits = self.bits(raw);
        match self.kind {
            Kind::Bool | Kind::Unsigned => Some(i128::from(bits)),
            Kind::Signed => {
                let unused = 64 - 8 * self.bytes as u32;
                Some(i128::from((bits << unused).cast_signed() >> unused))
            }
            Kind::Float => None,
        }
    }

    /// The number in `raw`, which has as many bytes as the element.
    pub fn number(self, raw: &[u8]) -> f64 {
        if let Some(integer) = self.integer(raw) {
            return integer as f64;
        }
        let bits = self.bits(raw);
        match self.bytes {
            // The bits of a shorter number fill as many of the low bits.
            2 => half::f16::from_bits(bits as u16).to_f64(),
            4 => f64::from(f32::from_bits(bits as u32)),
            _ => f64::from_bits(bits),
        }
    }

    fn bits(self, raw: &[u8]) -> u64 {
        let shift = |bits, byte: &u8| bits << 8 | u64::from(*byte);
        match self.big_endian {
            true => raw.iter().fold(0, shift),
            false => raw.iter().rev().fold(0, shift),
        }
    }
}

/// What a `.npy` file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub element: Element,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    pub shape: Vec<usize>,
    /// Bytes before the numbers.
    pub bytes: u64,
}

impl Header {
    /// Bytes of all numbers; nothing if that is more than can be counted.
    pub fn body_bytes(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(self.element.bytes as u64, |bytes, &size| bytes.checked_mul(u64::try_from(size).ok()?))
    }

    pub fn read(stream: &mut dyn Read) -> Result<Self, Problem> {
        let mut take = |count: u32| {
            let mut bytes = Vec::new();
            stream.take(count.into()).read_to_end(&mut bytes)?;
            match bytes.len() == count as usize {
                true => Ok(bytes),
                false => Err(Problem::Header("it ends within the header".into())),
            }
        };
        let start = take(8)?;
        if !start.starts_with(MAGIC) {
            return Err(Problem::Header("it does not begin with \\x93NUMPY".into()));
        }
        let (length, before) = match start[6] {
            1 => (take(2)?.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)), 10),
            2 | 3 => (take(4)?.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)), 12),
            version => return Err(Problem::Header(format!("it has format version {version}"))),
        };
        if length > MAX_HEADER {
            return Err(Problem::Header(format!("its header would be {length} bytes long")));
        }
        let text =
            String::from_utf8(take(length)?).map_err(|_| Problem::Header("its header is no text".into()))?;
        let header = Self::parse(&text)?;
        Ok(Self { bytes: before + u64::from(length), ..header })
    }

    /// Understands `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 28, 28), }`.
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::Header("its header is not the dictionary that NumPy writes".into());
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest =
            text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(wrong)?;
        while !rest.trim().is_empty() {
            let (key, after) = string(rest).ok_or_else(wrong)?;
            let after = after.trim_start().strip_prefix(':').ok_or_else(wrong)?.trim_start();
            rest = match key {
                "descr" if after.starts_with('[') => return Err(Problem::Structured),
                "descr" => {
                    let (value, after) = string(after).ok_or_else(wrong)?;
                    descr = Some(value);
                    after
                }
                "fortran_order" => {
                    let (value, after) = after
                        .strip_prefix("True")
                        .map(|after| (true, after))
                        .or_else(|| after.strip_prefix("False").map(|after| (false, after)))
                        .ok_or_else(wrong)?;
                    fortran_order = Some(value);
                    after
                }
                "shape" => {
                    let (inside, after) =
                        after.strip_prefix('(').and_then(|after| after.split_once(')')).ok_or_else(wrong)?;
                    // Python 2 wrote 28L.
                    let sizes = inside.split(',').map(|size| size.trim().trim_end_matches('L'));
                    let sizes = sizes.filter(|size| !size.is_empty()).map(str::parse);
                    shape = Some(sizes.collect::<Result<Vec<usize>, _>>().map_err(|_| wrong())?);
                    after
                }
                _ => return Err(wrong()),
            };
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        let (Some(descr), Some(fortran_order), Some(shape)) = (descr, fortran_order, shape) else {
            return Err(wrong());
        };
        if descr.contains('O') {
            return Err(Problem::Objects);
        }
        let element = Element::parse(descr).ok_or_else(|| Problem::Type(printable(descr)))?;
        Ok(Self { element, fortran_order, shape, bytes: 0 })
    }
}

/// A quoted string at the start, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    text[1..].split_once(quote)
}
