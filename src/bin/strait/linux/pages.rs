//! Anonymous memory straight from the kernel: page-aligned, zero, and untouched until it is used.

use std::io;
use std::ptr::NonNull;

/// Alignment that O_DIRECT accepts everywhere.
pub(crate) const ALIGN: usize = 4096;

/// A mapping of its own. Plain 4 KiB pages, unless the system makes all memory huge.
///
/// Nobody touches the pages before a ring registers them, as with fio's buffers: the same loop over pages that the CPU
/// had written first was measured a quarter slower.
pub(crate) struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: Pages owns its memory alone, as a Box<[u8]> does.
unsafe impl Send for Pages {}

impl Pages {
    pub(crate) fn new(bytes: usize) -> io::Result<Pages> {
        Pages::with_flags(bytes, 0)
    }

    /// `flags` are added to `MAP_PRIVATE|MAP_ANONYMOUS` (`MAP_HUGETLB`).
    pub(crate) fn with_flags(bytes: usize, flags: i32) -> io::Result<Pages> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Pages { base, len: bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `base` is valid for `len` bytes, zero at first, as long as self lives, and `&mut self` makes this the
        // only view; who hands `base()` to the kernel does not call this before the read has completed.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Asks for huge pages; those that the kernel grants appear when the memory is touched.
    pub(crate) fn advise_huge(&mut self) {
        // SAFETY: advice on our own mapping changes no byte of it.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by us, unmapped once. Whoever handed `base()` to the kernel has counted every completion and
        // ended every registration before dropping this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
