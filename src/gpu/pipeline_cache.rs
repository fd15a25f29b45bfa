//! What the driver compiled, kept in a folder from run to run: on backends where wgpu has a pipeline cache, which is Vulkan.

use super::device::lock;
use crate::io::atomic::write_atomic;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A file longer than this is not read. All kernels of the largest preset are some megabytes.
const MOST_BYTES: u64 = 256 << 20;

/// Bytes of the checksum that stands before the data.
const CHECKSUM_BYTES: usize = 4;

/// The file is written no more often than this, and at the end: measuring every algorithm compiles some 500 kernels one after the
/// other, and the file grows to megabytes.
const INTERVAL: Duration = Duration::from_secs(2);

/// The driver's pipelines of one device, and the file in which they are kept.
pub(super) struct PipelineCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    saved: Mutex<Saved>,
}

struct Saved {
    /// The checksum of what the file holds.
    checksum: Option<u32>,
    /// When it was compared last.
    at: Option<Instant>,
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        lock(&self.saved).at = None;
        self.save();
    }
}

impl PipelineCache {
    /// Begins with what the folder has of this adapter and driver, if it can be used. `None` where the backend keeps nothing.
    pub(super) fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        let path = folder.join(wgpu::util::pipeline_cache_key(adapter)?);
        let found = read(&path);
        let data = found.as_ref().map(|(_, data)| data.as_slice());
        let label = Some("pipelines of earlier runs");
        // SAFETY: the data are what an earlier run wrote for this adapter, whole by their checksum, in a folder of the user's own.
        // wgpu compares the adapter and the driver's key in their header, and begins with an empty cache where they differ.
        #[expect(unsafe_code, reason = "the only way to a pipeline cache")]
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label, data, fallback: true })
        };
        let checksum = found.map(|(checksum, _)| checksum);
        Some(Self { cache, path, saved: Mutex::new(Saved { checksum, at: None }) })
    }

    /// Writes the file anew if the driver has other data by now, and if that was not asked a moment ago. What cannot be written is
    /// compiled again by the next run.
    pub(super) fn save(&self) {
        let mut saved = lock(&self.saved);
        if saved.at.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        saved.at = Some(Instant::now());
        let Some(data) = self.cache.get_data() else { return };
        let checksum = crc32fast::hash(&data);
        if saved.checksum == Some(checksum) {
            return;
        }
        let written = self.path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok())
            && write_atomic(&self.path, |file| {
                file.write_all(&checksum.to_le_bytes())?;
                file.write_all(&data)
            })
            .is_ok();
        if written {
            saved.checksum = Some(checksum);
        }
    }
}

/// The checksum and the data of a file, unless it is missing, damaged or too long.
fn read(path: &Path) -> Option<(u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MOST_BYTES + 1).read_to_end(&mut bytes).ok()?;
    let (checksum, data) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
    let checksum = u32::from_le_bytes(*checksum);
    let whole = bytes.len() as u64 <= MOST_BYTES && crc32fast::hash(data) == checksum;
    whole.then(|| (checksum, data.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipelines");
        assert_eq!(read(&path), None);
        let data = b"what a driver keeps";
        let checksum = crc32fast::hash(data);
        let mut bytes = checksum.to_le_bytes().to_vec();
        bytes.extend_from_slice(data);
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(read(&path), Some((checksum, data.to_vec())));
        for damaged in [&bytes[..bytes.len() - 1], &bytes[..3], &[&bytes[..10], b"x", &bytes[11..]].concat()]
        {
            std::fs::write(&path, damaged).expect("written");
            assert_eq!(read(&path), None);
        }
    }
}
