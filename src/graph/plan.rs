//! From a graph to the list of launches and buffers that a device follows: pure data, printable, and
//! computed without a device.
//!
//! Memory is planned as slots, whole buffers shared by tensors whose lives do not touch, and not as
//! ranges of one arena: WebGPU refuses one buffer bound both `read` and `read_write` in one dispatch,
//! even at ranges that do not overlap.

use super::{Aliasing, Caps, Dispatch, Graph, Operand, Origin, ValueId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A graph that this device cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// One tensor exceeds what a binding may cover.
    #[error(
        "`{tensor}` needs {bytes} bytes in one binding, but this device allows {limit}; use a smaller batch \
         (with --accumulate to keep the effective batch), a smaller picture or a narrower model"
    )]
    BindingTooLarge {
        /// The tensor.
        tensor: String,
        /// What it needs.
        bytes: u64,
        /// What the device allows.
        limit: u64,
    },
    /// One buffer exceeds what the device allocates at once.
    #[error(
        "`{tensor}` needs a buffer of {bytes} bytes, but this device allows {limit}; use a smaller batch \
         (with --accumulate to keep the effective batch) or a narrower model"
    )]
    BufferTooLarge {
        /// The tensor.
        tensor: String,
        /// What it needs.
        bytes: u64,
        /// What the device allows.
        limit: u64,
    },
    /// A defect in a graph: memory relations that cannot hold at once.
    #[error("`{tensor}`: {message}")]
    Aliasing {
        /// The tensor.
        tensor: String,
        /// What cannot hold.
        message: &'static str,
    },
}

/// What a planned buffer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// Working memory, reused within a run.
    Slot,
    /// An uploaded tensor.
    Input,
    /// A fixed tensor, filled once.
    Constant,
    /// A tensor that lives across runs, shared by name.
    State,
    /// A tensor kept for reading.
    Output,
}

/// A planned buffer.
#[derive(Clone, Debug)]
pub struct PlannedBuffer {
    /// What it is for.
    pub home: Home,
    /// The name of its tensor; `slot N` for working memory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Index into [`Plan::buffers`].
    pub buffer: usize,
    /// First byte.
    pub offset: u64,
}

/// A bound range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The shader's name for it.
    pub name: &'static str,
    /// Index into [`Plan::buffers`].
    pub buffer: usize,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// One launch with its memory.
#[derive(Clone, Debug)]
pub struct Step {
    /// The graph's node.
    pub node: usize,
    /// The launch.
    pub dispatch: Dispatch,
    /// Its bound ranges.
    pub bindings: Vec<Binding>,
}

/// The launches and buffers of a graph on a device.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every buffer.
    pub buffers: Vec<PlannedBuffer>,
    /// Where each tensor of the graph lies; `None` if nothing uses it.
    pub placements: Vec<Option<Placement>>,
    /// Every launch, in order.
    pub steps: Vec<Step>,
    /// The graph it was made from.
    pub graph: Graph,
    /// Words kept free, and watched by tests, behind each output.
    pub guard_words: usize,
}

/// Sizes of the slots that plans on one store share, by rank. A slot that is too small for a later plan is
/// left to the plans that have it, and the larger one takes its place.
#[derive(Debug, Default)]
pub(crate) struct SlotPool(Vec<u64>);

impl SlotPool {
    /// Whether the slot of this rank is there and large enough.
    pub(crate) fn fits(&self, rank: usize, bytes: u64) -> bool {
        self.0.get(rank).is_some_and(|&size| size >= bytes)
    }

    /// Puts a slot at this rank and returns its size. Ranks come in order.
    pub(crate) fn add(&mut self, rank: usize, bytes: u64) -> u64 {
        match self.0.get_mut(rank) {
            Some(size) => *size = bytes,
            None => self.0.push(bytes),
        }
        bytes
    }
}

struct Life {
    bytes: u64,
    first: usize,
    last: usize,
}

