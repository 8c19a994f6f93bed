//! The command line of `strait audit`.

use std::path::PathBuf;

use strait::order::{Policy, Shuffle};

use crate::dataset::DatasetOptions;
use crate::failure::{Failure, Result};
use crate::size;

const HELP_END: &str = "\
Examples:
  # does every sample come once, on 8 ranks, over 3 epochs?
  strait audit /data/shards --world 8 --epochs 3
  # stop after 1000 steps on 8 ranks, go on with 6 ranks and another batch size
  strait audit /data/shards --world 8 --resume-at 1000 --resume-world 6 --resume-batch 48
  # what a crash costs: it died after step 1000, the last cursor was saved after step 900
  strait audit /data/shards --world 8 --resume-at 1000 --cursor-at 900
  # without any dataset: a million samples, dropping the rest of each epoch
  strait audit --samples 1000000 --world 7 --policy drop --json
  # two datasets, three of the one for each one of the other
  strait audit /data/web /data/books --weights 3,1 --world 8

What is shown: `positions` are the places of all batches, and each of them is one of `once` (a sample for the first time \
in its epoch), `repeated`, `padded`. `missing` are positions of the order whose sample no batch held. With --weights an \
epoch has no position for what the weights leave out: how far each dataset comes is shown of its own. What the policy may leave out (drop), \
pad (pad) or repeat (wrap) at the end of an epoch is worked out from world and batch size alone, and compared.

Windows of tokens are audited by their number: --samples WINDOWS. Batches that a budget cuts are not audited here: \
where they end depends on every sample's length.

Nothing of a dataset is read but the headers that say where its samples are. An audit takes one bit per sample, and \
about a second per 10 million positions.

Exit codes: 0 coverage is what the policy promises; 1 it is not, or the dataset cannot be opened; 2 bad command line; \
130 interrupted.";

/// Prove that every sample comes once: run the order on all ranks, and count
///
/// The order of samples is a pure function of (seed, epoch, position), so that its coverage can be counted without
/// reading a sample: over epochs, ranks, and a stop and resume on another number of ranks.
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// Shards, or directories of them; all together are one dataset, unless --weights is given
    #[arg(value_name = "DATASET", required_unless_present = "samples", conflicts_with = "samples")]
    pub(super) paths: Vec<PathBuf>,
    /// No dataset, but so many samples (with --weights: of each dataset, separated by commas)
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) samples: Vec<u64>,
    #[command(flatten)]
    pub(super) dataset: DatasetOptions,
    /// Number of ranks
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) world: u32,
    /// Number of epochs
    #[arg(long, value_name = "E", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) epochs: u64,
    /// Samples per step on each rank
    #[arg(long, value_name = "B", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) batch: u64,
    /// What becomes of the end of an epoch: drop, pad, wrap, short [default: short for one rank, drop for several]
    #[arg(long, value_parser = parse_policy)]
    pub(super) policy: Option<Policy>,
    /// sequential, full, block:SAMPLESxWINDOW, or with a dataset block:SIZExWINDOW (block:1MiBx4)
    #[arg(long, default_value = "full", value_parser = parse_shuffle)]
    pub(super) shuffle: ShuffleOption,
    /// What decides the random order
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Mix datasets by these weights, one per DATASET
    #[arg(long, value_name = "W,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) weights: Vec<u32>,
    /// Positions of an epoch of a mixture, in which datasets that end start over [default: it ends with the first]
    #[arg(long, value_name = "N", requires = "weights", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) positions: Option<u64>,
    /// Stop after this many steps, counted over epochs, and go on
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) resume_at: Option<u64>,
    /// Number of ranks from there on [default: the same]
    #[arg(long, value_name = "W", requires = "resume_at", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) resume_world: Option<u32>,
    /// Samples per step on each rank from there on [default: the same]
    #[arg(long, value_name = "B", requires = "resume_at", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) resume_batch: Option<u64>,
    /// The step after which the cursor was saved that the run goes on from [default: where it stopped]
    #[arg(long, value_name = "C", requires = "resume_at")]
    pub(super) cursor_at: Option<u64>,
}

fn parse_policy(text: &str) -> std::result::Result<Policy, String> {
    text.parse().map_err(|error: strait::Error| error.to_string())
}

/// A shuffle, or the bytes of its blocks: how many samples that is, the dataset says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShuffleOption {
    Samples(Shuffle),
    Bytes { block_bytes: u64, window: u64 },
}

fn parse_shuffle(text: &str) -> std::result::Result<ShuffleOption, String> {
    let size = text.strip_prefix("block:").and_then(|block| block.rsplit_once('x'));
    let size = size.filter(|(size, _)| size.contains(|c: char| c.is_ascii_alphabetic()));
    let Some((block_bytes, window)) = size else {
        return text.parse().map(ShuffleOption::Samples).map_err(|error: strait::Error| error.to_string());
    };
    match window.parse() {
        Ok(window) if window > 0 => Ok(ShuffleOption::Bytes { block_bytes: size::parse_nonzero(block_bytes)?, window }),
        _ => Err(format!("`{window}` is no number of blocks; write block:1MiBx4")),
    }
}

/// What cannot be checked option by option.
pub(super) fn check(options: &Options) -> Result<()> {
    let datasets = if options.samples.is_empty() { options.paths.len() } else { options.samples.len() };
    let weights = options.weights.len();
    if weights > 0 && weights != datasets {
        return Err(Failure::usage(
            format!("{weights} weights for {datasets} datasets"),
            "with --weights every DATASET (or number of --samples) is a dataset of its own",
            "give as many weights as datasets",
        ));
    }
    if !options.samples.is_empty() && matches!(options.shuffle, ShuffleOption::Bytes { .. }) {
        return Err(Failure::usage(
            "blocks of bytes without a dataset",
            "only the files say how many samples a block of bytes holds",
            "give --shuffle block:SAMPLESxWINDOW, or a DATASET",
        ));
    }
    if weights == 0 && options.samples.len() > 1 {
        return Err(Failure::usage(
            format!("{datasets} numbers of samples"),
            "only a mixture has several datasets",
            "give --weights too, or one number",
        ));
    }
    Ok(())
}
