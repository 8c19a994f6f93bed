//! The command line.

use std::path::PathBuf;

pub(crate) struct Options {
    /// On the disk to measure.
    pub(crate) dir: PathBuf,
    pub(crate) tmpfs: PathBuf,
    pub(crate) gib: u64,
    pub(crate) seeds: u64,
    pub(crate) rounds: usize,
    pub(crate) device: u32,
    pub(crate) check_only: bool,
    /// The report's path, without its endings.
    pub(crate) out: PathBuf,
}

const HELP: &str = "\
gpu_check: checks strait on this machine's GPU, and measures it there

  --dir DIR      on the disk to read from (default: .)
  --tmpfs DIR    in memory (default: /dev/shm)
  --gib N        size of the shards that are measured, on each of the two (default: 4)
  --seeds N      shapes of loaders to check, on each of the two (default: 200)
  --rounds N     rounds of measurements; medians are reported (default: 5)
  --device N     which GPU (default: 0)
  --check-only   do not measure
  --out PREFIX   the report goes to PREFIX.json and PREFIX.md (default: gpu-check)";

impl Options {
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            dir: ".".into(),
            tmpfs: "/dev/shm".into(),
            gib: 4,
            seeds: 200,
            rounds: 5,
            device: 0,
            check_only: false,
            out: "gpu-check".into(),
        };
        while let Some(option) = args.next() {
            if option == "--check-only" {
                options.check_only = true;
                continue;
            }
            if option == "--help" || option == "-h" {
                return Err(HELP.into());
            }
            let value = args.next().ok_or_else(|| format!("{option} needs a value\n\n{HELP}"))?;
            let number = || {
                let number = value.parse::<u64>().ok().filter(|&number| number <= 1 << 20);
                number.ok_or_else(|| format!("{option}: {value} is not a number of use"))
            };
            match option.as_str() {
                "--dir" => options.dir = value.into(),
                "--tmpfs" => options.tmpfs = value.into(),
                "--gib" => options.gib = number()?.max(1),
                "--seeds" => options.seeds = number()?,
                "--rounds" => options.rounds = number()?.max(1) as usize,
                "--device" => options.device = number()? as u32,
                "--out" => options.out = value.into(),
                _ => return Err(format!("{option}: no such option\n\n{HELP}")),
            }
        }
        Ok(options)
    }
}
