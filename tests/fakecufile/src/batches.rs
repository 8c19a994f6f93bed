//! The batch functions of `cufile.h`, and what becomes of a batch's entries.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc, missing_docs)]

use std::ffi::{c_int, c_uint};
use std::time::Duration;

use crate::calls::{CUfileError, INVALID_VALUE, NO_CONTEXT, answer, batch_max, read_file};
use crate::state::{Batch, State, has_context, state};

const READ_BYTES_MAX: usize = 16 << 20;

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
    // A call that fails may have begun some.
    let error = state.take_knob("submit_error") as c_int;
    let begun = if error == 0 { entries.len() } else { state.below(entries.len() as u64 + 1) as usize };
    for entry in &entries[..begun] {
        match check(&state, entry) {
            Ok(fd) => launch(&mut state, batch, *entry, fd),
            Err(what) => return answer(state.refuse(INVALID_VALUE, what)),
        }
    }
    answer(error)
}

const COMPLETE: c_int = 0x10;
const FAILED: c_int = 0x40;

/// What becomes of an entry.
struct Fate {
    late: Duration,
    /// Between the two pieces that it is written in.
    pause: Duration,
    bytes: usize,
    /// In place of what it has read.
    told: Option<i64>,
    status: Option<c_int>,
}

impl Fate {
    fn draw(state: &mut State, size: usize) -> Fate {
        let most = match state.knob("short_bytes") as usize {
            0 => size,
            short => size.min(short),
        };
        let short = state.strikes("short_once_in");
        let bytes = if short { 512 * (1 + state.below(most as u64 / 512) as usize) } else { most };
        let late = match state.take_knob("late_once_us") as u64 {
            0 => state.chance_us("late_us_max"),
            late => Duration::from_micros(late),
        };
        let status = Some(state.take_knob("event_status") as c_int).filter(|&status| status != 0);
        let mut fate = Fate { late, pause: state.chance_us("slow_us_max"), bytes, told: None, status };
        match state.take_knob("read_error") {
            0 if state.strikes("again_once_in") => fate.told = Some(-i64::from(libc::EAGAIN)),
            // Of one that failed a count means nothing.
            0 if state.strikes("error_once_in") => match state.below(2) {
                0 => fate.told = Some(-i64::from(libc::EIO)),
                _ => (fate.bytes, fate.told, fate.status) = (0, Some(size as i64), Some(FAILED)),
            },
            0 => {}
            error => fate.told = Some(error),
        }
        fate
    }
}

fn launch(state: &mut State, batch: usize, entry: CUfileIOParams, fd: i32) {
    let target = entry.base + entry.base_offset as usize;
    let fate = Fate::draw(state, entry.size);
    state.reads += 1;
    let found = state.batches.get_mut(&batch).expect("looked up");
    if found.in_flight.insert(entry.cookie, (entry.file, target)).is_some() {
        state.misuse.push("a cookie used twice".into());
    }
    // Unnamed threads have their parent's name: tests wait for that one.
    let thread = std::thread::Builder::new().name("fakecufile".into());
    drop(thread.spawn(move || carry_out(batch, entry, fd, &fate)).expect("a thread"));
}

/// What fails may have read some all the same; what is given up goes on, and ends later.
fn carry_out(batch: usize, entry: CUfileIOParams, fd: i32, fate: &Fate) {
    const GOES_ON: Duration = Duration::from_millis(20);
    std::thread::sleep(fate.late);
    while state().knob("hold") != 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let tell = |status, result| {
        if let Some(found) = state().batches.get_mut(&batch) {
            found.ended.push((entry.cookie, status, result));
        }
    };
    let given_up = fate.status.filter(|&status| status != FAILED);
    if let Some(status) = given_up {
        tell(status, entry.size as i64);
        std::thread::sleep(GOES_ON);
    }
    let target = entry.base + entry.base_offset as usize;
    let read = read_file(fd, target, fate.bytes, entry.file_offset, fate.pause);
    if let Some(found) = state().batches.get_mut(&batch) {
        found.in_flight.remove(&entry.cookie);
    }
    if given_up.is_none() {
        let result = fate.told.unwrap_or(read);
        tell(fate.status.unwrap_or(if result < 0 { FAILED } else { COMPLETE }), result);
    }
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
