//! Files to measure with: as large as asked for, as time and room allow, and every page known. Parts that come later find
//! them; so do the scripts.
//!
//! ```text
//! DIR/rates/0000.bin ..                          records: noise, and on each page its own number
//! DIR/model/model-00001-of-0000N.safetensors ..  the same as tensors of 8 MiB, each with a small one behind it
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use strait::sim::Rng;

use crate::check::Outcome;
use crate::options::Options;
use crate::{lines, machine};

const PAGE: usize = 4096;
const BLOCK: usize = 4 << 20;
const SHARD_BYTES_MAX: u64 = 128 << 20;
const LARGE: u64 = 8 << 20;
const SMALL: u64 = 8 << 10;

pub(super) struct Files {
    pub(super) paths: Vec<PathBuf>,
    pub(super) shard_bytes: u64,
    noise: Noise,
}

/// What others are left, where there is as much.
const LEFT_BYTES: u64 = 768 << 20;
/// Of memory, which is so much quicker, there is to be so much more to read.
const IN_MEMORY: f64 = 4.0;

/// Records and a model on the disk and in memory. What there is no room or time for is said, and smaller.
pub(crate) fn write_all(options: &Options) -> Outcome {
    let patience = Duration::from_secs_f64(options.seconds / 4.0);
    let disk = Some((options.gib, room(&options.dir)));
    let memory = options.tmpfs.as_ref().map(|tmpfs| (options.gib * IN_MEMORY, room(tmpfs).min(free_memory() / 2)));
    let places = [("disk", Some(&options.dir), disk), ("tmpfs", options.tmpfs.as_ref(), memory)];
    for (place, directory, (gib, room)) in places.into_iter().filter_map(|(place, path, of)| Some((place, path?, of?)))
    {
        let start = Instant::now();
        // In memory PyTorch's DataLoader needs room too, for as many batches as its workers read ahead.
        let wanted = ((gib * f64::from(1u32 << 30)) as u64).min(room.saturating_sub(LEFT_BYTES).max(room / 4) / 2);
        let bytes = Noise::new().write_shards(&directory.join("rates"), wanted, patience)?;
        let model = bytes.min((2.0 * options.gib * f64::from(1u32 << 30)) as u64);
        let model_bytes = Noise::new().write_model(&directory.join("model"), model, patience)?;
        let seconds = start.elapsed().as_secs_f64();
        let detail = format!("{} MiB of records, {} MiB of tensors, in {seconds:.1} s", bytes >> 20, model_bytes >> 20);
        match bytes {
            0 => lines::skipped(&format!("measurements from {place}"), &format!("{} MiB are free there", room >> 20)),
            _ => lines::check(&format!("files to measure with, on {place}"), Ok(detail)),
        }
    }
    if options.tmpfs.is_none() {
        lines::skipped(
            "measurements from tmpfs",
            "no tmpfs with 512 MiB to spare is mounted, and none may be: --tmpfs names one; \
            containers have one with `--shm-size 16g`",
        );
    }
    Ok(())
}

/// Bytes that may be written to the file system of a directory.
fn room(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(0, |status| status.f_bavail * status.f_frsize)
}

/// Bytes of memory that nobody needs, of this machine and of the control group around us.
fn free_memory() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let of_group = |max: &str, used: &str| Some(number(max)?.saturating_sub(number(used)?));
    let group = of_group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current").or_else(|| {
        let directory = "/sys/fs/cgroup/memory";
        of_group(&format!("{directory}/memory.limit_in_bytes"), &format!("{directory}/memory.usage_in_bytes"))
    });
    let machine = machine::entry("/proc/meminfo", "MemAvailable")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib << 10);
    machine.min(group.unwrap_or(u64::MAX))
}

impl Files {
    /// What [`write_all`] has written to this directory.
    pub(super) fn open(directory: &Path) -> Outcome<Files> {
        let entries = fs::read_dir(directory.join("rates"))?.filter_map(Result::ok);
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        let shard_bytes = paths.first().map_or(Ok(0), |path| fs::metadata(path).map(|file| file.len()))?;
        match shard_bytes {
            0 => Err("there are no files to measure with".into()),
            _ => Ok(Files { paths, shard_bytes, noise: Noise::new() }),
        }
    }

