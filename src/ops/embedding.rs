//! Embeddings of times and of class labels (`shaders/embedding.wgsl`).

use super::{Case, Fill, expect_f32, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Op, Operand, ShapeError};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, DType, Shape, Spec, Tolerance};

static SHADER: Source = crate::wgsl!("embedding");

const INVOCATIONS: usize = 64;

/// The sinusoidal embedding of Vaswani et al., arXiv 1706.03762, as DDPM uses it: [sin(t f) | cos(t f)],
/// f_i = 10000^(-i / (half - shift)) for i below half = ⌊width/2⌋, and a zero in an odd last place.
///
/// Inputs: t (N), at most 2^31, and the table [`TimeEmbedding::frequencies`]. Output: (N, width).
#[derive(Debug, Clone)]
pub struct TimeEmbedding {
    /// Numbers per time.
    pub width: usize,
    /// Whether the cosines come first.
    pub flip_sin_to_cos: bool,
    /// Taken off the number of frequencies in the exponent: 1 makes the last frequency 1/10000.
    pub freq_shift: f32,
    /// Type of the output, f32 or f16.
    pub dtype: DType,
}

impl TimeEmbedding {
    fn half(&self) -> usize {
        self.width / 2
    }

    /// f_i, radians per unit of time.
    fn frequency(&self, i: usize) -> f64 {
        (-(10_000f64.ln()) * i as f64 / (self.half() as f64 - f64::from(self.freq_shift))).exp()
    }

    /// The second input, (2, half): the frequencies in turns per unit of time, times 2^32, as integers whose
    /// upper 16 bits are the first row and lower 16 bits the second. Integers, so that the shader can take
    /// whole turns off exactly; halves, so that f32 holds them.
    pub fn frequencies(&self) -> Array {
        let turns = |i: usize| (self.frequency(i) / std::f64::consts::TAU * 2f64.powi(32)).round();
        let upper = (0..self.half()).map(|i| (turns(i) / 65_536.0).floor());
        let lower = (0..self.half()).map(|i| turns(i) % 65_536.0);
        Array::new([2, self.half()], upper.chain(lower).collect())
    }
}

impl Op for TimeEmbedding {
    fn name(&self) -> &'static str {
        "time_embedding"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("time_embedding", x, 2)?;
        let (t, frequencies) = (&x[0].shape, &x[1].shape);
        ensure_shape!("time_embedding", t.rank() == 1, "t must be (N), found {t}");
        ensure_shape!(
            "time_embedding",
            self.half() > 0 && self.half() as f32 > self.freq_shift,
            "{} frequencies do not go with a shift of {}",
            self.half(),
            self.freq_shift
        );
        let expected = Shape::new([2, self.half()]);
        ensure_shape!(
            "time_embedding",
            *frequencies == expected,
            "the table must be {expected}, found {frequencies}"
        );
        Ok(vec![Spec::new([t[0], self.width], self.dtype)])
    }

    /// From the formula and not from the table, so that a test of the operator tests the table too.
    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![Array::from_fn(&Shape::new([x[0].data.len(), self.width]), |k| {
            let (t, column, half) = (x[0].data[k / self.width], k % self.width, self.half());
            if column == 2 * half {
                return 0.0;
            }
            let angle = t * self.frequency(column % half);
            if (column < half) == self.flip_sin_to_cos { angle.cos() } else { angle.sin() }
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 20)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let rows = x[0].shape[0];
        let work = rows * self.width.div_ceil(2);
        Dispatch::new(&SHADER, "time_embedding")
            .variant(stored(Variant::base(), self.dtype))
            .bind("times", Operand::Input(0))
            .bind("frequencies", Operand::Input(1))
            .bind("waves", Operand::Output(0))
            .param("width", self.width)
            .param("half", self.half())
            .param("cos_first", u32::from(self.flip_sin_to_cos))
            .param("count", work)
            .linear(work, INVOCATIONS)
            .into()
    }
}

/// A launch over the Vectors of y, (rows, width) or (classes, width), with rows of this type.
fn over_vectors(entry: &'static str, dtype: DType, classes: usize, y: &Spec) -> Dispatch {
    let (width, variant) = vector_width(&[y.shape.last()]);
    let work = y.shape.elements() / width;
    Dispatch::new(&SHADER, entry)
        .variant(stored(variant, dtype))
        .bind("labels", Operand::Input(0))
        .param("width", y.shape.last() / width)
        .param("classes", classes)
        .param("count", work)
        .linear(work, INVOCATIONS)
}

/// Labels (N) u32 and a matrix of floats.
fn check_labels(op: &'static str, x: &[Spec], name: &str) -> Result<(), ShapeError> {
    ensure_shape!(op, x.len() == 2, "expected 2 inputs, found {}", x.len());
    let (labels, matrix) = (&x[0], &x[1]);
    ensure_shape!(
        op,
        labels.dtype == DType::U32 && labels.shape.rank() == 1,
        "labels must be u32 (N), found {labels:?}"
    );
    ensure_shape!(
        op,
        matrix.dtype.is_float() && matrix.shape.rank() == 2 && matrix.shape[0] > 0,
        "{name} must be a matrix of f32 or f16 with rows, found {matrix:?}"
    );
    Ok(())
}

