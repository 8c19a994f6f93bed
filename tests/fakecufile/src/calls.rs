//! The functions of `cufile.h` that strait calls. Their contracts are those of the cuFile API.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc, missing_docs)]

use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use crate::state::{Batch, State, has_context, put, state};

#[repr(C)]
pub struct CUfileError {
    err: c_int,
    cu_err: c_int,
}

fn answer(err: c_int) -> CUfileError {
    CUfileError { err, cu_err: 0 }
}

const INVALID_VALUE: c_int = 5022;
const NO_CONTEXT: c_int = 5011;
const ALREADY_OPEN: c_int = 5026;
const READ_BYTES_MAX: usize = 16 << 20;

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

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUfileIOParams {
    mode: c_int,
    base: usize,
    file_offset: i64,
    base_offset: i64,
    size: usize,
    file: usize,
    opcode: c_int,
    cookie: usize,
}

#[repr(C)]
pub struct CUfileIOEvents {
    cookie: usize,
    status: c_int,
    ret: usize,
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

fn batch_max(state: &State) -> c_uint {
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

fn read_file(fd: i32, target: usize, bytes: usize, offset: i64, pause: Duration) -> i64 {
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFileBatchIOSetUp(batch: *mut usize, entries: c_uint) -> CUfileError {
    let mut state = state();
    let error = state.knob("batch_error") as c_int;
    if error != 0 {
        return answer(error);
    }
    if entries > batch_max(&state) {
        return answer(state.refuse(INVALID_VALUE, "a batch of more entries than the driver takes"));
    }
    let new = state.handle();
    state.batches.insert(new, Batch { room: entries as usize, ..Batch::default() });
    // SAFETY: the program gives a valid place.
    unsafe { batch.write(new) };
    answer(0)
}

fn check(state: &State, entry: &CUfileIOParams) -> Result<i32, &'static str> {
    let target = entry.base.wrapping_add(entry.base_offset as usize);
    let Some(&fd) = state.files.get(&entry.file) else { return Err("an entry with a file that is not registered") };
    if entry.size > READ_BYTES_MAX {
        return Err("an entry of more than 16 MiB");
    }
    if !(entry.file_offset as usize | entry.size | target).is_multiple_of(4096) {
        return Err("an entry off 4 KiB");
    }
    let registered = |(&base, &bytes): (&usize, &usize)| (base..base + bytes).contains(&target);
    match state.buffers.iter().find(|&buffer| registered(buffer)) {
        Some((&base, _)) if base != entry.base => Err("an entry that names registered memory by an address inside it"),
        Some((&base, &bytes)) if target + entry.size > base + bytes => {
            Err("an entry past the end of registered memory")
        }
        _ => Ok(fd),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFileBatchIOSubmit(
    batch: usize,
    count: c_uint,
    entries: *mut CUfileIOParams,
    _flags: c_uint,
) -> CUfileError {
    let context = has_context();
    let mut state = state();
    let error = state.take_knob("submit_error") as c_int;
    if error != 0 {
        return answer(error);
    }
    if !context {
        return answer(state.refuse(NO_CONTEXT, "a batch submitted without a current context"));
    }
    // SAFETY: the program gives that many entries.
    let entries = unsafe { std::slice::from_raw_parts(entries, count as usize) };
    let Some(found) = state.batches.get(&batch) else {
        return answer(state.refuse(INVALID_VALUE, "a batch that is none"));
    };
    if !found.in_flight.is_empty() || !found.ended.is_empty() || entries.len() > found.room {
        return answer(state.refuse(5037, "a batch used again while entries of it are in flight"));
    }
    for entry in entries {
        match check(&state, entry) {
            Ok(fd) => launch(&mut state, batch, *entry, fd),
            Err(what) => return answer(state.refuse(INVALID_VALUE, what)),
        }
    }
    answer(0)
}

/// How much of an entry is read, and with which error it ends, if any.
fn fate(state: &mut State, size: usize) -> (usize, i64) {
    let most = match state.knob("short_bytes") as usize {
        0 => size,
        short => size.min(short),
    };
    let bytes = if state.strikes("short_once_in") { 512 * (1 + state.below(most as u64 / 512) as usize) } else { most };
    let error = match state.take_knob("read_error") {
        0 if state.strikes("again_once_in") => -i64::from(libc::EAGAIN),
        0 if state.strikes("error_once_in") => -i64::from(libc::EIO),
        error => error,
    };
    (bytes, error)
}

fn launch(state: &mut State, batch: usize, entry: CUfileIOParams, fd: i32) {
    let target = entry.base + entry.base_offset as usize;
    let ((bytes, error), status) = (fate(state, entry.size), state.take_knob("event_status") as c_int);
    let late = match state.take_knob("late_once_us") as u64 {
        0 => state.chance_us("late_us_max"),
        late => Duration::from_micros(late),
    };
    let slow = state.chance_us("slow_us_max");
    state.reads += 1;
    let found = state.batches.get_mut(&batch).expect("looked up");
    if found.in_flight.insert(entry.cookie, (entry.file, target)).is_some() {
        state.misuse.push("a cookie used twice".into());
    }
    // Unnamed threads have their parent's name: tests wait for that one.
    let thread = std::thread::Builder::new().name("fakecufile".into());
    let spawned = thread.spawn(move || {
        std::thread::sleep(late);
        while crate::state::state().knob("hold") != 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // What fails may have read some all the same.
        let read = read_file(fd, target, bytes, entry.file_offset, slow);
        let result = if error != 0 { error } else { read };
        let status = match status {
            0 if result < 0 => 0x40,
            0 => 0x10,
            status => status,
        };
        let mut state = crate::state::state();
        let Some(found) = state.batches.get_mut(&batch) else { return };
        found.in_flight.remove(&entry.cookie);
        found.ended.push((entry.cookie, status, result));
    });
    drop(spawned.expect("a thread"));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFileBatchIOGetStatus(
    batch: usize,
    _least: c_uint,
    count: *mut c_uint,
    events: *mut CUfileIOEvents,
    _timeout: *mut libc::timespec,
) -> CUfileError {
    let mut state = state();
    let error = state.take_knob("status_error") as c_int;
    if error != 0 {
        return answer(error);
    }
    let Some(found) = state.batches.get_mut(&batch) else {
        return answer(state.refuse(INVALID_VALUE, "a batch that is none"));
    };
    // SAFETY: the program gives a valid place.
    let room = unsafe { *count } as usize;
    let told = found.ended.len().min(room);
    for (place, (cookie, status, result)) in found.ended.drain(..told).enumerate() {
        // SAFETY: there is room for as many.
        unsafe { events.add(place).write(CUfileIOEvents { cookie, status, ret: result as usize }) };
    }
    // SAFETY: as above.
    unsafe { count.write(told as c_uint) };
    answer(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFileBatchIODestroy(batch: usize) {
    let mut state = state();
    match state.batches.remove(&batch) {
        Some(found) if !found.in_flight.is_empty() => {
            state.misuse.push("a batch destroyed while entries of it are in flight".into());
        }
        Some(_) => {}
        None => state.misuse.push("a batch destroyed twice".into()),
    }
}
