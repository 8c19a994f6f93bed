//! The command line of `strait hash`.

use std::path::PathBuf;

use clap::ValueEnum;
use strait::weights::{Algorithm, Per};

const HELP_END: &str = "\
Examples:
  # one digest per file, on standard output
  strait hash model-*.safetensors
  # one digest per tensor, beside the checkpoint: `strait load --verify` then hands over each tensor after its own check
  strait hash ./llama --per tensor --output ./llama/manifest.json
  # is everything still as it was?
  strait hash --check ./llama/manifest.json
  # the same with what others have written: lines of sha256sum, a git-lfs pointer, a listing of the Hugging Face hub
  strait hash --check SHA256SUMS
  strait hash --check model.safetensors.pointer model.safetensors

The manifest is JSON: {\"format\": \"strait-manifest\", \"version\": 1, \"files\": [{\"name\", \"bytes\", \"digest\", \"tensors\": \
[{\"name\", \"dtype\", \"shape\", \"offset\", \"bytes\", \"digest\"}]}]}. Names are relative to the manifest's directory \
where they can be; offsets count from the start of the file; a digest is algorithm:hexadecimal. It is a regular file, no pipe.

crc32c and xxh3-64 find damage, and keep up with any disk. sha256 also finds what somebody has changed on purpose, if the \
manifest comes from elsewhere. Per tensor, the header's names, types, shapes and places are compared too, and its \
__metadata__ is not; per file, every byte is.

Files are read directly (O_DIRECT) where the file system can: hashing does not push other files out of memory.

Exit codes: 0 done, everything as it should be; 1 something differs, or could not be read; 2 bad command line; \
130 interrupted.";

/// Sum up files or tensors in a manifest, or compare them with one
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// Files, or directories with *.safetensors in them; with --check, the files to compare [default: those it names]
    #[arg(value_name = "PATH", required_unless_present = "check")]
    pub(super) paths: Vec<PathBuf>,
    /// How to sum up
    #[arg(long, value_enum, default_value_t = AlgorithmOption::Xxh3_64, conflicts_with = "check")]
    pub(super) algorithm: AlgorithmOption,
    /// What gets a digest of its own
    #[arg(long, value_enum, default_value_t = PerOption::File, conflicts_with = "check")]
    pub(super) per: PerOption,
    /// Write the manifest here instead of to standard output
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub(super) output: Option<PathBuf>,
    /// Compare with this manifest
    #[arg(long, value_name = "MANIFEST")]
    pub(super) check: Option<PathBuf>,
    /// Pass over files that the manifest names and that are not here
    #[arg(long, requires = "check")]
    pub(super) ignore_missing: bool,
    /// Threads that read and sum up [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) threads: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlgorithmOption {
    Crc32c,
    #[value(name = "xxh3-64")]
    Xxh3_64,
    Sha256,
}

impl From<AlgorithmOption> for Algorithm {
    fn from(option: AlgorithmOption) -> Algorithm {
        match option {
            AlgorithmOption::Crc32c => Algorithm::Crc32c,
            AlgorithmOption::Xxh3_64 => Algorithm::Xxh3_64,
            AlgorithmOption::Sha256 => Algorithm::Sha256,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PerOption {
    /// Every file
    File,
    /// Every tensor of safetensors files
    Tensor,
    /// Both, read once
    Both,
}

impl From<PerOption> for Per {
    fn from(option: PerOption) -> Per {
        match option {
            PerOption::File => Per::File,
            PerOption::Tensor => Per::Tensor,
            PerOption::Both => Per::Both,
        }
    }
}
