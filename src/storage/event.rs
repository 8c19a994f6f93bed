//! Descriptors that end waits.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// A counter that is readable while it is not 0 (eventfd(2)).
pub(super) struct Event(OwnedFd);

impl Event {
    pub(super) fn new() -> io::Result<Event> {
        // SAFETY: eventfd takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and has no other owner.
        Ok(Event(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Cannot fail: the counter is far from its end.
    pub(super) fn set(&self) {
        let one = 1u64;
        // SAFETY: the buffer is eight bytes that outlive the call.
        unsafe { libc::write(self.fd(), (&raw const one).cast(), 8) };
    }

    pub(super) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: the buffer is eight bytes that outlive the call.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), 8) };
    }
}

/// Ends the wait of the one who sleeps, from any thread. A call that comes while nobody sleeps ends the next wait before it
/// begins, so none is lost; a system call is made only where somebody sleeps.
pub(crate) struct Waker {
    state: AtomicU8,
    event: Event,
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const CALLED: u8 = 2;

impl Waker {
    pub(super) fn new() -> Result<Waker> {
        let refused = |e: io::Error| Error::Ring {
            ring: "waker",
            problem: "eventfd".into(),
            errno: e.raw_os_error().unwrap_or(libc::EMFILE),
        };
        Ok(Waker { state: AtomicU8::new(AWAKE), event: Event::new().map_err(refused)? })
    }

    /// Whatever was done before is seen by the one who wakes.
    pub(crate) fn wake(&self) {
        if self.state.swap(CALLED, Ordering::AcqRel) == ASLEEP {
            self.event.set();
        }
    }

    /// Readable once the sleeper is called.
    pub(super) fn fd(&self) -> RawFd {
        self.event.fd()
    }

    /// Whether there was a call since the last sleep began.
    pub(super) fn is_called(&self) -> bool {
        self.state.load(Ordering::Acquire) == CALLED
    }

    /// Says that a sleep begins; false if there was a call already, which this answers.
    pub(super) fn sleeps(&self) -> bool {
        let called = self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_err();
        if called {
            self.state.swap(AWAKE, Ordering::AcqRel);
        }
        !called
    }

    /// Says that the sleep is over, and whether something else may have ended it. The event of a call may come after the
    /// sleep that it was for, and ends one more.
    pub(super) fn slept(&self, otherwise: bool) {
        if self.state.swap(AWAKE, Ordering::AcqRel) == CALLED || !otherwise {
            self.event.clear();
        }
    }

    /// Sleeps until there is a call or `timeout` has passed.
    pub(super) fn sleep(&self, timeout: Duration) {
        if self.sleeps() {
            wait_readable([self.fd(), -1, -1], timeout);
            self.slept(false);
        }
    }
}

/// Waits until one of `fds` is readable or `timeout` has passed, and says which are. Negative ones are passed over. Signals
/// end the wait early.
pub(super) fn wait_readable(fds: [RawFd; 3], timeout: Duration) -> [bool; 3] {
    let mut polls = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let time = libc::timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    // SAFETY: the array and the time outlive the call.
    unsafe { libc::ppoll(polls.as_mut_ptr(), polls.len() as u64, &raw const time, std::ptr::null()) };
    polls.map(|poll| poll.revents != 0)
}