    /// As many of the shards as have about so many bytes together.
    pub(super) fn some(&self, bytes: f64) -> &[PathBuf] {
        let shards = (bytes / self.shard_bytes as f64).ceil() as usize;
        &self.paths[..shards.clamp(1, self.paths.len())]
    }

    /// What stands at byte `offset` of all shards together. Whole pages.
    pub(super) fn fill(&self, offset: u64, target: &mut [u8]) {
        self.noise.fill(offset, target);
    }
}

/// Takes files out of the page cache.
pub(super) fn evict(paths: &[PathBuf]) {
    for file in paths.iter().filter_map(|path| File::open(path).ok()) {
        // SAFETY: advice about an open file; it touches no memory of ours.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

struct Noise(Vec<u8>);

impl Noise {
    fn new() -> Noise {
        let mut rng = Rng::new(23);
        Noise((0..BLOCK / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect())
    }

    fn fill(&self, offset: u64, target: &mut [u8]) {
        for (index, page) in target.chunks_mut(PAGE).enumerate() {
            let number = offset / PAGE as u64 + index as u64;
            let from = number as usize % (BLOCK / PAGE) * PAGE;
            page.copy_from_slice(&self.0[from..from + page.len()]);
            page[..8].copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Until there are as many bytes, or the time is up; how many there are.
    fn write_shards(&self, directory: &Path, bytes: u64, patience: Duration) -> Outcome<u64> {
        fs::create_dir_all(directory)?;
        // At least four, so that there is something to choose from; nothing where that would be too little to measure.
        let shard_bytes = (bytes / 4).min(SHARD_BYTES_MAX) / BLOCK as u64 * BLOCK as u64;
        let (mut written, end) = (0, Instant::now() + patience);
        let mut block = vec![0; BLOCK];
        while shard_bytes > 0 && written + shard_bytes <= bytes && (written == 0 || Instant::now() < end) {
            let mut file = File::create(directory.join(format!("{:04}.bin", written / shard_bytes)))?;
            for at in (0..shard_bytes).step_by(BLOCK) {
                self.fill(written + at, &mut block);
                file.write_all(&block)?;
            }
            file.sync_all()?;
            written += shard_bytes;
        }
        Ok(written)
    }

    /// Files of tensors and their index; how many bytes of tensors there are.
    fn write_model(&self, directory: &Path, bytes: u64, patience: Duration) -> Outcome<u64> {
        fs::create_dir_all(directory)?;
        let pairs_max = SHARD_BYTES_MAX / (LARGE + SMALL);
        let files = bytes / (pairs_max * (LARGE + SMALL)).max(1);
        let pairs = if files == 0 { bytes / (LARGE + SMALL) } else { pairs_max };
        let (mut places, mut written, end) = (Map::new(), 0, Instant::now() + patience);
        for number in 0..files.max(1) {
            if pairs == 0 || (written > 0 && Instant::now() > end) {
                break;
            }
            let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, files.max(1));
            let mut file = File::create(directory.join(&name))?;
            let (mut header, mut offset) = (Map::new(), 0);
            for pair in 0..pairs {
                let tensors =
                    [("weight", "BF16", vec![1024, LARGE / 2048], LARGE), ("bias", "F32", vec![SMALL / 4], SMALL)];
                for (kind, dtype, shape, bytes) in tensors {
                    let tensor = format!("layers.{}.{kind}", number * pairs + pair);
                    places.insert(tensor.clone(), json!(name));
                    let ends = [offset, offset + bytes];
                    header.insert(tensor, json!({ "dtype": dtype, "shape": shape, "data_offsets": ends }));
                    offset += bytes;
                }
            }
            self.write_tensors(&mut file, &header, offset, written)?;
            written += offset;
        }
        let index = json!({ "metadata": { "total_size": written }, "weight_map": places });
        fs::write(directory.join("model.safetensors.index.json"), index.to_string())?;
        Ok(written)
    }

    fn write_tensors(
        &self,
        file: &mut File,
        header: &Map<String, serde_json::Value>,
        bytes: u64,
        from: u64,
    ) -> Outcome {
        let mut text = serde_json::to_string(header)?;
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(text.as_bytes())?;
        let mut block = vec![0; BLOCK];
        for at in (0..bytes).step_by(BLOCK) {
            let part = &mut block[..(bytes - at).min(BLOCK as u64) as usize];
            self.fill(from + at, part);
            file.write_all(part)?;
        }
        Ok(file.sync_all()?)
    }
}
