//! Whole training steps without a device: encoded and validated by wgpu's noop backend at WebGPU's default
//! limits, and the memory plan replayed symbolically, so that no launch reads what another has overwritten.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use inkwash::diffusion::{Preset, Sampler, SchedulerConfig, Trajectory, UNet, UNetConfig};
use inkwash::gpu::Device;
use inkwash::graph::{Aliasing, Caps, Graph, Home, Kernels, Operand, Origin, Plan, ValueId};
use inkwash::sample::{Drawing, PictureSampler};
use inkwash::shader::{self, Access, Interface, Variant};
use inkwash::train::{EMA, TrainConfig, TrainPlans, Trainer};
use std::collections::HashMap;

const ALL: [(Preset, Kernels); 4] = [
    (Preset::TinyGray, Kernels::Registers),
    (Preset::TinyGray, Kernels::Workgroup),
    (Preset::Small32, Kernels::Registers),
    (Preset::Small32, Kernels::Workgroup),
];

fn config(preset: Preset, accumulate: u32) -> TrainConfig {
    TrainConfig { preset, batch: 2, accumulate, log_every: 4, ..TrainConfig::default() }
}

fn unet(preset: Preset) -> UNet {
    UNet::new(&UNetConfig::preset(preset)).unwrap()
}

#[test]
fn training_steps_pass_validation() {
    for (preset, kernels) in ALL {
        for accumulate in [1, 2] {
            let device = Device::noop(kernels).unwrap();
            let config = config(preset, accumulate);
            let mut trainer = Trainer::new(&device, unet(preset), &config).unwrap();
            let initial = trainer.unet.initial_parameters(0);
            trainer.set_parameters(&initial).unwrap();
            let (height, width) = trainer.unet.config.sample_size.get();
            let elements = config.batch * height * width * trainer.unet.config.in_channels;
            let mut batches = 0;
            for _ in 0..2 {
                trainer
                    .step(|| {
                        batches += 1;
                        (vec![0.5; elements], vec![0; config.batch])
                    })
                    .unwrap();
            }
            assert_eq!(batches, 2 * accumulate);
            assert!(!trainer.log_is_full());
            let rows = trainer.read_log().unwrap();
            assert_eq!(rows.iter().map(|r| r.step).collect::<Vec<_>>(), [0, 1], "{preset:?} {kernels:?}");
            assert!(trainer.read_log().unwrap().is_empty());
            device.check().unwrap();

            let plans = TrainPlans::new(&trainer.unet, &config, &device.caps).unwrap();
            let (planned, allocated) = (plans.bytes() as f64, trainer.allocated_bytes() as f64);
            println!("{preset:?} {kernels:?} x {accumulate}: {planned} bytes planned, {allocated} allocated");
            assert!((allocated / planned - 1.0).abs() < 0.05, "{planned} planned, {allocated} allocated");
        }
    }
}

#[test]
fn sampling_passes_validation() {
    for (preset, kernels) in ALL {
        let device = Device::noop(kernels).unwrap();
        let store = inkwash::gpu::Store::new(&device);
        let unet = unet(preset);
        store.write(EMA, &unet.initial_parameters(0)).unwrap();
        let scheduler = SchedulerConfig { thresholding: true, ..SchedulerConfig::new(Sampler::Ddpm) };
        let trajectory = Trajectory::new(&scheduler, 2, 0.0).unwrap();
        let sampler = PictureSampler::new(&store, &unet, EMA, 2, trajectory).unwrap();
        let mut seen = Vec::new();
        let pictures = sampler
            .draw(&Drawing::new(3, 0, &[0; 3]), |progress| {
                seen.push((progress.done, progress.total));
                Ok(())
            })
            .unwrap();
        let (height, width) = unet.config.sample_size.get();
        assert_eq!(pictures.len(), 3 * height * width * unet.config.out_channels);
        assert_eq!(seen, [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]);
        device.check().unwrap();
    }
}

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

    /// The first byte of the range that does not hold what is expected, and what it holds.
    fn find_other(&self, start: u64, end: u64, expected: Content) -> Option<(u64, Option<Content>)> {
        let mut at = start;
        while at < end {
            match self.0.iter().find(|&&(s, e, _)| s <= at && at < e) {
                Some(&(_, e, c)) if c == expected => at = e,
                Some(&(_, _, c)) => return Some((at, Some(c))),
                None => return Some((at, None)),
            }
        }
        None
    }
}

