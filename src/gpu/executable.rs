//! A plan made runnable: buffers allocated, parameters packed, bind groups made, once; then each run
//! only encodes and submits.

use super::device::Pipeline;
use super::store::{STORAGE, from_bits};
use super::{Device, GpuError, Store};
use crate::graph::{Dispatch, Home, Origin, Placement, Plan, Scalar, ValueId};
use crate::shader::{Access, Interface, ParamKind, ShaderError};
use crate::tensor::DType;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Uniform buffers must be bound at multiples of 256 bytes (WebGPU's default limit).
const UNIFORM_ALIGNMENT: usize = 256;

/// Work that one submission may hold: a slow integrated GPU (some 0.3 TFLOP/s in our kernels) takes a third
/// of a second for it, well within the two seconds after which Windows resets a device.
const SUBMISSION_FLOPS: u64 = 100_000_000_000;

/// Bytes up to a whole number of words, as buffers are written.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A launch with what it needs on the device.
struct Prepared {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
    flops: u64,
}

/// A plan on a device, ready to run any number of times.
pub struct Executable {
    device: Arc<Device>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    bytes: u64,
    launches: Vec<Prepared>,
}

impl Executable {
    /// Allocates, compiles and binds. States come from the store.
    pub async fn new(store: &Store, plan: Plan) -> Result<Self, GpuError> {
        let device = store.device().clone();
        let scopes = device.scopes();
        let mut buffers = Vec::with_capacity(plan.buffers.len());
        let (mut rank, mut bytes) = (0, 0);
        for planned in &plan.buffers {
            buffers.push(match planned.home {
                Home::State => store.state(&planned.name, planned.bytes)?,
                Home::Slot => {
                    let (buffer, allocated) = store.slot(rank, &planned.name, planned.bytes);
                    (rank, bytes) = (rank + 1, bytes + allocated);
                    buffer
                }
                Home::Input | Home::Constant | Home::Output => {
                    bytes += planned.bytes;
                    device.buffer(&planned.name, planned.bytes, STORAGE)
                }
            });
        }
        for (value, place) in plan.graph.values.iter().zip(&plan.placements) {
            if let (Origin::Constant(array), Some(place)) = (&value.origin, place) {
                let data = padded(value.spec.dtype.encode(&array.data));
                device.write(&buffers[place.buffer], place.offset, &data);
            }
        }

        let mut uniforms: Vec<u8> = Vec::new();
        let mut pipelines = Vec::with_capacity(plan.launches.len());
        let mut ranges = Vec::with_capacity(plan.launches.len());
        for launch in &plan.launches {
            let d = &launch.dispatch;
            let pipeline = device.pipeline(d.shader, d.entry, &d.variant).await?;
            check_bindings(d, &pipeline.interface)?;
            let packed = pack_params(d, &pipeline.interface)?;
            let start = uniforms.len();
            uniforms.extend_from_slice(&packed);
            uniforms.resize(uniforms.len().next_multiple_of(UNIFORM_ALIGNMENT), 0);
            ranges.push((start, packed.len()));
            pipelines.push(pipeline);
        }
        let uniform_bytes = uniforms.len().max(UNIFORM_ALIGNMENT) as u64;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform_buffer = device.buffer("parameters of launches", uniform_bytes, usage);
        device.write(&uniform_buffer, 0, &uniforms);

        let mut launches = Vec::with_capacity(plan.launches.len());
        for (i, (launch, pipeline)) in plan.launches.iter().zip(pipelines).enumerate() {
            let resource = |buffer, offset, size| {
                let size = std::num::NonZeroU64::new(size);
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
            };
            let entries: Vec<wgpu::BindGroupEntry> = pipeline
                .interface
                .bindings
                .iter()
                .filter_map(|info| {
                    let resource = match info.access {
                        Access::Uniform => resource(&uniform_buffer, ranges[i].0 as u64, ranges[i].1 as u64),
                        Access::Read | Access::ReadWrite => {
                            let b = launch.bindings.iter().find(|b| b.name == info.name)?;
                            resource(&buffers[b.buffer], b.offset, b.size)
                        }
                    };
                    Some(wgpu::BindGroupEntry { binding: info.binding, resource })
                })
                .collect();
            let bind_group = device.bind_group(launch.dispatch.entry, &pipeline.layout, &entries);
            // The whole node's work is counted at its first launch.
            let first = i == 0 || plan.launches[i - 1].node != launch.node;
            let flops = if first {
                let node = &plan.graph.nodes[launch.node];
                let (x, y) = plan.graph.node_specs(node);
                node.op.cost(&x, &y).flops()
            } else {
                0
            };
            launches.push(Prepared { pipeline, bind_group, groups: launch.dispatch.groups, flops });
        }
        scopes.end().await?;
        Ok(Self { device, plan, buffers, bytes: bytes + uniform_bytes, launches })
    }

    /// The plan that this runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Device bytes that were allocated for this plan: without the states of the store, and without working
    /// memory that an earlier plan of the store had brought.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Uploads an f32 input or state before the next run.
    pub fn write(&self, value: ValueId, data: &[f32]) {
        self.write_bytes(value, DType::F32, bytemuck::cast_slice(data));
    }

    /// Uploads a u32 input.
    pub fn write_u32(&self, value: ValueId, data: &[u32]) {
        self.write_bytes(value, DType::U32, bytemuck::cast_slice(data));
    }

    /// Uploads an input or state of any type, each number rounded to it.
    pub fn write_values(&self, value: ValueId, data: &[f64]) {
        let dtype = self.plan.graph.spec(value).dtype;
        self.write_bytes(value, dtype, &padded(dtype.encode(data)));
    }

    fn write_bytes(&self, value: ValueId, dtype: DType, bytes: &[u8]) {
        let (spec, name) = (self.plan.graph.spec(value), &self.plan.graph.values[value.0].name);
        let whole = if spec.shape.elements() == 0 { 0 } else { spec.padded_bytes() };
        assert!(spec.dtype == dtype && bytes.len() as u64 == whole, "`{name}` is {spec:?}");
        if let Some(place) = self.plan.placements[value.0] {
            self.device.write(&self.buffers[place.buffer], place.offset, bytes);
        }
    }

    /// The launches of each submission, by their work and number.
    fn submissions(&self, most: usize) -> Vec<&[Prepared]> {
        let work = self.launches.iter().map(|launch| launch.flops);
        ranges(work, SUBMISSION_FLOPS, most).into_iter().map(|range| &self.launches[range]).collect()
    }

    /// Encodes and submits every launch. Waits for no result, only for the device to keep up: a few runs ahead of it is
    /// enough.
    pub async fn run(&self) -> Result<(), GpuError> {
        for launches in self.submissions(usize::MAX) {
            let mut encoder = self.device.encoder();
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                launches.iter().for_each(|launch| encode(&mut pass, launch));
            }
            self.device.submit(encoder).await?;
        }
        Ok(())
    }

    /// Runs once and measures every launch: seconds, in the order of [`Plan::launches`]. Uses device
    /// timestamps where there are any, and otherwise waits for each launch alone.
    pub async fn profile(&self) -> Result<Vec<f64>, GpuError> {
        if !self.device.caps.features.timestamps {
            return self.profile_by_waiting().await;
        }
        /// wgpu allows 4096 queries in a set; each launch needs two.
        const LAUNCHES_PER_SET: usize = 2048;
        let mut seconds = Vec::with_capacity(self.launches.len());
        for launches in self.submissions(LAUNCHES_PER_SET) {
            let count = launches.len() as u32 * 2;
            let queries = self.device.query_set(count);
            let bytes = u64::from(count) * 8;
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let resolved = self.device.buffer("timestamps", bytes, usage);
            let mut encoder = self.device.encoder();
            for (i, launch) in (0u32..).zip(launches) {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * i),
                        end_of_pass_write_index: Some(2 * i + 1),
                    }),
                });
                encode(&mut pass, launch);
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            self.device.submit(encoder).await?;
            let words = self.device.read_words(&resolved, 0, bytes).await?;
            let ticks: Vec<u64> =
                words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
            let period = self.device.tick_seconds();
            seconds.extend(ticks.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
        }
        Ok(seconds)
    }

    async fn profile_by_waiting(&self) -> Result<Vec<f64>, GpuError> {
        let mut times = Vec::with_capacity(self.launches.len());
        self.run_by_launch(async |_, seconds| {
            times.push(seconds);
            Ok(ControlFlow::<()>::Continue(()))
        })
        .await?;
        Ok(times)
    }

    /// Runs once, and waits for each launch alone. After each, `visit` is given its number in [`Plan::launches`] and the
    /// seconds that it took; where it breaks off, the rest does not run, and what it broke off with is returned.
    pub async fn run_by_launch<B>(
        &self,
        mut visit: impl AsyncFnMut(usize, f64) -> Result<ControlFlow<B>, GpuError>,
    ) -> Result<Option<B>, GpuError> {
        for (number, launch) in self.launches.iter().enumerate() {
            let mut encoder = self.device.encoder();
            encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), launch);
            let start = std::time::Instant::now();
            self.device.submit(encoder).await?;
            self.device.idle().await?;
            if let ControlFlow::Break(found) = visit(number, start.elapsed().as_secs_f64()).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Waits, and reads an f32 tensor that outlives the run.
    pub async fn read(&self, value: ValueId) -> Result<Vec<f32>, GpuError> {
        Ok(from_bits(&self.read_words(value).await?))
    }

    /// Waits, and reads a tensor of any type that outlives the run.
    pub async fn read_values(&self, value: ValueId) -> Result<Vec<f64>, GpuError> {
        Ok(self.decoded(value, &self.read_words(value).await?))
    }

    /// Waits, and reads whatever lies where a tensor is planned. Right after the launch that wrote it
    /// ([`Executable::run_by_launch`]), that is the tensor, also in working memory. Empty if it has no memory.
    pub async fn read_now(&self, value: ValueId) -> Result<Vec<f64>, GpuError> {
        match self.plan.placements[value.0] {
            Some(place) => Ok(self.decoded(value, &self.words_at(value, place).await?)),
            None => Ok(Vec::new()),
        }
    }

    /// The numbers of a tensor in its words.
    fn decoded(&self, value: ValueId, words: &[u32]) -> Vec<f64> {
        let spec = self.plan.graph.spec(value);
        let mut values = spec.dtype.decode(bytemuck::cast_slice(words));
        values.truncate(spec.shape.elements());
        values
    }

    /// The words of a tensor. Working memory holds other tensors by the end of a run, so it cannot be read.
    async fn read_words(&self, value: ValueId) -> Result<Vec<u32>, GpuError> {
        let kept = self.plan.placements[value.0].filter(|p| self.plan.buffers[p.buffer].home != Home::Slot);
        let Some(place) = kept else {
            return Err(GpuError::NotKept { tensor: self.plan.graph.values[value.0].name.clone() });
        };
        self.words_at(value, place).await
    }

    async fn words_at(&self, value: ValueId, place: Placement) -> Result<Vec<u32>, GpuError> {
        let spec = self.plan.graph.spec(value);
        if spec.shape.elements() == 0 {
            return Ok(Vec::new());
        }
        self.device.read_words(&self.buffers[place.buffer], place.offset, spec.padded_bytes()).await
    }

    /// Whether every guard word still holds this one.
    pub async fn guards_hold(&self, word: u32) -> Result<bool, GpuError> {
        let bytes = self.plan.guard_words as u64 * 4;
        for place in &self.plan.guards {
            let words = self.device.read_words(&self.buffers[place.buffer], place.offset, bytes).await?;
            if words.iter().any(|&found| found != word) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills every working and output buffer with a word, so that a test sees what was not written.
    pub fn poison(&self, word: u32) {
        for (planned, buffer) in self.plan.buffers.iter().zip(&self.buffers) {
            if matches!(planned.home, Home::Slot | Home::Output) {
                let words = vec![word; usize::try_from(planned.bytes / 4).unwrap_or(0)];
                self.device.write(buffer, 0, bytemuck::cast_slice(&words));
            }
        }
    }
}

/// Neighbouring items whose work together reaches `limit` at the last one of them, `most` items at the most.
fn ranges(work: impl Iterator<Item = u64>, limit: u64, most: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut end, mut sum) = (0, 0, 0u64);
    for work in work {
        end += 1;
        sum = sum.saturating_add(work);
        if sum >= limit || end - start == most {
            ranges.push(start..end);
            (start, sum) = (end, 0);
        }
    }
    if start < end {
        ranges.push(start..end);
    }
    ranges
}

