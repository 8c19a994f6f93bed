//! Everything that the stand-in's driver knows, under one lock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::capture::Capture;
pub(crate) use crate::casts::Cast;

pub(crate) const INVALID_VALUE: i32 = 1;
pub(crate) const OUT_OF_MEMORY: i32 = 2;
pub(crate) const NOT_INITIALIZED: i32 = 3;
pub(crate) const NO_DEVICE: i32 = 100;
pub(crate) const INVALID_DEVICE: i32 = 101;
pub(crate) const INVALID_CONTEXT: i32 = 201;
pub(crate) const INVALID_HANDLE: i32 = 400;
pub(crate) const NOT_READY: i32 = 600;
pub(crate) const ALREADY_REGISTERED: i32 = 712;
pub(crate) const NOT_REGISTERED: i32 = 713;

pub(crate) type Outcome = Result<(), i32>;

/// Bit 62 makes device addresses non-canonical.
const FIRST_ADDRESS: u64 = 1 << 62;
/// No machine has a device there.
pub(crate) const NO_PCI_DOMAIN: u32 = 0xFFFF;
/// What fresh device memory holds.
const POISON: u8 = 0xA5;
const DEVICE_BYTES_MAX: usize = 4 << 30;
/// A page of the device.
const LARGE_BYTES: usize = 2 << 20;

pub(crate) struct Machine {
    pub(crate) initialized: bool,
    /// Which of the machine's devices the process sees, in its order.
    pub(crate) visible: Vec<usize>,
    /// How often each visible device's primary context is retained.
    pub(crate) retained: Vec<u32>,
    /// By base address. Small allocations begin at any multiple of 512, large ones on pages of their own, as a real driver's do.
    pub(crate) memory: BTreeMap<u64, Vec<u8>>,
    next_address: u64,
    /// Pinned host memory: base, length, and the one context that knows it; 0 for all.
    pub(crate) registered: BTreeMap<usize, (usize, usize)>,
    pub(crate) streams: BTreeMap<usize, Stream>,
    pub(crate) events: BTreeMap<usize, Event>,
    /// Captures under way, by the stream on which they were begun.
    pub(crate) captures: BTreeMap<usize, Capture>,
    /// Loaded modules, by handle: the names of their kernels, in order.
    pub(crate) modules: BTreeMap<usize, Vec<String>>,
    next_handle: usize,
    pub(crate) knobs: Knobs,
    pub(crate) misuse: Vec<String>,
    /// Calls of each function so far.
    pub(crate) calls: BTreeMap<String, u64>,
}

#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) context: usize,
    pub(crate) ops: VecDeque<Op>,
    /// Gone when its work is done.
    pub(crate) destroyed: bool,
    /// A context's legacy stream is not an object of the program's.
    pub(crate) legacy: bool,
    /// Lower numbers go first, as far as kernels go.
    pub(crate) priority: i32,
    /// What is put on it goes into this capture.
    pub(crate) capture: Option<usize>,
}

/// An event is done when the latest record that a caller asked for has been passed.
#[derive(Default)]
pub(crate) struct Event {
    pub(crate) context: usize,
    pub(crate) recorded: u64,
    pub(crate) passed: u64,
    /// The last call that was to record it failed: nobody knows what it stands for.
    pub(crate) unknown: bool,
    /// Gone when its last record is passed.
    pub(crate) destroyed: bool,
    /// The capture in which it was last recorded.
    pub(crate) capture: Option<usize>,
}

pub(crate) enum Op {
    /// A `row` begins with the one before it.
    ToDevice {
        source: Source,
        target: u64,
        bytes: usize,
        row: bool,
    },
    ToHost {
        source: u64,
        target: usize,
        bytes: usize,
        pageable: bool,
    },
    /// A `row` of a kernel's table begins with the kernel.
    OnDevice {
        source: u64,
        target: u64,
        bytes: usize,
        row: bool,
    },
    /// A row of a kernel that changes elements.
    Change {
        source: u64,
        target: u64,
        bytes: usize,
        cast: Cast,
    },
    /// The moves of a table of `count` rows, in any order.
    Gather {
        table: u64,
        count: usize,
        cast: Option<Cast>,
        /// All that the rows read and write lies in here.
        within: Range<u64>,
    },
    Record {
        event: usize,
        generation: u64,
    },
    Wait {
        event: usize,
        generation: u64,
    },
}

