//! An open device: its queue, its buffers, and how many submissions it is behind.

use super::adapter::{Info, adapters, describe, of_best_kind, plan_features, plan_limits, remedy};
use super::error::Failure;
use super::faults::{Call, Faults};
use super::pace::Pace;
use super::pipeline::{Pipeline, PipelineKey};
use super::pipeline_cache::PipelineCache;
use super::{Choice, GpuError};
use crate::graph::{Caps, Features, Kernels};
use crate::shader::Folder;
use futures_channel::oneshot;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use web_time::Instant;

/// Submissions that may be on their way at once. A training step is two, so that the host is a few steps ahead and the
/// device never waits, while the staging memory of uploads stays that of a few steps.
const SUBMISSIONS_AHEAD: usize = 8;

/// An open device with its compiled pipelines.
pub struct Device {
    pub(super) device: wgpu::Device,
    queue: wgpu::Queue,
    /// What plans for this device may ask for.
    pub caps: Caps,
    /// What the adapter says of itself.
    pub info: Info,
    /// A user's files, in place of the embedded ones.
    pub(super) shaders: Option<Arc<Folder>>,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    pub(super) pipeline_cache: Option<PipelineCache>,
    /// The first failure that wgpu reported outside every error scope.
    failure: Arc<Mutex<Option<Failure>>>,
    pub(super) faults: Faults,
    ahead: Mutex<VecDeque<Submission>>,
    clock: Mutex<SubmissionClock>,
}

/// A submission that may still run, and what is sent when it is done.
struct Submission {
    index: wgpu::SubmissionIndex,
    done: oneshot::Receiver<()>,
    /// Floating-point operations of its launches, if its time is to be learnt from.
    flops: u64,
    submitted: Instant,
}

/// When the last submission was done, and how fast those so far were.
#[derive(Default)]
struct SubmissionClock {
    done: Option<Instant>,
    pace: Pace,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({}, {})", self.info.name, self.info.backend)
    }
}

