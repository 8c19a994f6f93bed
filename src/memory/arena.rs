//! One anonymous mapping in the largest pages that can be had.
//!
//! Page size decides the cost of direct reads more than any ring flag does: a 4 MiB read is one device request on
//! huge pages and several on 4 KiB pages, and pinning costs per page.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ptr::NonNull;

use super::hugetlb;
use crate::error::{Error, Result};
use crate::machine;

const HUGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// What an arena is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB pages from the reserved pool (`vm.nr_hugepages`).
    HugeTlb,
    /// Transparent huge pages; at least nine tenths of the arena really got them.
    Transparent,
    /// Ordinary 4 KiB pages.
    Small,
}

impl Pages {
    /// For the stats: `"hugetlb 2 MiB"`, `"transparent huge pages"`, `"4 KiB pages"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Pages::HugeTlb => "hugetlb 2 MiB",
            Pages::Transparent => "transparent huge pages",
            Pages::Small => "4 KiB pages",
        }
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Anonymous memory, zeroed, excluded from children of `fork` until [`Arena::inherit`]. Unmapped when dropped.
///
/// Whoever lets hardware write into an arena keeps it alive until every such write has completed.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    pages: Pages,
}

// SAFETY: an arena is a plain mapping; it only gives out addresses, and their users answer for access.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// What [`map`](Arena::map) makes of `bytes`: rounded up to 4 KiB, or to 2 MiB from 2 MiB on.
    pub fn rounded(bytes: u64) -> u64 {
        let unit = if bytes >= HUGE as u64 { HUGE } else { PAGE } as u64;
        bytes.max(1).checked_next_multiple_of(unit).unwrap_or(u64::MAX)
    }

    /// Maps at least `bytes`, rounded up to 4 KiB, or to 2 MiB from 2 MiB on.
    pub fn map(bytes: usize) -> Result<Arena> {
        Arena::with_pages(bytes, usize::MAX)
    }

    /// The same with pages that come when they are first written to, but for the first, which shows what they are. Pages of the
    /// pool only where its cgroups leave room for all, and for what other arenas of this process are still to write to.
    pub fn reserve(bytes: usize) -> Result<Arena> {
        Arena::with_pages(bytes, HUGE)
    }

    fn with_pages(bytes: usize, populated: usize) -> Result<Arena> {
        let unit = if bytes >= HUGE { HUGE } else { PAGE };
        let no_memory = |errno| Error::Memory { what: "host memory", bytes: bytes as u64, errno };
        let bytes = bytes.max(1).checked_next_multiple_of(unit).ok_or(no_memory(libc::ENOMEM))?;
        let populated = populated.min(bytes);
        let arena = |base, pages| Arena { base, bytes, pages };
        let huge = || {
            let arena = map_hugetlb(bytes).map(|base| arena(base, Pages::HugeTlb))?;
            // What is denied of pages that are faulted in now would show now; but they may be promised to others.
            let range = (arena.base.as_ptr() as usize, bytes);
            match hugetlb::PROMISED.claim(machine::root(), range, hugetlb::absent) {
                true => Ok(arena),
                false => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            }
        };
        let others = || map_aligned(bytes).map(|base| arena(base, Pages::Small));
        let mut arena = first([&huge, &others], |arena| arena.prepare(populated)).map_err(|e| no_memory(errno(&e)))?;
        if populated == bytes {
            hugetlb::PROMISED.forget(arena.base.as_ptr() as usize);
        }
        // The kernel walks the memory before this for an answer: not where it can only be no.
        let may_be_huge = arena.pages == Pages::Small && bytes >= HUGE;
        if may_be_huge && arena.huge_bytes().is_some_and(|huge| huge >= populated / 10 * 9) {
            arena.pages = Pages::Transparent;
        }
        Ok(arena)
    }

    /// First byte; 4096-aligned, 2 MiB-aligned from 2 MiB on.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it is made of.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Gives the mapping up; [`Arena::from_raw`] takes it back.
    pub fn into_raw(self) -> (NonNull<u8>, usize) {
        let raw = (self.base, self.bytes);
        std::mem::forget(self);
        raw
    }

    /// Takes a mapping back.
    ///
    /// # Safety
    /// The pair came from [`Arena::into_raw`], and this is its only owner.
    pub unsafe fn from_raw(base: NonNull<u8>, bytes: usize) -> Arena {
        Arena { base, bytes, pages: Pages::Small }
    }

    /// Children of `fork` have a copy of the memory from now on.
    ///
    /// # Safety
    /// The pair is that of an arena's mapping, which exists. No hardware writes to it: what lands after a fork may
    /// come to the child in place of the parent (`man 2 open`: O_DIRECT and fork).
    pub unsafe fn inherit(base: NonNull<u8>, bytes: usize) -> io::Result<()> {
        // SAFETY: a mapping's own range, which exists: the caller's promise. No byte of it changes.
        match unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_DOFORK) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hides it from forks, and faults in the first `bytes`.
    fn prepare(&self, bytes: usize) -> io::Result<()> {
        self.advise(self.bytes, libc::MADV_DONTFORK)?;
        if self.pages == Pages::Small && self.bytes >= HUGE {
            let _ = self.advise(self.bytes, libc::MADV_HUGEPAGE); // EINVAL where the kernel has none: small pages work too
        }
        self.populate(bytes)
    }

    /// About the first `bytes`, which are no more than there are.
    fn advise(&self, bytes: usize, advice: i32) -> io::Result<()> {
        // SAFETY: the range is inside this arena's own mapping, alive as long as `self`.
        match unsafe { libc::madvise(self.base.as_ptr().cast(), bytes, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Faults the pages of the first `bytes` in now: later, pinning would do it, and khugepaged cannot mend pinned small
    /// pages.
    fn populate(&self, bytes: usize) -> io::Result<()> {
        self.populate_by(bytes, self.advise(bytes, libc::MADV_POPULATE_WRITE))
    }

    /// By touching them, where the kernel is older than that call (5.14). Not pages of a pool: one that is denied would end
    /// the process with SIGBUS.
    fn populate_by(&self, bytes: usize, called: io::Result<()>) -> io::Result<()> {
        match called {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && self.pages != Pages::HugeTlb => {
                for at in (0..bytes).step_by(PAGE) {
                    // SAFETY: `at` is inside this arena's own writable mapping, which nobody else has seen yet.
                    unsafe { self.base.add(at).write_volatile(0) };
                }
                Ok(())
            }
            other => other,
        }
    }

    /// How many bytes of this mapping are in transparent huge pages, by `/proc/self/smaps`.
    fn huge_bytes(&self) -> Option<usize> {
        let start = self.base.as_ptr() as usize;
        huge_bytes(File::open("/proc/self/smaps").ok()?, start, start + self.bytes)
    }
}

/// By what smaps says, mapping by mapping, in the order of addresses. The kernel walks a mapping's pages as it is read, 13 ms for
/// a GiB of small ones: so nothing is read behind what is asked for. What was mapped last is mostly among the first.
fn huge_bytes(smaps: impl Read, start: usize, end: usize) -> Option<usize> {
    let (mut mapping, mut huge) = (0..0, 0);
    // Less than the kernel says of one mapping: it does not begin another unless it is read on.
    for line in BufReader::with_capacity(256, smaps).lines() {
        let line = line.ok()?;
        let first = line.split(' ').next().unwrap_or("");
        if let Some((low, high)) = first.split_once('-') {
            mapping = usize::from_str_radix(low, 16).ok()?..usize::from_str_radix(high, 16).ok()?;
        } else if first == "AnonHugePages:" && mapping.end > start {
            // The kernel may have merged neighbours into one mapping.
            let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
            huge += if mapping.start < end { kib << 10 } else { 0 };
            if mapping.end >= end {
                break;
            }
        }
    }
    Some(huge)
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Before another mapping can be there.
        hugetlb::PROMISED.forget(self.base.as_ptr() as usize);
        // SAFETY: the mapping is ours and this is its last owner; by the type's contract no hardware writes to it now.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The first of these that can be mapped and prepared. A cgroup may be denied pages of the pool that a mapping has
/// reserved (hugetlb.2MB.max, 0 in pods that have not asked for any): that shows when they are faulted in.
fn first(maps: [&dyn Fn() -> io::Result<Arena>; 2], prepare: impl Fn(&Arena) -> io::Result<()>) -> io::Result<Arena> {
    let whole = |map: &dyn Fn() -> io::Result<Arena>| map().and_then(|arena| prepare(&arena).map(|()| arena));
    whole(maps[0]).or_else(|_| whole(maps[1]))
}

fn map_hugetlb(bytes: usize) -> io::Result<NonNull<u8>> {
    if bytes < HUGE {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    map(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB)
}

/// Maps with 2 MiB alignment by mapping more and giving the ends back.
fn map_aligned(bytes: usize) -> io::Result<NonNull<u8>> {
    if bytes < HUGE {
        return map(bytes, 0);
    }
    let wide = bytes.checked_add(HUGE).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let start = map(wide, 0)?.as_ptr() as usize;
    let base = start.next_multiple_of(HUGE);
    for (from, len) in [(start, base - start), (base + bytes, start + wide - base - bytes)] {
        if len > 0 {
            // SAFETY: this is an unused end of the mapping made three lines above.
            unsafe { libc::munmap(from as *mut libc::c_void, len) };
        }
    }
    Ok(NonNull::new(base as *mut u8).expect("a mapping is never at address 0"))
}

fn map(bytes: usize, flags: i32) -> io::Result<NonNull<u8>> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("a mapping is never at address 0"))
}

fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_alignment() {
        for bytes in [0, 1, PAGE, PAGE + 1, HUGE - 1, HUGE, 5 * HUGE + 1] {
            let arena = Arena::map(bytes).unwrap();
            let unit = if bytes >= HUGE { HUGE } else { PAGE };
            assert!(arena.bytes() >= bytes.max(1) && arena.bytes().is_multiple_of(PAGE));
            assert_eq!(arena.base().as_ptr() as usize % unit, 0, "{bytes} bytes");
            // SAFETY: both ends are inside the arena, which nobody else uses.
            unsafe {
                arena.base().write(1);
                arena.base().add(arena.bytes() - 1).write(2);
            }
        }
    }

    #[test]
    fn too_much_is_an_error_with_the_amount() {
        let error = Arena::map(usize::MAX - HUGE).unwrap_err();
        assert!(matches!(error, Error::Memory { errno: libc::ENOMEM, .. }), "{error}");
    }

    /// Mutants that this catches: huge pages that are reserved and cannot be had are an error; they are touched to have them.
    #[test]
    fn ordinary_pages_stand_in_for_huge_ones_that_do_not_come() {
        let of = |pages| move || Ok(Arena { base: map(PAGE, 0)?, bytes: PAGE, pages });
        let (huge, small) = (of(Pages::HugeTlb), of(Pages::Small));
        let denied = |arena: &Arena| match arena.pages {
            Pages::HugeTlb => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            _ => Ok(()),
        };
        assert_eq!(first([&huge, &small], |_| Ok(())).unwrap().pages, Pages::HugeTlb);
        assert_eq!(first([&huge, &small], denied).unwrap().pages, Pages::Small);
        let none = first([&huge, &small], |_| Err(io::Error::from_raw_os_error(libc::ENOMEM)));
        assert_eq!(none.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        // A kernel that does not know how to fault pages in without a signal.
        let old = |arena: &Arena| arena.populate_by(PAGE, Err(io::Error::from_raw_os_error(libc::EINVAL)));
        assert_eq!(first([&huge, &small], old).unwrap().pages, Pages::Small);
    }

    /// Mutant that this catches: all that a process has is read, whatever it is.
    #[test]
    fn no_more_is_asked_of_the_kernel_than_is_needed() {
        let mapping = |low: usize, kib: usize| {
            let zeros = "Shared_Clean: 0 kB\n".repeat(40); // as long as the kernel's
            format!("{low:x}-{:x} rw-p 00000000 00:00 0 \nRss: 9 kB\nAnonHugePages: {kib} kB\n{zeros}", low + HUGE)
        };
        let mine = 0x7f00_0000_0000;
        let text = mapping(mine - 4 * HUGE, 2) + &mapping(mine, 2048) + &mapping(mine + HUGE, 4);
        let behind = mapping(mine + 2 * HUGE, 4);
        let all = text.clone() + &behind;
        let mut left = all.as_bytes();
        assert_eq!(huge_bytes(&mut left, mine, mine + 2 * HUGE), Some((2 << 20) + (4 << 10)));
        assert!(left.len() >= behind.len(), "{} bytes of the next mapping were read", behind.len() - left.len());
        assert_eq!(huge_bytes(text.as_bytes(), mine, mine + HUGE), Some(2 << 20));
        assert_eq!(huge_bytes(&text.as_bytes()[..10], mine, mine + HUGE), Some(0), "no line of a mapping's");
        assert_eq!(huge_bytes(text.as_bytes(), mine + 5 * HUGE, mine + 6 * HUGE), Some(0), "it is not there");
    }

    #[test]
    fn a_child_does_not_inherit_it() {
        let arena = Arena::map(PAGE).unwrap();
        let address = arena.base().as_ptr();
        // SAFETY: the child calls only async-signal-safe functions (mincore is a bare syscall) and _exit.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                let mut residency = 0u8;
                let gone = libc::mincore(address.cast(), PAGE, &raw mut residency) == -1;
                libc::_exit(i32::from(!gone));
            }
            let mut status = 0;
            libc::waitpid(child, &raw mut status, 0);
            status
        };
        assert_eq!(status, 0, "the mapping is visible in a child");
    }
}