impl Op {
    /// The device memory that it reads, and that it writes.
    fn on_device(&self) -> (Option<Range<u64>>, Option<Range<u64>>) {
        let range = |start: u64, bytes: usize| Some(start..start + bytes as u64);
        match *self {
            Op::ToDevice { target, bytes, .. } => (None, range(target, bytes)),
            Op::ToHost { source, bytes, .. } => (range(source, bytes), None),
            Op::OnDevice { source, target, bytes, .. } => (range(source, bytes), range(target, bytes)),
            Op::Change { source, target, bytes, cast } => (range(source, bytes), range(target, cast.bytes_of(bytes))),
            Op::Gather { ref within, .. } => (None, Some(within.clone())),
            Op::Record { .. } | Op::Wait { .. } => (None, None),
        }
    }
}

pub(crate) enum Source {
    /// Read when the copy happens. The bytes at the time of the call serve to notice a change.
    Pinned { at: usize, started_with: Vec<u8> },
    /// Pageable memory is read before the call returns.
    Staged(Vec<u8>),
}

/// What tests set.
#[derive(Default)]
pub(crate) struct Knobs {
    pub(crate) latency_max: Duration,
    /// 0: no limit.
    pub(crate) bytes_per_ms: u64,
    /// Streams whose copies begin so late, whatever the others do.
    pub(crate) late: BTreeMap<usize, Duration>,
    pub(crate) stalled: bool,
    /// The sticky error of a lost device, or 0.
    pub(crate) lost: i32,
    pub(crate) failures: Vec<Failure>,
    pub(crate) chance: u64,
    /// The version of CUDA that the driver has more functions of; 0: none of them.
    pub(crate) version: i32,
    /// Of the devices' places on the bus.
    pub(crate) pci_domain: u32,
}

pub(crate) struct Failure {
    pub(crate) symbol: String,
    /// Calls until it strikes.
    pub(crate) countdown: u64,
    pub(crate) code: i32,
    /// Whether the call does its work all the same.
    pub(crate) works: bool,
}

static MACHINE: Mutex<Machine> = Mutex::new(Machine::new());
static CHANGED: Condvar = Condvar::new();

pub(crate) fn machine() -> MutexGuard<'static, Machine> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes whoever waits for a change.
pub(crate) fn changed() {
    CHANGED.notify_all();
}

