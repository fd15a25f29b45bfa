//! Speed: a training step, a sampler step, single operators; medians over runs that are each waited for.

mod memory;

pub use memory::{Traffic, memory_speeds};

use crate::diffusion::{Sampler, Trajectory, UNet};
use crate::gpu::{Blocking as _, Device, Executable, GpuError, RunError};
use crate::graph::{Candidate, Choices};
use crate::ops::Case;
use crate::rng::{Philox, Stream};
use crate::sample::PictureSampler;
use crate::train::{Diffusion, Group, StepOptions, TrainConfig, TrainError, TrainPlans, Trainer, tuned};
use crate::tune::{Effort, OneOperator};
use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Times of repeated runs, in seconds.
#[derive(Clone, Debug)]
pub struct Times(Vec<f64>);

impl Times {
    /// Runs and waits, `warmup` times without and `runs` times with a clock.
    pub fn of<E>(warmup: usize, runs: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        for _ in 0..warmup {
            run()?;
        }
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs.max(1) {
            let start = Instant::now();
            run()?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(Self::new(times))
    }

    /// These times, in any order; at least one.
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let n = self.0.len();
        0.5 * (self.0[(n - 1) / 2] + self.0[n / 2])
    }

    /// The fastest.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The slowest.
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// The speed of one algorithm for one operator.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OpSpeed {
    /// The candidate's name.
    pub algorithm: &'static str,
    /// Seconds, median.
    pub median_s: f64,
    /// 1e9 operations per second.
    pub gflops: f64,
    /// 1e9 bytes per second, each tensor read or written once.
    pub gbps: f64,
}

/// Times the candidates that a device has for a case and whose algorithm's name contains `algorithm`, each with its number among all
/// of them, of which the rule's choice is 0.
pub fn op_speeds(
    device: &Arc<Device>,
    case: &Case,
    algorithm: &str,
    repeats: Repeats,
) -> Result<Vec<(usize, OpSpeed)>, RunError> {
    let one = OneOperator::new(case.op.clone(), case.inputs.iter().map(|(spec, _)| spec.clone()))?;
    let (cost, arrays) = (one.cost(), case.arrays());
    let speed = |(number, candidate): (usize, Candidate)| -> Result<(usize, OpSpeed), RunError> {
        let executable = one.executable(device, &candidate)?;
        for (&value, array) in one.inputs.iter().zip(&arrays) {
            executable.write_values(value, &array.data);
        }
        let times = Times::of(repeats.warmup, repeats.runs, || -> Result<(), GpuError> {
            executable.run().block_on()?;
            device.idle().block_on()
        })?;
        let median_s = times.median();
        let speed = OpSpeed {
            algorithm: candidate.algorithm,
            median_s,
            gflops: cost.flops() as f64 / median_s * 1e-9,
            gbps: (cost.bytes_read + cost.bytes_written) as f64 / median_s * 1e-9,
        };
        Ok((number, speed))
    };
    let candidates = one.candidates(&device.caps).into_iter().enumerate();
    candidates.filter(|(_, candidate)| candidate.algorithm.contains(algorithm)).map(speed).collect()
}

/// Seconds, pictures and operations per second of repeated steps.
#[derive(Clone, Debug, Serialize)]
pub struct StepSpeed {
    /// Median seconds of a step that is waited for.
    pub median_s: f64,
    /// Fastest.
    pub min_s: f64,
    /// Slowest.
    pub max_s: f64,
    /// Pictures per second at the median.
    pub images_per_s: f64,
    /// Convolution and matrix-product operations of one step.
    pub model_flops: u64,
    /// Those per second at the median.
    pub achieved_flops_per_s: f64,
    /// Mean seconds when the device is waited for only once, at the end.
    pub mean_unsynchronised_s: f64,
    /// Mean CPU seconds of the whole process in those steps, over all threads.
    pub mean_cpu_s: f64,
    /// The most host memory that the process has had so far; absent where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
    /// Device bytes allocated.
    pub peak_device_bytes: u64,
}

/// Model FLOPs per picture.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FlopsPerImage {
    /// Forward alone.
    pub forward: u64,
    /// Forward and backward.
    pub forward_backward: u64,
}

