//! Errors
//!
//! The last parameter of every function that can fail is a `strait_error **`. It may be NULL. On failure it is set to an
//! error that the caller owns and gives back with `strait_error_free`; otherwise it is left alone, so start it as NULL.
//! An error does not change: any number of threads may read it. What its functions return lives as long as it does.
//! They take NULL and freed errors too, and then return the empty text, NULL, 0 or false.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use strait::Error;

use crate::call::free;
use crate::handle::{Kind, live};
use crate::status::strait_status;

/// What went wrong, where, and what to do. Threads: any.
pub struct strait_error(());

/// An error on its way to C.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    status: Option<strait_status>,
    message: CString,
    errno: i32,
    device_code: i32,
    path: Option<CString>,
    offset: Option<u64>,
    sample: Option<u64>,
}

impl Kind for Failure {
    type Handle = strait_error;
    const NAME: &'static str = "error";
    const NUMBER: u8 = 1;
}

impl Failure {
    pub(crate) fn new(status: strait_status, message: impl Into<Vec<u8>>) -> Failure {
        Failure { status: Some(status), message: c_string(message), ..Failure::default() }
    }

    pub(crate) fn status(&self) -> strait_status {
        self.status.unwrap_or(strait_status::Other)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let path = |path: &Path| c_string(path.as_os_str().as_bytes());
        Failure {
            errno: error.errno().unwrap_or(0),
            device_code: device_code(&error),
            path: error.path().map(path),
            offset: error.offset(),
            sample: match error {
                Error::BadSample { sample, .. } => Some(sample),
                _ => None,
            },
            ..Failure::new(strait_status::of_error(error.code()), error.to_string())
        }
    }
}

/// The driver's code, however deep.
fn device_code(error: &Error) -> i32 {
    match error {
        Error::Device { code, .. } => *code,
        Error::BadSample { cause: Some(cause), .. } | Error::Tensor { cause, .. } => device_code(cause),
        _ => 0,
    }
}

/// A C string of a text that must not be cut; `what` it is in which file.
pub(crate) fn whole(text: &str, what: impl Fn() -> String, path: Option<&Path>) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| {
        let file = path.map_or(String::new(), |path| format!("{}: ", path.display()));
        let message = format!("{file}{} has a NUL in it, where a text of C ends: rename it", what());
        let path = path.map(|path| c_string(path.as_os_str().as_bytes()));
        Failure { path, ..Failure::new(strait_status::Format, message) }
    })
}

/// A C string; what stands behind a NUL is left out.
pub(crate) fn c_string(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes: Vec<u8> = text.into();
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    CString::new(bytes).unwrap_or_default()
}

/// Gives an error back. NULL is fine; an error that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_free(error: *mut strait_error) -> strait_status {
    free::<Failure>(error)
}

/// The status that came with it.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_status(error: *const strait_error) -> strait_status {
    of(error, strait_status::BadHandle, Failure::status)
}

/// What went wrong, where, and what to do: a sentence in English, without a newline.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_message(error: *const strait_error) -> *const c_char {
    of(error, c"".as_ptr(), |failure| failure.message.as_ptr())
}

/// The operating system's error number (`errno.h`), or 0.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_errno(error: *const strait_error) -> i32 {
    of(error, 0, |failure| failure.errno)
}

/// The device driver's result code (on CUDA a `CUresult`), or 0.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_device_code(error: *const strait_error) -> i32 {
    of(error, 0, |failure| failure.device_code)
}

/// The shard or other file that it is about, as the bytes of its path; NULL if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_path(error: *const strait_error) -> *const c_char {
    of(error, ptr::null(), |failure| failure.path.as_ref().map_or(ptr::null(), |path| path.as_ptr()))
}

/// The byte of that file, from its start: true, and `offset` is written; false if none is known, or `offset` is NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_offset(error: *const strait_error, offset: Option<&mut u64>) -> bool {
    give(of(error, None, |failure| failure.offset), offset)
}

/// The id of the sample that cannot be read: true, and `sample` is written; false if it is about none, or `sample` is NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_error_sample(error: *const strait_error, sample: Option<&mut u64>) -> bool {
    give(of(error, None, |failure| failure.sample), sample)
}

fn of<R>(error: *const strait_error, otherwise: R, read: impl FnOnce(&Failure) -> R) -> R {
    live::<Failure>(error, "error").map_or(otherwise, |failure| read(&failure))
}

fn give(value: Option<u64>, out: Option<&mut u64>) -> bool {
    match (value, out) {
        (Some(value), Some(out)) => {
            *out = value;
            true
        }
        _ => false,
    }
}
