//! Ctrl-C: the first one asks loops to end, so that temporary files are removed; the second one ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn ask(_signal: libc::c_int) {
    ASKED.store(true, Ordering::Relaxed);
}

/// Installs the handler for the signals with which people and job schedulers stop a command.
pub(crate) fn watch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: sigaction is plain data for which all-zero is a valid value; `action` outlives the call, which copies
        // it. The handler only stores to an atomic, which is safe at any instruction. SA_RESETHAND gives the second
        // signal its deadly default back.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ask as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// An error once a signal has come. To be asked in every loop that lasts.
pub(crate) fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) { Err(Failure::interrupted()) } else { Ok(()) }
}