impl Plan {
    /// Plans a graph for a device.
    pub fn new(graph: Graph, caps: &Caps) -> Result<Self, PlanError> {
        Self::with_guards(graph, caps, 0)
    }

    /// Plans with `guard_words` u32 words behind every node output, bound along with it, so that a test
    /// can see a kernel write past its end.
    pub fn with_guards(graph: Graph, caps: &Caps, guard_words: usize) -> Result<Self, PlanError> {
        let roots = roots(&graph)?;
        check_overwrites(&graph)?;
        let guard = guard_words as u64 * 4;

        // 1. The life of every root tensor, in node numbers.
        let mut lives: BTreeMap<ValueId, Life> = BTreeMap::new();
        let mut touch = |value: ValueId, node: usize| {
            let root = roots[value.0].0;
            let bytes = (graph.spec(root).bytes() as u64).max(4).next_multiple_of(4);
            let is_node = matches!(graph.values[root.0].origin, Origin::Node(..));
            let bytes = if is_node { bytes + guard } else { bytes };
            let life = lives.entry(root).or_insert(Life { bytes, first: node, last: node });
            life.first = life.first.min(node);
            life.last = life.last.max(node);
        };
        for (i, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().chain(&node.outputs).for_each(|&v| touch(v, i));
        }
        for &v in graph.outputs.iter().chain(graph.persistent.keys()) {
            touch(v, graph.nodes.len());
        }

        // 2. Buffers of their own for whatever outlives the run.
        let mut plan = Self {
            buffers: Vec::new(),
            placements: vec![None; graph.values.len()],
            steps: Vec::new(),
            graph,
            guard_words,
        };
        let mut buffer_of: HashMap<ValueId, usize> = HashMap::new();
        let mut work: Vec<(ValueId, Life)> = Vec::new();
        let output_roots: Vec<ValueId> = plan.graph.outputs.iter().map(|v| roots[v.0].0).collect();
        let persistent: HashMap<ValueId, String> =
            plan.graph.persistent.iter().map(|(v, name)| (roots[v.0].0, name.clone())).collect();
        for (root, life) in lives {
            let value = &plan.graph.values[root.0];
            let (home, name) = match (&value.origin, persistent.get(&root)) {
                (Origin::Input, _) => (Home::Input, value.name.clone()),
                (Origin::State, _) => (Home::State, value.name.clone()),
                (Origin::Constant(_), _) => (Home::Constant, value.name.clone()),
                (Origin::Node(..), Some(name)) => (Home::State, name.clone()),
                (Origin::Node(..), None) if output_roots.contains(&root) => {
                    (Home::Output, value.name.clone())
                }
                (Origin::Node(..), None) => {
                    work.push((root, life));
                    continue;
                }
            };
            buffer_of.insert(root, plan.buffers.len());
            plan.buffers.push(PlannedBuffer { home, name, bytes: life.bytes });
        }

        // 3. Launches, and with them the scratch tensors, which live for one node.
        let mut launches = Vec::new();
        let mut scratch_lives: Vec<(usize, Life)> = Vec::new();
        let mut scratch_of_node = Vec::new();
        for (i, node) in plan.graph.nodes.iter().enumerate() {
            let mut scratch = Vec::new();
            if matches!(node.op.aliasing(), Aliasing::None | Aliasing::InPlace(_)) {
                let (x, y) = plan.graph.node_specs(node);
                let program = node.op.dispatch(&x, &y, caps);
                for elements in program.scratch {
                    scratch.push(scratch_lives.len());
                    let bytes = (elements as u64 * 4).max(4);
                    scratch_lives.push((elements, Life { bytes, first: i, last: i }));
                }
                launches.extend(program.dispatches.into_iter().map(|d| (i, d)));
            }
            scratch_of_node.push(scratch);
        }

        // 4. Slots: largest first, each into the first slot that is free for its whole life.
        enum Tenant {
            Value(ValueId),
            Scratch(usize),
        }
        let mut tenants: Vec<(Tenant, Life)> = work
            .into_iter()
            .map(|(v, life)| (Tenant::Value(v), life))
            .chain(scratch_lives.into_iter().enumerate().map(|(i, (_, life))| (Tenant::Scratch(i), life)))
            .collect();
        tenants.sort_by_key(|(_, life)| std::cmp::Reverse(life.bytes));
        let mut slots: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
        let mut scratch_buffer: HashMap<usize, usize> = HashMap::new();
        for (tenant, life) in tenants {
            let free = |busy: &Vec<(usize, usize)>| {
                busy.iter().all(|&(first, last)| life.last < first || last < life.first)
            };
            let slot = slots.iter().position(|(_, busy)| free(busy)).unwrap_or_else(|| {
                let name = format!("slot {}", slots.len());
                slots.push((plan.buffers.len(), Vec::new()));
                plan.buffers.push(PlannedBuffer { home: Home::Slot, name, bytes: life.bytes });
                slots.len() - 1
            });
            slots[slot].1.push((life.first, life.last));
            match tenant {
                Tenant::Value(v) => {
                    buffer_of.insert(v, slots[slot].0);
                }
                Tenant::Scratch(i) => {
                    scratch_buffer.insert(i, slots[slot].0);
                }
            }
        }
        for (i, &(root, offset)) in roots.iter().enumerate() {
            plan.placements[i] =
                buffer_of.get(&root).map(|&buffer| Placement { buffer, offset: offset as u64 * 4 });
        }

        // 5. Bound ranges.
        for (i, dispatch) in launches {
            let node = &plan.graph.nodes[i];
            let mut bindings = Vec::new();
            for (name, operand, range) in &dispatch.operands {
                let (place, mut size, label) = match *operand {
                    Operand::Input(k) | Operand::Output(k) => {
                        let is_input = matches!(operand, Operand::Input(_));
                        let id = if is_input { node.inputs[k] } else { node.outputs[k] };
                        let value = &plan.graph.values[id.0];
                        let size = (value.spec.bytes() as u64).max(4);
                        let guarded = !is_input && node.op.aliasing() == Aliasing::None;
                        let place = plan.placements[id.0].unwrap_or(Placement { buffer: 0, offset: 0 });
                        (place, if guarded { size + guard } else { size }, &value.name)
                    }
                    Operand::Scratch(k) => {
                        let buffer = scratch_buffer[&scratch_of_node[i][k]];
                        let place = Placement { buffer, offset: 0 };
                        (place, plan.buffers[buffer].bytes, &plan.buffers[buffer].name)
                    }
                };
                let mut offset = place.offset;
                if let Some(range) = range {
                    offset += range.start as u64 * 4;
                    size = range.len() as u64 * 4;
                }
                if size > caps.max_binding_bytes {
                    return Err(PlanError::BindingTooLarge {
                        tensor: label.clone(),
                        bytes: size,
                        limit: caps.max_binding_bytes,
                    });
                }
                if !offset.is_multiple_of(caps.offset_alignment) {
                    return Err(PlanError::Aliasing {
                        tensor: label.clone(),
                        message: "its first byte is not aligned for binding",
                    });
                }
                bindings.push(Binding { name, buffer: place.buffer, offset, size });
            }
            plan.steps.push(Step { node: i, dispatch, bindings });
        }
        for buffer in &plan.buffers {
            if buffer.bytes > caps.max_buffer_bytes {
                return Err(PlanError::BufferTooLarge {
                    tensor: buffer.name.clone(),
                    bytes: buffer.bytes,
                    limit: caps.max_buffer_bytes,
                });
            }
        }
        Ok(plan)
    }

