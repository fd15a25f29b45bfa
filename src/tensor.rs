//! Shapes, element types, and host arrays in f64: the vocabulary of every other module.

use std::fmt;

/// The extent of each axis, outermost first; the last axis is contiguous.
///
/// Pictures and activations are channels-last, `(batch, height, width, channels)`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape from its axes. An empty list is a scalar (one element).
    pub fn new(axes: impl Into<Vec<usize>>) -> Self {
        Self(axes.into())
    }

    /// The axes, outermost first.
    pub fn axes(&self) -> &[usize] {
        &self.0
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// The innermost axis: channels of an activation. 1 for a scalar.
    pub fn last(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// The number of rows when everything but the innermost axis is flattened.
    pub fn rows(&self) -> usize {
        self.0.iter().rev().skip(1).product()
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.0[axis]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "({})", axes.join(", "))
    }
}

/// The type of one element of a tensor in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision: storage of activations, their gradients and working weights. Kernels compute with it in f32.
    F16,
    /// Unsigned 32-bit: labels, seeds and random bits.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }

    /// Its name in WGSL, tables and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
        }
    }

    /// Whether it is one of the floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16)
    }

    /// What is left of a number that is stored and loaded again. Integers beyond the type's range saturate.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::F32 => f64::from(value as f32),
            Self::F16 => half::f16::from_f64(value).to_f64(),
            Self::U32 => f64::from(value as u32),
        }
    }

    /// Numbers as they lie in memory, rounded to nearest, little-endian.
    pub fn encode(self, values: &[f64]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| half::f16::from_f64(v).to_le_bytes()).collect(),
            Self::U32 => values.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect(),
        }
    }

    /// Numbers from memory: the inverse of [`DType::encode`]. Bytes past the last whole element are left out.
    pub fn decode(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect()
            }
            Self::F16 => {
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
            }
            Self::U32 => {
                bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect()
            }
        }
    }
}

/// What is known of a tensor before any number is: its shape and element type.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The extent of each axis.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
}

impl Spec {
    /// An f32 tensor.
    pub fn f32(axes: impl Into<Vec<usize>>) -> Self {
        Self { shape: Shape::new(axes), dtype: DType::F32 }
    }

    /// A u32 tensor.
    pub fn u32(axes: impl Into<Vec<usize>>) -> Self {
        Self { shape: Shape::new(axes), dtype: DType::U32 }
    }

    /// A tensor of any element type.
    pub fn new(axes: impl Into<Vec<usize>>, dtype: DType) -> Self {
        Self { shape: Shape::new(axes), dtype }
    }

    /// Another shape of the same element type.
    #[must_use]
    pub fn with_shape(&self, axes: impl Into<Vec<usize>>) -> Self {
        Self::new(axes, self.dtype)
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.bytes()
    }

    /// Bytes that it takes in device memory: whole words, as buffers are copied and bound, and at least one.
    pub fn padded_bytes(&self) -> u64 {
        (self.bytes() as u64).next_multiple_of(4).max(4)
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype.name(), self.shape)
    }
}

/// A tensor on the host, in f64: what references compute with. Integers are held exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The extent of each axis.
    pub shape: Shape,
    /// Elements, innermost axis contiguous.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of the given shape and elements. Their numbers must agree.
    pub fn new(axes: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        let shape = Shape::new(axes);
        assert_eq!(shape.elements(), data.len(), "an array of shape {shape} needs that many elements");
        Self { shape, data }
    }

    /// All zeros.
    pub fn zeros(shape: &Shape) -> Self {
        Self { data: vec![0.0; shape.elements()], shape: shape.clone() }
    }

    /// Computed element by element from the flat index.
    pub fn from_fn(shape: &Shape, f: impl FnMut(usize) -> f64) -> Self {
        Self { data: (0..shape.elements()).map(f).collect(), shape: shape.clone() }
    }

    /// Applies a function to every element.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().map(|&v| f(v)).collect() }
    }
}

/// How far a computed tensor lies from its reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deviation {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// ‖got - reference‖₂ / ‖reference‖₂ over the finite references (0/0 counts as 0).
    pub relative_l2: f64,
    /// Flat index of the largest excess over the tolerance.
    pub worst: usize,
    /// Computed value there.
    pub got: f64,
    /// Reference value there.
    pub expected: f64,
    /// Largest ratio of difference to tolerance; at most 1 passes. Infinite for NaN, and for an infinity on one
    /// side alone.
    pub excess: f64,
}

/// How much a device may differ from the f64 reference, element by element:
/// |got - ref| ≤ absolute·rms(ref) + relative·|ref|.
///
/// f32 rounds each step by 6e-8 of the value; a sum of K products of random sign drifts by about
/// √K·6e-8 of its terms, whose size the root mean square of the reference stands for.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Fraction of the reference's root mean square.
    pub absolute: f64,
    /// Fraction of the element's own magnitude.
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { absolute: 1e-5, relative: 1e-5 }
    }
}

