//! The functions of `cuda.h` that capture streams into graphs, and what a capture forbids others. Graphs are not kept: what
//! matters here is who ends somebody else's capture, or is drawn into it.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::cell::Cell;
use std::ffi::c_int;
use std::thread::ThreadId;

use crate::driver::{Handle, basic, give, within};
use crate::machine::*;

pub(crate) const UNSUPPORTED: i32 = 900;
const INVALIDATED: i32 = 901;
const ISOLATION: i32 = 905;
pub(crate) const CAPTURED_EVENT: i32 = 907;

const GLOBAL: c_int = 0;
const RELAXED: c_int = 2;

thread_local! {
    /// How the calling thread looks at captures.
    static MODE: Cell<c_int> = const { Cell::new(GLOBAL) };
}

pub(crate) struct Capture {
    mode: c_int,
    thread: ThreadId,
    invalid: bool,
}

/// Calls that no stream orders: a captured graph would miss what they do.
const UNORDERED: [&str; 8] = [
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuEventQuery",
    "cuStreamSynchronize",
    "cuModuleLoadData",
    "cuModuleUnload",
];

/// Whether the calling thread may call it now; if not, the captures that forbid it are spoilt.
pub(crate) fn allows(machine: &mut Machine, symbol: &str) -> Outcome {
    let (mode, here) = (MODE.get(), std::thread::current().id());
    if mode == RELAXED || !UNORDERED.contains(&symbol) {
        return Ok(());
    }
    let forbids = |capture: &Capture| match capture.thread == here {
        true => capture.mode != RELAXED,
        false => mode == GLOBAL && capture.mode == GLOBAL,
    };
    let spoilt: Vec<usize> =
        machine.captures.iter().filter(|(_, capture)| forbids(capture)).map(|(&at, _)| at).collect();
    spoilt.into_iter().try_for_each(|at| end(machine, at, UNSUPPORTED, &format!("{symbol} while a stream is captured")))
}

/// Spoils a capture, by what its owner did not want.
pub(crate) fn end(machine: &mut Machine, capture: usize, code: i32, what: &str) -> Outcome {
    if let Some(capture) = machine.captures.get_mut(&capture) {
        capture.invalid = true;
    }
    machine.refuse(code, what)
}

/// A stream that waits for a captured event is captured too.
pub(crate) fn draw_in(machine: &mut Machine, stream: Handle, capture: Option<usize>) {
    let Some(found) = machine.streams.get_mut(&(stream as usize)) else { return };
    if capture.is_some() && found.capture.is_none() {
        found.capture = capture;
        machine.misuse.push("a stream drawn into the capture of another".into());
    }
}

/// Takes what is put on a stream that is captured.
pub(crate) fn take(machine: &mut Machine, stream: usize, op: Op) -> Outcome {
    let Some(capture) = machine.streams.get(&stream).and_then(|stream| stream.capture) else { return Ok(()) };
    let Some(event) = (match op {
        Op::Record { event, .. } | Op::Wait { event, .. } => machine.event(event),
        _ => None,
    }) else {
        return Ok(());
    };
    match op {
        Op::Record { .. } => {
            event.recorded -= 1; // it will not be passed
            event.capture = Some(capture);
        }
        _ if event.capture != Some(capture) => {
            return end(machine, capture, ISOLATION, "a captured stream made to wait for what is not captured");
        }
        _ => {}
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) -> i32 {
    // SAFETY: the program gives a valid place.
    basic("cuThreadExchangeStreamCaptureMode", |_| unsafe {
        let before = MODE.replace(mode.read());
        give(mode, before)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_int) -> i32 {
    within("cuStreamIsCapturing", |machine| {
        let capture = machine.streams.get(&(stream as usize)).and_then(|stream| stream.capture);
        let invalid = capture.map(|capture| machine.captures.get(&capture).is_none_or(|capture| capture.invalid));
        // SAFETY: the program gives a valid place.
        unsafe { give(status, invalid.map_or(0, |invalid| 1 + c_int::from(invalid))) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) -> i32 {
    within("cuStreamBeginCapture_v2", |machine| {
        let at = stream as usize;
        let found = machine.streams.get_mut(&at).filter(|found| !found.destroyed && found.capture.is_none());
        found.ok_or(INVALID_HANDLE)?.capture = Some(at);
        machine.captures.insert(at, Capture { mode, thread: std::thread::current().id(), invalid: false });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> i32 {
    within("cuStreamEndCapture", |machine| {
        let capture = machine.captures.remove(&(stream as usize)).ok_or(INVALID_VALUE)?;
        machine
            .streams
            .values_mut()
            .filter(|found| found.capture == Some(stream as usize))
            .for_each(|found| found.capture = None);
        // SAFETY: the program gives a valid place.
        unsafe { give(graph, std::ptr::null_mut()) }?;
        if capture.invalid { Err(INVALIDATED) } else { Ok(()) }
    })
}
