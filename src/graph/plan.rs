//! From a graph to the list of launches and buffers that a device follows: pure data, printable, and
//! computed without a device.
//!
//! Working memory is planned as slots ([`super::slots`]), and not as ranges of one arena: WebGPU refuses one buffer bound both
//! `read` and `read_write` in one dispatch, even at ranges that do not overlap.

use super::memory::Place;
use super::rewrite::{self, Fusion};
use super::slots::{Request, SlotPool, Slots};
use super::{Aliasing, Candidate, Caps, Dispatch, Graph, Operand, Origin, Program, ValueId};
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
    /// The device has no such type.
    #[error(
        "`{tensor}` is {dtype}, which this device or its driver cannot store; leave --precision f16 out, or choose a \
         device that `inkwash doctor` lists with shader-f16 (--device)"
    )]
    Unsupported {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: &'static str,
    },
    /// A defect in a graph: memory relations that cannot hold at once.
    #[error("`{tensor}`: {message}")]
    Aliasing {
        /// The tensor.
        tensor: String,
        /// What cannot hold.
        message: &'static str,
    },
    /// A defect in a plan: a launch that would not find what it reads ([`Plan::verify`]).
    #[error("the plan is not legal: {0}")]
    Illegal(String),
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
    /// Bytes, guard words included.
    pub size: u64,
    /// Bytes of guard words at the end.
    pub guard: u64,
}

/// A dispatch with its memory.
#[derive(Clone, Debug)]
pub struct Launch {
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
    pub launches: Vec<Launch>,
    /// The graph it was made from, rewritten.
    pub graph: Graph,
    /// What was fused.
    pub fusions: Vec<Fusion>,
    /// Words kept free, and watched by tests, behind each output and each scratch tensor.
    pub guard_words: usize,
    /// Where they lie.
    pub guards: Vec<Placement>,
}

/// The nodes between which memory is taken.
pub(super) struct Life {
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
}

/// Who needs working memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Tenant {
    /// A tensor of the graph.
    Tensor(ValueId),
    /// The k-th scratch tensor of a node.
    Scratch(usize, usize),
}

impl Plan {
    /// Plans a graph for a device.
    pub fn new(graph: Graph, caps: &Caps) -> Result<Self, PlanError> {
        Self::with_guards(graph, caps, 0)
    }

    /// Plans with `guard_words` u32 words behind every node output and every scratch tensor, bound along with it, so that
    /// a test can see a kernel write past its end.
    pub fn with_guards(graph: Graph, caps: &Caps, guard_words: usize) -> Result<Self, PlanError> {
        Self::of_programs(graph, caps, guard_words, |_, candidates| candidates.into_iter().next())
    }

    /// Plans with one candidate chosen for every node: `choose` is given the node's number and its candidates.
    pub fn of_programs(
        graph: Graph,
        caps: &Caps,
        guard_words: usize,
        choose: impl Fn(usize, Vec<Candidate>) -> Option<Candidate>,
    ) -> Result<Self, PlanError> {
        let (graph, fusions) = rewrite::rewritten(graph, caps);
        let places = graph.places()?;
        graph.check_overwrites(&places)?;
        let programs: Vec<Program> = graph
            .nodes
            .iter()
            .enumerate()
            .map(|(i, node)| {
                let (x, y) = graph.node_specs(node);
                let candidates = caps.choices.sorted(&*node.op, &x, node.op.candidates(&x, &y, caps));
                choose(i, candidates).map(|c| c.program).unwrap_or_default()
            })
            .collect();
        let mut plan = Self {
            buffers: Vec::new(),
            placements: vec![None; graph.values.len()],
            launches: Vec::new(),
            graph,
            fusions,
            guard_words,
            guards: Vec::new(),
        };
        let lives = plan.lives(&places);
        let (mut homes, work) = plan.buffers_of_their_own(&places, lives);
        homes.extend(plan.slots(work, &places, &programs, caps.limits.offset_alignment));
        for (value, place) in places.iter().enumerate() {
            plan.placements[value] = homes
                .get(&Tenant::Tensor(place.root))
                .map(|home| Placement { buffer: home.buffer, offset: home.offset + place.offset });
        }
        plan.watch_guards(&homes, &programs);
        for (node, program) in programs.iter().enumerate() {
            for dispatch in &program.dispatches {
                let bindings = plan.bindings(node, program, dispatch, &homes, caps)?;
                plan.launches.push(Launch { node, dispatch: dispatch.clone(), bindings });
            }
        }
        for buffer in &plan.buffers {
            if buffer.bytes > caps.limits.buffer_bytes {
                return Err(PlanError::BufferTooLarge {
                    tensor: buffer.name.clone(),
                    bytes: buffer.bytes,
                    limit: caps.limits.buffer_bytes,
                });
            }
        }
        if cfg!(debug_assertions) {
            plan.verify(caps)?;
        }
        Ok(plan)
    }