/// Locks whatever state a panicking thread may have left: our maps are valid at every await point.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Opens the chosen device, or the most capable one.
    pub async fn open(choice: &Choice) -> Result<Arc<Self>, GpuError> {
        let mut found = adapters(choice.backend.as_deref()).await?;
        if found.is_empty() {
            return Err(GpuError::NoAdapter(remedy()));
        }
        let index = match &choice.device {
            None => choice.local_rank % of_best_kind(&found),
            Some(wanted) => {
                let numbers: Option<Vec<usize>> = wanted.split(',').map(|i| i.trim().parse().ok()).collect();
                let by_index =
                    numbers.map(|all| all[choice.local_rank % all.len()]).filter(|&i| i < found.len());
                let by_name = || {
                    let wanted = wanted.to_lowercase();
                    found.iter().position(|a| a.get_info().name.to_lowercase().contains(&wanted))
                };
                by_index.or_else(by_name).ok_or_else(|| GpuError::NoMatch {
                    wanted: format!("`{wanted}`"),
                    found: found
                        .iter()
                        .enumerate()
                        .map(|(i, a)| format!("{i}: {}", a.get_info().name))
                        .collect::<Vec<_>>()
                        .join("; "),
                })?
            }
        };
        let adapter = found.swap_remove(index);
        let limits = if choice.default_limits { wgpu::Limits::default() } else { adapter.limits() };
        Self::request(&adapter, limits, choice).await
    }

    /// A device of wgpu's noop backend at WebGPU's default limits and with these features: it validates every call and
    /// computes nothing.
    pub async fn noop(caps: &Caps) -> Result<Arc<Self>, GpuError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop.enable = true;
        let adapter = wgpu::Instance::new(descriptor)
            .enumerate_adapters(wgpu::Backends::NOOP)
            .await
            .into_iter()
            .next()
            .ok_or_else(|| GpuError::NoAdapter("wgpu was built without its noop backend".into()))?;
        let choice = Choice { kernels: Some(caps.kernels), no_fusion: !caps.fusion, ..Choice::default() };
        Self::request_with(&adapter, wgpu::Limits::default(), &choice, caps.features.clone()).await
    }

    async fn request(
        adapter: &wgpu::Adapter,
        limits: wgpu::Limits,
        choice: &Choice,
    ) -> Result<Arc<Self>, GpuError> {
        let features = plan_features(adapter);
        match Self::request_with(adapter, limits.clone(), choice, features.clone()).await {
            // A driver may offer what it then does not give; nothing depends on an optional feature.
            Err(GpuError::Request { .. }) if features != Features::default() => {
                Self::request_with(adapter, limits, choice, Features::default()).await
            }
            opened => opened,
        }
    }

    async fn request_with(
        adapter: &wgpu::Adapter,
        limits: wgpu::Limits,
        choice: &Choice,
        features: Features,
    ) -> Result<Arc<Self>, GpuError> {
        let info = describe(adapter);
        let suited = if info.kind == "cpu" { Kernels::Registers } else { Kernels::Workgroup };
        let kernels = choice.kernels.unwrap_or(suited);
        let caching = choice.cache.is_some() && adapter.features().contains(wgpu::Features::PIPELINE_CACHE);
        let required_features = [
            (features.timestamps, wgpu::Features::TIMESTAMP_QUERY),
            (features.timestamps_in_passes, wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            (features.f16, wgpu::Features::SHADER_F16),
            (features.subgroups.is_some(), wgpu::Features::SUBGROUP),
            (!features.cooperative.is_empty(), wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            (caching, wgpu::Features::PIPELINE_CACHE),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(wgpu::Features::empty(), |all, (_, feature)| all | feature);
        let caps = Caps {
            kernels,
            limits: plan_limits(&limits),
            features,
            fusion: !choice.no_fusion,
            choices: Arc::default(),
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("inkwash"),
                required_features,
                required_limits: limits,
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                experimental_features: experimental(&caps.features),
                ..Default::default()
            })
            .await
            .map_err(|e| GpuError::Request { adapter: info.name.clone(), message: e.to_string() })?;
        let pipeline_cache = choice
            .cache
            .as_ref()
            .filter(|_| caching)
            .and_then(|folder| PipelineCache::open(&device, &adapter.get_info(), folder));
        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&slot).get_or_insert(e.into());
        }));
        // No error scope and no other callback is told of a lost device.
        let slot = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            let message = if message.is_empty() { format!("{reason:?}") } else { message };
            // Whatever else failed did so because of this.
            *lock(&slot) = Some(Failure::other(&format!("it was lost ({message})")));
        });
        Ok(Arc::new(Self {
            device,
            queue,
            caps,
            info,
            shaders: choice.shaders.clone(),
            pipelines: Mutex::default(),
            pipeline_cache,
            failure,
            faults: Faults::default(),
            ahead: Mutex::default(),
            clock: Mutex::default(),
        }))
    }

    /// A user's files in place of the embedded ones, if there are any.
    pub fn shaders(&self) -> Option<&Folder> {
        self.shaders.as_deref()
    }

    /// Fails if wgpu has reported an error since the device was opened.
    pub fn check(&self) -> Result<(), GpuError> {
        let failure = lock(&self.failure).clone();
        failure.map_or(Ok(()), |failure| Err(self.error(failure)))
    }

    /// Reports a failure as wgpu does.
    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
    }

    /// Gives the device up, as a driver that is reset does.
    pub(super) fn lose(&self) {
        self.device.destroy();
    }

    /// The error for a failure; for the loss of the device if that is behind it.
    fn error(&self, failure: Failure) -> GpuError {
        // The loss is reported while the device is polled, and a device that is lost may hang.
        let timeout = Some(std::time::Duration::from_secs(1));
        let _ = self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout });
        lock(&self.failure).clone().unwrap_or(failure).of(&self.info.name)
    }

    pub(super) fn failed(&self, words: &impl std::fmt::Display) -> GpuError {
        self.error(Failure::other(words))
    }

    /// Waits until everything submitted has run.
    pub async fn idle(&self) -> Result<(), GpuError> {
        let submissions: Vec<Submission> = lock(&self.ahead).drain(..).collect();
        self.poll(None)?;
        for submission in submissions {
            self.done(submission).await?;
        }
        self.check()
    }

    /// Blocks until a submission, or the last one, has run and its callbacks were called. A browser calls them by itself, and
    /// this does nothing there.
    pub(super) fn poll(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), GpuError> {
        self.before(Call::Wait);
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: None };
        self.device.poll(wait).map_err(|e| self.failed(&e))?;
        self.check()
    }

    /// Waits for the word that a submission is done.
    async fn done(&self, submission: Submission) -> Result<(), GpuError> {
        submission.done.await.map_err(|_| self.failed(&"it gave up what it was to compute"))?;
        let mut clock = lock(&self.clock);
        let (submitted, now) = (submission.submitted, Instant::now());
        let begun = clock.done.map_or(submitted, |done| done.max(submitted));
        if submission.flops > 0 {
            clock.pace.add(submission.flops, (now - begun).as_secs_f64());
        }
        clock.done = Some(now);
        Ok(())
    }

    /// Floating-point operations after which a submission ends.
    pub(super) fn submission_flops(&self) -> u64 {
        lock(&self.clock).pace.submission_flops()
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Submits, and waits while more submissions are on their way than `SUBMISSIONS_AHEAD`.
    pub(super) async fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<(), GpuError> {
        self.submit_work(encoder, 0).await.map(drop)
    }

    /// The same with launches of so many floating-point operations, from which the device's speed is learnt; and what to wait
    /// for.
    pub(super) async fn submit_work(
        &self,
        encoder: wgpu::CommandEncoder,
        flops: u64,
    ) -> Result<wgpu::SubmissionIndex, GpuError> {
        self.before(Call::Submit);
        let index = self.queue.submit([encoder.finish()]);
        let (sender, done) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        let oldest = {
            let mut ahead = lock(&self.ahead);
            ahead.push_back(Submission { index: index.clone(), done, flops, submitted: Instant::now() });
            if ahead.len() > SUBMISSIONS_AHEAD { ahead.pop_front() } else { None }
        };
        if let Some(submission) = oldest {
            self.poll(Some(submission.index.clone()))?;
            self.done(submission).await?;
        }
        self.check()?;
        Ok(index)
    }

    /// Submissions that may still be on their way.
    pub fn submissions_ahead(&self) -> usize {
        lock(&self.ahead).len()
    }

    /// A buffer. Errors reach the scopes that are open, or else [`Device::check`].
    pub(super) fn buffer(&self, name: &str, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.before(Call::Buffer);
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size: bytes,
            usage,
            mapped_at_creation: false,
        })
    }

    /// Copies bytes to a buffer, before what is submitted next. Errors reach the same places.
    pub(super) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        self.before(Call::Write);
        self.queue.write_buffer(buffer, offset, bytes);
    }

    /// Seconds of one tick of the device's timestamps.
    pub(super) fn tick_seconds(&self) -> f64 {
        f64::from(self.queue.get_timestamp_period()) * 1e-9
    }

    pub(super) fn query_set(&self, count: u32) -> wgpu::QuerySet {
        self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        })
    }

    pub(super) fn bind_group(
        &self,
        label: &str,
        layout: &wgpu::BindGroupLayout,
        entries: &[wgpu::BindGroupEntry],
    ) -> wgpu::BindGroup {
        self.before(Call::BindGroup);
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries })
    }

    /// Begins to catch what goes wrong while buffers and bind groups are made.
    pub(super) fn scopes(&self) -> Scopes<'_> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        Scopes { device: self, validation, memory }
    }

    /// Copies a range of a buffer to the host, once everything submitted has run.
    pub(super) async fn read_words(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<u32>, GpuError> {
        // A buffer of its own: reading through memory that the GPU also computes in is slow on most drivers.
        let staging =
            self.buffer("readback", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        self.check()?;
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
        self.submit(encoder).await?;
        let (sender, mapped) = oneshot::channel();
        self.before(Call::Map);
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        self.idle().await?;
        mapped.await.map_err(|e| self.failed(&e))?.map_err(|e| self.failed(&e))?;
        let view = staging.get_mapped_range(..).map_err(|e| self.failed(&e))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}

/// Two error scopes.
pub(super) struct Scopes<'a> {
    device: &'a Device,
    // In the order in which wgpu wants them ended, for whoever returns before their end: the last that began comes first.
    validation: wgpu::ErrorScopeGuard,
    memory: wgpu::ErrorScopeGuard,
}

impl Scopes<'_> {
    /// Ends them. Memory comes first: an allocation that failed leaves invalid buffers, and these more errors.
    pub(super) async fn end(self) -> Result<(), GpuError> {
        let Self { device, validation, memory } = self;
        let (validation, memory) = (validation.pop(), memory.pop());
        match (memory.await, validation.await) {
            (Some(e), _) | (None, Some(e)) => Err(device.error(e.into())),
            // What no scope is told of, such as a lost device.
            (None, None) => device.check(),
        }
    }
}

/// wgpu's leave to ask for an experimental feature.
fn experimental(features: &Features) -> wgpu::ExperimentalFeatures {
    if features.cooperative.is_empty() {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks its users to expect defects in experimental features. Only cooperative matrices are asked for; no
    // kernel uses them unless its variant enables them, and each such kernel is tested against its reference.
    #[expect(unsafe_code, reason = "the only way to ask for cooperative matrices")]
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}
