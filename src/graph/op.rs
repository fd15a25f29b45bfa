//! An operator as a list of facts, and what the facts are made of: costs, launches as pure data, algorithms.

use super::{Backward, Caps, GraphError};
use crate::shader::{Extension, Kernel, Source, Variant};
use crate::tensor::{Array, Shape, Spec, Tolerance};
use std::fmt::Debug;
use std::sync::Arc;

/// Wrong operand shapes: the one kind of error that [`Op::infer`] gives.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op}: {message}")]
pub struct ShapeError {
    /// The operator.
    pub op: &'static str,
    /// What was found and what was expected.
    pub message: String,
}

impl ShapeError {
    /// An error of operator `op`.
    pub fn new(op: &'static str, message: impl Into<String>) -> Self {
        Self { op, message: message.into() }
    }
}

/// Returns a [`ShapeError`] unless the condition holds.
#[macro_export]
macro_rules! ensure_shape {
    ($op:expr, $condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err($crate::graph::ShapeError::new($op, format!($($message)*)));
        }
    };
}

/// The work and traffic of an operator, counted from shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations in convolutions and matrix products, 2 per multiply-add.
    pub matrix_flops: u64,
    /// All other arithmetic, roughly.
    pub other_flops: u64,
    /// Bytes that must be read at least once.
    pub bytes_read: u64,
    /// Bytes that must be written.
    pub bytes_written: u64,
}

impl Cost {
    /// The traffic of reading every input and writing every output once.
    pub fn of_traffic(x: &[Spec], y: &[Spec]) -> Self {
        let bytes = |s: &[Spec]| s.iter().map(|s| s.shape.elements() as u64 * s.dtype.bytes() as u64).sum();
        Self { bytes_read: bytes(x), bytes_written: bytes(y), ..Self::default() }
    }

    /// The same with so many operations per output element of the first output.
    pub fn elementwise(x: &[Spec], y: &[Spec], flops_per_element: u64) -> Self {
        let elements = y.first().map_or(0, |s| s.shape.elements() as u64);
        Self { other_flops: elements * flops_per_element, ..Self::of_traffic(x, y) }
    }

    /// The same with the given matrix work.
    pub fn matrix(x: &[Spec], y: &[Spec], flops: u64) -> Self {
        Self { matrix_flops: flops, ..Self::of_traffic(x, y) }
    }

    /// All arithmetic.
    pub fn flops(&self) -> u64 {
        self.matrix_flops + self.other_flops
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.matrix_flops += other.matrix_flops;
        self.other_flops += other.other_flops;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// A tensor of an operator, as its dispatches name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The i-th input.
    Input(usize),
    /// The i-th output.
    Output(usize),
    /// The i-th scratch buffer of the operator's [`Program`].
    Scratch(usize),
}

/// A value in a parameter struct.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// `u32`
    U32(u32),
    /// `f32`
    F32(f32),
}

impl From<usize> for Scalar {
    /// Sizes in shaders are u32. A tensor of 2^32 elements would need a 16 GiB binding, which the plan
    /// refuses before any dispatch is made, so saturating can never be observed.
    fn from(v: usize) -> Self {
        Self::U32(u32::try_from(v).unwrap_or(u32::MAX))
    }
}

impl From<u32> for Scalar {
    fn from(v: u32) -> Self {
        Self::U32(v)
    }
}

impl From<f32> for Scalar {
    fn from(v: f32) -> Self {
        Self::F32(v)
    }
}

