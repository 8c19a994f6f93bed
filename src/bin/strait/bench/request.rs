//! What a bench run amounts to, for strait and for its references alike.

use std::path::PathBuf;

use strait::order::Rank;

use super::options::{DeviceOption, Options, RingOption};
use crate::failure::{Failure, Result};
use crate::linux::pages::ALIGN;

/// What to read, and how: the same for strait and for its references.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// As on the command line: files, directories, indexes.
    pub(crate) named: Vec<PathBuf>,
    /// The shards' files.
    pub(crate) paths: Vec<PathBuf>,
    /// Of all files together.
    pub(crate) file_bytes: u64,
    pub(crate) block_bytes: u64,
    pub(crate) depth: usize,
    pub(crate) batch: usize,
    pub(crate) record_bytes: u64,
    /// How the paths are opened.
    pub(crate) dataset: strait::dataset::Options,
    pub(crate) shuffle: bool,
    pub(crate) ring: RingOption,
    pub(crate) device: DeviceOption,
    pub(crate) rank: Rank,
    pub(crate) seconds: Option<f64>,
    pub(crate) seed: u64,
}

impl Request {
    /// `sample_bytes` is the mean size of a sample; for raw files that of a record.
    pub(super) fn new(
        options: &Options,
        named: Vec<PathBuf>,
        paths: Vec<PathBuf>,
        sample_bytes: u64,
    ) -> Result<Request> {
        let mut file_bytes = 0;
        for path in &paths {
            file_bytes += std::fs::metadata(path).map_err(|e| Failure::file("examine", path, &e))?.len();
        }
        let environment = |name: &str| std::env::var(name).ok();
        let rank = match options.rank_from_env {
            true => Rank::given_or_from_env(None, environment)?,
            false => Rank::SINGLE,
        };
        let batch = options.batch.unwrap_or(((32 << 20) / sample_bytes.max(1)).clamp(1, 1024) as u32);
        Ok(Request {
            named,
            paths,
            file_bytes,
            block_bytes: options.block_bytes,
            depth: options.depth as usize,
            batch: batch as usize,
            record_bytes: sample_bytes,
            dataset: options.dataset(),
            shuffle: options.shuffle,
            ring: options.ring,
            device: options.device,
            rank,
            seconds: options.seconds,
            seed: 0,
        })
    }

    /// The size of the references' reads: what the disk has to serve for one read of strait's.
    pub(crate) fn reference_bytes(&self) -> u64 {
        let wanted = if self.shuffle { self.record_bytes.min(self.block_bytes) } else { self.block_bytes };
        wanted.next_multiple_of(ALIGN as u64)
    }

    /// What of `bytes` read by a reference was asked for: all, but for the rounding of records to direct blocks.
    pub(super) fn useful_bytes(&self, bytes: u64) -> u64 {
        if self.shuffle && self.record_bytes < self.block_bytes {
            (bytes as f64 * self.record_bytes as f64 / self.reference_bytes() as f64) as u64
        } else {
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_reads_what_the_disk_has_to_serve() {
        let mut request = Request {
            named: vec![],
            paths: vec![],
            file_bytes: 0,
            block_bytes: 4 << 20,
            depth: 8,
            batch: 1,
            record_bytes: 100_000,
            dataset: strait::Dataset::options(),
            shuffle: true,
            ring: RingOption::Auto,
            device: DeviceOption::Auto,
            rank: Rank::SINGLE,
            seconds: None,
            seed: 0,
        };
        assert_eq!((request.reference_bytes(), request.useful_bytes(1_024_000)), (102_400, 1_000_000));
        request.record_bytes = 64 << 20;
        assert_eq!(request.reference_bytes(), 4 << 20);
        request.shuffle = false;
        assert_eq!(request.reference_bytes(), 4 << 20);
    }
}