/// What `inkwash bench step` prints; the keys are those of common PyTorch benchmarks, so that they compare.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The preset.
    pub config: String,
    /// The adapter.
    pub device: String,
    /// Its interface.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Which algorithms.
    pub kernels: String,
    /// `fp32` or `fp16`.
    pub dtype: String,
    /// Operators that were measured for the fastest algorithm, and those of them that got another than the rule's.
    pub tuned: [usize; 2],
    /// Pictures per step.
    pub batch: usize,
    /// Always false: there is no tracing compiler.
    pub compile: bool,
    /// Always true: activations are NHWC.
    pub channels_last: bool,
    /// `inkwash`.
    pub model: &'static str,
    /// The program's version.
    pub inkwash: &'static str,
    /// Always null: a PyTorch benchmark has its version here.
    pub torch: Option<&'static str>,
    /// Processors that the host may use.
    pub threads: usize,
    /// Parameters of the network.
    pub parameters: usize,
    /// Model FLOPs per picture.
    pub flops_per_image: FlopsPerImage,
    /// Planned device bytes of the training plans.
    pub planned_device_bytes: u64,
    /// Forward, loss, backward, AdamW, moving average.
    pub train: StepSpeed,
    /// One DDIM step.
    pub ddim_step: StepSpeed,
    /// Host memory of the process before the network was built; absent where the system does not tell.
    pub rss_before_model_bytes: Option<u64>,
}

/// How often to run.
#[derive(Clone, Copy, Debug)]
pub struct Repeats {
    /// Runs without a clock.
    pub warmup: usize,
    /// Runs with one.
    pub runs: usize,
}

/// A figure of this process from Linux's /proc, in bytes.
fn host_memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn step_speed(
    batch: usize,
    model_flops: u64,
    bytes: u64,
    repeats: Repeats,
    device: &Device,
    mut submit: impl FnMut() -> Result<(), RunError>,
) -> Result<StepSpeed, RunError> {
    let times = Times::of(repeats.warmup, repeats.runs, || {
        submit()?;
        Ok::<(), RunError>(device.idle().block_on()?)
    })?;
    let (start, cpu_start) = (Instant::now(), ProcessTime::now());
    for _ in 0..repeats.runs.max(1) {
        submit()?;
    }
    device.idle().block_on()?;
    let runs = repeats.runs.max(1) as f64;
    let (mean, mean_cpu) = (start.elapsed().as_secs_f64() / runs, cpu_start.elapsed().as_secs_f64() / runs);
    Ok(StepSpeed {
        median_s: times.median(),
        min_s: times.min(),
        max_s: times.max(),
        images_per_s: batch as f64 / times.median(),
        model_flops,
        achieved_flops_per_s: model_flops as f64 / times.median(),
        mean_unsynchronised_s: mean,
        mean_cpu_s: mean_cpu,
        peak_rss_bytes: host_memory("VmHWM:"),
        peak_device_bytes: bytes,
    })
}

/// Seconds from nothing to the end of the first training step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The device is opened.
    pub open_s: f64,
    /// Plans, buffers, kernels as wgpu makes them; many drivers compile them here.
    pub prepare_s: f64,
    /// The first step is waited for; some drivers compile only now.
    pub first_step_s: f64,
    /// The second step, for comparison.
    pub second_step_s: f64,
}

impl Start {
    /// To the end of the first step.
    pub fn total_s(&self) -> f64 {
        self.open_s + self.prepare_s + self.first_step_s
    }
}

/// Opens a device, prepares a configuration's training step and runs it twice on made-up pictures.
pub fn start<E>(
    open: impl FnOnce() -> Result<Arc<Device>, E>,
    config: &TrainConfig,
) -> Result<Start, TrainError>
where
    TrainError: From<E>,
{
    let mut last = Instant::now();
    let mut since_last = || std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64();
    let device = open()?;
    let open_s = since_last();
    let (mut trainer, pictures) = made_up_run(&device, config, Choices::default(), &Group::alone())?;
    let prepare_s = since_last();
    let mut step = || -> Result<f64, TrainError> {
        let hyper = config.hyper(trainer.next_step());
        trainer.step(&hyper, || (pictures.clone(), vec![0; config.batch])).block_on()?;
        device.idle().block_on()?;
        Ok(since_last())
    };
    Ok(Start { open_s, prepare_s, first_step_s: step()?, second_step_s: step()? })
}

