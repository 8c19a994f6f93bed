//! The functions of `cuda.h` that strait and its tests call: devices, contexts, memory. Their contracts are those of the
//! CUDA driver API.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::capture;
use crate::machine::*;
use crate::visible;
use crate::worker;

pub(crate) type Handle = *mut c_void;

thread_local! {
    /// The calling thread's stack of contexts.
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn current() -> usize {
    CONTEXTS.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// The primary context of a device.
fn context_of(device: usize) -> usize {
    0x1000 * (device + 1)
}

/// A call that needs the driver only.
pub(crate) fn basic(symbol: &str, body: impl FnOnce(&mut Machine) -> Outcome) -> i32 {
    let mut machine = machine();
    *machine.calls.entry(symbol.into()).or_default() += 1;
    let failure = machine.failure(symbol);
    if let Some(failure) = failure.as_ref().filter(|failure| !failure.works) {
        return failure.code;
    }
    if !machine.initialized && symbol != "cuInit" {
        return NOT_INITIALIZED;
    }
    let outcome = body(&mut machine);
    match (failure, outcome) {
        (Some(failure), Ok(())) => failure.code,
        (_, outcome) => outcome.err().unwrap_or(0),
    }
}

/// A call that needs a context on the calling thread.
pub(crate) fn within(symbol: &str, body: impl FnOnce(&mut Machine) -> Outcome) -> i32 {
    basic(symbol, |machine| {
        let device = (current() / 0x1000).wrapping_sub(1);
        if machine.retained.get(device).is_none_or(|&retained| retained == 0) {
            return machine.refuse(INVALID_CONTEXT, format!("{symbol} without a live current context"));
        }
        if machine.knobs.lost != 0 {
            return Err(machine.knobs.lost);
        }
        capture::allows(machine, symbol)?;
        body(machine)
    })
}

/// Whether it is the legacy stream of the current context: null, `CU_STREAM_LEGACY`, and, as if there were one thread,
/// `CU_STREAM_PER_THREAD`.
fn is_legacy(stream: Handle) -> bool {
    (stream as usize) <= 2
}

/// Puts an op on a stream.
pub(crate) fn push(machine: &mut Machine, stream: Handle, op: Op) -> Outcome {
    let context = current();
    let handle = if is_legacy(stream) { context + 1 } else { stream as usize };
    if is_legacy(stream) && !machine.streams.contains_key(&handle) {
        machine.streams.insert(handle, Stream { context, legacy: true, ..Stream::default() });
        worker::spawn(handle);
    }
    match machine.streams.get_mut(&handle) {
        Some(found) if !found.destroyed && found.context == context && found.capture.is_some() => {
            capture::take(machine, handle, op)
        }
        Some(found) if !found.destroyed && found.context == context => {
            found.ops.push_back(op);
            changed();
            Ok(())
        }
        Some(found) if !found.destroyed => machine.refuse(INVALID_HANDLE, "a stream of another context"),
        _ => machine.refuse(INVALID_HANDLE, "use of a stream that is none or was destroyed"),
    }
}

/// Returns when nothing is left on a stream.
pub(crate) fn wait_for_all(stream: Handle) {
    let handle = if is_legacy(stream) { current() + 1 } else { stream as usize };
    let mut machine = machine();
    while machine.streams.get(&handle).is_some_and(|stream| !stream.ops.is_empty()) {
        machine = wait_for_change(machine);
    }
}

/// Writes a result.
///
/// # Safety
/// `out` is null or valid for a write.
pub(crate) unsafe fn give<T>(out: *mut T, value: T) -> Outcome {
    if out.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

// Driver, devices, contexts.

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> i32 {
    basic("cuInit", |machine| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if !machine.initialized {
            machine.visible = visible::devices();
        }
        if machine.visible.is_empty() {
            return Err(NO_DEVICE);
        }
        machine.initialized = true;
        machine.retained.resize(machine.visible.len(), 0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> i32 {
    const OLDEST: i32 = 12_000;
    // SAFETY: the program gives a valid place.
    basic("cuDriverGetVersion", |machine| unsafe { give(version, machine.knobs.version.max(OLDEST)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> i32 {
    // SAFETY: the program gives a valid place.
    basic("cuDeviceGetCount", |machine| unsafe { give(count, machine.visible.len() as c_int) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> i32 {
    basic("cuDeviceGet", |machine| match ordinal {
        // SAFETY: the program gives a valid place.
        0.. if (ordinal as usize) < machine.visible.len() => unsafe { give(device, ordinal) },
        _ => Err(INVALID_DEVICE),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, bytes: c_int, device: c_int) -> i32 {
    basic("cuDeviceGetName", |machine| {
        let text = format!("stand-in {}\0", machine.visible.get(device as usize).ok_or(INVALID_DEVICE)?);
        let bytes = text.len().min(usize::try_from(bytes).map_err(|_| INVALID_VALUE)?);
        // SAFETY: the program gives a place of this length.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, bytes) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, bytes: c_int, device: c_int) -> i32 {
    basic("cuDeviceGetPCIBusId", |machine| {
        let place = machine.visible.get(device as usize).ok_or(INVALID_DEVICE)?;
        let text = format!("{:04X}:{:02X}:00.0\0", machine.knobs.pci_domain, 0x1A + place);
        if usize::try_from(bytes).map_err(|_| INVALID_VALUE)? < text.len() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the program gives a place of this length.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), id, text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> i32 {
    basic("cuDevicePrimaryCtxRetain", |machine| {
        *machine.retained.get_mut(device as usize).ok_or(INVALID_DEVICE)? += 1;
        // SAFETY: the program gives a valid place.
        unsafe { give(context, context_of(device as usize) as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> i32 {
    basic("cuDevicePrimaryCtxRelease_v2", |machine| match machine.retained.get_mut(device as usize) {
        Some(retained) if *retained > 0 => {
            *retained -= 1;
            Ok(())
        }
        _ => machine.refuse(INVALID_CONTEXT, "a primary context released more often than retained"),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> i32 {
    basic("cuCtxPushCurrent_v2", |_| {
        CONTEXTS.with_borrow_mut(|stack| stack.push(context as usize));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut Handle) -> i32 {
    basic("cuCtxPopCurrent_v2", |machine| match CONTEXTS.with_borrow_mut(Vec::pop) {
        // SAFETY: the program gives a valid place.
        Some(popped) => unsafe { give(context, popped as Handle) },
        None => machine.refuse(INVALID_CONTEXT, "a pop from an empty stack of contexts"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> i32 {
    // SAFETY: the program gives a valid place.
    basic("cuCtxGetCurrent", |_| unsafe { give(context, current() as Handle) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: i32, name: *mut *const c_char) -> i32 {
    let text = match code {
        0 => c"CUDA_SUCCESS",
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        34 => c"CUDA_ERROR_STUB_LIBRARY",
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        ALREADY_REGISTERED => c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        NOT_REGISTERED => c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        capture::UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        803 => c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        _ => return INVALID_VALUE,
    };
    // SAFETY: the program gives a valid place.
    unsafe { give(name, text.as_ptr()) }.err().unwrap_or(0)
}

// Memory.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> i32 {
    within("cuMemAlloc_v2", |machine| {
        let base = machine.allocate(bytes)?;
        // SAFETY: the program gives a valid place.
        unsafe { give(address, base) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> i32 {
    within("cuMemFree_v2", |machine| {
        let Some(bytes) = machine.memory.get(&address).map(Vec::len) else {
            return machine.refuse(INVALID_VALUE, "a free of what is not allocated");
        };
        if machine.is_in_use(|at| (address..address + bytes as u64).contains(&at), |_| false) {
            return machine.refuse(INVALID_VALUE, "memory freed while a copy is pending");
        }
        machine.memory.remove(&address);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(base: *mut c_void, bytes: usize, flags: c_uint) -> i32 {
    const PORTABLE: c_uint = 1;
    within("cuMemHostRegister_v2", |machine| {
        if flags & !PORTABLE != 0 {
            return machine.refuse(INVALID_VALUE, "memory registered for less than copies both ways, or as a device's");
        }
        if base.is_null() || bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if machine.overlaps_registered(base as usize, bytes) {
            return Err(ALREADY_REGISTERED);
        }
        let context = if flags == PORTABLE { 0 } else { current() };
        machine.registered.insert(base as usize, (bytes, context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(base: *mut c_void) -> i32 {
    within("cuMemHostUnregister", |machine| {
        let base = base as usize;
        let Some(&(bytes, _)) = machine.registered.get(&base) else {
            return machine.refuse(NOT_REGISTERED, "an unregistration of what is not registered");
        };
        if machine.is_in_use(|_| false, |at| (base..base + bytes).contains(&at)) {
            return machine.refuse(INVALID_VALUE, "memory unregistered while a copy is pending");
        }
        machine.registered.remove(&base);
        Ok(())
    })
}
