//! Which way a file is read: tried, not guessed.
//!
//! ```text
//!  open(O_DIRECT) --EINVAL--> buffered, pread threads
//!        |
//!  statx: DIOALIGN 0/0 -----> buffered, pread threads
//!        |
//!  preadv2(a real block, RWF_NOWAIT)
//!        |-- all of it -----> the ring
//!        |-- EOPNOTSUPP ----> pread threads: io_uring would hand every read to a kernel worker
//!        |-- EAGAIN twice --> pread threads, for the same reason
//!        '-- EINVAL --------> buffered, pread threads
//! ```

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::memory::Arena;
use crate::stats::Fallback;

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The ring, without the page cache.
    Ring,
    /// Threads that call `preadv2`.
    Threads,
}

/// How one file is read.
#[derive(Debug, Clone)]
pub struct Mode {
    /// Who reads it.
    pub way: Way,
    /// Whether the page cache is bypassed; then offsets, lengths and addresses are aligned to `align`.
    pub direct: bool,
    /// Alignment that this file demands, in bytes; 1 for buffered files.
    pub align: u64,
    /// Flags for `preadv2`.
    pub rw_flags: i32,
}

/// What [`Prober::open`] found out about one file.
#[derive(Debug)]
pub struct Probed {
    /// The open file.
    pub file: File,
    /// How to read it.
    pub mode: Mode,
    /// What could not be had.
    pub fallback: Option<Fallback>,
}

/// `RWF_DONTCACHE` of linux/fs.h (6.14): buffered, but leaves nothing in the page cache.
const RWF_DONTCACHE: i32 = 0x80;
/// File systems remembered; datasets rarely lie on more.
const KNOWN_MAX: usize = 8;
/// Longer than the 4 KiB that some file systems answer without waiting though they would not a real read.
const PROBE_BYTES: usize = 128 << 10;

/// Opens files and finds out how to read them. Shards of one file system are probed by reading only once.
#[derive(Debug)]
pub struct Prober {
    /// Whether there is a ring to choose at all.
    ring: bool,
    /// The alignment that reads will have.
    align: u64,
    /// The last answers, by what decides them.
    known: VecDeque<(Kind, Mode)>,
}

/// Files alike in this are read alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    device: u64,
    dio_align: Option<u64>,
    /// Shorter than the probe: some file systems answer short reads at once, and longer ones not.
    short: bool,
}

impl Prober {
    /// A prober for reads that are multiples of `align`; without a `ring`, files go to threads.
    pub fn new(ring: bool, align: u64) -> Prober {
        Prober { ring, align, known: VecDeque::with_capacity(KNOWN_MAX) }
    }

    /// Opens `path` for reading and finds out how.
    pub fn open(&mut self, path: &Path) -> Result<Probed> {
        let open_error = |e: io::Error| Error::open(path, &e);
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => file,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                return buffered(path, "open with O_DIRECT", Some(libc::EINVAL));
            }
            Err(e) => return Err(open_error(e)),
        };
        let meta = file.metadata().map_err(open_error)?;
        let short = meta.len() < PROBE_BYTES as u64;
        let kind = Kind { device: meta.dev(), dio_align: dio_align(&file), short };
        if let Some((_, mode)) = self.known.iter().find(|(known, _)| *known == kind) {
            return Ok(Probed { file, mode: mode.clone(), fallback: None });
        }
        let probed = self.decide(path, file, kind)?;
        // A buffered file is one that was opened anew, so its answer cannot be passed on to an open file.
        if probed.mode.direct {
            self.known.truncate(KNOWN_MAX - 1);
            self.known.push_front((kind, probed.mode.clone()));
        }
        Ok(probed)
    }

    fn decide(&self, path: &Path, file: File, kind: Kind) -> Result<Probed> {
        let align = match kind.dio_align {
            Some(0) => return buffered(path, "statx reports no direct reads for this file", None),
            Some(align) if align > self.align => {
                return buffered(path, &format!("direct reads need {align}-byte alignment; set align_bytes"), None);
            }
            Some(align) => align,
            None => self.align,
        };
        let mode = |way| Mode { way, direct: true, align, rw_flags: 0 };
        if !self.ring {
            // Why there is no ring was said when it could not be made.
            return Ok(Probed { file, mode: mode(Way::Threads), fallback: None });
        }
        match nowait_answer(&file).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)) {
            Err(libc::EINVAL) => buffered(path, "first direct read", Some(libc::EINVAL)),
            Err(errno @ (libc::EOPNOTSUPP | libc::EAGAIN)) => {
                let fallback = Some(threads_instead(path, errno));
                Ok(Probed { file, mode: mode(Way::Threads), fallback })
            }
            // A media error at the probed block says nothing about the way: the read itself will report it.
            Ok(()) | Err(_) => Ok(Probed { file, mode: mode(Way::Ring), fallback: None }),
        }
    }
}