/// `y[n] = table[label[n]]`. A label past the last class counts as the last class.
///
/// Inputs: labels (N) u32, table (classes, width). Output: (N, width), of the table's type.
#[derive(Debug, Clone)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        check_labels("embedding", x, "the table")?;
        Ok(vec![x[1].with_shape([x[0].shape[0], x[1].shape[1]])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (classes, width) = (x[1].shape[0], x[1].shape[1]);
        vec![Array::from_fn(&Shape::new([x[0].data.len(), width]), |k| {
            let class = (x[0].data[k / width] as usize).min(classes - 1);
            x[1].data[class * width + k % width]
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // Each row of y reads one row of the table; no row of the table must be read twice.
        let (table, rows) = (x[1].bytes() as u64, y[0].bytes() as u64);
        Cost { bytes_read: x[0].bytes() as u64 + rows.min(table), bytes_written: rows, ..Cost::default() }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        over_vectors("embedding", y[0].dtype, x[1].shape[0], &y[0])
            .bind("table", Operand::Input(1))
            .bind("y", Operand::Output(0))
            .into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (labels, dy, classes) = (g.input(0), g.gradient(0), g.shape(g.input(1))[0]);
        if g.needs(1) {
            let dtable = g.apply(EmbeddingBackward { classes }, &[labels, dy])?;
            g.accumulate(1, dtable)?;
        }
        Ok(())
    }
}

/// `dtable[k] = Σ dy[n]` over the n with `label[n] = k`, labels past the last class counted as the last.
///
/// Inputs: labels (N) u32, dy (N, width). Output: (classes, width), f32 whatever dy is: a gradient of parameters.
#[derive(Debug, Clone)]
pub struct EmbeddingBackward {
    /// Rows of the table.
    pub classes: usize,
}

impl Op for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        check_labels("embedding_backward", x, "dy")?;
        let (labels, dy) = (&x[0].shape, &x[1].shape);
        ensure_shape!("embedding_backward", labels[0] == dy[0], "{labels} labels, but dy is {dy}");
        ensure_shape!("embedding_backward", self.classes > 0, "there are no classes");
        Ok(vec![Spec::f32([self.classes, dy[1]])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let width = x[1].shape[1];
        let mut dtable = Array::zeros(&Shape::new([self.classes, width]));
        for (k, dy) in x[1].data.iter().enumerate() {
            let class = (x[0].data[k / width] as usize).min(self.classes - 1);
            dtable.data[class * width + k % width] += dy;
        }
        vec![dtable]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: x[1].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        over_vectors("embedding_backward", x[1].dtype, self.classes, &y[0])
            .bind("dy", Operand::Input(1))
            .bind("dtable", Operand::Output(0))
            .param("rows", x[0].shape[0])
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // A sine has an rms of 0.7, so this is 3.5e-6 absolute; 8e-7 was the worst on lavapipe.
    let tolerance = Tolerance { absolute: 5e-6, relative: 0.0 };
    for (width, flip_sin_to_cos, freq_shift) in [
        (2, false, 0.0),
        (3, true, 0.0),
        (128, false, 1.0),
        (320, true, 0.0),
        (41, false, 1.0),
        (64, true, 1.0),
    ] {
        let op = TimeEmbedding { width, flip_sin_to_cos, freq_shift, dtype: DType::F32 };
        let name =
            format!("width {width}, shift {freq_shift}{}", if flip_sin_to_cos { ", flipped" } else { "" });
        let table = op.frequencies();
        let times: [(&str, Vec<f64>); 2] = [
            ("whole times", (0..1000).map(f64::from).collect()),
            ("fractions", vec![-1.0, -0.25, 0.001, 0.999_999, 0.5, 17.3, 500.75, 998.999, 999.0]),
        ];
        for (kind, t) in times {
            let specs = [Spec::f32([t.len()]), Spec::f32(table.shape.axes())];
            for (dtype, stored) in [(DType::F32, ""), (DType::F16, ", f16")] {
                let op = TimeEmbedding { dtype, ..op.clone() };
                cases.push(
                    Case::new(format!("{name}, {kind}{stored}"), op, &specs)
                        .fill(0, Fill::Values(t.clone()))
                        .fill(1, Fill::Values(table.data.clone()))
                        .tolerance(tolerance)
                        .no_gradient(),
                );
            }
        }
    }

    for (rows, classes, width) in [(1, 1, 1), (5, 3, 7), (8, 10, 128), (41, 47, 20), (300, 11, 6)] {
        let labels = Spec::u32([rows]);
        let name = format!("{rows} labels, {classes} classes, width {width}");
        cases.extend(
            Case::new(&name, Embedding, &[labels.clone(), Spec::f32([classes, width])])
                .fill(0, Fill::Below(classes))
                .and_in_f16(&[1]),
        );
        cases.extend(
            Case::new(&name, EmbeddingBackward { classes }, &[labels, Spec::f32([rows, width])])
                .fill(0, Fill::Below(classes))
                .no_gradient()
                .and_in_f16(&[1]),
        );
    }
    let beyond = vec![2.0, 3.0, 4_000_000_000.0, 4_294_967_295.0];
    let labels = Spec::u32([beyond.len()]);
    cases.push(
        Case::new("labels past the last class", Embedding, &[labels.clone(), Spec::f32([3, 8])])
            .fill(0, Fill::Values(beyond.clone())),
    );
    cases.push(
        Case::new(
            "labels past the last class",
            EmbeddingBackward { classes: 3 },
            &[labels, Spec::f32([4, 8])],
        )
        .fill(0, Fill::Values(beyond))
        .no_gradient(),
    );
    let (rows, width, name) = (65_600, 65, "past 65535 workgroups");
    cases.push(
        Case::new(name, Embedding, &[Spec::u32([rows]), Spec::f32([10, width])])
            .fill(0, Fill::Below(10))
            .large(),
    );
    cases.push(
        Case::new(name, EmbeddingBackward { classes: rows }, &[Spec::u32([3]), Spec::f32([3, width])])
            .fill(0, Fill::Below(rows))
            .no_gradient()
            .large(),
    );
    cases
}
