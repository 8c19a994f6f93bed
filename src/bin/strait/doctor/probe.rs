//! Experiments on rings and memory that leave nothing behind.

use std::io;
use std::ptr::NonNull;

use io_uring::IoUring;

/// Setup flags from the best to none: each step is for kernels that answer EINVAL to the one before.
pub(super) const LADDER: [&str; 4] = [
    "SINGLE_ISSUER|DEFER_TASKRUN|SUBMIT_ALL|NO_SQARRAY",
    "SINGLE_ISSUER|DEFER_TASKRUN|SUBMIT_ALL",
    "COOP_TASKRUN|SUBMIT_ALL",
    "no flags",
];

/// Sets a ring up with step `step` of the [`LADDER`].
pub(super) fn set_up(step: usize, entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork();
    match step {
        0 => drop(builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_no_sqarray()),
        1 => drop(builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all()),
        2 => drop(builder.setup_coop_taskrun().setup_submit_all()),
        _ => {}
    }
    builder.build(entries)
}

/// Anonymous memory straight from the kernel.
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// `flags` are added to `MAP_PRIVATE|MAP_ANONYMOUS` (`MAP_HUGETLB`).
    pub(super) fn new(bytes: usize, flags: i32) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Asks for huge pages, then touches every 4 KiB page.
    pub(super) fn advise_huge_and_touch(&mut self) {
        // SAFETY: advice on our own mapping; then one byte of each of its pages is written through the only pointer.
        unsafe {
            libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE);
            for offset in (0..self.bytes).step_by(4096) {
                self.base.as_ptr().add(offset).write_volatile(1);
            }
        }
    }

    /// Registers the mapping with a ring as one buffer and takes it back.
    pub(super) fn register_with(&self, ring: &IoUring) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: self.base.as_ptr().cast(), iov_len: self.bytes };
        // SAFETY: the mapping outlives the registration, which ends below, and no read ever uses it.
        unsafe { ring.submitter().register_buffers(&[buffer])? };
        ring.submitter().unregister_buffers()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, removed once; no pointer into it leaves this type and no I/O targets it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
