//! States and working memory that the plans of one device share.

use super::device::lock;
use super::{Device, GpuError};
use crate::graph::{Caps, SlotPool, State};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Whatever a kernel may read or write.
pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// States shared among the plans of one device: parameters, moments, gradients.
#[derive(Debug)]
pub struct Store {
    device: Arc<Device>,
    caps: Caps,
    states: Mutex<HashMap<String, wgpu::Buffer>>,
    /// Working memory by rank: plans of one store run one after another on one queue, so they share it.
    slots: Mutex<(SlotPool, Vec<wgpu::Buffer>)>,
}

impl Store {
    /// An empty store.
    pub fn new(device: &Arc<Device>) -> Arc<Self> {
        Self::with_caps(device, device.caps.clone())
    }

    /// The same for plans that ask for less than the device has.
    pub fn with_caps(device: &Arc<Device>, caps: Caps) -> Arc<Self> {
        Arc::new(Self { device: device.clone(), caps, states: Mutex::default(), slots: Mutex::default() })
    }

    /// The device that holds the states.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// What its plans may ask for.
    pub fn caps(&self) -> &Caps {
        &self.caps
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
    ///
    /// # Errors
    /// [`GpuError::StateSize`]: `data` is not as long as the state.
    pub fn write(&self, state: &State, data: &[f32]) -> Result<(), GpuError> {
        self.write_bytes(state, bytemuck::cast_slice(data))
    }

    /// The same for a u32 state.
    pub fn write_u32(&self, state: &State, data: &[u32]) -> Result<(), GpuError> {
        self.write_bytes(state, bytemuck::cast_slice(data))
    }

    /// Fills a part of an f32 state from an element on.
    pub fn write_at(&self, state: &State, first: usize, data: &[f32]) -> Result<(), GpuError> {
        let buffer = self.state(&state.name, state.spec.padded_bytes())?;
        self.device.write(&buffer, 4 * first as u64, bytemuck::cast_slice(data));
        self.device.check()
    }

    fn write_bytes(&self, state: &State, bytes: &[u8]) -> Result<(), GpuError> {
        let (found, needed) = (bytes.len() as u64, state.spec.bytes() as u64);
        if found != needed {
            return Err(GpuError::StateSize { name: state.name.clone(), found, needed });
        }
        let buffer = self.state(&state.name, state.spec.padded_bytes())?;
        self.device.write(&buffer, 0, bytes);
        self.device.check()
    }

    /// Waits, and reads a state; zeros if nothing has written it yet.
    pub async fn read(&self, state: &State) -> Result<Vec<f32>, GpuError> {
        Ok(from_bits(&self.read_u32(state).await?))
    }

    /// The same with the words as they are.
    pub async fn read_u32(&self, state: &State) -> Result<Vec<u32>, GpuError> {
        if state.spec.shape.elements() == 0 {
            return Ok(Vec::new());
        }
        let bytes = state.spec.padded_bytes();
        self.device.read_words(&self.state(&state.name, bytes)?, 0, bytes).await
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
