//! The driver's result codes, and what to do about them.

use cudarc::driver::sys::CUresult;

use super::driver::Driver;

macro_rules! codes {
    ($($name:ident = $theirs:ident;)*) => {
        $(pub(super) const $name: i32 = CUresult::$theirs as i32;)*
    };
}

codes! {
    SUCCESS = CUDA_SUCCESS;
    INVALID_VALUE = CUDA_ERROR_INVALID_VALUE;
    OUT_OF_MEMORY = CUDA_ERROR_OUT_OF_MEMORY;
    NOT_INITIALIZED = CUDA_ERROR_NOT_INITIALIZED;
    DEINITIALIZED = CUDA_ERROR_DEINITIALIZED;
    STUB_LIBRARY = CUDA_ERROR_STUB_LIBRARY;
    DEVICE_UNAVAILABLE = CUDA_ERROR_DEVICE_UNAVAILABLE;
    NO_DEVICE = CUDA_ERROR_NO_DEVICE;
    INVALID_CONTEXT = CUDA_ERROR_INVALID_CONTEXT;
    ECC_UNCORRECTABLE = CUDA_ERROR_ECC_UNCORRECTABLE;
    NVLINK_UNCORRECTABLE = CUDA_ERROR_NVLINK_UNCORRECTABLE;
    OPERATING_SYSTEM = CUDA_ERROR_OPERATING_SYSTEM;
    INVALID_HANDLE = CUDA_ERROR_INVALID_HANDLE;
    NOT_READY = CUDA_ERROR_NOT_READY;
    ILLEGAL_ADDRESS = CUDA_ERROR_ILLEGAL_ADDRESS;
    LAUNCH_TIMEOUT = CUDA_ERROR_LAUNCH_TIMEOUT;
    CONTEXT_IS_DESTROYED = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    ASSERT = CUDA_ERROR_ASSERT;
    HOST_MEMORY_ALREADY_REGISTERED = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    HOST_MEMORY_NOT_REGISTERED = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    HARDWARE_STACK_ERROR = CUDA_ERROR_HARDWARE_STACK_ERROR;
    LAUNCH_FAILED = CUDA_ERROR_LAUNCH_FAILED;
    NOT_SUPPORTED = CUDA_ERROR_NOT_SUPPORTED;
    SYSTEM_NOT_READY = CUDA_ERROR_SYSTEM_NOT_READY;
    SYSTEM_DRIVER_MISMATCH = CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
    COMPAT_NOT_SUPPORTED_ON_DEVICE = CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE;
    MPS_CONNECTION_FAILED = CUDA_ERROR_MPS_CONNECTION_FAILED;
    MPS_MAX_CONNECTIONS_REACHED = CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED;
    MPS_CLIENT_TERMINATED = CUDA_ERROR_MPS_CLIENT_TERMINATED;
    STREAM_CAPTURE_UNSUPPORTED = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    CAPTURED_EVENT = CUDA_ERROR_CAPTURED_EVENT;
    UNKNOWN = CUDA_ERROR_UNKNOWN;
}

// Drivers that are newer than the binding have these. 35 is the runtime's.
const INSUFFICIENT_DRIVER: i32 = 35;
const CALL_REQUIRES_NEWER_DRIVER: i32 = 36;
const CONTAINED: i32 = 226;
const TENSOR_MEMORY_LEAK: i32 = 721;

/// Why there is no device, from the result of the calls that look for one.
pub(super) fn absence(driver: &Driver, call: &str, code: i32) -> String {
    let why = match code {
        NOT_INITIALIZED => {
            "this process was forked from one that had started CUDA; start it with `spawn` or `exec` instead"
        }
        STUB_LIBRARY => {
            "the CUDA toolkit's stub library was loaded in place of the driver; take its `stubs` directory off \
             LD_LIBRARY_PATH"
        }
        INSUFFICIENT_DRIVER | CALL_REQUIRES_NEWER_DRIVER | COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the NVIDIA driver is older than the CUDA libraries in use; update the driver"
        }
        NO_DEVICE => {
            "the driver sees no CUDA device; check `nvidia-smi`, CUDA_VISIBLE_DEVICES and the rights on /dev/nvidia*"
        }
        SYSTEM_NOT_READY => "the system is not ready; on NVSwitch machines start nvidia-fabricmanager",
        MPS_CONNECTION_FAILED..=MPS_MAX_CONNECTIONS_REACHED => MPS,
        SYSTEM_DRIVER_MISMATCH => {
            "the CUDA driver library and the kernel module differ in version; reload the module or restart"
        }
        UNKNOWN => "the driver could not start; check `dmesg`, and that the module nvidia-uvm is loaded",
        _ => "check `nvidia-smi` and `dmesg`",
    };
    format!("{call} failed: {} ({code}); {why}", driver.name(code))
}

const MPS: &str = "CUDA's multi-process service (MPS) does not take this process: check nvidia-cuda-mps-control, \
                   CUDA_MPS_PIPE_DIRECTORY, and how many clients it has";

pub(super) fn remedy(call: &str, code: i32) -> Option<&'static str> {
    Some(match code {
        INVALID_VALUE | OUT_OF_MEMORY | OPERATING_SYSTEM | NOT_SUPPORTED if call.starts_with("cuMemHostRegister") => {
            "the driver cannot pin so much host memory: lower pinned_bytes_max, and check `free` and the limits of the \
             container; under WSL little can be pinned, in confidential computing nothing"
        }
        OUT_OF_MEMORY => {
            "device memory is used up: lower region_bytes or batch_size, or free memory of other users; PyTorch keeps what it \
             frees, so call `torch.cuda.empty_cache()` first, or make the loader before the model"
        }
        NOT_INITIALIZED | DEINITIALIZED => "the driver is not, or no longer, running in this process",
        DEVICE_UNAVAILABLE => {
            "others have the device to themselves: end them, or allow several (`nvidia-smi -c DEFAULT`)"
        }
        INVALID_CONTEXT | INVALID_HANDLE => {
            "the stream or memory belongs to another context than the device's primary one, or the device was reset \
             (cudaDeviceReset) while it was in use"
        }
        OPERATING_SYSTEM => "the operating system refused: check `dmesg`, and the limits of the process (`ulimit -a`)",
        HOST_MEMORY_ALREADY_REGISTERED => "this memory is pinned already",
        HOST_MEMORY_NOT_REGISTERED => "this memory is not pinned",
        MPS_CONNECTION_FAILED..=MPS_MAX_CONNECTIONS_REACHED => MPS,
        NOT_SUPPORTED => "this machine cannot do that: in a virtual machine, check how the GPU is passed through",
        STREAM_CAPTURE_UNSUPPORTED..=CAPTURED_EVENT => {
            "the stream is being captured into a graph: wait for memory and give it back outside of the capture, and let \
             the graph read buffers of its own"
        }
        // The errors after which every call on the context fails.
        ECC_UNCORRECTABLE
        | NVLINK_UNCORRECTABLE
        | CONTAINED
        | ILLEGAL_ADDRESS
        | LAUNCH_TIMEOUT
        | CONTEXT_IS_DESTROYED
        | ASSERT
        | HARDWARE_STACK_ERROR..=LAUNCH_FAILED
        | TENSOR_MEMORY_LEAK
        | MPS_CLIENT_TERMINATED => {
            "the CUDA context is lost, through this or other work in the process: restart the process"
        }
        _ => return None,
    })
}
