//! The CUDA driver as a table of functions, found at run time.
//!
//! Not through cudarc: its functions panic where a symbol is missing, and return an enum, for which a result code that is
//! newer than the binding is undefined behaviour; and it looks for `libcuda.so` first, which may be another driver's than
//! the one that this process has loaded already, or the toolkit's stub.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::error::Error;

/// A `CUcontext`, `CUstream` or `CUevent`.
pub(super) type Handle = *mut c_void;

pub(super) const SUCCESS: i32 = 0;
pub(super) const NOT_READY: i32 = 600;
/// The driver is gone because the process is ending.
pub(super) const DEINITIALIZED: i32 = 4;

pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;
pub(super) const HOST_REGISTER_PORTABLE: c_uint = 1;

/// A thread in this mode may call what captures of other streams do not like.
pub(super) const CAPTURE_RELAXED: c_int = 2;
const NOT_CAPTURING: c_int = 0;
pub(super) const CAPTURE_UNSUPPORTED: i32 = 900;

pub(super) type ProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_int) -> i32;

type ErrorName = unsafe extern "C" fn(i32, *mut *const c_char) -> i32;

pub(super) const MEMORY_HOST: c_uint = 1;
pub(super) const MEMORY_DEVICE: c_uint = 2;

/// `CUDA_MEMCPY2D` of `cuda.h`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) source_x: usize,
    pub(super) source_y: usize,
    pub(super) source_type: c_uint,
    pub(super) source_host: *const c_void,
    pub(super) source_device: u64,
    pub(super) source_array: Handle,
    pub(super) source_stride: usize,
    pub(super) target_x: usize,
    pub(super) target_y: usize,
    pub(super) target_type: c_uint,
    pub(super) target_host: *mut c_void,
    pub(super) target_device: u64,
    pub(super) target_array: Handle,
    pub(super) target_stride: usize,
    pub(super) row_bytes: usize,
    pub(super) rows: usize,
}

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
    device = "cuDeviceGet" (*mut c_int, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, c_int);
    device_pci = "cuDeviceGetPCIBusId" (*mut c_char, c_int, c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    context_push = "cuCtxPushCurrent_v2" (Handle);
    context_pop = "cuCtxPopCurrent_v2" (*mut Handle);
    capture_mode = "cuThreadExchangeStreamCaptureMode" (*mut c_int);
    is_capturing = "cuStreamIsCapturing" (Handle, *mut c_int);
    allocate = "cuMemAlloc_v2" (*mut u64, usize);
    free = "cuMemFree_v2" (u64);
    host_register = "cuMemHostRegister_v2" (*mut c_void, usize, c_uint);
    host_unregister = "cuMemHostUnregister" (*mut c_void);
    copy_to_device = "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
    copy_rows_to_device = "cuMemcpy2DAsync_v2" (*const Rows, Handle);
    copy_on_device = "cuMemcpyDtoDAsync_v2" (u64, u64, usize, Handle);
    copy_to_host = "cuMemcpyDtoHAsync_v2" (*mut c_void, u64, usize, Handle);
    stream_create = "cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2" (Handle);
    stream_synchronize = "cuStreamSynchronize" (Handle);
    stream_wait_event = "cuStreamWaitEvent" (Handle, Handle, c_uint);
    event_create = "cuEventCreate" (*mut Handle, c_uint);
    event_destroy = "cuEventDestroy_v2" (Handle);
    event_record = "cuEventRecord" (Handle, Handle);
    event_query = "cuEventQuery" (Handle);
    module_load = "cuModuleLoadData" (*mut Handle, *const c_void);
    module_unload = "cuModuleUnload" (Handle);
    module_function = "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
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
            && unsafe { error_name(code, &mut name) } == SUCCESS
            && !name.is_null()
        {
            // SAFETY: the driver gives a constant string that ends with 0.
            return unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        }
        "unknown CUresult".into()
    }

    /// The result of a call as an error of `device`, unless it is a success.
    pub(super) fn check(&self, device: &str, call: &'static str, code: i32) -> Result<(), Error> {
        if code == SUCCESS {
            return Ok(());
        }
        let remedy = remedy(call, code).map(|remedy| format!("; {remedy}")).unwrap_or_default();
        Err(Error::Device { device: device.into(), call, code, name: self.name(code), remedy })
    }

    /// An error if `stream` is being captured into a graph. The caller has entered the context.
    ///
    /// # Safety
    /// `stream` is a live stream.
    pub(super) unsafe fn check_capture(&self, device: &str, stream: Handle) -> Result<(), Error> {
        let (mut status, (call, ask)) = (NOT_CAPTURING, self.is_capturing);
        // SAFETY: `status` is writable; the stream is the caller's promise.
        self.check(device, call, unsafe { ask(stream, &mut status) })?;
        self.check(device, call, if status == NOT_CAPTURING { SUCCESS } else { CAPTURE_UNSUPPORTED })
    }

    /// For calls that give something back, where nobody can act on an error. At the end of a process the driver may
    /// be gone before us: what it held is gone with it.
    pub(super) fn check_release(&self, device: &str, call: &'static str, code: i32) {
        if code == DEINITIALIZED {
            return;
        }
        if let Err(error) = self.check(device, call, code) {
            tracing::warn!(%error, "the driver did not take something back");
        }
    }
}

