//! Everything that the stand-in knows, under one lock.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) struct State {
    pub(crate) opened: bool,
    /// Registered files: handle to descriptor.
    pub(crate) files: BTreeMap<usize, i32>,
    /// Registered memory: base and length.
    pub(crate) buffers: BTreeMap<usize, usize>,
    pub(crate) batches: BTreeMap<usize, Batch>,
    pub(crate) knobs: BTreeMap<String, i64>,
    pub(crate) misuse: Vec<String>,
    pub(crate) reads: u64,
    pub(crate) chance: u64,
    next_handle: usize,
}

#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) room: usize,
    /// The files and addresses of entries in flight, by cookie.
    pub(crate) in_flight: BTreeMap<usize, (usize, usize)>,
    /// Cookie, status, result.
    pub(crate) ended: Vec<(usize, i32, i64)>,
}

static STATE: Mutex<State> = Mutex::new(State {
    opened: false,
    files: BTreeMap::new(),
    buffers: BTreeMap::new(),
    batches: BTreeMap::new(),
    knobs: BTreeMap::new(),
    misuse: Vec::new(),
    reads: 0,
    chance: 1,
    next_handle: 1 << 20,
});

pub(crate) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(crate) fn handle(&mut self) -> usize {
        self.next_handle += 64;
        self.next_handle
    }

    pub(crate) fn knob(&self, name: &str) -> i64 {
        self.knobs.get(name).copied().unwrap_or(0)
    }

    /// A knob that acts once.
    pub(crate) fn take_knob(&mut self, name: &str) -> i64 {
        self.knobs.remove(name).unwrap_or(0)
    }

    pub(crate) fn refuse(&mut self, code: i32, what: &str) -> i32 {
        self.misuse.push(what.into());
        code
    }

    /// Once in as many times as the knob says; never, if it says nothing.
    pub(crate) fn strikes(&mut self, knob: &str) -> bool {
        let once_in = self.knob(knob) as u64;
        once_in > 0 && self.below(once_in) == 0
    }

    /// Any time up to what the knob says.
    pub(crate) fn chance_us(&mut self, knob: &str) -> Duration {
        let most = self.knob(knob) as u64;
        Duration::from_micros(self.below(most + 1))
    }

    /// xorshift64.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % n.max(1)
    }

    pub(crate) fn uses(&self, file: usize) -> bool {
        self.batches.values().flat_map(|batch| batch.in_flight.values()).any(|&(used, _)| used == file)
    }
}

/// Puts bytes where a read wants them; false if that is no memory of the stand-in driver's.
pub(crate) fn put(target: usize, bytes: &[u8]) -> bool {
    const DEVICE: usize = 1 << 62;
    if target < DEVICE {
        // SAFETY: the program gave host memory, and keeps it until the read has ended.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target as *mut u8, bytes.len()) };
        return true;
    }
    type Write = unsafe extern "C" fn(u64, *const u8, usize) -> bool;
    // SAFETY: the type is that of the stand-in driver's control.rs; the bytes outlive the call.
    driver::<Write>(c"fakecuda_write").is_some_and(|write| unsafe { write(target as u64, bytes.as_ptr(), bytes.len()) })
}

/// Whether the calling thread has a context, where there is a driver to have one of.
pub(crate) fn has_context() -> bool {
    type Current = unsafe extern "C" fn(*mut *mut c_void) -> i32;
    let Some(current) = driver::<Current>(c"cuCtxGetCurrent") else { return true };
    let mut context = std::ptr::null_mut();
    // SAFETY: `context` is writable.
    unsafe { current(&mut context) == 0 && !context.is_null() }
}

/// A function of the stand-in driver, if that is loaded.
fn driver<F: Copy>(name: &CStr) -> Option<F> {
    // SAFETY: only looks a name up.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: callers name the type of the function of that name.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}