/// One shader launch as pure data.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The WGSL file.
    pub shader: &'static Source,
    /// The entry point.
    pub entry: &'static str,
    /// The values put in place of the file's defaults.
    pub variant: Variant,
    /// Binding name, tensor, and the range of elements bound (all of it if `None`).
    pub operands: Vec<(&'static str, Operand, Option<std::ops::Range<usize>>)>,
    /// The fields of the parameter struct by name.
    pub params: Vec<(&'static str, Scalar)>,
    /// Workgroups per dimension.
    pub groups: [u32; 3],
    /// Parts of the operator's arithmetic that this launch does, of those that all its launches do together.
    pub arithmetic: usize,
}

/// WebGPU's default limit on workgroups per dimension.
pub const MAX_GROUPS: u32 = 65_535;

impl Dispatch {
    /// A launch of `entry` with nothing bound yet.
    pub fn new(shader: &'static Source, entry: &'static str) -> Self {
        Self {
            shader,
            entry,
            variant: Variant::base(),
            operands: Vec::new(),
            params: Vec::new(),
            groups: [1; 3],
            arithmetic: 1,
        }
    }

    /// What it launches.
    pub fn kernel(&self) -> Kernel {
        Kernel { source: self.shader, variant: self.variant.clone(), entry: self.entry }
    }

    /// Sets the variant.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// Binds a whole tensor.
    #[must_use]
    pub fn bind(mut self, name: &'static str, operand: Operand) -> Self {
        self.operands.push((name, operand, None));
        self
    }

    /// Binds a range of a tensor's elements; its start must be a multiple of 256 bytes.
    #[must_use]
    pub fn bind_range(mut self, name: &'static str, operand: Operand, range: std::ops::Range<usize>) -> Self {
        self.operands.push((name, operand, Some(range)));
        self
    }

    /// Sets a field of the parameter struct.
    #[must_use]
    pub fn param(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.params.push((name, value.into()));
        self
    }

    /// Sets the parts of the operator's arithmetic that this launch does, in an operator of several launches.
    #[must_use]
    pub fn arithmetic(mut self, parts: usize) -> Self {
        self.arithmetic = parts;
        self
    }

    /// Enough workgroups of `size` for `work` invocations, folded into two dimensions past 65535. The
    /// shader unfolds them with `lib/index` and must ignore invocations past its end.
    #[must_use]
    pub fn linear(self, work: usize, size: usize) -> Self {
        self.workgroups(work.div_ceil(size))
    }

    /// So many workgroups, folded likewise; the shader must ignore workgroups past its end.
    #[must_use]
    pub fn workgroups(mut self, groups: usize) -> Self {
        let limit = MAX_GROUPS as usize;
        let rows = groups.div_ceil(limit).max(1);
        let columns = groups.div_ceil(rows).max(1);
        self.groups = [columns.min(limit) as u32, u32::try_from(rows).unwrap_or(u32::MAX), 1];
        self
    }
}

impl std::fmt::Display for Dispatch {
    /// `file:entry [variant]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} [{}]", self.shader.name, self.entry, self.variant.describe())
    }
}

/// The launches of one operator, in order, and the scratch memory they share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Scratch tensors, alive only within this operator.
    pub scratch: Vec<Spec>,
    /// The launches.
    pub dispatches: Vec<Dispatch>,
}

impl From<Dispatch> for Program {
    fn from(dispatch: Dispatch) -> Self {
        Self { scratch: Vec::new(), dispatches: vec![dispatch] }
    }
}

/// One way to compute an operator.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The algorithm's name in tables and in `doctor`: `registers`, `workgroup`, `direct`.
    pub algorithm: &'static str,
    /// Its launches.
    pub program: Program,
    /// How far its f32 arithmetic may be off. What storing a result in a smaller type adds is no concern of the algorithm
    /// ([`Tolerance::stored_as`]).
    pub tolerance: Tolerance,
}

impl Candidate {
    /// An algorithm of ordinary accuracy.
    pub fn new(algorithm: &'static str, program: impl Into<Program>) -> Self {
        Self { algorithm, program: program.into(), tolerance: Tolerance::default() }
    }

    /// Whether it multiplies on matrix units.
    pub fn on_matrix_units(&self) -> bool {
        let mut extensions = self.program.dispatches.iter().flat_map(|d| d.variant.extensions());
        extensions.any(|extension| extension == Extension::CooperativeMatrix)
    }
}