    fn guard_bytes(&self) -> u64 {
        self.guard_words as u64 * 4
    }

    /// The life of every root tensor, in node numbers.
    pub(super) fn lives(&self, places: &[Place]) -> BTreeMap<ValueId, Life> {
        let graph = &self.graph;
        let mut lives: BTreeMap<ValueId, Life> = BTreeMap::new();
        let mut touch = |value: ValueId, node: usize| {
            let root = places[value.0].root;
            let guard = match graph.values[root.0].origin {
                Origin::Node(..) => self.guard_bytes(),
                _ => 0,
            };
            let bytes = graph.spec(root).padded_bytes() + guard;
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
        lives
    }

    /// Makes the buffers of whatever outlives the run, and returns them with the tensors that only need working memory.
    fn buffers_of_their_own(
        &mut self,
        places: &[Place],
        lives: BTreeMap<ValueId, Life>,
    ) -> (HashMap<Tenant, Placement>, Vec<(Tenant, Life)>) {
        let root = |value: &ValueId| places[value.0].root;
        let outputs: Vec<ValueId> = self.graph.outputs.iter().map(root).collect();
        let persistent: HashMap<ValueId, &String> =
            self.graph.persistent.iter().map(|(value, name)| (root(value), name)).collect();
        let (mut homes, mut work) = (HashMap::new(), Vec::new());
        for (root, life) in lives {
            let value = &self.graph.values[root.0];
            let (home, name) = match (&value.origin, persistent.get(&root)) {
                (Origin::Input, _) => (Home::Input, &value.name),
                (Origin::State, _) => (Home::State, &value.name),
                (Origin::Constant(_), _) => (Home::Constant, &value.name),
                (Origin::Node(..), Some(name)) => (Home::State, *name),
                (Origin::Node(..), None) if outputs.contains(&root) => (Home::Output, &value.name),
                (Origin::Node(..), None) => {
                    work.push((Tenant::Tensor(root), life));
                    continue;
                }
                (Origin::Removed, _) => continue,
            };
            homes.insert(Tenant::Tensor(root), Placement { buffer: self.buffers.len(), offset: 0 });
            self.buffers.push(PlannedBuffer { home, name: name.clone(), bytes: life.bytes });
        }
        (homes, work)
    }

    /// Finds working memory for tensors and scratch, which lives for one node.
    fn slots(
        &mut self,
        mut work: Vec<(Tenant, Life)>,
        places: &[Place],
        programs: &[Program],
        alignment: u64,
    ) -> HashMap<Tenant, Placement> {
        for (node, program) in programs.iter().enumerate() {
            for (k, spec) in program.scratch.iter().enumerate() {
                let bytes = spec.padded_bytes() + self.guard_bytes();
                work.push((Tenant::Scratch(node, k), Life { bytes, first: node, last: node }));
            }
        }
        let mut uses = self.uses(places, programs);
        let requests: Vec<Request> = work
            .iter()
            .map(|(tenant, life)| {
                let Life { bytes, first, last } = *life;
                let uses = uses.remove(tenant).unwrap_or_default().into_iter().collect();
                Request { bytes, first, last, uses }
            })
            .collect();
        let slots = Slots::of(&requests, alignment);
        let first = self.buffers.len();
        for (k, bytes) in slots.bytes.into_iter().enumerate() {
            self.buffers.push(PlannedBuffer { home: Home::Slot, name: format!("slot {k}"), bytes });
        }
        let homes = slots.places.into_iter().map(|p| Placement { buffer: first + p.buffer, ..p });
        work.into_iter().map(|(tenant, _)| tenant).zip(homes).collect()
    }

    /// The nodes that bind a tensor, each with what may share a slot there: all that is only read, and all that a single launch
    /// writes. What one launch writes another one of the same node may read.
    fn uses(&self, places: &[Place], programs: &[Program]) -> HashMap<Tenant, BTreeMap<usize, usize>> {
        let mut uses: HashMap<Tenant, BTreeMap<usize, usize>> = HashMap::new();
        for (number, (node, program)) in self.graph.nodes.iter().zip(programs).enumerate() {
            let single = program.dispatches.len() == 1;
            for (_, operand, _) in program.dispatches.iter().flat_map(|d| &d.operands) {
                let root = |value: ValueId| Tenant::Tensor(places[value.0].root);
                let (tenant, group) = match *operand {
                    Operand::Input(k) => (root(node.inputs[k]), 0),
                    Operand::Output(k) => (root(node.outputs[k]), if single { 1 } else { 1 + k }),
                    Operand::Scratch(k) => {
                        (Tenant::Scratch(number, k), if single { 1 } else { 1 + node.outputs.len() + k })
                    }
                };
                uses.entry(tenant).or_default().insert(number, group);
            }
        }
        uses
    }

    /// Notes where the words behind tensors and scratch lie.
    fn watch_guards(&mut self, homes: &HashMap<Tenant, Placement>, programs: &[Program]) {
        if self.guard_words == 0 {
            return;
        }
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let tensors = node.outputs.iter().filter(|_| node.op.aliasing() == Aliasing::None);
            let tensors = tensors.map(|&v| (Tenant::Tensor(v), self.graph.spec(v)));
            let scratch = programs[i].scratch.iter().enumerate().map(|(k, s)| (Tenant::Scratch(i, k), s));
            for (tenant, spec) in tensors.chain(scratch) {
                if let Some(&Placement { buffer, offset }) = homes.get(&tenant) {
                    self.guards.push(Placement { buffer, offset: offset + spec.padded_bytes() });
                }
            }
        }
    }

