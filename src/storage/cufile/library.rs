//! cuFile as a table of functions, found at run time.
//!
//! Not through cudarc: its loader never asks for `libcufile.so.0`, the only name that runtime packages install, and takes
//! result codes for a Rust enum, for which a code newer than the binding is undefined behaviour.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// A `CUfileHandle_t` or `CUfileBatchHandle_t`.
pub(super) type Handle = *mut c_void;

/// `CUfileError_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) code: c_int,
    /// A `CUresult`, where `code` is that of a CUDA error.
    pub(super) cuda: c_int,
}

/// `CUfileDrvProps_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Properties {
    pub(super) nvidia_fs_major: c_uint,
    pub(super) nvidia_fs_minor: c_uint,
    pub(super) poll_threshold: usize,
    pub(super) direct_io_kib_max: usize,
    /// Bits of `CUfileDriverStatusFlags_t`: which kinds of storage are read directly.
    pub(super) storage: c_uint,
    /// Bits of `CUfileDriverControlFlags_t`.
    pub(super) control: c_uint,
    pub(super) features: c_uint,
    pub(super) cache_kib_max: c_uint,
    pub(super) buffer_cache_kib: c_uint,
    pub(super) pinned_kib_max: c_uint,
    pub(super) batch_max: c_uint,
    pub(super) batch_timeout_ms: c_uint,
    /// Newer libraries may write more than they did when this was written.
    pub(super) more: [u64; 16],
}

/// `CUfileDescr_t` of a file descriptor.
#[repr(C)]
pub(super) struct Description {
    pub(super) kind: c_int,
    pub(super) file: File,
    pub(super) operations: *const c_void,
}

#[repr(C)]
pub(super) union File {
    pub(super) fd: c_int,
    pub(super) handle: *mut c_void,
}

/// `CU_FILE_HANDLE_TYPE_OPAQUE_FD`.
pub(super) const KIND_FD: c_int = 1;

/// `CUfileIOParams_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) mode: c_int,
    pub(super) base: *mut c_void,
    pub(super) file_offset: i64,
    pub(super) base_offset: i64,
    pub(super) bytes: usize,
    pub(super) file: Handle,
    pub(super) opcode: c_int,
    pub(super) cookie: *mut c_void,
}

/// `CUFILE_BATCH`, the only mode.
pub(super) const MODE_BATCH: c_int = 1;
/// `CUFILE_READ`.
pub(super) const OPCODE_READ: c_int = 0;

/// `CUfileIOEvents_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) cookie: *mut c_void,
    pub(super) status: c_int,
    /// A `size_t` that holds a negative error.
    pub(super) result: usize,
}

/// `CUfileStatus_t`.
pub(super) mod status {
    pub(in super::super) const WAITING: i32 = 1;
    pub(in super::super) const PENDING: i32 = 2;
    pub(in super::super) const INVALID: i32 = 4;
    pub(in super::super) const COMPLETE: i32 = 16;
    pub(in super::super) const FAILED: i32 = 64;
}

macro_rules! table {
    ($($field:ident = $symbol:literal ($($argument:ty),*) -> $answer:ty;)*) => {
        /// One entry point per call, named as in `cufile.h`.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $answer,)*
        }

        fn load() -> Result<Library, String> {
            let library = open()?;
            Ok(Library {
                $($field: {
                    // SAFETY: the library was just opened and is never closed; the name is a C string.
                    let symbol = unsafe { libc::dlsym(library, concat!($symbol, "\0").as_ptr().cast()) };
                    if symbol.is_null() {
                        return Err(format!("it has no `{}`: it is older than CUDA 11.6", $symbol));
                    }
                    // SAFETY: the type is that of the function of this name in `cufile.h`.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> $answer>(symbol) }
                },)*
            })
        }
    };
}

table! {
    driver_open = "cuFileDriverOpen" () -> Answer;
    properties = "cuFileDriverGetProperties" (*mut Properties) -> Answer;
    handle_register = "cuFileHandleRegister" (*mut Handle, *mut Description) -> Answer;
    handle_deregister = "cuFileHandleDeregister" (Handle) -> ();
    buffer_register = "cuFileBufRegister" (*const c_void, usize, c_int) -> Answer;
    buffer_deregister = "cuFileBufDeregister" (*const c_void) -> Answer;
    read = "cuFileRead" (Handle, *mut c_void, usize, i64, i64) -> isize;
    batch_set_up = "cuFileBatchIOSetUp" (*mut Handle, c_uint) -> Answer;
    batch_submit = "cuFileBatchIOSubmit" (Handle, c_uint, *mut Entry, c_uint) -> Answer;
    batch_status = "cuFileBatchIOGetStatus" (Handle, c_uint, *mut c_uint, *mut Event, *mut libc::timespec) -> Answer;
    batch_destroy = "cuFileBatchIODestroy" (Handle) -> ();
}

const NAMES: [&CStr; 2] = [c"libcufile.so.0", c"libcufile.so"];

fn open() -> Result<*mut c_void, String> {
    for name in NAMES {
        // SAFETY: the name is a C string; loading cuFile runs its initialisers, as every program that uses it does.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if !library.is_null() {
            return Ok(library);
        }
    }
    Err("there is no libcufile.so.0".into())
}

impl Library {
    /// The library of this process, or why there is none.
    pub(super) fn get() -> Result<&'static Library, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(load).as_ref().map_err(String::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// As `cufile.h` lays them out on a machine of 64 bits.
    #[test]
    fn layouts_are_those_of_the_header() {
        assert_eq!(
            (size_of::<Answer>(), size_of::<Description>(), size_of::<Entry>(), size_of::<Event>()),
            (8, 24, 64, 24)
        );
        assert_eq!((offset_of!(Description, file), offset_of!(Description, operations)), (8, 16));
        assert_eq!((offset_of!(Entry, base), offset_of!(Entry, bytes), offset_of!(Entry, file)), (8, 32, 40));
        assert_eq!((offset_of!(Entry, opcode), offset_of!(Entry, cookie)), (48, 56));
        assert_eq!((offset_of!(Event, status), offset_of!(Event, result)), (8, 16));
        assert_eq!((offset_of!(Properties, storage), offset_of!(Properties, batch_max)), (24, 48));
    }
}