fn threads_instead(path: &Path, errno: i32) -> Fallback {
    Fallback {
        instead: "pread threads instead of io_uring".into(),
        reason: format!("{}: this file system cannot start reads without waiting", path.display()),
        errno: Some(errno),
        remedy: "io_uring would hand each read to a kernel worker thread, which is slower; \
                 ext4 and XFS on a block device take the ring",
    }
}

/// Opens `path` through the page cache, because direct reads failed in the way that `reason` and `errno` say.
pub(super) fn buffered(path: &Path, reason: &str, errno: Option<i32>) -> Result<Probed> {
    let file = File::open(path).map_err(|e| Error::open(path, &e))?;
    let dont_cache = pread_once(&file, 0, 1, RWF_DONTCACHE).is_ok();
    let mode =
        Mode { way: Way::Threads, direct: false, align: 1, rw_flags: if dont_cache { RWF_DONTCACHE } else { 0 } };
    let fallback = Fallback {
        instead: format!(
            "buffered reads{} by threads instead of direct reads",
            if dont_cache { " that leave the page cache alone" } else { "" }
        ),
        reason: format!("{}: {reason}", path.display()),
        errno,
        remedy: "put the shards on a file system with O_DIRECT (ext4, XFS) to keep the CPU off the data path",
    };
    Ok(Probed { file, mode, fallback: Some(fallback) })
}

/// Reads a real block of the file without waiting for anything but the device.
fn nowait_answer(file: &File) -> io::Result<()> {
    let first = pread_once(file, 0, PROBE_BYTES, libc::RWF_NOWAIT);
    match &first {
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
            // A dirty page in this range answers EAGAIN too. Waiting for it once tells the two apart.
            pread_once(file, 0, PROBE_BYTES, 0)?;
            pread_once(file, 0, PROBE_BYTES, libc::RWF_NOWAIT)
        }
        _ => first,
    }
}

fn pread_once(file: &File, offset: i64, bytes: usize, flags: i32) -> io::Result<()> {
    let buffer = Arena::map(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let vector = libc::iovec { iov_base: buffer.base().as_ptr().cast(), iov_len: bytes };
    // SAFETY: the vector names memory of `buffer`, which outlives this synchronous call.
    match unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, offset, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The alignment of direct reads by statx(2) `STATX_DIOALIGN` (6.1): 0 if the file has none, `None` if unknown.
pub(super) fn dio_align(file: &impl AsRawFd) -> Option<u64> {
    let stat = statx(file.as_raw_fd(), libc::STATX_DIOALIGN)?;
    (stat.stx_mask & libc::STATX_DIOALIGN != 0)
        .then(|| u64::from(stat.stx_dio_offset_align).max(u64::from(stat.stx_dio_mem_align)))
}

fn statx(fd: RawFd, mask: u32) -> Option<libc::statx> {
    // SAFETY: an all-zero statx is a valid value of that plain C struct.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, the result struct outlives the call.
    let answer = unsafe { libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, mask, &raw mut stat) };
    (answer == 0).then_some(stat)
}
