//! The functions of `cuda.h` for streams and events.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{c_int, c_uint};

use crate::capture;
use crate::driver::{Handle, current, give, push, wait_for_all, within};
use crate::machine::*;
use crate::worker;

/// The number of the most urgent streams; that of the others is 0.
pub(crate) const MOST_URGENT: c_int = -5;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> i32 {
    // SAFETY: the program gives valid places.
    within("cuCtxGetStreamPriorityRange", |_| unsafe { give(least, 0).and(give(greatest, MOST_URGENT)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> i32 {
    // SAFETY: the program gives a valid place.
    within("cuStreamCreate", |machine| unsafe { create(machine, stream, flags, 0) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, priority: c_int) -> i32 {
    // SAFETY: the program gives a valid place.
    within("cuStreamCreateWithPriority", |machine| unsafe { create(machine, stream, flags, priority) })
}

/// # Safety
/// `stream` is null or valid for a write.
unsafe fn create(machine: &mut Machine, stream: *mut Handle, flags: c_uint, priority: c_int) -> Outcome {
    const NON_BLOCKING: c_uint = 1;
    if flags != NON_BLOCKING {
        // Allowed, and slow: it and the legacy stream, which others use, wait for each other.
        machine.misuse.push("a stream that waits for the legacy one".into());
    }
    let handle = machine.handle();
    let priority = priority.clamp(MOST_URGENT, 0);
    machine.streams.insert(handle, Stream { context: current(), priority, ..Stream::default() });
    worker::spawn(handle);
    // SAFETY: the caller's promise.
    unsafe { give(stream, handle as Handle) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> i32 {
    within("cuStreamDestroy_v2", |machine| match machine.streams.get_mut(&(stream as usize)) {
        Some(found) if !found.destroyed && !found.legacy => {
            found.destroyed = true;
            changed();
            Ok(())
        }
        _ => machine.refuse(INVALID_HANDLE, "a stream destroyed twice"),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> i32 {
    let code = within("cuStreamSynchronize", |_| Ok(()));
    if code == 0 {
        wait_for_all(stream);
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> i32 {
    within("cuStreamWaitEvent", |machine| match machine.event(event as usize) {
        // What counts is the latest record at the time of this call.
        Some(found) => {
            let (generation, capture) = (found.recorded, found.capture);
            capture::draw_in(machine, stream, capture);
            push(machine, stream, Op::Wait { event: event as usize, generation })
        }
        None => machine.refuse(INVALID_HANDLE, "a wait for an event that was destroyed"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> i32 {
    const DISABLE_TIMING: c_uint = 2;
    within("cuEventCreate", |machine| {
        if flags != DISABLE_TIMING {
            // Allowed, and slow.
            machine.misuse.push("an event that takes the time, or that blocks".into());
        }
        let handle = machine.handle();
        machine.events.insert(handle, Event { context: current(), ..Event::default() });
        // SAFETY: the program gives a valid place.
        unsafe { give(event, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> i32 {
    within("cuEventDestroy_v2", |machine| match machine.event(event as usize) {
        // The driver keeps it for whoever waits for a record that has not been passed yet.
        Some(found) if found.passed < found.recorded => {
            found.destroyed = true;
            Ok(())
        }
        Some(_) => {
            machine.events.remove(&(event as usize));
            Ok(())
        }
        None => machine.refuse(INVALID_HANDLE, "an event destroyed twice"),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> i32 {
    let code = within("cuEventRecord", |machine| {
        let Some(found) = machine.event(event as usize) else {
            return machine.refuse(INVALID_HANDLE, "a record of an event that was destroyed");
        };
        // Waits for one may cross contexts.
        if found.context != current() {
            return machine.refuse(INVALID_HANDLE, "a record of an event of another context");
        }
        found.capture = None;
        found.recorded += 1;
        let generation = found.recorded;
        push(machine, stream, Op::Record { event: event as usize, generation })
    });
    if let Some(found) = machine().event(event as usize) {
        found.unknown = code != 0;
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> i32 {
    within("cuEventQuery", |machine| match machine.event(event as usize) {
        Some(Event { capture: Some(capture), .. }) => {
            let capture = *capture;
            capture::end(machine, capture, capture::CAPTURED_EVENT, "a query of an event that was captured")
        }
        Some(Event { unknown: true, .. }) => {
            machine.refuse(INVALID_HANDLE, "a query of an event whose record failed: it may stand for an earlier one")
        }
        Some(found) if found.passed >= found.recorded => Ok(()),
        Some(_) => Err(NOT_READY),
        None => machine.refuse(INVALID_HANDLE, "a query of an event that was destroyed"),
    })
}
