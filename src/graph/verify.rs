//! Proof that a plan is legal: its launches replayed on ranges of bytes instead of numbers.

use super::{Aliasing, Binding, Caps, Dispatch, Home, MAX_GROUPS, Operand, Origin, Plan, PlanError, ValueId};
use crate::shader::{self, Access, Interface};

/// What lies in a range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A tensor as its operator wrote it, or as it was uploaded.
    Tensor(ValueId),
    /// Scratch of a node.
    Scratch(usize, usize),
    /// What a state held before this run.
    Before,
}

/// The bytes of one buffer, by what lies in them: disjoint ranges in no order.
#[derive(Default)]
struct Bytes(Vec<(u64, u64, Content)>);

impl Bytes {
    fn write(&mut self, start: u64, end: u64, content: Content) {
        let mut kept = Vec::with_capacity(self.0.len() + 2);
        for &(s, e, c) in &self.0 {
            if e <= start || end <= s {
                kept.push((s, e, c));
                continue;
            }
            if s < start {
                kept.push((s, start, c));
            }
            if end < e {
                kept.push((end, e, c));
            }
        }
        kept.push((start, end, content));
        self.0 = kept;
    }

    /// Fails at the first byte of the range that does not hold what is expected.
    fn expect(&self, start: u64, end: u64, expected: Content) -> Result<(), String> {
        let mut at = start;
        while at < end {
            let found = self.0.iter().find(|&&(s, e, _)| s <= at && at < e);
            match found {
                Some(&(_, e, content)) if content == expected => at = e,
                _ => {
                    let found = found.map(|&(.., content)| content);
                    return Err(format!("should find {expected:?} at byte {at}, but there is {found:?}"));
                }
            }
        }
        Ok(())
    }
}

impl Plan {
    /// Replays the launches on ranges of bytes instead of numbers: every read must find the tensor that the graph says it
    /// reads, whole and not overwritten; bindings of one launch must not overlap as WebGPU forbids; offsets, sizes and
    /// workgroups must keep to the limits. Returns the number of reads that were checked.
    ///
    /// Runs on every plan of a debug build.
    pub fn verify(&self, caps: &Caps) -> Result<usize, PlanError> {
        self.replay(caps).map_err(PlanError::Illegal)
    }

    fn replay(&self, caps: &Caps) -> Result<usize, String> {
        let graph = &self.graph;
        let mut buffers: Vec<Bytes> = self.buffers.iter().map(|_| Bytes::default()).collect();
        let mut reads = 0;

        // 1. What is there before the run.
        for (buffer, planned) in self.buffers.iter().enumerate() {
            if planned.home == Home::State {
                buffers[buffer].write(0, planned.bytes, Content::Before);
            }
        }
        for (i, value) in graph.values.iter().enumerate() {
            if let (Origin::Input | Origin::State | Origin::Constant(_), Some(place)) =
                (&value.origin, self.placements[i])
            {
                let end = place.offset + value.spec.padded_bytes();
                buffers[place.buffer].write(place.offset, end, Content::Tensor(ValueId(i)));
            }
        }

        // 2. Each launch: reads first, then writes.
        for (number, launch) in self.launches.iter().enumerate() {
            let d = &launch.dispatch;
            let fail = |message: String| {
                format!(
                    "launch {number}, {} {}.wgsl:{}: {message}",
                    self.label(launch),
                    d.shader.name,
                    d.entry
                )
            };
            let interface =
                shader::interface(d.shader, d.entry, &d.variant).map_err(|e| fail(e.to_string()))?;
            within_limits(d, &interface, caps).map_err(fail)?;
            let mut bound: Vec<(Binding, bool)> = Vec::new();
            let mut writes = Vec::new();
            for ((name, operand, _), &binding) in d.operands.iter().zip(&launch.bindings) {
                let info = interface.bindings.iter().find(|b| b.name == *name);
                let info = info.ok_or_else(|| fail(format!("the entry point has no binding `{name}`")))?;
                let write = info.access == Access::ReadWrite;
                let found = self.fits(&bound, binding, write, caps).and_then(|()| {
                    self.expect(&buffers[binding.buffer], launch.node, *operand, binding, write)
                });
                let (content, read) = found.map_err(|e| fail(format!("`{name}` {e}")))?;
                reads += usize::from(read);
                bound.push((binding, write));
                if write {
                    writes.push((binding, content));
                }
            }
            for (binding, content) in writes {
                let end = binding.offset + binding.size - binding.guard;
                buffers[binding.buffer].write(binding.offset, end, content);
            }
        }

        // 3. What is asked for is still there at the end.
        for &value in graph.outputs.iter().chain(graph.persistent.keys()) {
            if let (Some(place), None) = (self.placements[value.0], self.packed_in(value)) {
                let content = Content::Tensor(graph.written_as(value));
                let end = place.offset + graph.spec(value).padded_bytes();
                buffers[place.buffer].expect(place.offset, end, content)?;
            }
        }
        Ok(reads)
    }

