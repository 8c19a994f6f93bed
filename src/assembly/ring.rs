//! Which ring there is, where it is not a device's: the one that is asked for, or the best that works here.

use crate::config::{ReadOptions, RingChoice};
use crate::error::{Error, Result};
use crate::stats::{Counters, Fallback};
use crate::storage::{Opening, Pread, Prober, REGISTER_FORBIDDEN, Ring, Uring};

/// Makes a ring for so many reads in flight.
pub(crate) type MakeRing = Box<dyn FnOnce(usize) -> Result<Box<dyn Ring>> + Send>;

/// The ring that is asked for, and how files are opened for it.
pub(crate) fn choose_ring(reads: &ReadOptions, counters: &Counters) -> Result<(Box<dyn Ring>, Opening)> {
    let (choice, depth, align) = (reads.ring, reads.reads_in_flight, reads.align_bytes);
    let threads = || -> Result<(Box<dyn Ring>, Opening)> {
        let (threads, fewer) = Pread::start(depth)?;
        fewer.into_iter().for_each(|fallback| counters.fall_back(fallback));
        Ok((Box::new(threads), Opening::Probed(Prober::new(false, align))))
    };
    if choice == RingChoice::Pread {
        return threads();
    }
    if choice == RingChoice::Cufile {
        return Err(Error::config("ring", "cuFile reads into the memory of CUDA devices; leave the ring to be chosen"));
    }
    match (choice, Uring::new(depth, reads.open_files_max)) {
        (RingChoice::Auto, Ok(ring)) => Ok((Box::new(ring), Opening::Probed(Prober::new(true, align)))),
        (_, Ok(ring)) => Ok((Box::new(ring), Opening::Ring { direct: true })),
        (RingChoice::Auto, Err(Error::Ring { errno, .. })) => {
            counters.fall_back(no_uring(errno));
            threads()
        }
        (_, Err(error)) => Err(error),
    }
}

/// Memory could not be registered with the ring.
pub(crate) fn not_registered(bytes: usize, errno: i32) -> Fallback {
    Fallback {
        instead: "memory pinned at each read instead of registered".into(),
        reason: format!("{bytes} bytes with io_uring_register"),
        errno: Some(errno),
        remedy: match errno {
            libc::EPERM | libc::EACCES => REGISTER_FORBIDDEN,
            _ => "raise `ulimit -l`, or lower pinned_bytes_max; costs CPU per read, not correctness",
        },
    }
}

pub(crate) fn no_uring(errno: i32) -> Fallback {
    let (reason, remedy) = match errno {
        libc::EPERM | libc::EACCES => (
            "io_uring is forbidden here, by sysctl kernel.io_uring_disabled or by the container's seccomp profile",
            "allow it (`sysctl kernel.io_uring_disabled=0`, `--security-opt seccomp=unconfined`)",
        ),
        libc::ENOSYS => (
            "this kernel or container runtime has no io_uring, or the kernel is older than 5.11",
            "use a newer kernel, or a container runtime that passes io_uring through",
        ),
        libc::ENOMEM => ("locked memory is short", "raise `ulimit -l`"),
        _ => ("io_uring cannot be set up", "run `strait doctor`"),
    };
    Fallback { instead: "pread threads instead of io_uring".into(), reason: reason.into(), errno: Some(errno), remedy }
}
