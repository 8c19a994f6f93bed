//! What tests see and set. No real driver has these.
// Found by name in the built library, not by path.
#![allow(unreachable_pub)]

use std::ffi::{CStr, c_char};
use std::time::Duration;

use crate::machine::{Failure, Knobs, NO_PCI_DOMAIN, Op, changed, machine};

/// Copies begin up to `latency_us_max` late, as `seed` decides, and run at `bytes_per_ms` (0: no limit).
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_pace(seed: u64, latency_us_max: u64, bytes_per_ms: u64) {
    let knobs = &mut machine().knobs;
    knobs.chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (knobs.latency_max, knobs.bytes_per_ms) = (Duration::from_micros(latency_us_max), bytes_per_ms);
}

/// From now on the copies on `stream` begin `us` late; 0: like those of other streams.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_late(stream: usize, us: u64) {
    let late = &mut machine().knobs.late;
    match us {
        0 => drop(late.remove(&stream)),
        _ => drop(late.insert(stream, Duration::from_micros(us))),
    }
}

/// What a storage does that writes to device memory by itself, in no stream's order. False if that is no live memory. Noted
/// as misuse if a stream could use it now.
///
/// # Safety
/// `source` is valid for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_write(target: u64, source: *const u8, bytes: usize) -> bool {
    let mut machine = machine();
    machine.check_order(0, &Op::OnDevice { source: target, target, bytes, row: false });
    let Some(memory) = machine.device_bytes(target, bytes) else {
        machine.misuse.push("a storage wrote to memory that is not allocated".into());
        return false;
    };
    // SAFETY: both sides are valid for that length, the source by the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(source, memory.as_mut_ptr(), bytes) };
    true
}

/// How often `symbol` has been called so far.
///
/// # Safety
/// `symbol` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_calls(symbol: *const c_char) -> u64 {
    // SAFETY: the caller's promise.
    let symbol = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    machine().calls.get(&*symbol).copied().unwrap_or(0)
}

/// The `nth` call of `symbol` from now (1: the next) returns `code`; it does its work all the same if `works`.
///
/// # Safety
/// `symbol` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_fail(symbol: *const c_char, nth: u64, code: i32, works: bool) {
    // SAFETY: the caller's promise.
    let symbol = unsafe { CStr::from_ptr(symbol) }.to_string_lossy().into_owned();
    machine().knobs.failures.push(Failure { symbol, countdown: nth.max(1), code, works });
}

/// The driver is one for this version of CUDA, as far as functions go that it did not always have; 0: older.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_version(version: i32) {
    machine().knobs.version = version;
}

/// The devices are on a bus of this domain, the first in slot 1A; by default in one that no machine has.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_pci_domain(domain: u32) {
    machine().knobs.pci_domain = domain;
}

/// From now on no work ends.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_stall() {
    machine().knobs.stalled = true;
}

/// From now on every call that uses a context returns `code`. Work that was begun goes on.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_lose(code: i32) {
    machine().knobs.lost = code;
}

/// Takes back every fault and the pace.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_heal() {
    machine().knobs = Knobs { chance: 1, version: 13_000, pci_domain: NO_PCI_DOMAIN, ..Knobs::default() };
    changed();
}

/// How many objects are alive: allocations, registrations, streams, events, retained contexts, modules.
///
/// # Safety
/// `counts` has room for 6.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_live(counts: *mut u64) {
    let machine = machine();
    let streams = machine.streams.values().filter(|stream| !stream.legacy && !stream.destroyed).count();
    let events = machine.events.values().filter(|event| !event.destroyed).count();
    let retained: u32 = machine.retained.iter().sum();
    let (memory, registered, modules) = (machine.memory.len(), machine.registered.len(), machine.modules.len());
    let live = [memory, registered, streams, events, retained as usize, modules];
    for (index, count) in live.into_iter().enumerate() {
        // SAFETY: `index` is below 6, which is what the caller promises room for.
        unsafe { counts.add(index).write(count as u64) };
    }
}

/// Copies what the program did wrong since the last call, a line each, into `text`; says how many bytes there are.
///
/// # Safety
/// `text` has room for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_misuse(text: *mut u8, bytes: usize) -> usize {
    let lines = std::mem::take(&mut machine().misuse).join("\n");
    let fits = lines.len().min(bytes);
    // SAFETY: `fits` is within both.
    unsafe { std::ptr::copy_nonoverlapping(lines.as_ptr(), text, fits) };
    fits
}
