//! States and working memory that the plans of one device share.

use super::device::lock;
use super::{Device, GpuError};
use crate::graph::SlotPool;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Whatever a kernel may read or write.
pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// States shared by name among the plans of one device: parameters, moments, gradients.
#[derive(Debug)]
pub struct Store {
    device: Arc<Device>,
    states: Mutex<HashMap<String, wgpu::Buffer>>,
    /// Working memory by rank: plans of one store run one after another on one queue, so they share it.
    slots: Mutex<(SlotPool, Vec<wgpu::Buffer>)>,
}

impl Store {
    /// An empty store.
    pub fn new(device: &Arc<Device>) -> Arc<Self> {
        Arc::new(Self { device: device.clone(), states: Mutex::default(), slots: Mutex::default() })
    }

    /// The device that holds the states.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn state(&self, name: &str, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        let mut states = lock(&self.states);
        if let Some(buffer) = states.get(name) {
            if buffer.size() != bytes {
                return Err(GpuError::StateSize { name: name.into(), found: buffer.size(), needed: bytes });
            }
            return Ok(buffer.clone());
        }
        let buffer = self.device.buffer(name, bytes, STORAGE);
        states.insert(name.into(), buffer.clone());
        Ok(buffer)
    }

    /// The slot of this rank, and the bytes that were allocated for it now.
    pub(super) fn slot(&self, rank: usize, name: &str, bytes: u64) -> (wgpu::Buffer, u64) {
        let mut slots = lock(&self.slots);
        let (pool, buffers) = &mut *slots;
        if pool.fits(rank, bytes) {
            return (buffers[rank].clone(), 0);
        }
        let buffer = self.device.buffer(name, bytes, STORAGE);
        pool.add(rank, bytes);
        match buffers.get_mut(rank) {
            Some(slot) => *slot = buffer.clone(),
            None => buffers.push(buffer.clone()),
        }
        (buffer, bytes)
    }

    /// Fills a state, making it if need be. New states are zero.
    pub fn write(&self, name: &str, data: &[f32]) -> Result<(), GpuError> {
        let buffer = self.state(name, (data.len() as u64 * 4).max(4))?;
        self.device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
        self.device.check()
    }

    /// Reads a state; `None` if there is none of this name.
    pub async fn read(&self, name: &str) -> Result<Option<Vec<f32>>, GpuError> {
        let Some(buffer) = lock(&self.states).get(name).cloned() else { return Ok(None) };
        Ok(Some(from_bits(&self.device.read_words(&buffer, 0, buffer.size()).await?)))
    }

    /// Device bytes of all states.
    pub fn bytes(&self) -> u64 {
        lock(&self.states).values().map(wgpu::Buffer::size).sum()
    }
}

/// Words as the f32 numbers that they are.
pub(super) fn from_bits(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&w| f32::from_bits(w)).collect()
}
