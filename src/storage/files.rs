//! The bounded set of open files.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::probe::{self, Mode, Probed, Prober, Way};
use crate::error::{Error, Result};
use crate::stats::Fallback;

/// A shard as the storage knows it: where it is, and how long it was when it was indexed.
#[derive(Debug, Clone)]
pub(crate) struct ShardFile {
    /// The file.
    pub(crate) path: Arc<Path>,
    /// Its size when it was indexed.
    pub(crate) bytes: u64,
}

/// How files are opened.
#[derive(Debug)]
pub(crate) enum Opening {
    /// As the probe says.
    Probed(Prober),
    /// For the ring, whatever the file system says; with O_DIRECT if asked for and possible.
    Ring {
        /// Whether to try O_DIRECT.
        direct: bool,
    },
}

impl ShardFile {
    /// That it is what it was, as far as its size says: for a file of which nothing is read.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_size(&self.check_kind()?)
    }

    /// Asked before opening: opening a pipe would wait for its writer, for ever.
    fn check_kind(&self) -> Result<Metadata> {
        let meta = std::fs::metadata(&self.path).map_err(|e| Error::open(&*self.path, &e))?;
        if meta.is_dir() {
            return Err(Error::Open { path: self.path.clone(), errno: libc::EISDIR });
        }
        if !meta.is_file() {
            return Err(Error::Changed { path: self.path.clone(), what: "it is no regular file any more".into() });
        }
        Ok(meta)
    }

    fn check_size(&self, meta: &Metadata) -> Result<()> {
        if meta.len() != self.bytes {
            let what = format!("it had {} bytes and now has {}", self.bytes, meta.len());
            return Err(Error::Changed { path: self.path.clone(), what });
        }
        Ok(())
    }
}

pub(super) struct OpenFile {
    shard: u32,
    /// `None` from the moment that the slot is wanted for another shard until that one is open.
    file: Option<File>,
    /// The file as it was before [`Files::demote`]: reads that are queued still name it.
    retired: Option<File>,
    pub(super) mode: Mode,
    /// Reads that name the slot or the descriptor.
    reads: u32,
    used: u64,
}

impl OpenFile {
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_ref().expect("a slot in use").as_raw_fd()
    }

    /// Whether the ring's table of files may name this file: a demoted file is read by threads, by descriptor.
    pub(super) fn registered(&self) -> bool {
        self.retired.is_none()
    }
}

/// Open files by slot; a slot is also the file's place in a ring's table of registered files.
pub(super) struct Files {
    shards: Arc<[ShardFile]>,
    opening: Opening,
    slots: Vec<OpenFile>,
    slot_of: Vec<u32>,
    open_max: usize,
    clock: u64,
}

const CLOSED: u32 = u32::MAX;
/// A continued read starts at a multiple of this where nothing was probed: the largest sector in use.
const DIRECT_ALIGN: u64 = 4096;

/// What opening a shard gave.
pub(super) struct Opened {
    pub(super) slot: u32,
    /// The file is new in its slot.
    pub(super) fresh: bool,
    pub(super) fallback: Option<Fallback>,
}

impl Files {
    pub(super) fn new(shards: Arc<[ShardFile]>, opening: Opening, open_max: usize) -> Files {
        Files {
            slot_of: vec![CLOSED; shards.len()],
            slots: Vec::with_capacity(open_max),
            shards,
            opening,
            open_max,
            clock: 0,
        }
    }

    pub(super) fn shard(&self, shard: u32) -> &ShardFile {
        &self.shards[shard as usize]
    }

    pub(super) fn slot(&self, slot: u32) -> &OpenFile {
        &self.slots[slot as usize]
    }

    /// One more read uses what is in this slot: it stays there until [`let_go`](Files::let_go).
    pub(super) fn hold(&mut self, slot: u32) {
        self.slots[slot as usize].reads += 1;
    }

    pub(super) fn let_go(&mut self, slot: u32) {
        self.slots[slot as usize].reads -= 1;
    }

