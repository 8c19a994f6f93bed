//! Experiments on rings and memory that leave nothing behind.

use std::io;

use io_uring::IoUring;

use crate::linux::pages::Pages;

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

/// Registers memory with a ring as one buffer and takes it back.
pub(super) fn register(ring: &IoUring, memory: &Pages) -> io::Result<()> {
    let buffer = libc::iovec { iov_base: memory.base().as_ptr().cast(), iov_len: memory.len() };
    // SAFETY: `memory` is borrowed until the registration has ended below, and no read ever uses it.
    unsafe { ring.submitter().register_buffers(&[buffer])? };
    ring.submitter().unregister_buffers()
}