    /// Device bytes of the buffers for which the condition holds.
    pub fn bytes_where(&self, condition: impl Fn(&PlannedBuffer) -> bool) -> u64 {
        self.buffers.iter().filter(|b| condition(b)).map(|b| b.bytes).sum()
    }

    /// Device bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.bytes_where(|_| true)
    }

    /// Device bytes of several plans on one store: states are shared by name, and working memory by rank,
    /// the largest slot of each plan with the largest of the others and so on, since plans run one at a time.
    pub fn bytes_together(plans: &[&Self]) -> u64 {
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        let mut pool = SlotPool::default();
        let mut bytes = 0;
        for plan in plans {
            let mut rank = 0;
            for buffer in &plan.buffers {
                match buffer.home {
                    Home::State => {
                        states.insert(&buffer.name, buffer.bytes);
                    }
                    Home::Slot => {
                        bytes += if pool.fits(rank, buffer.bytes) { 0 } else { pool.add(rank, buffer.bytes) };
                        rank += 1;
                    }
                    Home::Input | Home::Constant | Home::Output => bytes += buffer.bytes,
                }
            }
        }
        bytes + states.values().sum::<u64>()
    }

    /// `scope/op` of a step, as profiles and errors name it.
    pub fn label(&self, step: &Step) -> String {
        let node = &self.graph.nodes[step.node];
        if node.scope.is_empty() {
            node.op.name().into()
        } else {
            format!("{}/{}", node.scope, node.op.name())
        }
    }
}