pub(crate) fn wait_for_change(guard: MutexGuard<'static, Machine>) -> MutexGuard<'static, Machine> {
    CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    const fn new() -> Machine {
        Machine {
            initialized: false,
            visible: Vec::new(),
            retained: Vec::new(),
            memory: BTreeMap::new(),
            next_address: FIRST_ADDRESS,
            registered: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            modules: BTreeMap::new(),
            next_handle: 1 << 20,
            knobs: Knobs {
                latency_max: Duration::ZERO,
                bytes_per_ms: 0,
                late: BTreeMap::new(),
                stalled: false,
                lost: 0,
                failures: Vec::new(),
                chance: 1,
                version: 13_000,
                pci_domain: NO_PCI_DOMAIN,
            },
            misuse: Vec::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Notes what the program did wrong, and refuses it.
    pub(crate) fn refuse(&mut self, code: i32, what: impl Into<String>) -> Outcome {
        self.misuse.push(what.into());
        Err(code)
    }

    /// Handles are never used twice, so a stale one is known for what it is.
    pub(crate) fn handle(&mut self) -> usize {
        self.next_handle += 64;
        self.next_handle
    }

    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<u64, i32> {
        let used: usize = self.memory.values().map(Vec::len).sum();
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if bytes > DEVICE_BYTES_MAX - used {
            return Err(OUT_OF_MEMORY);
        }
        let base = match bytes {
            LARGE_BYTES.. => self.next_address.next_multiple_of(LARGE_BYTES as u64),
            _ => self.next_address + 512 * self.below(8),
        };
        // A gap, so that no address past the end of one is inside another.
        self.next_address = (base + bytes as u64 + 4096).next_multiple_of(4096);
        self.memory.insert(base, vec![POISON; bytes]);
        Ok(base)
    }

    /// A piece of live device memory.
    pub(crate) fn device_bytes(&mut self, address: u64, bytes: usize) -> Option<&mut [u8]> {
        let (base, memory) = self.memory.range_mut(..=address).next_back()?;
        let offset = usize::try_from(address - base).ok()?;
        memory.get_mut(offset..)?.get_mut(..bytes)
    }

    pub(crate) fn is_registered(&self, at: usize, bytes: usize) -> bool {
        let range = self.registered.range(..=at).next_back();
        range.is_some_and(|(base, (length, _))| at.saturating_add(bytes) <= base + length)
    }

    /// The same for a copy of this context.
    pub(crate) fn is_registered_in(&self, context: usize, at: usize, bytes: usize) -> bool {
        let range = self.registered.range(..=at).next_back();
        self.is_registered(at, bytes) && range.is_some_and(|(_, (_, known))| *known == 0 || *known == context)
    }

    pub(crate) fn overlaps_registered(&self, at: usize, bytes: usize) -> bool {
        let range = self.registered.range(..at.saturating_add(bytes)).next_back();
        range.is_some_and(|(base, (length, _))| base + length > at)
    }

    /// Whether unfinished work uses an address for which `uses` holds: device addresses first, host addresses second.
    pub(crate) fn is_in_use(&self, device: impl Fn(u64) -> bool, host: impl Fn(usize) -> bool) -> bool {
        self.streams.values().flat_map(|stream| &stream.ops).any(|op| match op {
            Op::ToDevice { source: Source::Pinned { at, .. }, target, .. } => device(*target) || host(*at),
            Op::ToDevice { target, .. } => device(*target),
            Op::ToHost { source, target, .. } => device(*source) || host(*target),
            Op::OnDevice { source, target, .. } | Op::Change { source, target, .. } => {
                device(*source) || device(*target)
            }
            Op::Gather { table, within, .. } => device(*table) || device(within.start),
            Op::Record { .. } | Op::Wait { .. } => false,
        })
    }

    /// A live event.
    pub(crate) fn event(&mut self, handle: usize) -> Option<&mut Event> {
        self.events.get_mut(&handle).filter(|event| !event.destroyed)
    }

    /// What the rows of a table name: the table is on its way to the device, or there.
    pub(crate) fn within(&mut self, stream: usize, table: u64, count: usize, cast: Option<Cast>) -> Option<Range<u64>> {
        let on_its_way = self.streams.get(&stream)?.ops.iter().rev().find_map(|op| match op {
            Op::ToDevice { source: Source::Pinned { started_with, .. }, target, .. } if *target == table => {
                Some(started_with.clone())
            }
            _ => None,
        });
        let rows = on_its_way.or_else(|| self.device_bytes(table, count * 24).map(|rows| rows.to_vec()))?;
        let number = |row: &[u8], at: usize| u64::from_le_bytes(row[8 * at..8 * at + 8].try_into().expect("8 bytes"));
        let rows = || rows.chunks_exact(24).take(count).map(|row| (number(row, 0), number(row, 1), number(row, 2)));
        let start = rows().map(|(source, target, _)| source.min(target)).min()?;
        let wide = |bytes: u64| cast.map_or(bytes, |cast| cast.bytes_of(bytes as usize) as u64);
        let end = rows().map(|(source, target, bytes)| (source + bytes).max(target + wide(bytes))).max()?;
        Some(start..end)
    }

    /// Whether a stream must still wait at this op.
    pub(crate) fn is_blocked(&self, op: &Op) -> bool {
        // An event that is gone has nothing left to wait for.
        matches!(op, Op::Wait { event, generation }
            if self.events.get(event).is_some_and(|event| event.passed < *generation))
    }

    /// Notes it if another stream could, at this moment, work on what `op` works on: then nothing orders the two, and
    /// the bytes are right by luck only.
    pub(crate) fn check_order(&mut self, stream: usize, op: &Op) {
        let runnable = |stream: &Stream| stream.ops.iter().position(|op| self.is_blocked(op)).unwrap_or(usize::MAX);
        let others = self.streams.iter().filter(|(other, _)| **other != stream);
        let mut others = others.flat_map(|(_, stream)| stream.ops.iter().take(runnable(stream)));
        let meets = |a: &Option<Range<u64>>, b: &Option<Range<u64>>| match (a, b) {
            (Some(a), Some(b)) => a.start < b.end && b.start < a.end,
            _ => false,
        };
        let (reads, writes) = op.on_device();
        let unordered = |other: &Op| {
            let (other_reads, other_writes) = other.on_device();
            meets(&writes, &other_writes) || meets(&writes, &other_reads) || meets(&reads, &other_writes)
        };
        let what = "two streams use the same device memory in no order";
        if others.any(unordered) && self.misuse.last().is_none_or(|last| last != what) {
            self.misuse.push(what.into());
        }
    }

    /// The code to return in place of, or after, the call's own work.
    pub(crate) fn failure(&mut self, symbol: &str) -> Option<Failure> {
        let failures = &mut self.knobs.failures;
        for failure in failures.iter_mut().filter(|failure| failure.symbol == symbol) {
            failure.countdown = failure.countdown.saturating_sub(1);
        }
        let struck = failures.iter().position(|failure| failure.symbol == symbol && failure.countdown == 0)?;
        Some(failures.remove(struck))
    }

    /// xorshift64.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        let chance = &mut self.knobs.chance;
        *chance ^= *chance << 13;
        *chance ^= *chance >> 7;
        *chance ^= *chance << 17;
        *chance % n.max(1)
    }
}