/// The tensor whose operator wrote what a view shows.
fn written_as(graph: &Graph, value: ValueId) -> ValueId {
    match graph.values[value.0].origin {
        Origin::Node(n, _) if matches!(graph.nodes[n].op.aliasing(), Aliasing::View { .. }) => {
            written_as(graph, graph.nodes[n].inputs[0])
        }
        _ => value,
    }
}

/// Replays the plan's launches on ranges of bytes instead of numbers: every read must find the tensor that
/// the graph says it reads, whole and not overwritten. Returns the number of reads that were checked.
fn replay(plan: &Plan) -> Result<usize, String> {
    let graph = &plan.graph;
    let mut buffers: Vec<Bytes> = plan.buffers.iter().map(|_| Bytes::default()).collect();
    let mut interfaces: HashMap<(&str, &str, Variant), Interface> = HashMap::new();
    let mut reads = 0;

    // 1. What is there before the run.
    for (buffer, planned) in plan.buffers.iter().enumerate() {
        if planned.home == Home::State {
            buffers[buffer].write(0, planned.bytes, Content::Before);
        }
    }
    for (i, value) in graph.values.iter().enumerate() {
        if let (Origin::Input | Origin::State | Origin::Constant(_), Some(place)) =
            (&value.origin, plan.placements[i])
        {
            let end = place.offset + value.spec.bytes() as u64;
            buffers[place.buffer].write(place.offset, end, Content::Tensor(ValueId(i)));
        }
    }

    // 2. Each launch: reads first, then writes.
    for (number, step) in plan.steps.iter().enumerate() {
        let node = &graph.nodes[step.node];
        let d = &step.dispatch;
        let label = format!("launch {number}, {} {}.wgsl:{}", plan.label(step), d.shader.name, d.entry);
        let interface = interfaces.entry((d.shader.name, d.entry, d.variant.clone())).or_insert_with(|| {
            let expanded = shader::expand(d.shader, &d.variant).unwrap();
            Interface::of(d.shader, d.entry, &d.variant, &expanded).unwrap()
        });
        let overwritten: Vec<(usize, usize)> = match node.op.aliasing() {
            Aliasing::InPlace(pairs) => pairs,
            _ => Vec::new(),
        };
        let mut bound: Vec<(usize, u64, u64, bool)> = Vec::new();
        let mut writes = Vec::new();
        for ((name, operand, _), binding) in d.operands.iter().zip(&step.bindings) {
            let info = interface.bindings.iter().find(|b| b.name == *name).unwrap();
            let write = info.access == Access::ReadWrite;
            let (start, end) = (binding.offset, binding.offset + binding.size);
            for &(buffer, s, e, other_writes) in &bound {
                // WebGPU counts a buffer as a whole where one of two uses is `read`.
                let conflict =
                    if write && other_writes { s < end && start < e } else { write != other_writes };
                if buffer == binding.buffer && conflict {
                    return Err(format!(
                        "{label}: `{name}` shares {} with another",
                        plan.buffers[buffer].name
                    ));
                }
            }
            bound.push((binding.buffer, start, end, write));
            if end > plan.buffers[binding.buffer].bytes {
                return Err(format!("{label}: `{name}` ends past {}", plan.buffers[binding.buffer].name));
            }
            let bytes = &buffers[binding.buffer];
            let expect = |start, end, content| match bytes.find_other(start, end, content) {
                None => Ok(()),
                Some((at, found)) => Err(format!(
                    "{label}: `{name}` should find {content:?} at byte {at} of {}, but there is {found:?}",
                    plan.buffers[binding.buffer].name
                )),
            };
            match *operand {
                Operand::Input(k) => {
                    if write {
                        return Err(format!("{label}: `{name}` is an input, but the shader writes it"));
                    }
                    let root = written_as(graph, node.inputs[k]);
                    let packed = match graph.values[root.0].origin {
                        Origin::Node(n, _) => match graph.nodes[n].op.aliasing() {
                            Aliasing::Pack { offsets } => Some((n, offsets)),
                            _ => None,
                        },
                        _ => None,
                    };
                    match packed {
                        None => expect(start, end, Content::Tensor(root))?,
                        Some((n, offsets)) => {
                            // What lies between the packed tensors is zero only where nothing else ever
                            // was: in a state, which begins as zeros.
                            let base = plan.placements[root.0].unwrap().offset;
                            let mut reached = base;
                            let part = |s: u64, e: u64, content| {
                                let (s, e) = (s.clamp(start, end), e.clamp(start, end));
                                expect(s, e, content)
                            };
                            for (&input, offset) in graph.nodes[n].inputs.iter().zip(offsets) {
                                let at = base + offset as u64 * 4;
                                part(reached, at, Content::Before)?;
                                reached = at + graph.spec(input).bytes() as u64;
                                part(at, reached, Content::Tensor(written_as(graph, input)))?;
                            }
                            part(reached, end.max(reached), Content::Before)?;
                        }
                    }
                    reads += 1;
                }
                Operand::Output(k) => {
                    let own = Content::Tensor(node.outputs[k]);
                    if let Some(&(_, input)) = overwritten.iter().find(|(output, _)| *output == k) {
                        // An earlier launch of this operator may have updated it already.
                        if bytes.find_other(start, end, own).is_some() {
                            let before = written_as(graph, node.inputs[input]);
                            expect(start, end, Content::Tensor(before))?;
                        }
                        reads += 1;
                    }
                    if write {
                        writes.push((binding.buffer, start, end, own));
                    } else {
                        expect(start, end, own)?;
                    }
                }
                Operand::Scratch(k) => {
                    let own = Content::Scratch(step.node, k);
                    if write {
                        writes.push((binding.buffer, start, end, own));
                    } else {
                        expect(start, end, own)?;
                        reads += 1;
                    }
                }
            }
        }
        for (buffer, start, end, content) in writes {
            buffers[buffer].write(start, end, content);
        }
    }

    // 3. What is asked for is still there at the end.
    for &value in graph.outputs.iter().chain(graph.persistent.keys()) {
        let is_pack = matches!(graph.values[value.0].origin, Origin::Node(n, _)
            if matches!(graph.nodes[n].op.aliasing(), Aliasing::Pack { .. }));
        if let (Some(place), false) = (plan.placements[value.0], is_pack) {
            let content = Content::Tensor(written_as(graph, value));
            let end = place.offset + graph.spec(value).bytes() as u64;
            if let Some((at, found)) = buffers[place.buffer].find_other(place.offset, end, content) {
                return Err(format!("{content:?} should remain at byte {at}, but there is {found:?}"));
            }
        }
    }
    Ok(reads)
}