    /// Whether a binding keeps to the limits, to its buffer, and to what WebGPU allows beside the others of its launch.
    fn fits(
        &self,
        bound: &[(Binding, bool)],
        binding: Binding,
        write: bool,
        caps: &Caps,
    ) -> Result<(), String> {
        let Binding { buffer, offset, size, .. } = binding;
        let planned = &self.buffers[buffer];
        if !offset.is_multiple_of(caps.limits.offset_alignment) || size > caps.limits.binding_bytes {
            return Err(format!("begins at byte {offset} and has {size}, which the limits forbid"));
        }
        if offset + size > planned.bytes {
            return Err(format!("ends past {}", planned.name));
        }
        let conflict = |&(other, other_writes): &(Binding, bool)| {
            let overlap = other.offset < offset + size && offset < other.offset + other.size;
            // WebGPU counts a buffer as a whole where one of two uses is `read`.
            other.buffer == buffer && if write && other_writes { overlap } else { write != other_writes }
        };
        match bound.iter().find(|other| conflict(other)) {
            Some((other, _)) => Err(format!("shares {} with `{}`", planned.name, other.name)),
            None => Ok(()),
        }
    }

    /// Looks for what a launch expects in a bound range. Returns what the range holds once it has been written, and whether
    /// it was read.
    fn expect(
        &self,
        bytes: &Bytes,
        node: usize,
        operand: Operand,
        binding: Binding,
        write: bool,
    ) -> Result<(Content, bool), String> {
        let graph = &self.graph;
        let owner = &graph.nodes[node];
        let (start, end) = (binding.offset, binding.offset + binding.size - binding.guard);
        match operand {
            Operand::Input(k) => {
                if write {
                    return Err("is an input, but the shader writes it".into());
                }
                let written = graph.written_as(owner.inputs[k]);
                match self.packed_in(written) {
                    None => bytes.expect(start, end, Content::Tensor(written))?,
                    Some((pack, offsets)) => {
                        // What lies between the packed tensors is zero only where nothing else ever was: in a state,
                        // which begins as zeros.
                        let base = self.placements[written.0].map_or(0, |place| place.offset);
                        let mut reached = base;
                        let part = |s: u64, e: u64, content| {
                            bytes.expect(s.clamp(start, end), e.clamp(start, end), content)
                        };
                        for (&input, offset) in graph.nodes[pack].inputs.iter().zip(offsets) {
                            let spec = graph.spec(input);
                            let at = base + (offset * spec.dtype.bytes()) as u64;
                            part(reached, at, Content::Before)?;
                            reached = at + spec.padded_bytes();
                            part(at, reached, Content::Tensor(graph.written_as(input)))?;
                        }
                        part(reached, end.max(reached), Content::Before)?;
                    }
                }
                Ok((Content::Tensor(written), true))
            }
            Operand::Output(k) => {
                let own = Content::Tensor(owner.outputs[k]);
                let overwritten = match owner.op.aliasing() {
                    Aliasing::InPlace(pairs) => pairs.iter().find(|(output, _)| *output == k).map(|p| p.1),
                    _ => None,
                };
                match overwritten {
                    // An earlier launch of this operator may have updated it already.
                    Some(input) if bytes.expect(start, end, own).is_err() => {
                        bytes.expect(start, end, Content::Tensor(graph.written_as(owner.inputs[input])))?;
                    }
                    None if !write => bytes.expect(start, end, own)?,
                    _ => {}
                }
                Ok((own, overwritten.is_some()))
            }
            Operand::Scratch(k) => {
                let own = Content::Scratch(node, k);
                if !write {
                    bytes.expect(start, end, own)?;
                }
                Ok((own, !write))
            }
        }
    }

    /// The pack that a tensor is, as its node and the first elements of what lies in it.
    fn packed_in(&self, value: ValueId) -> Option<(usize, Vec<usize>)> {
        match self.graph.values[value.0].origin {
            Origin::Node(n, _) => match self.graph.nodes[n].op.aliasing() {
                Aliasing::Pack { offsets } => Some((n, offsets)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether a launch keeps to what the device allows.
fn within_limits(d: &Dispatch, interface: &Interface, caps: &Caps) -> Result<(), String> {
    let limits = &caps.limits;
    let buffers = interface.bindings.iter().filter(|b| b.access != Access::Uniform).count();
    let invocations: u32 = interface.workgroup_size.iter().product();
    for (what, found, limit) in [
        ("storage buffers", buffers, limits.storage_buffers as usize),
        ("bytes of workgroup memory", interface.workgroup_bytes, limits.workgroup_bytes as usize),
        ("invocations in a workgroup", invocations as usize, limits.workgroup_invocations as usize),
        (
            "workgroups in one dimension",
            d.groups.iter().copied().max().unwrap_or(0) as usize,
            MAX_GROUPS as usize,
        ),
    ] {
        if found > limit {
            return Err(format!("{found} {what}, but the device allows {limit}"));
        }
    }
    Ok(())
}
