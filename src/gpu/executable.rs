//! A plan made runnable: buffers allocated, parameters packed, bind groups made, once; then each run
//! only encodes and submits.

use super::debugger::Groups;
use super::pipeline::Pipeline;
use super::store::{STORAGE, from_bits};
use super::{Clock, Device, GpuError, Store, Timing};
use crate::graph::{Cost, Dispatch, Home, Origin, Placement, Plan, Scalar, ValueId};
use crate::shader::{Access, Interface, ParamKind, ShaderError};
use crate::tensor::DType;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Uniform buffers must be bound at multiples of 256 bytes (WebGPU's default limit).
const UNIFORM_ALIGNMENT: usize = 256;

/// Bytes up to a whole number of words, as buffers are written.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A launch with what it needs on the device.
pub(super) struct Prepared {
    pub pipeline: Arc<Pipeline>,
    pub bind_group: wgpu::BindGroup,
    pub groups: [u32; 3],
    flops: u64,
}

/// A plan on a device, ready to run any number of times.
pub struct Executable {
    pub(super) device: Arc<Device>,
    pub(super) plan: Plan,
    pub(super) buffers: Vec<wgpu::Buffer>,
    bytes: u64,
    pub(super) launches: Vec<Prepared>,
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
        let pipelines = device.pipelines(plan.launches.iter().map(|launch| &launch.dispatch)).await?;
        let mut ranges = Vec::with_capacity(plan.launches.len());
        for (launch, pipeline) in plan.launches.iter().zip(&pipelines) {
            let d = &launch.dispatch;
            check_bindings(d, &pipeline.expected)?;
            let packed = pack_params(d, &pipeline.interface)?;
            let start = uniforms.len();
            uniforms.extend_from_slice(&packed);
            uniforms.resize(uniforms.len().next_multiple_of(UNIFORM_ALIGNMENT), 0);
            ranges.push((start, packed.len()));
        }
        let uniform_bytes = uniforms.len().max(UNIFORM_ALIGNMENT) as u64;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform_buffer = device.buffer("parameters of launches", uniform_bytes, usage);
        device.write(&uniform_buffer, 0, &uniforms);

        let flops: Vec<u64> = plan.launch_costs().iter().map(Cost::flops).collect();
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
            launches.push(Prepared { pipeline, bind_group, groups: launch.dispatch.groups, flops: flops[i] });
        }
        scopes.end().await?;
        Ok(Self { device, plan, buffers, bytes: bytes + uniform_bytes, launches })
    }

    /// The plan that this runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device that runs it.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
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
        self.write_encoded(value, self.plan.graph.spec(value).dtype.encode(data));
    }

    /// Uploads an input or state of any type as it lies in memory.
    pub(crate) fn write_encoded(&self, value: ValueId, bytes: Vec<u8>) {
        self.write_bytes(value, self.plan.graph.spec(value).dtype, &padded(bytes));
    }

    fn write_bytes(&self, value: ValueId, dtype: DType, bytes: &[u8]) {
        let (spec, name) = (self.plan.graph.spec(value), &self.plan.graph.values[value.0].name);
        let whole = if spec.shape.elements() == 0 { 0 } else { spec.padded_bytes() };
        assert!(spec.dtype == dtype && bytes.len() as u64 == whole, "`{name}` is {spec:?}");
        if let Some(place) = self.plan.placements[value.0] {
            self.device.write(&self.buffers[place.buffer], place.offset, bytes);
        }
    }

    /// The launches of each submission, by number.
    pub(super) fn submissions(&self) -> Vec<std::ops::Range<usize>> {
        ranges(self.launches.iter().map(|launch| launch.flops), self.device.submission_flops())
    }

    /// A pass that begins with a launch, and is named by it.
    pub(super) fn pass<'e>(
        &self,
        encoder: &'e mut wgpu::CommandEncoder,
        first: usize,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites>,
    ) -> wgpu::ComputePass<'e> {
        let label = Some(self.launches[first].pipeline.label.as_str());
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes })
    }

    /// Encodes a launch in a pass.
    pub(super) fn encode_in(&self, pass: &mut wgpu::ComputePass, number: usize) {
        encode(pass, &self.launches[number]);
    }

    /// Floating-point operations of launches.
    pub(super) fn flops(&self, launches: std::ops::Range<usize>) -> u64 {
        self.launches[launches].iter().map(|launch| launch.flops).sum()
    }

    /// Encodes a launch in a pass of its own.
    fn encode_alone(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        number: usize,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites>,
    ) {
        let mut pass = self.pass(encoder, number, timestamp_writes);
        let mut groups = Groups::default();
        groups.enter(&mut pass, self, number);
        encode(&mut pass, &self.launches[number]);
        groups.leave(&mut pass);
    }

    /// Encodes and submits every launch. Waits for no result, only for the device to keep up: a few runs ahead of it is
    /// enough.
    pub async fn run(&self) -> Result<(), GpuError> {
        for range in self.submissions() {
            let mut encoder = self.device.encoder();
            {
                let mut pass = self.pass(&mut encoder, range.start, None);
                let mut groups = Groups::default();
                for number in range.clone() {
                    groups.enter(&mut pass, self, number);
                    self.encode_in(&mut pass, number);
                }
                groups.leave(&mut pass);
            }
            self.device.submit_work(encoder, self.flops(range)).await?;
        }
        Ok(())
    }

    /// Runs once, in the same submissions as [`Executable::run`] where the device has timestamps, and times every launch in the
    /// order of [`Plan::launches`].
    pub async fn run_timed(&self, clock: Clock) -> Result<Timing, GpuError> {
        if clock == Clock::Waiting {
            let mut timing = Timing::of_waiting(&self.device);
            timing.first_submitted = Some(web_time::Instant::now());
            self.run_by_launch(async |_, seconds| {
                timing.waited_for(seconds);
                Ok(ControlFlow::<()>::Continue(()))
            })
            .await?;
            return Ok(timing);
        }
        let submissions = self.submissions();
        let in_passes = clock == Clock::TimestampsInPasses;
        // In a pass, the end of a launch is the begin of the next; only the first has a begin of its own.
        let begins = if in_passes { submissions.len() } else { self.launches.len() };
        let mut timing = Timing::of_timestamps(&self.device, self.launches.len() + begins);
        let mut next = 0;
        for range in submissions {
            let last = range.end == self.launches.len();
            let mut encoder = self.device.encoder();
            if in_passes {
                let mut pass = self.pass(&mut encoder, range.start, None);
                let mut groups = Groups::default();
                let (queries, begin) = timing.query(next);
                pass.write_timestamp(queries, begin);
                for number in range {
                    timing.launch(next, next + 1);
                    next += 1;
                    groups.enter(&mut pass, self, number);
                    encode(&mut pass, &self.launches[number]);
                    let (queries, end) = timing.query(next);
                    pass.write_timestamp(queries, end);
                }
                groups.leave(&mut pass);
                next += 1;
            } else {
                for number in range {
                    timing.launch(next, next + 1);
                    let (query_set, begin) = timing.query(next);
                    let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                        query_set,
                        beginning_of_pass_write_index: Some(begin),
                        end_of_pass_write_index: Some(begin + 1),
                    });
                    self.encode_alone(&mut encoder, number, timestamp_writes);
                    next += 2;
                }
            }
            if last {
                timing.resolve(&mut encoder);
            }
            self.device.submit(encoder).await?;
            timing.first_submitted.get_or_insert_with(web_time::Instant::now);
        }
        Ok(timing)
    }

    /// Runs once, and waits for each launch alone. After each, `visit` is given its number in [`Plan::launches`] and the
    /// seconds that it took; where it breaks off, the rest does not run, and what it broke off with is returned.
    pub async fn run_by_launch<B>(
        &self,
        mut visit: impl AsyncFnMut(usize, f64) -> Result<ControlFlow<B>, GpuError>,
    ) -> Result<Option<B>, GpuError> {
        for number in 0..self.launches.len() {
            let mut encoder = self.device.encoder();
            self.encode_alone(&mut encoder, number, None);
            let start = web_time::Instant::now();
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

    /// Waits, and reads a tensor that outlives the run, as it lies in memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn read_encoded(&self, value: ValueId) -> Result<Vec<u8>, GpuError> {
        let words = self.read_words(value).await?;
        let mut bytes = bytemuck::cast_slice(&words).to_vec();
        bytes.truncate(self.plan.graph.spec(value).bytes());
        Ok(bytes)
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

/// Neighbouring items whose work together reaches `limit` at the last one of them.
fn ranges(work: impl Iterator<Item = u64>, limit: u64) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut end, mut sum) = (0, 0, 0u64);
    for work in work {
        end += 1;
        sum = sum.saturating_add(work);
        if sum >= limit {
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
        |message: String| Err(ShaderError::Interface { file: d.shader.file(), entry: d.entry, message });
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
        |message: String| Err(ShaderError::Interface { file: d.shader.file(), entry: d.entry, message });
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
    fn a_submission_is_bounded_by_work() {
        let of = |work: &[u64]| ranges(work.iter().copied(), 8);
        assert_eq!(of(&[4, 4, 4, 9, 1]), [0..2, 2..4, 4..5]);
        assert_eq!(of(&[0, 0, 0, 8, 0]), [0..4, 4..5]);
        assert!(of(&[]).is_empty());
    }
}
