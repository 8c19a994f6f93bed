//! The CUDA driver as a table of functions, found at run time.
//!
//! Types and numbers are cudarc's, functions are not: cudarc's panic where a symbol is missing, and return an enum, for which a
//! result code that is newer than the binding is undefined behaviour; and they look for `libcuda.so` first, which may be
//! another driver's than the one that this process has loaded already, or the toolkit's stub. So results, and whatever else a
//! driver answers, are integers here.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUDA_MEMCPY2D, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream,
};

use super::code::{self, remedy};
use crate::error::Error;

pub(super) const STREAM_NON_BLOCKING: c_uint = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
pub(super) const EVENT_DISABLE_TIMING: c_uint = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint;
pub(super) const HOST_REGISTER_PORTABLE: c_uint = sys::CU_MEMHOSTREGISTER_PORTABLE;

/// A thread in this mode may call what captures of other streams do not like.
pub(super) const CAPTURE_RELAXED: c_int = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as c_int;
const NOT_CAPTURING: c_int = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE as c_int;

pub(super) type ProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_int) -> i32;

type ErrorName = unsafe extern "C" fn(i32, *mut *const c_char) -> i32;

macro_rules! table {
    ($($field:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// One entry point per call, named as in `cuda.h`. None of them fails by panicking.
        pub(super) struct Driver {
            $(pub(super) $field: (&'static str, unsafe extern "C" fn($($argument),*) -> i32),)*
            /// Which function of a name is that of a version (CUDA 12.0).
            pub(super) proc_address: Option<ProcAddress>,
            error_name: Option<ErrorName>,
        }

        fn load() -> Result<Driver, String> {
            let library = open().ok_or(NO_LIBRARY)?;
            // SAFETY: the library was just opened and is never closed; every name ends with 0.
            let find = |name: &str| unsafe { libc::dlsym(library, name.as_ptr().cast()) };
            Ok(Driver {
                $($field: {
                    let symbol = find(concat!($symbol, "\0"));
                    if symbol.is_null() {
                        return Err(old_driver($symbol));
                    }
                    // SAFETY: the type is that of the function of this name in `cuda.h`, where these never change: a
                    // new signature gets a new suffix.
                    ($symbol, unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> i32>(symbol) })
                },)*
                // SAFETY: as above; null is none.
                proc_address: unsafe { std::mem::transmute::<*mut c_void, Option<ProcAddress>>(find("cuGetProcAddress_v2\0")) },
                // SAFETY: as above.
                error_name: unsafe { std::mem::transmute::<*mut c_void, Option<ErrorName>>(find("cuGetErrorName\0")) },
            })
        }
    };
}

table! {
    init = "cuInit" (c_uint);
    version = "cuDriverGetVersion" (*mut c_int);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device = "cuDeviceGet" (*mut CUdevice, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, CUdevice);
    device_pci = "cuDeviceGetPCIBusId" (*mut c_char, c_int, CUdevice);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut CUcontext, CUdevice);
    context_release = "cuDevicePrimaryCtxRelease_v2" (CUdevice);
    context_push = "cuCtxPushCurrent_v2" (CUcontext);
    context_pop = "cuCtxPopCurrent_v2" (*mut CUcontext);
    context_current = "cuCtxGetCurrent" (*mut CUcontext);
    capture_mode = "cuThreadExchangeStreamCaptureMode" (*mut c_int);
    is_capturing = "cuStreamIsCapturing" (CUstream, *mut c_int);
    allocate = "cuMemAlloc_v2" (*mut CUdeviceptr, usize);
    free = "cuMemFree_v2" (CUdeviceptr);
    host_register = "cuMemHostRegister_v2" (*mut c_void, usize, c_uint);
    host_unregister = "cuMemHostUnregister" (*mut c_void);
    copy_to_device = "cuMemcpyHtoDAsync_v2" (CUdeviceptr, *const c_void, usize, CUstream);
    copy_rows_to_device = "cuMemcpy2DAsync_v2" (*const CUDA_MEMCPY2D, CUstream);
    copy_on_device = "cuMemcpyDtoDAsync_v2" (CUdeviceptr, CUdeviceptr, usize, CUstream);
    copy_to_host = "cuMemcpyDtoHAsync_v2" (*mut c_void, CUdeviceptr, usize, CUstream);
    stream_priorities = "cuCtxGetStreamPriorityRange" (*mut c_int, *mut c_int);
    stream_create = "cuStreamCreateWithPriority" (*mut CUstream, c_uint, c_int);
    stream_destroy = "cuStreamDestroy_v2" (CUstream);
    stream_synchronize = "cuStreamSynchronize" (CUstream);
    stream_wait_event = "cuStreamWaitEvent" (CUstream, CUevent, c_uint);
    event_create = "cuEventCreate" (*mut CUevent, c_uint);
    event_destroy = "cuEventDestroy_v2" (CUevent);
    event_record = "cuEventRecord" (CUevent, CUstream);
    event_query = "cuEventQuery" (CUevent);
    module_load = "cuModuleLoadData" (*mut CUmodule, *const c_void);
    module_unload = "cuModuleUnload" (CUmodule);
    module_function = "cuModuleGetFunction" (*mut CUfunction, CUmodule, *const c_char);
    launch = "cuLaunchKernel" (
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void
    );
}

/// The driver that this process has already, which the CUDA runtime may have loaded, before any other; of others the one that the
/// system's loader finds.
fn open() -> Option<*mut c_void> {
    let loaded = libc::RTLD_NOW | libc::RTLD_NOLOAD;
    let ways = [
        (c"libcuda.so.1", loaded),
        (c"libcuda.so", loaded),
        (c"libcuda.so.1", libc::RTLD_NOW),
        (c"libcuda.so", libc::RTLD_NOW),
    ];
    // SAFETY: the name is a C string. Loading the driver runs its initialisers, as every CUDA program of this machine does.
    let mut found = ways.into_iter().map(|(name, how)| unsafe { libc::dlopen(name.as_ptr(), how) });
    found.find(|library| !library.is_null())
}

const NO_LIBRARY: &str = "no CUDA driver (libcuda.so.1) was found; install the NVIDIA driver, or start the container \
                          with the NVIDIA runtime (`--gpus all`)";

fn old_driver(symbol: &str) -> String {
    format!("the CUDA driver has no `{symbol}`: it is older than CUDA 11.0, or not NVIDIA's; update the NVIDIA driver")
}

impl Driver {
    /// The driver of this process, or why there is none.
    pub(super) fn get() -> Result<&'static Driver, String> {
        static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
        DRIVER.get_or_init(load).as_ref().map_err(String::clone)
    }

    /// The driver's name for a result code.
    pub(super) fn name(&self, code: i32) -> String {
        let mut name = std::ptr::null();
        if let Some(error_name) = self.error_name
            // SAFETY: `name` is writable; any number may be asked for.
            && unsafe { error_name(code, &mut name) } == code::SUCCESS
            && !name.is_null()
        {
            // SAFETY: the driver gives a constant string that ends with 0.
            return unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        }
        "unknown CUresult".into()
    }

    /// The result of a call as an error of `device`, unless it is a success.
    pub(super) fn check(&self, device: &str, call: &'static str, code: i32) -> Result<(), Error> {
        if code == code::SUCCESS {
            return Ok(());
        }
        let remedy = remedy(call, code).map(|remedy| format!("; {remedy}")).unwrap_or_default();
        Err(Error::Device { device: device.into(), call, code, name: self.name(code), remedy })
    }

    /// An error if `stream` is being captured into a graph. The caller has entered the context.
    ///
    /// # Safety
    /// `stream` is a live stream.
    pub(super) unsafe fn check_capture(&self, device: &str, stream: CUstream) -> Result<(), Error> {
        let (mut status, (call, ask)) = (NOT_CAPTURING, self.is_capturing);
        // SAFETY: `status` is writable; the stream is the caller's promise.
        self.check(device, call, unsafe { ask(stream, &mut status) })?;
        self.check(device, call, if status == NOT_CAPTURING { code::SUCCESS } else { code::STREAM_CAPTURE_UNSUPPORTED })
    }

    /// For calls that give something back, where nobody can act on an error. At the end of a process the driver may
    /// be gone before us: what it held is gone with it.
    pub(super) fn check_release(&self, device: &str, call: &'static str, code: i32) {
        if code == code::DEINITIALIZED {
            return;
        }
        if let Err(error) = self.check(device, call, code) {
            tracing::warn!(%error, "the driver did not take something back");
        }
    }
}
