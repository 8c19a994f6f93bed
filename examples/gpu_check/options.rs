//! The command line.

use std::path::PathBuf;

#[derive(Clone)]
pub(crate) struct Options {
    /// On the disk to measure.
    pub(crate) dir: PathBuf,
    /// In memory; `None`: what is found.
    pub(crate) tmpfs: Option<PathBuf>,
    pub(crate) gib: f64,
    pub(crate) seeds: u64,
    pub(crate) rounds: usize,
    pub(crate) minutes: f64,
    pub(crate) device: u32,
    pub(crate) check_only: bool,
    /// The report's path, without its endings.
    pub(crate) out: PathBuf,
    /// Runs the Python parts; `None`: what is found, rather one that has PyTorch.
    pub(crate) python: Option<PathBuf>,
    /// Loaded in place of the driver: strait's stand-in for tests. Then figures mean nothing, and none is reported.
    pub(crate) driver: Option<PathBuf>,
    /// Only these parts; empty: all.
    pub(crate) only: Vec<String>,
    /// Where what was packed lies; `None`: the directory above the program's.
    pub(crate) pack: Option<PathBuf>,
    /// Runs this one part, in this process: what the program starts itself with.
    pub(crate) part: Option<String>,
    /// What that part may take, if it can choose.
    pub(crate) seconds: f64,
}

const HELP: &str = "\
gpu_check: checks strait on this machine's GPU, and measures it there

  --dir DIR      on the disk to read from (default: .)
  --tmpfs DIR    in memory (default: a tmpfs that has room; else one that is mounted for this run alone, if that is allowed)
  --gib N        size of the shards that are measured, on the disk; four times that in memory, if it is free (default: 2)
  --seeds N      shapes of loaders to check, on each of the two (default: 200)
  --rounds N     rounds of measurements at most; medians are reported (default: 5)
  --minutes N    for everything (default: 8); what does not fit is left out, and said
  --device N     which GPU (default: 0)
  --check-only   do not measure
  --only PARTS   only these parts, by names with commas between (`--only list` prints all)
  --python FILE  for the Python parts (default: a python3 that has PyTorch, if there is one)
  --out PREFIX   the report goes to PREFIX.json and PREFIX.md, all that was printed to PREFIX.log (default: gpu-check)
  --driver FILE  tries the program without a GPU, over strait's stand-in for the driver: nothing is measured

Exit codes: 0 all checks passed; 1 one failed; 2 wrong options; 3 no GPU; 4 none failed, and not all ran to their end.";

impl Default for Options {
    fn default() -> Options {
        Options {
            dir: ".".into(),
            tmpfs: None,
            gib: 2.0,
            seeds: 200,
            rounds: 5,
            minutes: 8.0,
            device: 0,
            check_only: false,
            out: "gpu-check".into(),
            python: None,
            driver: None,
            only: Vec::new(),
            pack: None,
            part: None,
            seconds: 60.0,
        }
    }
}

impl Options {
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options::default();
        while let Some(option) = args.next() {
            if option == "--check-only" {
                options.check_only = true;
                continue;
            }
            if option == "--help" || option == "-h" {
                return Err(HELP.into());
            }
            let value = args.next().ok_or_else(|| format!("{option} needs a value\n\n{HELP}"))?;
            options.set(&option, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str, value: String) -> Result<(), String> {
        let wrong = || format!("{option}: {value} is not a number of use");
        let whole = || value.parse::<u64>().ok().filter(|&number| number <= 1 << 20).ok_or_else(wrong);
        let some = || value.parse::<f64>().ok().filter(|number| (0.001..1e6).contains(number)).ok_or_else(wrong);
        match option {
            "--gib" => self.gib = some()?,
            "--seeds" => self.seeds = whole()?,
            "--rounds" => self.rounds = whole()?.max(1) as usize,
            "--minutes" => self.minutes = some()?,
            "--device" => self.device = whole()? as u32,
            "--seconds" => self.seconds = some()?,
            "--only" => self.only = value.split(',').map(String::from).collect(),
            "--dir" => self.dir = value.into(),
            "--tmpfs" => self.tmpfs = Some(value.into()),
            "--out" => self.out = value.into(),
            "--python" => self.python = Some(value.into()),
            "--driver" => self.driver = Some(value.into()),
            "--pack" => self.pack = Some(value.into()),
            "--part" => self.part = Some(value),
            _ => return Err(format!("{option}: no such option\n\n{HELP}")),
        }
        Ok(())
    }
}
