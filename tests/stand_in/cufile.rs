//! Loads the stand-in for cuFile, and turns its knobs.
#![allow(dead_code, reason = "each test file is a crate, and uses a part")]

use std::ffi::{CStr, CString, c_char};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strait::stats::Fallback;
use strait::storage::{Cufile, Enter};

/// What stands in for `/`, where a machine says what it has: of each test binary its own.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = std::env::current_exe().unwrap().with_extension("machine");
    make_machine(&root, &["proc/modules", "proc/driver/nvidia-fs/version", "run/udev/data/b8:1"]);
    root
});

/// The controls of the stand-in.
pub(crate) struct FakeCufile;

/// The stand-in, healed, on a machine that has what cuFile needs. One test at a time has it.
pub(crate) fn take() -> (FakeCufile, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    load();
    strait::machine::pretend(&ROOT);
    FakeCufile.heal();
    FakeCufile.misuse();
    (FakeCufile, alone)
}

/// A machine that has these files.
pub(crate) fn make_machine(root: &Path, files: &[&str]) {
    for file in files.iter().map(|file| root.join(file)) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "").unwrap();
    }
}

/// A ring for host memory, in compatibility mode, or why there is none.
pub(crate) fn ring(depth: usize) -> Result<Cufile, Fallback> {
    Cufile::new(depth, true, &no_device(), Duration::from_secs(20))
}

/// The host has no context to enter.
pub(crate) fn no_device() -> Enter {
    Arc::new(|| Ok(()))
}

impl FakeCufile {
    pub(crate) fn is_open(&self) -> bool {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn() -> bool>(c"fakecufile_is_open")() }
    }

    pub(crate) fn heal(&self) {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn()>(c"fakecufile_heal")() }
    }

    pub(crate) fn set(&self, knob: &str, value: i64) {
        let name = CString::new(knob).unwrap();
        // SAFETY: the type is that of control.rs; the name is a C string.
        unsafe { function::<unsafe extern "C" fn(*const c_char, i64)>(c"fakecufile_set")(name.as_ptr(), value) }
    }

    /// Makes it as if the file system of `path` lay on a drive of this name.
    pub(crate) fn lies_on(&self, path: &Path, drive: &str) {
        let device = std::fs::metadata(path).unwrap().dev();
        let place = ROOT.join("sys/dev/block");
        let link = place.join(format!("{}:{}", libc::major(device), libc::minor(device)));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::create_dir_all(ROOT.join("sys/devices").join(drive)).unwrap();
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(Path::new("../../devices").join(drive), link).unwrap();
    }

    /// Files, buffers, batches; and the reads so far.
    pub(crate) fn live(&self) -> [u64; 4] {
        let mut counts = [0; 4];
        // SAFETY: the type is that of control.rs; there is room for 4.
        unsafe { function::<unsafe extern "C" fn(*mut u64)>(c"fakecufile_live")(counts.as_mut_ptr()) };
        counts
    }

    /// Makes it as if the memory at `base` had never been registered.
    pub(crate) fn forget(&self, base: std::ptr::NonNull<u8>) -> bool {
        // SAFETY: the type is that of control.rs.
        unsafe { function::<extern "C" fn(usize) -> bool>(c"fakecufile_forget")(base.as_ptr() as usize) }
    }

    pub(crate) fn misuse(&self) -> String {
        let mut text = vec![0; 4096];
        // SAFETY: the type is that of control.rs; there is room for 4096 bytes.
        let bytes = unsafe {
            function::<unsafe extern "C" fn(*mut u8, usize) -> usize>(c"fakecufile_misuse")(
                text.as_mut_ptr(),
                text.len(),
            )
        };
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    }
}

/// Loads the stand-in, which cargo has built beside this binary, before anything asks for cuFile.
fn load() -> *mut libc::c_void {
    static LIBRARY: Mutex<usize> = Mutex::new(0);
    let mut library = LIBRARY.lock().unwrap();
    if *library == 0 {
        let path = std::env::current_exe().unwrap().with_file_name("libfakecufile.so");
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