/// Why there is no device, from the result of the calls that look for one.
pub(super) fn absence(driver: &Driver, call: &str, code: i32) -> String {
    let why = match code {
        3 => "this process was forked from one that had started CUDA; start it with `spawn` or `exec` instead",
        34 => {
            "the CUDA toolkit's stub library was loaded in place of the driver; take its `stubs` directory off \
             LD_LIBRARY_PATH"
        }
        35 | 36 | 804 => "the NVIDIA driver is older than the CUDA libraries in use; update the driver",
        100 => {
            "the driver sees no CUDA device; check `nvidia-smi`, CUDA_VISIBLE_DEVICES and the rights on /dev/nvidia*"
        }
        802 => "the system is not ready; on NVSwitch machines start nvidia-fabricmanager",
        805..=809 => MPS,
        803 => "the CUDA driver library and the kernel module differ in version; reload the module or restart",
        999 => "the driver could not start; check `dmesg`, and that the module nvidia-uvm is loaded",
        _ => "check `nvidia-smi` and `dmesg`",
    };
    format!("{call} failed: {} ({code}); {why}", driver.name(code))
}

const MPS: &str = "CUDA's multi-process service (MPS) does not take this process: check nvidia-cuda-mps-control, \
                   CUDA_MPS_PIPE_DIRECTORY, and how many clients it has";

fn remedy(call: &str, code: i32) -> Option<&'static str> {
    Some(match code {
        1 | 2 | 304 | 801 if call.starts_with("cuMemHostRegister") => {
            "the driver cannot pin so much host memory: lower pinned_bytes_max, and check `free` and the limits of the \
             container; under WSL little can be pinned, in confidential computing nothing"
        }
        2 => "device memory is used up: lower region_bytes or batch_size, or free memory of other users",
        3 | DEINITIALIZED => "the driver is not, or no longer, running in this process",
        46 => "others have the device to themselves: end them, or allow several (`nvidia-smi -c DEFAULT`)",
        201 | 400 => {
            "the stream or memory belongs to another context than the device's primary one, or the device was reset \
             (cudaDeviceReset) while it was in use"
        }
        304 => "the operating system refused: check `dmesg`, and the limits of the process (`ulimit -a`)",
        712 => "this memory is pinned already",
        713 => "this memory is not pinned",
        805..=809 => MPS,
        801 => "this machine cannot do that: in a virtual machine, check how the GPU is passed through",
        900..=907 => {
            "the stream is being captured into a graph: wait for memory and give it back outside of the capture, and let \
             the graph read buffers of its own"
        }
        // The errors after which every call on the context fails.
        214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 810 => {
            "the CUDA context is lost, through this or other work in the process: restart the process"
        }
        _ => return None,
    })
}