impl Tolerance {
    /// Exact equality, for integers.
    pub const EXACT: Self = Self { absolute: 0.0, relative: 0.0 };

    /// The same for a result that is rounded to this type when it is stored. f16 has 11 significant bits, so that rounding
    /// to nearest moves a number by up to 2^-11 of it; GPUs may also cut instead of rounding, which is twice as much, and
    /// flush what lies below 2^-14, which the absolute part covers for results of ordinary size.
    #[must_use]
    pub fn stored_as(self, dtype: DType) -> Self {
        match dtype {
            DType::F32 | DType::U32 => self,
            DType::F16 => {
                Self { absolute: self.absolute + 2f64.powi(-14), relative: self.relative + 2f64.powi(-10) }
            }
        }
    }

    /// Compares element by element. Lengths must agree. Equal infinities agree; any other disagreement that
    /// an infinity or a NaN has part in is an infinite excess. The root mean square is that of the finite
    /// references: one infinity among them would allow everything.
    pub fn compare(&self, got: &[f64], expected: &[f64]) -> Deviation {
        assert_eq!(got.len(), expected.len(), "compared tensors have equal length");
        let finite = || expected.iter().filter(|e| e.is_finite());
        let norm = finite().map(|e| e * e).sum::<f64>().sqrt();
        let rms = norm / (finite().count().max(1) as f64).sqrt();
        let mut out = Deviation::default();
        let mut difference = 0.0;
        for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
            let (d, excess) = if g == e {
                (0.0, 0.0)
            } else if g.is_finite() && e.is_finite() {
                let d = (g - e).abs();
                (d, d / (self.absolute * rms + self.relative * e.abs()))
            } else {
                (f64::INFINITY, f64::INFINITY)
            };
            difference += d * d;
            out.max_abs = out.max_abs.max(d);
            if excess > out.excess {
                (out.excess, out.worst, out.got, out.expected) = (excess, i, g, e);
            }
        }
        out.relative_l2 = if difference == 0.0 { 0.0 } else { difference.sqrt() / norm };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_channels() {
        let shape = Shape::new([2, 3, 4, 5]);
        assert_eq!((shape.elements(), shape.rows(), shape.last()), (120, 24, 5));
        assert_eq!(Shape::new([]).elements(), 1);
    }

    #[test]
    fn elements_survive_memory() {
        let values = [0.0, 1.0, -2.5, 0.099975586, 65504.0];
        for dtype in [DType::F32, DType::F16] {
            let stored: Vec<f64> = values.iter().map(|&v| dtype.round(v)).collect();
            let bytes = dtype.encode(&values);
            assert_eq!(bytes.len(), values.len() * dtype.bytes());
            assert_eq!(dtype.decode(&bytes), stored);
        }
        assert_eq!(DType::F16.round(0.1), 0.0999755859375);
        assert_eq!(DType::U32.decode(&DType::U32.encode(&[7.0, 4294967295.0])), [7.0, 4294967295.0]);
        assert_eq!((Spec::new([3], DType::F16).bytes(), Spec::new([3], DType::F16).padded_bytes()), (6, 8));
    }

    #[test]
    fn tolerance_catches_nan_and_the_worst_element() {
        let t = Tolerance { absolute: 0.0, relative: 0.1 };
        assert!(t.compare(&[1.05, 2.0], &[1.0, 2.0]).excess <= 1.0);
        let d = t.compare(&[1.0, 2.5, 3.0], &[1.0, 2.0, 3.1]);
        assert!(d.excess > 1.0 && d.worst == 1);
        assert!(t.compare(&[f64::NAN], &[1.0]).excess.is_infinite());
        assert_eq!(Tolerance::EXACT.compare(&[0.0], &[0.0]).excess, 0.0);
    }

    #[test]
    fn an_infinite_reference_allows_nothing_but_itself() {
        let (inf, t) = (f64::INFINITY, Tolerance::default());
        for got in [0.0, 1e30, -inf, f64::NAN] {
            assert_eq!(t.compare(&[got, 1.0], &[inf, 1.0]).excess, inf, "{got}");
        }
        assert_eq!(t.compare(&[inf], &[1.0]).excess, inf);
        // Two infinities agree, and the finite elements beside them are judged as if alone.
        let d = t.compare(&[inf, -inf, 2.0], &[inf, -inf, 1.0]);
        assert_eq!((d.worst, d.max_abs, d.relative_l2), (2, 1.0, 1.0));
        assert_eq!(d.excess, t.compare(&[2.0], &[1.0]).excess);
        assert_eq!(t.compare(&[inf, 1.0], &[inf, 1.0]).excess, 0.0);
    }
}
