//! Several copies in one call, where the driver has it (CUDA 12.8): small copies cost more to start than to do.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::super::RawCopy;
use super::code::SUCCESS;
use super::driver::Driver;

/// `cuMemcpyBatchAsync`. CUDA 13 took the index of the copy that failed out of it.
#[derive(Clone, Copy)]
pub(super) enum BatchCopy {
    WithIndex(V12),
    WithoutIndex(V13),
}

type V12 = unsafe extern "C" fn(
    *mut CUdeviceptr,
    *mut CUdeviceptr,
    *mut usize,
    usize,
    *mut Attributes,
    *mut usize,
    usize,
    *mut usize,
    CUstream,
) -> c_int;
type V13 = unsafe extern "C" fn(
    *mut CUdeviceptr,
    *mut CUdeviceptr,
    *mut usize,
    usize,
    *mut Attributes,
    *mut usize,
    usize,
    CUstream,
) -> c_int;

/// `CUmemcpyAttributes`, which the binding of CUDA 12.0 does not have.
#[repr(C)]
pub(super) struct Attributes {
    source_order: c_int,
    /// Two of `CUmemLocation`: only for managed memory.
    hints: [c_int; 4],
    flags: c_uint,
}

/// `CU_MEMCPY_SRC_ACCESS_ORDER_STREAM`: sources are read when the stream gets there.
const IN_STREAM_ORDER: c_int = 1;

/// Copies in one call at most.
pub(super) const COPIES_MAX: usize = 64;

impl BatchCopy {
    pub(super) const CALL: &str = "cuMemcpyBatchAsync";

    /// By the driver's own table of versions: the library's symbols do not tell one signature from the other. Asked for a
    /// version above their own, drivers before 13 give the newest function that they have: so none is asked for one.
    pub(super) fn find(driver: &Driver) -> Option<BatchCopy> {
        let (mut has, (_, version)) = (0, driver.version);
        // SAFETY: the place is writable.
        if unsafe { version(&mut has) } != SUCCESS {
            return None;
        }
        let find = |version: c_int| {
            let (mut function, mut status) = (std::ptr::null_mut(), 0);
            let ask = driver.proc_address?;
            // SAFETY: both places are writable, the name is a C string.
            let code = unsafe { ask(c"cuMemcpyBatchAsync".as_ptr(), &mut function, version, 0, &mut status) };
            (code == SUCCESS && !function.is_null()).then_some(function)
        };
        match has {
            13_000.. => find(13_000).map(|function| {
                // SAFETY: the signature of that version.
                BatchCopy::WithoutIndex(unsafe { std::mem::transmute::<*mut c_void, V13>(function) })
            }),
            12_080.. => find(12_080).map(|function| {
                // SAFETY: as above.
                BatchCopy::WithIndex(unsafe { std::mem::transmute::<*mut c_void, V12>(function) })
            }),
            _ => None,
        }
    }

    /// Starts at most [`COPIES_MAX`] copies, in any order. The caller has entered the context.
    ///
    /// # Safety
    /// As for [`Stream::copy`](super::super::Stream::copy), of each; `stream` is not the legacy one.
    pub(super) unsafe fn start(&self, copies: &[RawCopy], stream: CUstream) -> i32 {
        let (mut targets, mut sources, mut bytes) = ([0u64; COPIES_MAX], [0u64; COPIES_MAX], [0usize; COPIES_MAX]);
        for (place, copy) in copies.iter().enumerate() {
            (targets[place], sources[place], bytes[place]) = (copy.target, copy.source.as_ptr() as u64, copy.bytes);
        }
        let mut attributes = Attributes { source_order: IN_STREAM_ORDER, hints: [0; 4], flags: 0 };
        let (count, mut first, mut failed) = (copies.len(), 0usize, 0usize);
        let (targets, sources, bytes) = (targets.as_mut_ptr(), sources.as_mut_ptr(), bytes.as_mut_ptr());
        match *self {
            // SAFETY: the arrays have `count` entries and are read before the call returns; one set of attributes is
            // for all from the first on. Sources and targets are the caller's promise.
            BatchCopy::WithIndex(call) => unsafe {
                call(targets, sources, bytes, count, &mut attributes, &mut first, 1, &mut failed, stream)
            },
            // SAFETY: as above.
            BatchCopy::WithoutIndex(call) => unsafe {
                call(targets, sources, bytes, count, &mut attributes, &mut first, 1, stream)
            },
        }
    }
}
