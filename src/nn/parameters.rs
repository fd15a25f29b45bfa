//! The parameters of a network: their names and shapes, how files and device lay them out, and the numbers that they
//! begin with. All lie in one flat vector, each from a multiple of 64 elements on, so that the optimizer sees one tensor
//! and the layers see views.

use super::Precision;
use crate::graph::{Graph, GraphError, State, ValueId};
use crate::ops::{ALIGNMENT, Cast, View, pack};
use crate::rng::{Philox, Stream};
use crate::tensor::{DType, Shape, Spec};

/// How a parameter is laid out in files and on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Files and device agree: vectors and embedding tables.
    Same,
    /// Files have (out, in), the device (in, out).
    Linear,
    /// Files have (out, in, ky, kx), the device (ky, kx, in, out).
    Conv,
}

impl Layout {
    /// For each element in device order, its index in file order. `shape` is the file's.
    fn file_index(self, shape: &[usize], i: usize) -> usize {
        match (self, shape) {
            (Self::Linear, &[out, input]) => (i % out) * input + i / out,
            (Self::Conv, &[out, input, ky, kx]) => {
                let (o, rest) = (i % out, i / out);
                let (c, tap) = (rest % input, rest / input);
                (o * input + c) * ky * kx + tap
            }
            _ => i,
        }
    }
}

/// PyTorch's default initialisation of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in ±1/√fan_in: weights and biases of convolutions and linear layers (He et al., arXiv
    /// 1502.01852, with PyTorch's a = √5).
    FanIn(usize),
    /// A fixed number: norms.
    Constant(f32),
    /// Standard normal: embedding tables.
    Normal,
}

/// A parameter of the network.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in files, as `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// The shape in files.
    pub shape: Vec<usize>,
    /// How files and device differ.
    pub layout: Layout,
    /// First element in the flat vector.
    pub offset: usize,
    init: Init,
}

impl Parameter {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it is a factor of products: the weight of a convolution or a linear layer.
    fn is_factor(&self) -> bool {
        matches!(self.layout, Layout::Linear | Layout::Conv)
    }

    /// The shape on the device.
    pub fn device_shape(&self) -> Shape {
        match (self.layout, self.shape.as_slice()) {
            (Layout::Linear, &[out, input]) => Shape::new([input, out]),
            (Layout::Conv, &[out, input, ky, kx]) => Shape::new([ky, kx, input, out]),
            (_, shape) => Shape::new(shape),
        }
    }

    /// Elements in device order from file order.
    pub fn to_device(&self, file: &[f32]) -> Vec<f32> {
        (0..file.len()).map(|i| file[self.layout.file_index(&self.shape, i)]).collect()
    }

    /// Elements in file order from device order.
    pub fn to_file(&self, device: &[f32]) -> Vec<f32> {
        let mut file = vec![0.0; device.len()];
        for (i, &v) in device.iter().enumerate() {
            file[self.layout.file_index(&self.shape, i)] = v;
        }
        file
    }
}

/// Index of a parameter in [`Parameters`].
pub type ParameterId = usize;

/// Every parameter of a network, in the order of files; in the flat vector they lie in this order too, unless
/// [`Parameters::lay_together`] says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
    flat_elements: usize,
    precision: Precision,
}

/// Where the parameters of a network lie on a device.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The flat vector, f32.
    pub flat: State,
    /// Its copy in f16, from which products read their weights in that precision, where somebody keeps one up to date.
    pub copy: Option<State>,
}

impl From<&State> for Weights {
    /// A flat vector of which nobody keeps a copy.
    fn from(flat: &State) -> Self {
        Self { flat: flat.clone(), copy: None }
    }
}

impl std::ops::Deref for Parameters {
    type Target = [Parameter];

