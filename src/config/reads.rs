//! How bytes are read: the options that loaders and loads of weights have in common.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::memory::Arena;

/// Which storage backend reads the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RingChoice {
    /// io_uring where the kernel allows it and the file gains by it, threads otherwise: decided per file by a probe.
    #[default]
    Auto,
    /// io_uring or an error; no file is probed.
    Uring,
    /// Threads that call `preadv2`.
    Pread,
    /// cuFile (GPUDirect Storage), into the memory of a CUDA device, or an error; also in its compatibility mode. `Auto`
    /// takes it where it reads without a detour.
    Cufile,
}

/// Which way bytes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathChoice {
    /// Direct where the ring can write into the batch's memory (the host's; a CUDA device's by cuFile), staged otherwise.
    #[default]
    Auto,
    /// Through slabs and a copy stream, even where direct would do.
    Staged,
}

/// The way that bytes take, as it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through slabs and a copy stream.
    Staged,
    /// The ring writes into the host's own memory.
    Host,
    /// cuFile writes into the device's memory.
    Cufile {
        /// Even where it copies through host memory to do so.
        compat: bool,
    },
}

impl Way {
    pub(crate) fn is_direct(self) -> bool {
        self != Way::Staged
    }

    /// Why it is taken into the memory of `whose`.
    pub(crate) fn reason(self, whose: &str) -> String {
        match self {
            Way::Staged => "the ring cannot write into this device's memory".into(),
            Way::Host => format!("the ring writes into {whose} own memory"),
            Way::Cufile { compat: false } => format!("cuFile has the storage write into {whose} own memory"),
            Way::Cufile { compat: true } => "cuFile was asked for, be it in compatibility mode".into(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ReadOptions {
    pub(crate) block_bytes: u64,
    pub(crate) gap_bytes: u64,
    pub(crate) align_bytes: u64,
    pub(crate) reads_in_flight: usize,
    pub(crate) bytes_in_flight: u64,
    pub(crate) pinned_bytes_max: u64,
    pub(crate) open_files_max: usize,
    pub(crate) deadline: Duration,
    pub(crate) ring: RingChoice,
    pub(crate) path: PathChoice,
}

/// A deadline that never passes; longer ones would leave the range of clocks.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// A gap of so much is read along where that is asked for, be blocks as short as they may. A longer one than a block would cost
/// reads in place of saving them.
const GAP_BYTES_ALWAYS: u64 = 1 << 20;
/// More slabs than this are never in use at once.
const SLABS_MAX: u64 = 64;

impl ReadOptions {
    /// The defaults, but for the gap.
    pub(crate) fn with_gap(gap_bytes: u64) -> ReadOptions {
        ReadOptions {
            block_bytes: 4 << 20,
            gap_bytes,
            align_bytes: 4096,
            reads_in_flight: 128,
            bytes_in_flight: 32 << 20,
            pinned_bytes_max: 256 << 20,
            open_files_max: 256,
            deadline: Duration::from_secs(30),
            ring: RingChoice::Auto,
            path: PathChoice::Auto,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (option, value) in [("reads_in_flight", self.reads_in_flight), ("open_files_max", self.open_files_max)] {
            if value == 0 {
                return Err(Error::config(option, "must be at least 1"));
            }
        }
        if self.deadline.is_zero() {
            return Err(Error::config("deadline", "nothing happens in no time; give at least a few milliseconds"));
        }
        let align = self.align_bytes;
        if !align.is_power_of_two() || !(4096..=1 << 30).contains(&align) {
            return Err(Error::config("align_bytes", format!("{align} is not a power of two from 4096 to 1 GiB")));
        }
        if self.block_bytes == 0 || !self.block_bytes.is_multiple_of(align) || self.block_bytes > 1 << 30 {
            let problem = format!("{} is not a multiple of {align} up to 1 GiB", self.block_bytes);
            return Err(Error::config("block_bytes", problem));
        }
        let gap_bytes_max = self.block_bytes.max(GAP_BYTES_ALWAYS);
        if self.gap_bytes > gap_bytes_max {
            let problem = format!(
                "{} bytes that nobody wants cost more than a read; give at most {gap_bytes_max}",
                self.gap_bytes
            );
            return Err(Error::config("gap_bytes", problem));
        }
        if self.reads_in_flight > 4096 {
            return Err(Error::config("reads_in_flight", "more than 4096 reads in flight help no device"));
        }
        Ok(())
    }

    /// The same without those parts that so many files cannot use up.
    pub(crate) fn bounded(self, files: usize) -> ReadOptions {
        let open_files_max = self.open_files_max.min(files.max(1));
        ReadOptions { open_files_max, deadline: self.deadline.min(NEVER), ..self }
    }

    /// Slabs for the reads in flight and as many again for the checks and copies behind them.
    pub(crate) fn slabs(&self) -> Result<usize> {
        let wanted = self.bytes_in_flight.saturating_mul(2).div_ceil(self.block_bytes).clamp(2, SLABS_MAX);
        let fits = |&count: &u64| Arena::rounded(count * self.block_bytes) <= self.pinned_bytes_max;
        let Some(slabs) = (2..=wanted).rev().find(fits) else {
            let problem = format!("{} does not hold two slabs of {} bytes", self.pinned_bytes_max, self.block_bytes);
            return Err(Error::config("pinned_bytes_max", problem));
        };
        Ok(slabs as usize)
    }
}

/// Methods of a builder that set one thing each.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $($field:ident).+ = $value:expr;)*) => {
        $($(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.$($field).+ = $value;
            self
        })*
    };
}

/// Those of [`ReadOptions`], which the builder has at `$at`; what a builder says otherwise than the other it gives.
macro_rules! read_options {
    (
        $($at:ident).+,
        gap_bytes: $gap:literal,
        pinned_bytes_max: $pinned:literal,
        deadline: $deadline:literal
    ) => {
        $crate::config::options! {
            /// The longest read, and the size of a slab: a multiple of 4096. Default 4 MiB.
            block_bytes: u64 => $($at).+.block_bytes = block_bytes;
            #[doc = $gap]
            gap_bytes: u64 => $($at).+.gap_bytes = gap_bytes;
            /// Alignment of direct reads: a power of two, at least 4096. Default 4096.
            align_bytes: u64 => $($at).+.align_bytes = align_bytes;
            /// Reads in flight at most. Default 128.
            reads_in_flight: usize => $($at).+.reads_in_flight = reads_in_flight;
            /// Bytes in flight at most. Default 32 MiB.
            bytes_in_flight: u64 => $($at).+.bytes_in_flight = bytes_in_flight;
            #[doc = $pinned]
            pinned_bytes_max: u64 => $($at).+.pinned_bytes_max = pinned_bytes_max;
            /// Files open at most. Default 256.
            open_files_max: usize => $($at).+.open_files_max = open_files_max;
            #[doc = $deadline]
            deadline: std::time::Duration => $($at).+.deadline = deadline;
            /// Which storage backend. Default: decided by a probe.
            ring: $crate::config::RingChoice => $($at).+.ring = ring;
            /// Which way bytes take. Default: direct where possible.
            path: $crate::config::PathChoice => $($at).+.path = path;
        }
    };
}

pub(crate) use {options, read_options};