    /// Open descriptors: a file that refused direct reads after all has two until it is closed.
    pub(super) fn descriptors(&self) -> usize {
        self.slots.iter().map(|open| usize::from(open.file.is_some()) + usize::from(open.retired.is_some())).sum()
    }

    /// The slot of a shard's open file, opening it if need be. `None`: every slot has reads in flight; try again later.
    pub(super) fn open(&mut self, shard: u32) -> Result<Option<Opened>> {
        self.clock += 1;
        let slot = self.slot_of[shard as usize];
        if slot != CLOSED {
            self.slots[slot as usize].used = self.clock;
            return Ok(Some(Opened { slot, fresh: false, fallback: None }));
        }
        let Some(slot) = self.free_slot() else { return Ok(None) };
        self.shard(shard).check_kind()?;
        self.vacate(slot);
        let Probed { file, mode, fallback } = self.probe(shard)?;
        self.check_size(shard, &file)?;
        let open = OpenFile { shard, file: Some(file), retired: None, mode, reads: 0, used: self.clock };
        match self.slots.get_mut(slot as usize) {
            Some(old) => *old = open,
            None => self.slots.push(open),
        }
        self.slot_of[shard as usize] = slot;
        Ok(Some(Opened { slot, fresh: true, fallback }))
    }

    /// Reopens a file through the page cache after a direct read of it was refused.
    pub(super) fn demote(&mut self, slot: u32, errno: i32) -> Result<Fallback> {
        let shard = self.slots[slot as usize].shard;
        let path = self.shards[shard as usize].path.clone();
        let Probed { file, mode, fallback } = probe::buffered(&path, "direct read", Some(errno))?;
        let open = &mut self.slots[slot as usize];
        open.retired = open.file.replace(file);
        open.mode = mode;
        Ok(fallback.expect("buffered always says why"))
    }

    /// Closes what a slot holds, before another file is opened: the limit may leave no room for both.
    fn vacate(&mut self, slot: u32) {
        let Some(old) = self.slots.get_mut(slot as usize) else { return };
        if old.file.take().is_some() {
            self.slot_of[old.shard as usize] = CLOSED;
            (old.retired, old.used) = (None, 0);
        }
    }

    /// Keeps every file open for ever: reads that nobody waits for any more still use them.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }

    fn probe(&mut self, shard: u32) -> Result<Probed> {
        let path = &*self.shards[shard as usize].path;
        let direct = match &mut self.opening {
            Opening::Probed(prober) => return prober.open(path),
            Opening::Ring { direct } => *direct,
        };
        let mut options = OpenOptions::new();
        options.read(true);
        let mut fallback = None;
        let file = match options.clone().custom_flags(if direct { libc::O_DIRECT } else { 0 }).open(path) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                fallback = Some(buffered_ring(path));
                options.open(path)
            }
            other => other,
        };
        let mode = Mode { way: Way::Ring, direct: true, align: DIRECT_ALIGN, rw_flags: 0 };
        Ok(Probed { file: file.map_err(|e| Error::open(path, &e))?, mode, fallback })
    }

    fn check_size(&self, shard: u32, file: &File) -> Result<()> {
        let shard = self.shard(shard);
        shard.check_size(&file.metadata().map_err(|e| Error::open(&*shard.path, &e))?)
    }

    /// A slot without reads in flight: a new one, or the one longest unused.
    fn free_slot(&self) -> Option<u32> {
        if self.slots.len() < self.open_max {
            return Some(self.slots.len() as u32);
        }
        let idle = self.slots.iter().enumerate().filter(|(_, open)| open.reads == 0);
        idle.min_by_key(|(_, open)| open.used).map(|(slot, _)| slot as u32)
    }
}

fn buffered_ring(path: &Path) -> Fallback {
    Fallback {
        instead: "buffered reads by io_uring instead of direct reads".into(),
        reason: format!("{}: open with O_DIRECT", path.display()),
        errno: Some(libc::EINVAL),
        remedy: "let the ring be chosen (auto): threads read such files with less CPU",
    }
}
