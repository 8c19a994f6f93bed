//! The command line of `strait load`.

use std::path::PathBuf;

use crate::bench::options::{DeviceOption, RingOption, parse_device};
use crate::failure::{Failure, Result};
use crate::linux::pages::ALIGN;
use crate::size;

const HELP_END: &str = "\
Examples:
  # a checkpoint into the first GPU, or into host memory where there is none
  strait load ./llama-3-8b
  # figures to publish: five rounds, one JSON object for a program
  strait load ./llama-3-8b --rounds 5 --json
  # every tensor checked on the way, against what `strait hash --per tensor` has written
  strait load ./llama-3-8b --verify ./llama-3-8b/manifest.json
  # one layer; the third of four equal parts of every row, as tensor parallelism would load it
  strait load ./llama-3-8b --match 'model.layers.0.*' --part 1:2/4

PATH is a safetensors file, several of them, a directory, or a model.safetensors.index.json.

What is compared: each round loads the checkpoint, then reads the same files with the limit (a plain io_uring O_DIRECT \
loop, same block, same depth) and, where it is installed, fio. The order rotates from round to round, and the page cache \
is emptied of these files before each run. A share is the median, over the rounds, of the ratio within a round. With \
--match, --tensor or --part fewer bytes are loaded than the references read; rates are compared, not times.

Seconds are from the start of the load, its memory not yet allocated, until the last byte is on the device; reading the \
headers is set-up. CPU-seconds are user + system time of the whole process meanwhile, per GiB loaded.

Exit codes: 0 loaded; 1 could not be loaded, or a digest differs; 2 bad command line; 130 interrupted.";

/// Load a safetensors checkpoint, and measure it next to what the disk can do at all
///
/// Prints throughput, its share of the disk's limit and of fio's, CPU-seconds per GiB, peak pinned and resident memory,
/// time to the first and the last tensor, a line per shard, and the path that was taken and why.
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// What to load
    #[arg(value_name = "PATH", required = true)]
    pub(super) paths: Vec<PathBuf>,
    /// Only tensors of this name (may be repeated)
    #[arg(long = "tensor", value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Only tensors whose names fit this pattern of * and ? (may be repeated; adds to --tensor)
    #[arg(long = "match", value_name = "GLOB")]
    pub(super) globs: Vec<String>,
    /// Of each tensor that has dimension DIM (counted from 0), only the share RANK of WORLD along it; whole others
    #[arg(long, value_name = "DIM:RANK/WORLD", value_parser = parse_part)]
    pub(super) part: Option<PartOption>,
    /// Check every tensor against this manifest before it counts as loaded
    #[arg(long, value_name = "MANIFEST")]
    pub(super) verify: Option<PathBuf>,
    /// Size of one read
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size::parse_nonzero)]
    pub(super) block_bytes: u64,
    /// Reads in flight
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) depth: u32,
    /// How files are read; `auto` takes the better one for this place, and says why
    #[arg(long, value_enum, default_value_t = RingOption::Auto)]
    pub(super) ring: RingOption,
    /// Where tensors go: auto, host, cuda:N
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub(super) device: DeviceOption,
    /// How often to load, and to run each of limit and fio
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Do not run fio
    #[arg(long)]
    pub(super) no_fio: bool,
    /// Load only, without the limit and fio
    #[arg(long)]
    pub(super) no_references: bool,
}

/// A share of a dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartOption {
    pub(super) dim: usize,
    pub(super) rank: u32,
    pub(super) world: u32,
}

fn parse_part(text: &str) -> std::result::Result<PartOption, String> {
    let numbers = || {
        let (dim, share) = text.split_once(':')?;
        let (rank, world) = share.split_once('/')?;
        Some(PartOption { dim: dim.parse().ok()?, rank: rank.parse().ok()?, world: world.parse().ok()? })
    };
    match numbers() {
        Some(part) if part.rank < part.world => Ok(part),
        Some(part) => Err(format!("ranks of {} go from 0 to {}", part.world, i64::from(part.world) - 1)),
        None => Err(format!("`{text}` is no part; write 0:3/8 for dimension 0, rank 3 of 8")),
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_a_dimension_and_a_share() {
        assert_eq!(parse_part("1:2/4"), Ok(PartOption { dim: 1, rank: 2, world: 4 }));
        for text in ["", "1", "1:2", "1:4/4", "1:0/0", "-1:0/2", "a:0/2", "0:1/2/3"] {
            assert!(parse_part(text).is_err(), "{text}");
        }
    }
}