    /// The bound ranges of a launch, checked against the device's limits.
    fn bindings(
        &self,
        node: usize,
        program: &Program,
        dispatch: &Dispatch,
        homes: &HashMap<Tenant, Placement>,
        caps: &Caps,
    ) -> Result<Vec<Binding>, PlanError> {
        let owner = &self.graph.nodes[node];
        let mut bindings = Vec::with_capacity(dispatch.operands.len());
        for (name, operand, range) in &dispatch.operands {
            let tensor = |id: ValueId| {
                let of_its_own = homes.contains_key(&Tenant::Tensor(id));
                (self.placements[id.0], self.graph.spec(id), self.graph.values[id.0].name.clone(), of_its_own)
            };
            let (place, spec, label, of_its_own) = match *operand {
                Operand::Input(k) => tensor(owner.inputs[k]),
                Operand::Output(k) => tensor(owner.outputs[k]),
                Operand::Scratch(k) => {
                    let place = homes.get(&Tenant::Scratch(node, k)).copied();
                    (place, &program.scratch[k], format!("scratch of {}", self.graph.label(owner)), true)
                }
            };
            let aliasing = |message| PlanError::Aliasing { tensor: label.clone(), message };
            let place = place.ok_or_else(|| aliasing("a launch binds it, but it has no memory"))?;
            let guarded = of_its_own && !matches!(operand, Operand::Input(_));
            let bytes = spec.dtype.bytes() as u64;
            let (offset, size, guard) = match range {
                Some(range) => {
                    let size = (range.len() as u64 * bytes).next_multiple_of(4);
                    (place.offset + range.start as u64 * bytes, size, 0)
                }
                None => {
                    let guard = if guarded { self.guard_bytes() } else { 0 };
                    (place.offset, spec.padded_bytes() + guard, guard)
                }
            };
            if size > caps.limits.binding_bytes {
                return Err(PlanError::BindingTooLarge {
                    tensor: label.clone(),
                    bytes: size,
                    limit: caps.limits.binding_bytes,
                });
            }
            if !offset.is_multiple_of(caps.limits.offset_alignment) {
                return Err(aliasing("its first byte is not aligned for binding"));
            }
            if !caps.stores(spec.dtype) {
                return Err(PlanError::Unsupported { tensor: label.clone(), dtype: spec.dtype.name() });
            }
            bindings.push(Binding { name, buffer: place.buffer, offset, size, guard });
        }
        Ok(bindings)
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

    /// `scope/op` of a launch, as profiles and errors name it.
    pub fn label(&self, launch: &Launch) -> String {
        self.graph.label(&self.graph.nodes[launch.node])
    }
}

impl fmt::Display for Plan {
    /// One line per launch: number, phase, label, shader and entry, variant, groups, and slots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, launch) in self.launches.iter().enumerate() {
            let d = &launch.dispatch;
            let [x, y, z] = d.groups;
            let bound: Vec<String> = launch
                .bindings
                .iter()
                .map(|b| format!("{}={}", b.name, self.buffers[b.buffer].name))
                .collect();
            writeln!(
                f,
                "{i:>5}  {:<8} {:<48} {}.wgsl:{} [{}] {x}x{y}x{z}  {}",
                self.graph.nodes[launch.node].phase.name(),
                self.label(launch),
                d.shader.name,
                d.entry,
                d.variant.describe(),
                bound.join(" ")
            )?;
        }
        Ok(())
    }
}
