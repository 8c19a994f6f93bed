//! Shards to measure with: as large as asked for, and every page known.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use strait::sim::Rng;

use crate::check::Outcome;

const PAGE: usize = 4096;
const SHARD_BYTES: u64 = 512 << 20;
const BLOCK: usize = 4 << 20;

pub(super) struct Files {
    pub(super) paths: Vec<PathBuf>,
    pub(super) bytes: u64,
    noise: Vec<u8>,
    _directory: tempfile::TempDir,
}

impl Files {
    /// Writes `gib` GiB, brings them to the storage, and takes them out of the page cache.
    pub(super) fn write(directory: &Path, gib: u64) -> Outcome<Files> {
        let directory = tempfile::tempdir_in(directory)?;
        let mut rng = Rng::new(23);
        let noise = (0..BLOCK / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        let mut files = Files { paths: Vec::new(), bytes: gib << 30, noise, _directory: directory };
        let mut block = vec![0; BLOCK];
        for shard in 0..files.bytes / SHARD_BYTES {
            let path = files._directory.path().join(format!("{shard:04}.bin"));
            let mut file = File::create(&path)?;
            for at in (0..SHARD_BYTES).step_by(BLOCK) {
                files.fill(shard * SHARD_BYTES + at, &mut block);
                file.write_all(&block)?;
            }
            file.sync_all()?;
            // SAFETY: advice about an open file; it touches no memory of ours.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            files.paths.push(path);
        }
        Ok(files)
    }

    /// What stands at byte `offset` of all shards together: noise, and on each page its own number. Whole pages.
    pub(super) fn fill(&self, offset: u64, target: &mut [u8]) {
        for (index, page) in target.chunks_mut(PAGE).enumerate() {
            let number = offset / PAGE as u64 + index as u64;
            let from = number as usize % (BLOCK / PAGE) * PAGE;
            page.copy_from_slice(&self.noise[from..from + page.len()]);
            page[..8].copy_from_slice(&number.to_le_bytes());
        }
    }
}
