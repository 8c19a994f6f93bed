//! A sample dataset: one raw file of random bytes that is gone when the command ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::options::Options;
use super::progress::Watch;
use crate::failure::{Failure, Result};
use crate::linux::{cache, file};
use crate::size;

const DEFAULT_BYTES: u64 = 2 << 30;
/// What is written at once.
const PIECE_BYTES: usize = 8 << 20;

/// The file, and the directory that is removed with it.
pub(super) struct Sample {
    pub(super) path: PathBuf,
    _directory: TempDir,
}

pub(super) fn make(options: &Options) -> Result<Sample> {
    let parent = options.dir.clone().unwrap_or_else(default_directory);
    let bytes = sample_bytes(options, &parent)?;
    let directory = tempfile::Builder::new()
        .prefix("strait-bench-")
        .tempdir_in(&parent)
        .map_err(|e| Failure::file("make a directory in", &parent, &e))?;
    let path = directory.path().join("sample.bin");
    write(&path, bytes)?;
    Ok(Sample { path, _directory: directory })
}

/// The temporary directory often is a tmpfs, which would measure memory and not a disk.
fn default_directory() -> PathBuf {
    let temporary = std::env::temp_dir();
    let in_memory = |path: &Path| file::file_system(path).is_ok_and(|fs| matches!(fs.name.as_str(), "tmpfs" | "ramfs"));
    let other = PathBuf::from("/var/tmp");
    if in_memory(&temporary) && other.is_dir() && !in_memory(&other) { other } else { temporary }
}

/// Whole records, and never so much that the disk runs full.
fn sample_bytes(options: &Options, parent: &Path) -> Result<u64> {
    let free = file::file_system(parent).map_err(|e| Failure::file("examine", parent, &e))?.free_bytes;
    let wanted = options.size.unwrap_or(DEFAULT_BYTES.min(free / 4));
    if wanted > free / 4 {
        return Err(Failure::new(
            format!("a sample of {} in {}", size::show(wanted), parent.display()),
            format!("{} are free there, and the sample takes at most a quarter", size::show(free)),
            format!("take --size {}MiB or less, or another place with --dir", (free / 4) >> 20),
        ));
    }
    let bytes = wanted - wanted % options.record_bytes();
    if bytes == 0 {
        return Err(Failure::usage(
            format!("a sample of {} holds no record of {}", size::show(wanted), size::show(options.record_bytes())),
            "the sample consists of whole records",
            "raise --size or lower --record-bytes",
        ));
    }
    Ok(bytes)
}

fn write(path: &Path, bytes: u64) -> Result<()> {
    let failed = |e: std::io::Error| Failure::file("write the sample", path, &e);
    let mut file = File::create_new(path).map_err(failed)?;
    // SAFETY: no memory is involved. Where the file system cannot reserve space, writing finds out.
    unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) };
    let mut watch = Watch::new(1);
    watch.stage(format!("writing a sample of {}", size::show(bytes)), bytes, None);
    let mut piece = vec![0u8; PIECE_BYTES];
    let mut state = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64) | 1;
    let mut written = 0;
    while written < bytes {
        let len = (bytes - written).min(PIECE_BYTES as u64) as usize;
        fill(&mut piece, &mut state);
        file.write_all(&piece[..len]).map_err(failed)?;
        written += len as u64;
        if written % (256 << 20) == 0 {
            // Dirty pages that pile up would make one long wait of the last fsync.
            file.sync_data().map_err(failed)?;
        }
        watch.tick(written)?;
    }
    file.sync_all().map_err(failed)?;
    cache::evict(path).map_err(failed)
}

/// xorshift64*: no disk and no file system can compress or deduplicate it.
fn fill(piece: &mut [u8], state: &mut u64) {
    for word in piece.as_chunks_mut::<8>().0 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        *word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
    }
}
