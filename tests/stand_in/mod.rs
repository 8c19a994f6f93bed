//! Loads the stand-in for the CUDA driver, and turns its knobs.
#![allow(dead_code, reason = "each test file is a crate, and uses a part")]

use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use strait::device::RawStream;

/// The controls of the stand-in.
pub(crate) struct Fake;

/// The stand-in, healed. One test at a time has it: its faults are the process's.
pub(crate) fn take() -> (Fake, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Fake.heal();
    wait_for_engines();
    Fake.misuse();
    (Fake, alone)
}

/// Waits until no engine's thread is left: they let go of their device a moment after their loaders are gone.
pub(crate) fn wait_for_engines() {
    let comm =
        |thread: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok();
    let engines =
        || std::fs::read_dir("/proc/self/task").unwrap().filter_map(comm).any(|name| name.starts_with("strait-engine"));
    let end = Instant::now() + Duration::from_secs(20);
    while engines() {
        assert!(Instant::now() < end, "an engine does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Fake {
    pub(crate) fn heal(&self) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn()>(c"fakecuda_heal")() }
    }

    pub(crate) fn pace(&self, seed: u64, latency_us_max: u64, bytes_per_ms: u64) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn(u64, u64, u64)>(c"fakecuda_pace")(seed, latency_us_max, bytes_per_ms) }
    }

    pub(crate) fn late(&self, stream: RawStream, us: u64) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn(usize, u64)>(c"fakecuda_late")(stream.0 as usize, us) }
    }

    pub(crate) fn fail(&self, symbol: &str, nth: u64, code: i32, works: bool) {
        type Fail = unsafe extern "C" fn(*const c_char, u64, i32, bool);
        let symbol = CString::new(symbol).unwrap();
        // SAFETY: the type is that of control.rs; the name is a C string.
        unsafe { function::<Fail>(c"fakecuda_fail")(symbol.as_ptr(), nth, code, works) }
    }

    /// How often `symbol` has been called in this process.
    pub(crate) fn calls(&self, symbol: &str) -> u64 {
        let symbol = CString::new(symbol).unwrap();
        // SAFETY: the type is that of control.rs; the name is a C string.
        unsafe { function::<unsafe extern "C" fn(*const c_char) -> u64>(c"fakecuda_calls")(symbol.as_ptr()) }
    }

    pub(crate) fn version(&self, version: i32) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn(i32)>(c"fakecuda_version")(version) }
    }

    pub(crate) fn pci_domain(&self, domain: u32) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn(u32)>(c"fakecuda_pci_domain")(domain) }
    }

    pub(crate) fn stall(&self) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn()>(c"fakecuda_stall")() }
    }

    pub(crate) fn lose(&self, code: i32) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn(i32)>(c"fakecuda_lose")(code) }
    }

    /// Allocations, registrations, streams, events, retained contexts, modules; engines that are ending are waited for.
    pub(crate) fn live_at_rest(&self) -> [u64; 6] {
        wait_for_engines();
        self.live()
    }

    /// Allocations, registrations, streams, events, retained contexts, modules.
    pub(crate) fn live(&self) -> [u64; 6] {
        let mut counts = [0; 6];
        // SAFETY: the type is that of control.rs; there is room for 6.
        unsafe { function::<unsafe extern "C" fn(*mut u64)>(c"fakecuda_live")(counts.as_mut_ptr()) };
        counts
    }

    pub(crate) fn misuse(&self) -> String {
        let mut text = vec![0; 4096];
        // SAFETY: the type is that of control.rs; there is room for 4096 bytes.
        let bytes = unsafe {
            function::<unsafe extern "C" fn(*mut u8, usize) -> usize>(c"fakecuda_misuse")(text.as_mut_ptr(), text.len())
        };
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    }
}

/// Loads the stand-in, which cargo has built beside this binary, before anything asks for the driver.
fn load() -> *mut libc::c_void {
    static LIBRARY: Mutex<usize> = Mutex::new(0);
    let mut library = LIBRARY.lock().unwrap();
    if *library == 0 {
        let path = std::env::current_exe().unwrap().with_file_name("libfakecuda.so");
        let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: our own library, which has no initialisers.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{path:?} cannot be loaded");
        *library = handle as usize;
    }
    *library as *mut libc::c_void
}

/// # Safety
/// `F` is the type of the function of this name, a function pointer.
pub(crate) unsafe fn function<F: Copy>(name: &CStr) -> F {
    assert_eq!(size_of::<F>(), size_of::<usize>());
    // SAFETY: a symbol of a library that stays loaded.
    let address = unsafe { libc::dlsym(load(), name.as_ptr()) };
    assert!(!address.is_null(), "{name:?} is missing");
    // SAFETY: a function pointer by the caller's promise, and not null.
    unsafe { std::mem::transmute_copy(&address) }
}