#[test]
fn no_launch_reads_what_another_has_overwritten() {
    for (preset, kernels) in ALL {
        for accumulate in [1, 2] {
            let plans =
                TrainPlans::new(&unet(preset), &config(preset, accumulate), &Caps::webgpu(kernels)).unwrap();
            let what = format!("{preset:?} {kernels:?} x {accumulate}");
            let mut reads = 0;
            for plan in [&plans.micro.0, &plans.update.0] {
                reads += replay(plan).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            // Slots are shared at all: tensors take several times the memory that is planned for them.
            let plan = &plans.micro.0;
            let slots = plan.bytes_where(|b| b.home == Home::Slot);
            let tensors: u64 = (0..plan.graph.values.len())
                .filter(|&i| plan.placements[i].is_some_and(|p| plan.buffers[p.buffer].home == Home::Slot))
                .filter(|&i| written_as(&plan.graph, ValueId(i)) == ValueId(i))
                .map(|i| plan.graph.values[i].spec.bytes() as u64)
                .sum();
            println!("{what}: {reads} reads; {slots} bytes of slots hold {tensors} bytes of tensors");
            assert!(reads > 400 && tensors > 2 * slots, "{what}");
        }
    }
}

/// The replay itself: sending one tensor to another's slot must not go unseen.
#[test]
fn the_replay_sees_a_spoilt_plan() {
    let (preset, kernels) = (Preset::TinyGray, Kernels::Registers);
    let plan = TrainPlans::new(&unet(preset), &config(preset, 1), &Caps::webgpu(kernels)).unwrap().micro.0;
    replay(&plan).unwrap();
    let slots: Vec<usize> =
        (0..plan.buffers.len()).filter(|&b| plan.buffers[b].home == Home::Slot).take(8).collect();
    let mut seen = 0;
    for pair in slots.windows(2) {
        // Both slots in one place, as if their tensors' lives never met. Slots come largest first.
        let mut spoilt = plan.clone();
        for binding in spoilt.steps.iter_mut().flat_map(|s| &mut s.bindings) {
            if binding.buffer == pair[1] {
                binding.buffer = pair[0];
            }
        }
        seen += usize::from(replay(&spoilt).is_err());
    }
    assert_eq!(seen, slots.len() - 1, "slots that hold tensors at the same time were merged unseen");
}