impl fmt::Display for Plan {
    /// One line per launch: number, label, shader and entry, variant, groups, and slots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let d = &step.dispatch;
            let [x, y, z] = d.groups;
            let bound: Vec<String> =
                step.bindings.iter().map(|b| format!("{}={}", b.name, self.buffers[b.buffer].name)).collect();
            writeln!(
                f,
                "{i:>5}  {:<48} {}.wgsl:{} [{}] {x}x{y}x{z}  {}",
                self.label(step),
                d.shader.name,
                d.entry,
                d.variant.describe(),
                bound.join(" ")
            )?;
        }
        Ok(())
    }
}

/// For every tensor, the tensor whose memory it lies in and the element where it begins.
fn roots(graph: &Graph) -> Result<Vec<(ValueId, usize)>, PlanError> {
    let mut roots: Vec<(ValueId, usize)> = (0..graph.values.len()).map(|i| (ValueId(i), 0)).collect();
    // Packs first: a packed tensor lies in the pack from its making on, and so do its views.
    for node in &graph.nodes {
        let Aliasing::Pack { offsets } = node.op.aliasing() else { continue };
        for (&input, offset) in node.inputs.iter().zip(offsets) {
            let made_here = match graph.values[input.0].origin {
                Origin::Node(n, _) => graph.nodes[n].op.aliasing() == Aliasing::None,
                _ => false,
            };
            if !made_here || roots[input.0].0 != input {
                return Err(PlanError::Aliasing {
                    tensor: graph.values[input.0].name.clone(),
                    message: "only a tensor with memory of its own can be packed, and only once",
                });
            }
            roots[input.0] = (node.outputs[0], offset);
        }
    }
    for node in &graph.nodes {
        match node.op.aliasing() {
            Aliasing::View { offset } => {
                let (root, base) = roots[node.inputs[0].0];
                roots[node.outputs[0].0] = (root, base + offset);
            }
            Aliasing::InPlace(pairs) => {
                for (output, input) in pairs {
                    roots[node.outputs[output].0] = roots[node.inputs[input].0];
                }
            }
            Aliasing::None | Aliasing::Pack { .. } => {}
        }
    }
    Ok(roots)
}

/// A tensor that was overwritten in place must not be read afterwards.
fn check_overwrites(graph: &Graph) -> Result<(), PlanError> {
    for (i, node) in graph.nodes.iter().enumerate() {
        let Aliasing::InPlace(pairs) = node.op.aliasing() else { continue };
        for (_, input) in pairs {
            let old = node.inputs[input];
            if graph.nodes[i + 1..].iter().any(|later| later.inputs.contains(&old)) {
                return Err(PlanError::Aliasing {
                    tensor: graph.values[old.0].name.clone(),
                    message: "it is read after it was overwritten in place",
                });
            }
        }
    }
    Ok(())
}
