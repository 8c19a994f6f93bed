//! Direct reads of a file, really tried: with O_DIRECT, and with RWF_NOWAIT.

use std::fs::File;
use std::io;
use std::path::Path;

use super::Finding;
use crate::linux::cache::residency;
use crate::linux::file::{DirectAlign, direct_align, open_direct, read_at};
use crate::linux::pages::Pages;
use crate::linux::{errno, errno_name};

/// Large enough that file systems which answer small NOWAIT reads from a tree node have to show their true behaviour.
const BLOCK: usize = 64 << 10;

/// What became of a read with O_DIRECT.
pub(super) struct Direct {
    pub(super) align: Option<DirectAlign>,
    pub(super) refused: Option<i32>,
    /// Pages appeared in the page cache, or the file has no other home.
    cached: bool,
}

impl Direct {
    pub(super) fn examine(path: &Path, fs: &str) -> Direct {
        let pages = || residency(path).map_or(0, |seen| seen.cached);
        let before = pages();
        let tried = open_direct(path).and_then(|file| {
            let align = direct_align(&file).unwrap_or(None);
            read_at(&file, &mut Pages::new(BLOCK)?, 0, 0).map(|_| align)
        });
        let cached = pages() > before || matches!(fs, "tmpfs" | "ramfs");
        match tried {
            Ok(align) => Direct { align, refused: None, cached },
            Err(error) => Direct { align: None, refused: Some(errno(&error)), cached: true },
        }
    }

    pub(super) fn works(&self) -> bool {
        let denied = self.align.is_some_and(|align| align.offset == 0);
        self.refused.is_none() && !self.cached && !denied
    }

    pub(super) fn finding(&self, fs: &str) -> Finding {
        let cached = match fs {
            "tmpfs" | "ramfs" => "the files are memory already: reading them is a copy by the CPU",
            _ => "reads go through the page cache: 15 to 90 times the CPU per GiB, and the cache fills up",
        };
        let move_it = "keep shards on ext4 or xfs on a local disk (in a container: on a volume, not in its root)";
        if let Some(refused) = self.refused {
            return Finding::note(format!("{fs}; O_DIRECT is refused: {}", errno_name(refused)), cached, move_it);
        }
        let align = match self.align {
            Some(align) => format!("statx DIOALIGN: memory {}, offset {}", align.memory, align.offset),
            None => "statx tells no DIOALIGN".into(),
        };
        if !self.works() {
            let found = format!("{fs}; O_DIRECT is accepted and ignored ({align})");
            return Finding::note(found, cached, move_it);
        }
        Finding::ok(format!("{fs}; O_DIRECT works ({align})"), "the disk writes into memory that strait chose, no copy")
    }
}

/// Whether a block can be asked for without waiting. If not, io_uring hands every read to a kernel thread.
pub(super) fn nowait(path: &Path) -> io::Result<()> {
    let file = open_direct(path).or_else(|_| File::open(path))?;
    let bytes = file.metadata()?.len();
    let mut block = Pages::new(BLOCK)?;
    let ask = |block: &mut Pages, offset: u64| {
        let want = (BLOCK as u64).min(bytes - offset);
        let got = read_at(&file, block, offset, libc::RWF_NOWAIT)? as u64;
        if got >= want { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EAGAIN)) }
    };
    // EAGAIN may come from one dirty page: another range decides.
    let second = (bytes / 2) & !(BLOCK as u64 - 1);
    ask(&mut block, 0).or_else(|error| match error.raw_os_error() {
        Some(libc::EAGAIN) if second > 0 => ask(&mut block, second),
        _ => Err(error),
    })
}

pub(super) fn nowait_finding(nowait: &io::Result<()>) -> Finding {
    let Err(error) = nowait else {
        return Finding::ok(
            "a 64 KiB read with RWF_NOWAIT starts at once",
            "io_uring drives the disk without helper threads",
        );
    };
    Finding::note(
        format!("a 64 KiB read with RWF_NOWAIT answers {}", errno_name(errno(error))),
        "io_uring would pass each read to a kernel thread; strait's own pread threads are as fast or faster here",
        "keep shards on ext4 or xfs on a local disk",
    )
}
