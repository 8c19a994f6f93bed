//! The command line of `strait bench`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::dataset::DatasetOptions;
use crate::failure::{Failure, Result};
use crate::linux::pages::ALIGN;
use crate::size;
use strait::dataset::Format;

/// Of samples of raw files, and of those that are made, if nothing else is said.
const RECORD_BYTES: u64 = 1 << 20;

const HELP_END: &str = "\
Examples:
  # 4 MiB blocks in order, from a sample dataset made for this run
  strait bench
  # the same on another disk
  strait bench --dir /mnt/nvme --size 8GiB
  # samples as large as images, in random order
  strait bench shard-0.bin --shuffle --record-bytes 100KiB --depth 64
  # small samples, into host memory
  strait bench --shuffle --record-bytes 4KiB --depth 64 --device host
  # all GPUs of this machine at once, each its share
  torchrun --nproc-per-node 8 --no-python strait bench /data/*.bin --rank-from-env
  # at most 10 s per run; one JSON object for a program
  strait bench shard-*.bin --seconds 10 --rounds 5 --json

What is compared: each round runs strait, the limit (a plain io_uring O_DIRECT loop over the same files, same block, \
same depth) and, where it is installed, fio. The order rotates from round to round, and the page cache is emptied of \
these files before each run.

A share is the median, over the rounds, of the ratio within a round: runs next to each other in time see the same \
disk, distant ones often do not. It is not the ratio of two medians.

In shuffle, the references read blocks of one record (rounded up to 4 KiB) where records are smaller than a block, \
and the record's bytes are counted.

CPU-seconds are user + system time of the whole process around the measured part, per GiB delivered.

Exit codes: 0 measured; 1 could not be measured; 2 bad command line; 130 interrupted (the sample is removed).";

/// Measure how fast samples reach the device, next to what the disk can do at all
///
/// Prints throughput, its share of the disk's limit and of fio's, CPU-seconds per GiB, peak pinned and resident
/// memory, time to the first batch, and the path that was taken and why. Without PATH, a sample dataset of random
/// bytes is made in a temporary directory and removed afterwards. Files that do not tell their format are read as records:
/// of 1 MiB, or what of less they are whole numbers of, unless --record-bytes or --dtype says otherwise.
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// Shards to read, or directories of them, in any format that `strait inspect` knows
    #[arg(value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// Size of one read
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size::parse_nonzero)]
    pub(super) block_bytes: u64,
    /// Reads in flight
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) depth: u32,
    /// Samples per batch [default: as many as fill 32 MiB, at most 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) batch: Option<u32>,
    #[command(flatten)]
    pub(super) dataset: DatasetOptions,
    /// Deliver samples in a random order (full shuffle) instead of the order on disk
    #[arg(long)]
    pub(super) shuffle: bool,
    /// How files are read; `auto` takes the best one for this place, and says why. `cufile` is for CUDA devices
    #[arg(long, value_enum, default_value_t = RingOption::Auto)]
    pub(super) ring: RingOption,
    /// Where batches are delivered: auto, host, cuda:N
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub(super) device: DeviceOption,
    /// Take rank and world from the launcher (torchrun, Slurm, Open MPI, PMI): strait reads this rank's share of every
    /// global batch, and --device auto is this rank's GPU; the references read everything
    #[arg(long)]
    pub(super) rank_from_env: bool,
    /// Size of the sample dataset [default: 2GiB, at most a quarter of the free space]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_nonzero, conflicts_with = "paths")]
    pub(super) size: Option<u64>,
    /// Where the sample dataset is made [default: the temporary directory, or /var/tmp if that is in memory]
    #[arg(long, value_name = "DIR", conflicts_with = "paths")]
    pub(super) dir: Option<PathBuf>,
    /// End each run after this time, if it has not read everything
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(super) seconds: Option<f64>,
    /// How often to run each of strait, limit, fio
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Do not run fio
    #[arg(long)]
    pub(super) no_fio: bool,
    /// First compare every delivered byte with the file (one more pass, not timed)
    #[arg(long)]
    pub(super) verify: bool,
    /// Measure limit and fio alone: what this disk can do
    #[arg(long, conflicts_with = "verify")]
    pub(super) references_only: bool,
}

impl Options {
    /// Of raw files: what is said, else 1 MiB or what of less the files are whole numbers of.
    pub(super) fn record_bytes(&self) -> u64 {
        self.dataset.record_bytes.unwrap_or_else(|| record_bytes_of(sizes(&self.paths)))
    }

    /// How the files are opened: those that do not tell their format as records, unless it is said what they are.
    pub(super) fn dataset(&self) -> strait::dataset::Options {
        let said = self.dataset.dtype.is_some() || self.dataset.format.is_some_and(|format| format != Format::Records);
        let options = self.dataset.options();
        if said { options } else { options.record_bytes(self.record_bytes()) }
    }
}

/// The sizes of files, and of those in directories; what cannot be examined is an error when it is opened.
fn sizes(paths: &[PathBuf]) -> impl Iterator<Item = u64> {
    let all = paths.iter().flat_map(|path| match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => vec![path.clone()],
    });
    all.filter_map(|path| std::fs::metadata(path).ok()).filter(std::fs::Metadata::is_file).map(|file| file.len())
}

/// The largest record up to 1 MiB that all of these are whole numbers of; 1 MiB if only records below 4 KiB were.
fn record_bytes_of(sizes: impl Iterator<Item = u64>) -> u64 {
    let common = sizes.fold(0, |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    let (first, last) = (common.div_ceil(RECORD_BYTES), common / 4096);
    let parts = (first.max(1)..=last.min(first + RECORD_BYTES)).find(|parts| common % parts == 0);
    parts.map_or(RECORD_BYTES, |parts| common / parts)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RingOption {
    Auto,
    Uring,
    Pread,
    Cufile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceOption {
    Auto,
    Host,
    Cuda(u32),
}

pub(crate) fn parse_device(text: &str) -> std::result::Result<DeviceOption, String> {
    match (text, text.strip_prefix("cuda:").map(str::parse)) {
        ("auto", _) => Ok(DeviceOption::Auto),
        ("host", _) => Ok(DeviceOption::Host),
        ("cuda", _) => Ok(DeviceOption::Cuda(0)),
        (_, Some(Ok(ordinal))) => Ok(DeviceOption::Cuda(ordinal)),
        _ => Err(format!("`{text}` is not a device; write auto, host, or cuda:0 (1, 2, ..)")),
    }
}

fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number of seconds from 0.05 to 86400".into()),
    }
}

/// What cannot be checked option by option.
pub(super) fn check(options: &Options) -> Result<()> {
    let block = options.block_bytes;
    if !block.is_multiple_of(ALIGN as u64) || block > 1 << 30 {
        return Err(Failure::usage(
            format!("--block-bytes {block} cannot be read directly"),
            "O_DIRECT reads and registered buffers want multiples of 4 KiB up to 1 GiB",
            format!("take --block-bytes {}", block.clamp(1, 1 << 30).next_multiple_of(ALIGN as u64)),
        ));
    }
    let read = if options.shuffle { options.record_bytes().min(block) } else { block };
    let in_flight = read.saturating_mul(options.depth.into());
    if in_flight > 4 << 30 {
        return Err(Failure::usage(
            format!("{} x {} would need {} of pinned memory", size::show(read), options.depth, size::show(in_flight)),
            "every read in flight needs a buffer of its own",
            "32 MiB in flight saturate most disks: lower --depth or --block-bytes",
        ));
    }
    let whole = options.paths.iter().find(|path| options.references_only && Path::new(path).is_dir());
    if let Some(path) = whole {
        return Err(Failure::usage(
            format!("{} is a directory", path.display()),
            "the references read files",
            format!("name the files ({}/*), or measure this place with --dir {0}", path.display()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_everywhere_else() {
        assert_eq!(parse_device("cuda:3"), Ok(DeviceOption::Cuda(3)));
        assert_eq!(parse_device("host"), Ok(DeviceOption::Host));
        assert!(parse_device("gpu").unwrap_err().contains("cuda:0"));
        assert!(parse_device("cuda:x").is_err());
    }

    #[test]
    fn records_fit_the_files() {
        let of = |sizes: &[u64]| record_bytes_of(sizes.iter().copied());
        assert_eq!(of(&[]), 1 << 20);
        assert_eq!(of(&[3 << 20, 5 << 30]), 1 << 20);
        assert_eq!((of(&[400_000]), of(&[4_194_320])), (400_000, 838_864));
        assert_eq!(of(&[6 << 19, 5 << 19]), 1 << 19, "what both are whole numbers of");
        assert_eq!((of(&[4097 * 3, 4097 * 7]), of(&[1_048_583])), (4097, 1 << 20));
    }
}
