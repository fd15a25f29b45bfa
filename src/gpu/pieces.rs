//! Reads a state in pieces while the launches behind those that write it still run.

use super::debugger::Groups;
use super::faults::Call;
use super::store::from_bits;
use super::{Executable, GpuError};
use crate::graph::{Home, State};
use crate::shader::Access;
use futures_channel::oneshot;
use std::collections::VecDeque;
use std::ops::Range;

/// The pieces of an f32 state, in the order in which an executable is done with them.
pub struct Pieces {
    list: Vec<Piece>,
}

/// Neighbouring elements of a state.
struct Piece {
    elements: Range<usize>,
    /// The last launch that writes to them.
    ready: usize,
    /// The part of the arithmetic up to it.
    done: f64,
    /// What they lie in.
    buffer: usize,
    staging: wgpu::Buffer,
}

/// A piece that is being copied to the host.
struct Copied<'p> {
    piece: &'p Piece,
    submission: wgpu::SubmissionIndex,
    mapped: oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
}

impl Pieces {
    /// Their elements, in order.
    pub fn elements(&self) -> impl Iterator<Item = &Range<usize>> {
        self.list.iter().map(|piece| &piece.elements)
    }

    /// The part of an executable's arithmetic that is done when each of them is, and how many elements it has.
    pub fn progress(&self) -> impl Iterator<Item = (f64, usize)> {
        self.list.iter().map(|piece| (piece.done, piece.elements.len()))
    }
}

impl Executable {
    /// An f32 state that this writes, in pieces of at most so many elements.
    ///
    /// # Errors
    /// No memory to copy them to, or nothing here writes the state.
    pub fn pieces(&self, state: &State, length: usize) -> Result<Pieces, GpuError> {
        let is_state = |b: &crate::graph::PlannedBuffer| b.home == Home::State && b.name == state.name;
        let Some(buffer) = self.plan.buffers.iter().position(is_state) else {
            return Err(GpuError::NotKept { tensor: state.name.clone() });
        };
        let written: Vec<(usize, Range<u64>)> = (0..self.launches.len())
            .flat_map(|number| self.writes(number, buffer).map(move |bytes| (number, bytes)))
            .collect();
        let elements = state.spec.shape.elements();
        let mut list: Vec<Piece> = (0..elements)
            .step_by(length.max(1))
            .map(|first| {
                let elements = first..elements.min(first + length);
                let bytes = 4 * elements.start as u64..4 * elements.end as u64;
                let overlaps = |other: &Range<u64>| other.start < bytes.end && bytes.start < other.end;
                let ready = written.iter().rev().find(|(_, other)| overlaps(other));
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                let staging = self.device.buffer("piece of a state", bytes.end - bytes.start, usage);
                let ready = ready.map_or(0, |found| found.0);
                let done = self.flops(0..ready + 1) as f64 / self.flops(0..self.launches.len()).max(1) as f64;
                Piece { elements, ready, done, buffer, staging }
            })
            .collect();
        list.sort_by_key(|piece| piece.ready);
        self.device.check()?;
        Ok(Pieces { list })
    }

    /// The bytes of a buffer that a launch may write.
    fn writes(&self, number: usize, buffer: usize) -> impl Iterator<Item = Range<u64>> {
        let interface = &self.launches[number].pipeline.interface;
        self.plan.launches[number]
            .bindings
            .iter()
            .filter(move |binding| {
                let writes =
                    |name| interface.bindings.iter().any(|b| b.name == name && b.access == Access::ReadWrite);
                binding.buffer == buffer && writes(binding.name)
            })
            .map(|binding| binding.offset..binding.offset + binding.size)
    }

    /// Runs as [`Executable::run`] does, and gives each piece to `visit` once no launch is left that writes to it, while later
    /// ones run. Returns when all have been given.
    pub async fn run_in_pieces(
        &self,
        pieces: &Pieces,
        mut visit: impl FnMut(Range<usize>, Vec<f32>),
    ) -> Result<(), GpuError> {
        let mut left = pieces.list.iter().peekable();
        let mut copied: VecDeque<Copied> = VecDeque::new();
        for whole in self.submissions() {
            let mut start = whole.start;
            while start < whole.end {
                // 1. As far as the next piece is ready.
                let end = left.peek().map_or(whole.end, |piece| whole.end.min(piece.ready + 1));
                let mut encoder = self.device.encoder();
                {
                    let mut pass = self.pass(&mut encoder, start, None);
                    let mut groups = Groups::default();
                    for number in start..end {
                        groups.enter(&mut pass, self, number);
                        self.encode_in(&mut pass, number);
                    }
                    groups.leave(&mut pass);
                }
                // 2. Its copy, and those of others that are ready with it.
                let mut ready = Vec::new();
                while let Some(piece) = left.next_if(|piece| piece.ready < end) {
                    let bytes = 4 * piece.elements.len() as u64;
                    let (from, offset) = (&self.buffers[piece.buffer], 4 * piece.elements.start as u64);
                    encoder.copy_buffer_to_buffer(from, offset, &piece.staging, 0, bytes);
                    ready.push(piece);
                }
                let submission = self.device.submit_work(encoder, self.flops(start..end)).await?;
                for piece in ready {
                    let (sender, mapped) = oneshot::channel();
                    self.device.before(Call::Map);
                    piece.staging.map_async(wgpu::MapMode::Read, .., move |result| {
                        let _ = sender.send(result);
                    });
                    copied.push_back(Copied { piece, submission: submission.clone(), mapped });
                }
                // 3. Those that have arrived meanwhile.
                while let Some(first) = copied.front_mut() {
                    let Ok(Some(result)) = first.mapped.try_recv() else { break };
                    self.take(first.piece, result, &mut visit)?;
                    copied.pop_front();
                }
                start = end;
            }
        }
        for Copied { piece, submission, mapped } in copied {
            self.device.poll(Some(submission))?;
            let result = mapped.await.map_err(|e| self.device.failed(&e))?;
            self.take(piece, result, &mut visit)?;
        }
        Ok(())
    }

    fn take(
        &self,
        piece: &Piece,
        mapped: Result<(), wgpu::BufferAsyncError>,
        visit: &mut impl FnMut(Range<usize>, Vec<f32>),
    ) -> Result<(), GpuError> {
        mapped.map_err(|e| self.device.failed(&e))?;
        let values = {
            let view = piece.staging.get_mapped_range(..).map_err(|e| self.device.failed(&e))?;
            from_bits(&bytemuck::pod_collect_to_vec::<u8, u32>(&view))
        };
        piece.staging.unmap();
        visit(piece.elements.clone(), values);
        Ok(())
    }
}