fn encode(pass: &mut wgpu::ComputePass, launch: &Prepared) {
    pass.set_pipeline(&launch.pipeline.pipeline);
    pass.set_bind_group(0, &launch.bind_group, &[]);
    let [x, y, z] = launch.groups;
    pass.dispatch_workgroups(x, y, z);
}

/// Every binding that the entry point uses must be given, and nothing else.
pub(crate) fn check_bindings(d: &Dispatch, interface: &Interface) -> Result<(), ShaderError> {
    let fail =
        |message: String| Err(ShaderError::Interface { shader: d.shader.name, entry: d.entry, message });
    for info in interface.bindings.iter().filter(|b| b.access != Access::Uniform) {
        if !d.operands.iter().any(|(name, ..)| *name == info.name) {
            return fail(format!("binding `{}` is not given", info.name));
        }
    }
    for (name, ..) in &d.operands {
        if !interface.bindings.iter().any(|b| b.name == *name) {
            return fail(format!("`{name}` is given, but the entry point does not use it"));
        }
    }
    Ok(())
}

/// Lays the named parameters out as the shader's uniform struct has them.
pub(crate) fn pack_params(d: &Dispatch, interface: &Interface) -> Result<Vec<u8>, ShaderError> {
    let fail =
        |message: String| Err(ShaderError::Interface { shader: d.shader.name, entry: d.entry, message });
    let mut bytes = vec![0; interface.params_size];
    for (name, _) in &d.params {
        if !interface.params.iter().any(|f| f.name == *name) {
            return fail(format!("parameter `{name}` is given, but the struct has no such field"));
        }
    }
    for field in &interface.params {
        let Some((_, value)) = d.params.iter().find(|(name, _)| *name == field.name) else {
            return fail(format!("parameter `{}` is not given", field.name));
        };
        let word = match (field.kind, *value) {
            (ParamKind::U32, Scalar::U32(v)) => v.to_le_bytes(),
            (ParamKind::F32, Scalar::F32(v)) => v.to_le_bytes(),
            (kind, value) => {
                return fail(format!(
                    "parameter `{}` is {kind:?} in the shader, but {value:?} was given",
                    field.name
                ));
            }
        };
        bytes[field.offset..field.offset + 4].copy_from_slice(&word);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_is_bounded_by_work_and_by_number() {
        let of = |work: &[u64], limit, most| ranges(work.iter().copied(), limit, most);
        assert_eq!(of(&[4, 4, 4, 9, 1], 8, usize::MAX), [0..2, 2..4, 4..5]);
        // As profiles do it: neither the work nor the number of queries may be passed.
        assert_eq!(of(&[4, 4, 1, 1, 1, 1], 8, 3), [0..2, 2..5, 5..6]);
        assert_eq!(of(&[0; 5], 8, 2), [0..2, 2..4, 4..5]);
        assert!(of(&[], 8, 2).is_empty());
    }
}