    fn deref(&self) -> &[Parameter] {
        &self.list
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl Parameters {
    /// Appends a parameter. `shape` is the file's.
    pub fn add(&mut self, name: String, shape: &[usize], layout: Layout, init: Init) -> ParameterId {
        let parameter = Parameter { name, shape: shape.to_vec(), layout, offset: self.flat_elements, init };
        self.flat_elements += parameter.elements().next_multiple_of(ALIGNMENT);
        self.list.push(parameter);
        self.list.len() - 1
    }

    /// Lays these parameters, in this order, behind all others, which close the gaps: layers of one input then lie where one
    /// launch can take them ([`crate::graph::rewrite`]). Their order in the list, and with it the numbers that they begin with,
    /// stays.
    pub fn lay_together(&mut self, ids: &[ParameterId]) {
        let others = (0..self.list.len()).filter(|id| !ids.contains(id));
        let order: Vec<ParameterId> = others.chain(ids.iter().copied()).collect();
        self.lay(&order);
    }

    /// The same parameters for a network that computes in this precision. In f16 a weight of a product begins at a multiple of
    /// 128 elements, so that it can be bound in the copy of the flat vector that is stored so (256 bytes). Names, numbers and
    /// files stay what they are.
    #[must_use]
    pub fn in_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        let mut order: Vec<ParameterId> = (0..self.list.len()).collect();
        order.sort_by_key(|&id| self.list[id].offset);
        self.lay(&order);
        self
    }

    /// Lays all parameters one behind the other, in this order.
    fn lay(&mut self, order: &[ParameterId]) {
        self.flat_elements = 0;
        for &id in order {
            let parameter = &mut self.list[id];
            let bytes =
                if parameter.is_factor() { self.precision.dtype().bytes() } else { DType::F32.bytes() };
            parameter.offset = self.flat_elements.next_multiple_of(ALIGNMENT * DType::F32.bytes() / bytes);
            self.flat_elements = (parameter.offset + parameter.elements()).next_multiple_of(ALIGNMENT);
        }
    }

    /// A flat vector of these parameters from one that is laid out as `other` has them: the same ones for another precision.
    pub fn moved(&self, other: &Self, flat: &[f32]) -> Vec<f32> {
        let mut moved = vec![0.0; self.flat_elements];
        for (to, from) in self.list.iter().zip(&other.list) {
            let elements = to.elements();
            moved[to.offset..][..elements].copy_from_slice(&flat[from.offset..][..elements]);
        }
        moved
    }

    /// What the network computes in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Elements of the flat vector, gaps included.
    pub fn flat_elements(&self) -> usize {
        self.flat_elements
    }

    /// The number of parameters as papers count them: elements, gaps not counted.
    pub fn count(&self) -> usize {
        self.list.iter().map(Parameter::elements).sum()
    }

    /// A state for a flat vector of all of them.
    pub fn state(&self, name: &str) -> State {
        State::new(name, Spec::f32([self.flat_elements]))
    }

    /// PyTorch's default initialisation as a flat vector in device order. Each parameter has a Philox
    /// sequence of its own, so its numbers do not depend on the others.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.flat_elements];
        for (parameter, sequence) in self.list.iter().zip(0u32..) {
            let mut rng = Philox::new(seed, Stream::Parameters, sequence);
            let values: Vec<f32> = (0..parameter.elements())
                .map(|_| match parameter.init {
                    Init::FanIn(fan_in) => {
                        let bound = 1.0 / (fan_in as f64).sqrt();
                        rng.uniform(-bound, bound) as f32
                    }
                    Init::Constant(c) => c,
                    Init::Normal => rng.normal() as f32,
                })
                .collect();
            let end = parameter.offset + values.len();
            flat[parameter.offset..end].copy_from_slice(&parameter.to_device(&values));
        }
        flat
    }

    /// Views of the flat vector, one for each parameter. In f16 the weights of products are views of a copy, which the graph
    /// makes anew in each run.
    pub fn views(&self, graph: &mut Graph, flat: ValueId) -> Result<Vec<ValueId>, GraphError> {
        let factors = match self.precision {
            Precision::F32 => flat,
            Precision::F16 => graph.apply(Cast(DType::F16), &[flat])?,
        };
        self.views_of(graph, flat, factors)
    }

    /// The same of the copy that is kept, if one is.
    pub fn views_of_weights(&self, graph: &mut Graph, weights: &Weights) -> Result<Vec<ValueId>, GraphError> {
        let flat = graph.state(&weights.flat);
        match &weights.copy {
            None => self.views(graph, flat),
            Some(copy) => {
                let factors = graph.state(copy);
                self.views_of(graph, flat, factors)
            }
        }
    }

