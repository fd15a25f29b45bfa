//! One launch of a plan by itself, again and again from the same memory, also with parts of its kernel behind a switch.

use super::executable::Prepared;
use super::store::STORAGE;
use super::{Clock, Device, Executable, GpuError, Timing};
use crate::graph::Binding;
use crate::shader::{Access, Expanded, Switched};
use std::sync::Arc;
use web_time::Instant;

/// A launch, what it writes, and how that was before.
pub struct Alone<'a> {
    device: &'a Arc<Device>,
    launch: &'a Prepared,
    entry: &'static str,
    written: Vec<Written<'a>>,
    layout: wgpu::BindGroupLayout,
    off: wgpu::BindGroup,
    on: wgpu::BindGroup,
}

/// A range that a launch may write, and a copy of it.
struct Written<'a> {
    buffer: &'a wgpu::Buffer,
    binding: &'a Binding,
    saved: wgpu::Buffer,
}

/// A kernel with parts behind a switch.
pub struct InParts(wgpu::ComputePipeline);

/// A kernel as it is, or with parts of it behind a switch that is on or off.
#[derive(Clone, Copy)]
pub enum Form<'a> {
    /// As it is.
    Plain,
    /// The parts run.
    On(&'a InParts),
    /// They do not.
    Off(&'a InParts),
}

impl Executable {
    /// Takes a launch of the plan, by its number, with the device's memory as it is now. Whatever runs in between, each run of
    /// the launch finds what it writes as it was when this was called, and the rest as it was left.
    pub async fn alone(&self, number: usize) -> Result<Alone<'_>, GpuError> {
        let (device, launch) = (&self.device, &self.launches[number]);
        let planned = &self.plan.launches[number];
        let scopes = device.scopes();
        let writes = launch.pipeline.interface.bindings.iter().filter(|b| b.access == Access::ReadWrite);
        let written: Vec<Written> = writes
            .filter_map(|info| planned.bindings.iter().find(|b| b.name == info.name))
            .map(|binding| Written {
                buffer: &self.buffers[binding.buffer],
                binding,
                saved: device.buffer("what a launch writes", binding.size, STORAGE),
            })
            .collect();
        let mut encoder = device.encoder();
        for Written { buffer, binding, saved } in &written {
            encoder.copy_buffer_to_buffer(buffer, binding.offset, saved, 0, binding.size);
        }
        let layout = device.uniform_layout("switch");
        let switch = |is_on: u32| {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = device.buffer("switch", 4, usage);
            device.write(&buffer, 0, &is_on.to_le_bytes());
            let entry = wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() };
            device.bind_group("switch", &layout, &[entry])
        };
        let (off, on) = (switch(0), switch(1));
        scopes.end().await?;
        device.submit(encoder).await?;
        Ok(Alone { device, launch, entry: planned.dispatch.entry, written, layout, off, on })
    }
}

impl Alone<'_> {
    /// What the kernel was compiled from, where that is a user's file.
    pub fn edited(&self) -> Option<&Expanded> {
        self.launch.pipeline.edited.as_ref()
    }

    /// Compiles the kernel with parts behind a switch: as itself, with wgpu's checks if it is a user's and without if it is not.
    pub async fn in_parts(&self, switched: &Switched) -> Result<InParts, GpuError> {
        let kernel = &self.launch.pipeline;
        Ok(InParts(self.device.switched(kernel, self.entry, switched, &self.layout).await?))
    }

    /// Runs each form from the same memory, `repeats` times in one pass and submission, and times each.
    pub async fn run_timed(
        &self,
        clock: Clock,
        forms: &[Form<'_>],
        repeats: usize,
    ) -> Result<Timing, GpuError> {
        let waits = clock == Clock::Waiting;
        let mut timing = match waits {
            true => Timing::of_waiting(self.device),
            false => Timing::of_timestamps(self.device, 2 * forms.len()),
        };
        timing.first_submitted = Some(Instant::now());
        for (i, form) in forms.iter().enumerate() {
            self.restore().await?;
            if waits {
                self.device.idle().await?;
            }
            let mut encoder = self.device.encoder();
            if waits {
                self.encode(&mut encoder, form, repeats, None);
            } else {
                timing.launch(2 * i, 2 * i + 1);
                let (query_set, begin) = timing.query(2 * i);
                let timestamps = wgpu::ComputePassTimestampWrites {
                    query_set,
                    beginning_of_pass_write_index: Some(begin),
                    end_of_pass_write_index: Some(begin + 1),
                };
                self.encode(&mut encoder, form, repeats, Some(timestamps));
            }
            if !waits && i + 1 == forms.len() {
                timing.resolve(&mut encoder);
            }
            let start = Instant::now();
            self.device.submit(encoder).await?;
            if waits {
                self.device.idle().await?;
                timing.waited_for(start.elapsed().as_secs_f64());
            }
        }
        Ok(timing)
    }

    /// Runs a form once, and reads the words of each range that it may write.
    pub async fn results(&self, form: Form<'_>) -> Result<Vec<Vec<u32>>, GpuError> {
        self.restore().await?;
        let mut encoder = self.device.encoder();
        self.encode(&mut encoder, &form, 1, None);
        self.device.submit(encoder).await?;
        let mut results = Vec::with_capacity(self.written.len());
        for Written { buffer, binding, .. } in &self.written {
            results.push(self.device.read_words(buffer, binding.offset, binding.size).await?);
        }
        Ok(results)
    }

    /// Puts back what the launch writes.
    pub async fn restore(&self) -> Result<(), GpuError> {
        let mut encoder = self.device.encoder();
        for Written { buffer, binding, saved } in &self.written {
            encoder.copy_buffer_to_buffer(saved, 0, buffer, binding.offset, binding.size);
        }
        self.device.submit(encoder).await
    }

    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        form: &Form,
        repeats: usize,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites>,
    ) {
        let label = Some(self.launch.pipeline.label.as_str());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes });
        let (pipeline, switch) = match form {
            Form::Plain => (&self.launch.pipeline.pipeline, None),
            Form::On(InParts(pipeline)) => (pipeline, Some(&self.on)),
            Form::Off(InParts(pipeline)) => (pipeline, Some(&self.off)),
        };
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &self.launch.bind_group, &[]);
        if let Some(switch) = switch {
            pass.set_bind_group(1, switch, &[]);
        }
        let [x, y, z] = self.launch.groups;
        (0..repeats).for_each(|_| pass.dispatch_workgroups(x, y, z));
    }
}