/// A run with its initial weights, and a batch of made-up pictures.
pub(crate) fn made_up_run(
    device: &Arc<Device>,
    config: &TrainConfig,
    choices: Choices,
    group: &Group,
) -> Result<(Trainer<Diffusion>, Vec<f32>), TrainError> {
    let network = config.unet_config(0);
    let task = Diffusion::new(UNet::new(&network)?, config);
    let initial = task.unet.parameters.initial(config.seed);
    let (choices, group) = (Arc::new(choices), group.clone());
    let options = StepOptions { choices, group, ..config.step_options() };
    let mut trainer = Trainer::new(device, task, options).block_on()?;
    trainer.set_parameters(&initial)?;
    let (height, width) = network.sample_size.get();
    let mut rng = Philox::new(0, Stream::Cases, 0);
    let pictures = (0..config.batch * height * width * network.in_channels)
        .map(|_| rng.uniform(-1.0, 1.0) as f32)
        .collect();
    Ok((trainer, pictures))
}

/// Measures a training step and a DDIM step of a configuration on made-up pictures, with the algorithms that are found to be the
/// fastest with so much effort; nothing of them is kept.
pub fn bench_step(
    device: &Arc<Device>,
    config: &TrainConfig,
    effort: Effort,
    repeats: Repeats,
) -> Result<StepReport, TrainError> {
    let rss_before_model_bytes = host_memory("VmHWM:");
    let tuning = tuned(device, config, effort, None, &mut |_| ())?;
    let tuned = [tuning.measured, tuning.changed];
    let (mut trainer, pictures) = made_up_run(device, config, tuning.choices, &Group::alone())?;
    let parameters = trainer.task.unet.parameters.count();
    let plans = TrainPlans::new(&trainer.task, &trainer.options, &device.caps)?;
    let planned_device_bytes = plans.bytes();
    let forward_backward = plans.model_flops_per_picture(config.batch);
    drop(plans);
    let bytes = trainer.allocated_bytes();
    let train =
        step_speed(config.batch, forward_backward * config.batch as u64, bytes, repeats, device, || {
            trainer
                .step(&config.hyper(trainer.next_step()), || (pictures.clone(), vec![0; config.batch]))
                .block_on()
        })?;

    let trajectory = Trajectory::new(&config.scheduler(Sampler::Ddim), config.timesteps.min(50), 0.0)?;
    let half_way = trajectory.steps.len() / 2;
    let sampler = PictureSampler::new(
        &trainer.store,
        &trainer.task.unet,
        &trainer.states.ema,
        config.batch,
        trajectory,
    )
    .block_on()?;
    let forward = sampler.model_flops() / config.batch as u64;
    let bytes = sampler.bytes() + trainer.store.bytes();
    let ddim_step = step_speed(config.batch, forward * config.batch as u64, bytes, repeats, device, || {
        sampler.step_by(half_way, Executable::run).block_on()
    })?;
    Ok(StepReport {
        config: serde_json::to_value(config.preset)
            .ok()
            .and_then(|v| v.as_str().map(String::from))
            .unwrap_or_default(),
        device: device.info.name.clone(),
        backend: device.info.backend.clone(),
        driver: device.info.driver.clone(),
        kernels: format!("{:?}", device.caps.kernels).to_lowercase(),
        dtype: format!("fp{}", 8 * config.precision.dtype().bytes()),
        tuned,
        batch: config.batch,
        compile: false,
        channels_last: true,
        model: "inkwash",
        inkwash: env!("CARGO_PKG_VERSION"),
        torch: None,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        parameters,
        flops_per_image: FlopsPerImage { forward, forward_backward },
        planned_device_bytes,
        train,
        ddim_step,
        rss_before_model_bytes,
    })
}
