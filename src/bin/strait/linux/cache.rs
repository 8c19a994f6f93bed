//! How much of a file lies in the page cache, and how to get it out of there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The same number on every architecture strait runs on; libc does not name it.
const SYS_CACHESTAT: libc::c_long = 451;
const PAGE: u64 = 4096;

/// Pages of a set of files, and how many of them are cached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Residency {
    pub(crate) cached: u64,
    pub(crate) pages: u64,
}

/// Asks the kernel, without reading the file: cachestat (Linux 6.5), before that mincore.
pub(crate) fn residency(path: &Path) -> io::Result<Residency> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let cached = cachestat(&file).or_else(|_| mincore(&file, bytes))?;
    Ok(Residency { cached, pages: bytes.div_ceil(PAGE) })
}

#[repr(C)]
#[derive(Default)]
struct Range {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Stat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

fn cachestat(file: &File) -> io::Result<u64> {
    // A length of 0 means: to the end of the file.
    let (range, mut stat) = (Range::default(), Stat::default());
    // SAFETY: both structures have the kernel's layout (linux/mman.h) and outlive the call; flags must be 0.
    let rc = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &range, &mut stat, 0) };
    if rc == 0 { Ok(stat.cached) } else { Err(io::Error::last_os_error()) }
}

fn mincore(file: &File, bytes: u64) -> io::Result<u64> {
    if bytes == 0 {
        return Ok(0);
    }
    let mut present = vec![0u8; bytes.div_ceil(PAGE) as usize];
    // SAFETY: a new mapping that nothing dereferences; mincore writes one byte per page into `present`, which has
    // that many; the mapping is removed before anyone could learn its address.
    let rc = unsafe {
        let map =
            libc::mmap(std::ptr::null_mut(), bytes as usize, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let rc = libc::mincore(map, bytes as usize, present.as_mut_ptr().cast());
        libc::munmap(map, bytes as usize);
        rc
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(present.iter().filter(|page| **page & 1 == 1).count() as u64)
}

/// Takes a file's clean pages out of the page cache. Dirty ones are written first.
pub(crate) fn evict(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all().ok(); // A read-only file system answers EROFS or EINVAL and has nothing dirty.
    // SAFETY: an advice on an open file; no memory is involved.
    let rc = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if rc == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(rc)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_see_what_reading_put_there_and_evicting_removed() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7u8; 64 * 1024 + 1]).unwrap();
        let file = File::open(&path).unwrap();
        let seen = residency(&path).unwrap();
        assert_eq!(seen, Residency { cached: 17, pages: 17 });
        assert_eq!(mincore(&file, 64 * 1024 + 1).unwrap(), 17);
        evict(&path).unwrap();
        let left = residency(&path).unwrap().cached;
        assert_eq!(mincore(&file, 64 * 1024 + 1).unwrap(), left);
        if left > 0 {
            eprintln!("skipped: this file system keeps its pages in memory ({left} of 17 left)");
        }
    }
}