    /// Views of the flat vector, and for the factors of products of another one like it.
    fn views_of(
        &self,
        graph: &mut Graph,
        flat: ValueId,
        factors: ValueId,
    ) -> Result<Vec<ValueId>, GraphError> {
        let view = |p: &Parameter| {
            let source = if p.is_factor() { factors } else { flat };
            graph.apply(View { offset: p.offset, shape: p.device_shape() }, &[source])
        };
        self.list.iter().map(view).collect()
    }

    /// Lays the gradients of the parameters into one flat vector like theirs.
    pub fn pack(&self, graph: &mut Graph, gradients: &[ValueId]) -> Result<ValueId, GraphError> {
        let mut placed: Vec<(usize, ValueId)> =
            self.list.iter().map(|p| p.offset).zip(gradients.iter().copied()).collect();
        placed.sort_unstable();
        let (offsets, gradients): (Vec<usize>, Vec<ValueId>) = placed.into_iter().unzip();
        pack(graph, &gradients, offsets, self.flat_elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_laid_together_lie_behind_the_others_and_keep_their_numbers() {
        let mut parameters = Parameters::default();
        for (name, size) in [("a", 3), ("b", 70), ("c", 64), ("d", 5)] {
            parameters.add(name.into(), &[size], Layout::Same, Init::Normal);
        }
        let before = parameters.clone();
        parameters.lay_together(&[2, 0]);
        let offsets: Vec<usize> = parameters.iter().map(|p| p.offset).collect();
        assert_eq!(offsets, [256, 0, 192, 128]);
        let numbers = |p: &Parameters| -> Vec<Vec<f32>> {
            let flat = p.initial(7);
            p.iter().map(|p| flat[p.offset..p.offset + p.elements()].to_vec()).collect()
        };
        assert_eq!(numbers(&parameters), numbers(&before));
        assert_eq!(parameters.flat_elements(), before.flat_elements());
    }

    #[test]
    fn weights_of_products_can_be_bound_in_f16() {
        let mut parameters = Parameters::default();
        for (name, shape, layout) in [
            ("a.weight", vec![3, 5], Layout::Linear),
            ("a.bias", vec![3], Layout::Same),
            ("b.weight", vec![2, 1, 3, 3], Layout::Conv),
            ("b.bias", vec![2], Layout::Same),
            ("c", vec![7], Layout::Same),
        ] {
            parameters.add(name.into(), &shape, layout, Init::Normal);
        }
        let offsets = |p: &Parameters| p.iter().map(|p| p.offset).collect::<Vec<_>>();
        assert_eq!(offsets(&parameters), [0, 64, 128, 192, 256]);
        parameters.lay_together(&[2, 3, 0, 1]);
        assert_eq!(offsets(&parameters), [192, 256, 64, 128, 0]);
        let half = parameters.clone().in_precision(Precision::F16);
        assert_eq!(offsets(&half), [256, 320, 128, 192, 0]);
        assert_eq!(half.flat_elements(), 384);
        assert_eq!(half.moved(&parameters, &parameters.initial(7)), half.initial(7));
        let back = half.clone().in_precision(Precision::F32);
        assert_eq!(
            (offsets(&back), back.flat_elements()),
            (offsets(&parameters), parameters.flat_elements())
        );

        let mut graph = Graph::new();
        let flat = graph.state(&half.state("weights"));
        let views = half.views(&mut graph, flat).unwrap();
        let types: Vec<&str> = views.iter().map(|&v| graph.spec(v).dtype.name()).collect();
        assert_eq!(types, ["f16", "f32", "f16", "f32", "f32"]);
    }

    #[test]
    fn layouts_are_inverse() {
        for (layout, shape) in
            [(Layout::Conv, vec![5, 3, 3, 2]), (Layout::Linear, vec![4, 7]), (Layout::Same, vec![9])]
        {
            let p = Parameter { name: "p".into(), shape, layout, offset: 0, init: Init::Normal };
            let file: Vec<f32> = (0..p.elements()).map(|i| i as f32).collect();
            assert_eq!(p.to_file(&p.to_device(&file)), file);
        }
        // Conv: file [o][i][y][x] to device [y][x][i][o].
        let p = Parameter {
            name: "p".into(),
            shape: vec![2, 3, 1, 2],
            layout: Layout::Conv,
            offset: 0,
            init: Init::Normal,
        };
        let file: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(p.to_device(&file)[1], file[6]);
        assert_eq!(p.to_device(&file)[2], file[2]);
        assert_eq!(p.to_device(&file)[6], file[1]);
    }
}
