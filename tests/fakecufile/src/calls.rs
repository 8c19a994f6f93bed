//! The functions of `cufile.h` that strait calls. Their contracts are those of the cuFile API.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc, missing_docs)]

use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use crate::state::{State, has_context, put, state};

#[repr(C)]
pub struct CUfileError {
    err: c_int,
    cu_err: c_int,
}

pub(crate) fn answer(err: c_int) -> CUfileError {
    CUfileError { err, cu_err: 0 }
}

pub(crate) const INVALID_VALUE: c_int = 5022;
pub(crate) const NO_CONTEXT: c_int = 5011;
const ALREADY_OPEN: c_int = 5026;

#[repr(C)]
pub struct CUfileDrvProps {
    version: [c_uint; 2],
    poll_thresh_size: usize,
    max_direct_io_size: usize,
    dstatusflags: c_uint,
    dcontrolflags: c_uint,
    fflags: c_uint,
    max_device_cache_size: c_uint,
    per_buffer_cache_size: c_uint,
    max_device_pinned_mem_size: c_uint,
    max_batch_io_size: c_uint,
    max_batch_io_timeout_msecs: c_uint,
}

#[repr(C)]
pub struct CUfileDescr {
    kind: c_int,
    fd: u64,
    fs_ops: *const c_void,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFileDriverOpen() -> CUfileError {
    while state().knob("open_hangs") != 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let context = has_context();
    let mut state = state();
    if !context {
        return answer(state.refuse(NO_CONTEXT, "cuFileDriverOpen without a current context"));
    }
    let error = state.knob("open_error") as c_int;
    state.opened |= error == 0 || error == ALREADY_OPEN;
    answer(error)
}

pub(crate) fn batch_max(state: &State) -> c_uint {
    match state.knob("batch_max") {
        0 => 128,
        some => some as c_uint,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFileDriverGetProperties(properties: *mut CUfileDrvProps) -> CUfileError {
    let state = state();
    let (direct, batch_max) = (state.knob("direct"), batch_max(&state));
    let (nvidia_fs, peer_to_peer) = (direct == 1, direct == 2);
    let value = CUfileDrvProps {
        version: if nvidia_fs { [2, 24] } else { [0, 0] },
        poll_thresh_size: 4,
        max_direct_io_size: 16384,
        dstatusflags: if nvidia_fs { 1 << 4 } else { 0 },
        dcontrolflags: 2,
        fflags: if peer_to_peer { 31 } else { 15 },
        max_device_cache_size: 131_072,
        per_buffer_cache_size: 1024,
        max_device_pinned_mem_size: u32::MAX,
        max_batch_io_size: batch_max,
        max_batch_io_timeout_msecs: 0,
    };
    // SAFETY: the program gives a valid place.
    unsafe { properties.write(value) };
    answer(0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFileHandleRegister(handle: *mut usize, description: *mut CUfileDescr) -> CUfileError {
    // SAFETY: the program gives valid places.
    let fd = unsafe { (*description).fd } as u32 as i32;
    let context = has_context();
    let mut state = state();
    if !context {
        return answer(state.refuse(NO_CONTEXT, "cuFileHandleRegister without a current context"));
    }
    let error = state.knob("register_error") as c_int;
    if error != 0 {
        return answer(error);
    }
    if !state.opened {
        return answer(state.refuse(5001, "a file registered before the driver was opened"));
    }
    if state.files.values().any(|&known| known == fd) {
        return answer(state.refuse(5028, "a descriptor registered twice"));
    }
    let new = state.handle();
    state.files.insert(new, fd);
    // SAFETY: as above.
    unsafe { handle.write(new) };
    answer(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFileHandleDeregister(handle: usize) {
    let mut state = state();
    if state.uses(handle) {
        return state.misuse.push("a file taken back while a read uses it".into());
    }
    match state.files.remove(&handle) {
        // SAFETY: only asks about the descriptor.
        Some(fd) if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 => {
            state.misuse.push("a descriptor closed before it was taken back".into());
        }
        Some(_) => {}
        None => state.misuse.push("a file taken back twice".into()),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFileBufRegister(base: usize, bytes: usize, _flags: c_int) -> CUfileError {
    let context = has_context();
    let mut state = state();
    if !context {
        return answer(state.refuse(NO_CONTEXT, "cuFileBufRegister without a current context"));
    }
    let overlaps = state.buffers.iter().any(|(&other, &length)| base < other + length && other < base + bytes);
    if overlaps {
        return answer(state.refuse(5023, "memory registered twice"));
    }
    let bytes_max = state.knob("register_bytes_max") as usize;
    if bytes_max > 0 && bytes > bytes_max {
        return answer(5036);
    }
    state.buffers.insert(base, bytes);
    answer(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFileBufDeregister(base: usize) -> CUfileError {
    let mut state = state();
    let Some(&bytes) = state.buffers.get(&base) else {
        return answer(state.refuse(5024, "memory taken back twice"));
    };
    let mut targets = state.batches.values().flat_map(|batch| batch.in_flight.values().map(|&(_, target)| target));
    if targets.any(|target| (base..base + bytes).contains(&target)) {
        return answer(state.refuse(INVALID_VALUE, "memory taken back while a read writes to it"));
    }
    state.buffers.remove(&base);
    answer(0)
}

/// What pread gives, where it is wanted, in two pieces.
fn read(fd: i32, target: usize, bytes: usize, offset: i64, pause: Duration) -> i64 {
    let mut staged = vec![0u8; bytes];
    let mut got = 0;
    while got < bytes {
        let rest = &mut staged[got..];
        // Through the page cache by another descriptor: this memory is not aligned.
        // SAFETY: the buffer outlives the call.
        let now = unsafe { libc::pread(fd, rest.as_mut_ptr().cast(), rest.len(), offset + got as i64) };
        match now {
            0 => break,
            now if now < 0 => return -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(5)),
            now => got += now as usize,
        }
    }
    let half = got / 2;
    let begun = put(target, &staged[..half]);
    std::thread::sleep(pause);
    let whole = begun && put(target + half, &staged[half..got]);
    if whole { got as i64 } else { -5012 }
}

/// A descriptor of the same file without O_DIRECT.
fn buffered(fd: i32) -> i32 {
    let path = format!("/proc/self/fd/{fd}\0");
    // SAFETY: the path is a C string.
    unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) }
}

pub(crate) fn read_file(fd: i32, target: usize, bytes: usize, offset: i64, pause: Duration) -> i64 {
    let own = buffered(fd);
    let got = read(if own < 0 { fd } else { own }, target, bytes, offset, pause);
    if own >= 0 {
        // SAFETY: opened above.
        unsafe { libc::close(own) };
    }
    got
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFileRead(file: usize, base: usize, bytes: usize, offset: i64, base_offset: i64) -> isize {
    while state().knob("read_hangs") != 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let context = has_context();
    let (fd, wrong, less) = {
        let mut state = state();
        if !context {
            return -(state.refuse(NO_CONTEXT, "cuFileRead without a current context") as isize);
        }
        state.reads += 1;
        let most = state.knob("wrong_bytes_max");
        let wrong = if most == 0 || bytes as i64 <= most { state.knob("wrong_byte") } else { 0 };
        let Some(&fd) = state.files.get(&file) else {
            return -(state.refuse(5027, "a read of a file that is not registered") as isize);
        };
        (fd, wrong, state.knob("told_less"))
    };
    let target = base + base_offset as usize;
    let got = read_file(fd, target, bytes, offset, Duration::ZERO);
    if wrong != 0 && got > wrong {
        put(target + wrong as usize, b"?");
    }
    (got - less) as isize
}
