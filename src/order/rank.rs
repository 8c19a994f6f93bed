//! Which of how many processes this is, and how launchers say so.

use crate::error::{Error, Result};

/// One process of a run: rank `rank` of `world`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    rank: u32,
    world: u32,
    local_rank: Option<u32>,
}

impl Rank {
    /// The only process of its run.
    pub const SINGLE: Rank = Rank { rank: 0, world: 1, local_rank: None };

    /// Rank `rank` of `world`.
    ///
    /// # Errors
    /// [`Error::Config`] if `rank` is not below `world`.
    pub fn new(rank: u32, world: u32) -> Result<Rank> {
        if rank >= world {
            return Err(Error::config("rank", format!("rank {rank} of world {world}; ranks are 0..world")));
        }
        Ok(Rank { rank, world, local_rank: None })
    }

    /// What the launcher put into the environment, `None` where there is no launcher.
    ///
    /// Reads `RANK`, `WORLD_SIZE`, `LOCAL_RANK` (torchrun), `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK` (Open MPI),
    /// `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID` (MPICH, Intel MPI) and `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`.
    /// Two launchers may both speak if they say the same. Two cases are nested and no contradiction:
    /// torchrun (which sets `TORCHELASTIC_RUN_ID`) inside tasks of another launcher, and anything inside a Slurm batch
    /// script (`SLURM_JOB_ID` without `SLURM_STEP_ID`), where Slurm's variables describe the allocation.
    ///
    /// Pass `|name| std::env::var(name).ok()`; the function itself looks at nothing.
    ///
    /// # Errors
    /// [`Error::Config`] naming the variables: one of a pair is missing, not a number, a rank not below its world, or
    /// two launchers contradict each other.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Rank>> {
        Ok(Rank::said(&lookup)?.map(|(_, rank)| rank))
    }

    /// The rank that was `given`, if any, else that of the environment, else the only one. Both must be the same: where
    /// one of them is wrong, samples would be read twice or never.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env); and naming both where they differ.
    pub fn given_or_from_env(given: Option<Rank>, lookup: impl Fn(&str) -> Option<String>) -> Result<Rank> {
        match (given, Rank::said(&lookup)?) {
            (Some(given), Some((launcher, said))) if (given.rank, given.world) != (said.rank, said.world) => {
                let Rank { rank, world, .. } = given;
                let says = launcher.says(said);
                let problem =
                    format!("rank {rank} of world {world} was given, and contradicts {says}; give one of them");
                Err(Error::config("rank", problem))
            }
            (_, Some((_, said))) => Ok(said),
            (given, None) => Ok(given.unwrap_or(Rank::SINGLE)),
        }
    }

    /// Which launcher says what.
    fn said(lookup: &impl Fn(&str) -> Option<String>) -> Result<Option<(&'static Launcher, Rank)>> {
        let batch_script = lookup("SLURM_JOB_ID").is_some() && lookup("SLURM_STEP_ID").is_none();
        let inside_torchrun = lookup("TORCHELASTIC_RUN_ID").is_some();
        let mut found = None;
        for launcher in &LAUNCHERS {
            if batch_script && launcher.name == "Slurm" {
                continue;
            }
            let Some(rank) = launcher.read(lookup)? else { continue };
            match found {
                None if inside_torchrun => return Ok(Some((launcher, rank))),
                None => found = Some((launcher, rank)),
                Some((first, said)) if (said.rank, said.world) != (rank.rank, rank.world) => {
                    return Err(contradiction(first, said, launcher, rank));
                }
                // The first speaks for both, but for what only the other knows.
                Some((_, ref mut said)) => said.local_rank = said.local_rank.or(rank.local_rank),
            }
        }
        Ok(found)
    }

    /// This process among all.
    pub fn rank(self) -> u32 {
        self.rank
    }

    /// The number of processes.
    pub fn world(self) -> u32 {
        self.world
    }

    /// This process among those of its machine, where the launcher says so: the number of its device.
    pub fn local_rank(self) -> Option<u32> {
        self.local_rank
    }
}

struct Launcher {
    name: &'static str,
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
}

/// torchrun first: where launchers are nested it is the inner one.
const LAUNCHERS: [Launcher; 4] = [
    Launcher { name: "torchrun", rank: "RANK", world: "WORLD_SIZE", local_rank: "LOCAL_RANK" },
    Launcher {
        name: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        world: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    },
    Launcher { name: "PMI", rank: "PMI_RANK", world: "PMI_SIZE", local_rank: "MPI_LOCALRANKID" },
    Launcher { name: "Slurm", rank: "SLURM_PROCID", world: "SLURM_NTASKS", local_rank: "SLURM_LOCALID" },
];

impl Launcher {
    fn says(&self, Rank { rank, world, .. }: Rank) -> String {
        format!("{}={rank} {}={world} ({})", self.rank, self.world, self.name)
    }

    fn read(&self, lookup: &impl Fn(&str) -> Option<String>) -> Result<Option<Rank>> {
        let number = |name: &str| -> Result<Option<u32>> {
            let Some(text) = lookup(name) else { return Ok(None) };
            let number = text.trim().parse();
            number.map(Some).map_err(|_| Error::config("rank", format!("{name}={text:?} is not a number")))
        };
        // An interactive Slurm allocation sets the number of tasks without being one.
        if self.name == "Slurm" && lookup(self.rank).is_none() {
            return Ok(None);
        }
        let (rank, world) = match (number(self.rank)?, number(self.world)?) {
            (None, None) => return Ok(None),
            (Some(rank), Some(world)) => (rank, world),
            (Some(rank), None) => return Err(half(self.rank, rank, self.world)),
            (None, Some(world)) => return Err(half(self.world, world, self.rank)),
        };
        if rank >= world {
            let problem = format!("{}={rank} is not below {}={world}", self.rank, self.world);
            return Err(Error::config("rank", problem));
        }
        Ok(Some(Rank { rank, world, local_rank: number(self.local_rank)? }))
    }
}

fn half(set: &str, value: u32, missing: &str) -> Error {
    Error::config("rank", format!("{set}={value} is set and {missing} is not; set both or neither"))
}

fn contradiction(a: &Launcher, of_a: Rank, b: &Launcher, of_b: Rank) -> Error {
    let (a, b) = (a.says(of_a), b.says(of_b));
    let problem = format!("{a} contradicts {b}; unset one of the two, or do not call rank_from_env and give the rank");
    Error::config("rank", problem)
}