impl From<Program> for Vec<Candidate> {
    /// The only algorithm of an operator.
    fn from(program: Program) -> Self {
        vec![Candidate::new("direct", program)]
    }
}

impl From<Dispatch> for Vec<Candidate> {
    /// The only algorithm of an operator, in one launch.
    fn from(dispatch: Dispatch) -> Self {
        Program::from(dispatch).into()
    }
}

/// How an output relates to the memory of the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aliasing {
    /// Outputs have memory of their own.
    None,
    /// The only output is input 0, from this element on. Nothing runs.
    View {
        /// First element, a multiple of 64 so that it can be bound (256 bytes).
        offset: usize,
    },
    /// Input i lies in the only output from element `offsets[i]` on. Nothing runs: the inputs are
    /// computed in place.
    Pack {
        /// First elements, multiples of 64.
        offsets: Vec<usize>,
    },
    /// Output `.0` overwrites input `.1`; the input's name is not bound.
    InPlace(Vec<(usize, usize)>),
}

/// What of a linear layer an operator computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearPart {
    /// y from x, w, b.
    Forward,
    /// dx from dy, w, and perhaps an addend.
    BackwardInput,
    /// dx of several layers together, from their dy, their parameters, and perhaps an addend.
    BackwardInputOfSeveral,
    /// dw and db from x, dy.
    BackwardWeight,
}

/// What does the part of a linear layer for several layers of one x at once. Their parameters lie one behind the other, w (K, N)
/// then b (N) of each layer, and so do the gradients that it gives; y and dy are (count, …, N).
pub struct Joined {
    /// The operator. Inputs are x and parameters; dy, parameters, and perhaps an addend; or x and dy.
    pub op: Arc<dyn Op>,
    /// A range of a tensor, from an element on, under a shape.
    pub view: fn(usize, Shape) -> Arc<dyn Op>,
    /// Tensors laid into one flat vector of so many elements, each from its element on.
    pub pack: fn(Vec<usize>, usize) -> Arc<dyn Op>,
}

/// An operator: facts about one operation of the mathematics. Its file also holds `cases()`.
pub trait Op: Debug + Send + Sync {
    /// The name in tables and errors: `conv2d_backward_input`.
    fn name(&self) -> &'static str;

    /// Output specs from input specs: the only place where shapes are checked.
    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError>;

    /// The operation in f64, in plain loops that read like the formula.
    fn reference(&self, x: &[Array]) -> Vec<Array>;

    /// Arithmetic and traffic.
    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost;

    /// The algorithms that compute it on a device of these capabilities. The first is the rule's choice; the others are
    /// there to be measured, and are tested like it. Operators that only say where a tensor lies have none.
    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate>;

    /// Appends the nodes that compute the gradients of the inputs. They are operators too.
    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        Err(g.no_gradient())
    }

    /// How outputs share memory with inputs.
    fn aliasing(&self) -> Aliasing {
        Aliasing::None
    }

    /// Whether it is nothing but input 0 plus input 1, which has the shape of the first, or for an input 0 of (N, …, C) may be
    /// (N, C), a row for all pixels of an image. For [`super::rewrite`], as what follows.
    fn is_sum(&self) -> bool {
        false
    }

    /// Whether it is nothing but the sum of input 0 over everything but the last axis.
    fn sums_rows(&self) -> bool {
        false
    }

    /// The operator that gives the same, and as a further output the sum of its last input over everything but the last axis.
    fn with_row_sums(&self) -> Option<Arc<dyn Op>> {
        None
    }

    /// What of a linear layer it computes, if that is all it does.
    fn linear_part(&self) -> Option<LinearPart> {
        None
    }

    /// What does that part for `count` layers at once.
    fn joined(&self, _count: usize) -> Option<Joined> {
        None
    }

    /// Whether it can take one more input behind its inputs `x`, of this spec, and add it to its first output `y` before that is
    /// stored.
    fn takes_addend(&self, _x: &[Spec], _y: &Spec, _addend: &Spec) -> bool {
        false
    }
}
