//! What every function does: check what C gives, turn a panic and a failure into a status.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Failure, strait_error};
use crate::handle::{Kind, null, register, take};
use crate::status::strait_status;

/// What a call that succeeds may say.
pub(crate) trait Outcome {
    fn status(self) -> strait_status;
}

impl Outcome for () {
    fn status(self) -> strait_status {
        strait_status::Ok
    }
}

impl Outcome for strait_status {
    fn status(self) -> strait_status {
        self
    }
}

/// The frame of every function. Unwinding into C would be undefined behaviour.
pub(crate) fn call<R: Outcome>(
    error: Option<&mut *mut strait_error>,
    body: impl FnOnce() -> Result<R, Failure>,
) -> strait_status {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        std::mem::forget(panic); // dropping it might panic again
        let message =
            format!("strait panicked, which is a bug in it: {text}; the handles of this call can only be freed");
        Err(Failure::new(strait_status::Panic, message))
    });
    match result {
        Ok(outcome) => outcome.status(),
        Err(failure) => {
            let status = failure.status();
            if let Some(error) = error
                && let Ok(handle) = register(failure)
            {
                *error = handle;
            }
            status
        }
    }
}

/// What a function that gives a handle back does. NULL is fine.
pub(crate) fn free<T: Kind>(handle: *mut T::Handle) -> strait_status {
    if handle.is_null() {
        return strait_status::Ok;
    }
    call(None, || take::<T>(handle, T::NAME).map(drop))
}

/// Where a result goes; written only on success.
pub(crate) fn out<'a, T>(out: Option<&'a mut T>, argument: &str) -> Result<&'a mut T, Failure> {
    out.ok_or_else(|| null(argument))
}

/// Writes a result that not everybody wants: NULL is fine.
pub(crate) fn give<T>(out: Option<&mut T>, value: T) {
    if let Some(out) = out {
        *out = value;
    }
}

/// A text of C's.
///
/// # Safety
/// NULL, or a C string that stays as it is during the call.
pub(crate) unsafe fn text<'a>(text: *const c_char, argument: &str) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { c_str(text, argument) }?;
    bytes.to_str().map_err(|_| Failure::new(strait_status::BadText, format!("{argument} is not UTF-8")))
}

/// The same without an encoding: a path.
///
/// # Safety
/// NULL, or a C string that stays as it is during the call.
pub(crate) unsafe fn c_str<'a>(text: *const c_char, argument: &str) -> Result<&'a CStr, Failure> {
    if text.is_null() {
        return Err(null(argument));
    }
    // SAFETY: not NULL, and the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// An array of C's. NULL is fine where it has no elements.
///
/// # Safety
/// NULL, or `len` elements that stay as they are during the call.
pub(crate) unsafe fn array<'a, T>(first: *const T, len: usize, argument: &str) -> Result<&'a [T], Failure> {
    match first.is_null() {
        true if len == 0 => Ok(&[]),
        true => Err(null(argument)),
        false if len > isize::MAX as usize / size_of::<T>().max(1) => Err(out_of_range(argument, len as u64, 0)),
        // SAFETY: not NULL, of a possible length, and the caller's promise.
        false => Ok(unsafe { std::slice::from_raw_parts(first, len) }),
    }
}

/// `index` if it is below `len`.
pub(crate) fn index(index: u64, len: usize, argument: &str) -> Result<usize, Failure> {
    if index < len as u64 { Ok(index as usize) } else { Err(out_of_range(argument, index, len)) }
}

/// The element of that number.
pub(crate) fn nth<'a, T>(elements: &'a [T], number: usize, argument: &str) -> Result<&'a T, Failure> {
    Ok(&elements[index(number as u64, elements.len(), argument)?])
}

fn out_of_range(argument: &str, value: u64, len: usize) -> Failure {
    Failure::new(strait_status::OutOfRange, format!("{argument} is {value}; there are {len}"))
}

/// Locks what one call at a time may use. A panic while it was locked has poisoned the handle, not the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
