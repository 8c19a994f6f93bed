"""NVIDIA's names for what strait calls otherwise: of structs and their members, of numbers, of functions by their types."""


def rows(side):
    return [side + name for name in ("XInBytes", "Y", "MemoryType", "Host", "Device", "Array", "Pitch")]


ROWS = [*rows("src"), *rows("dst"), "WidthInBytes", "Height"]
ROWS_AT = [name for name in ROWS if name not in ("srcY", "dstY")]  # X and Y as one array
ATTRIBUTES = ["srcAccessOrder", "srcLocHint", "flags"]  # both hints as one array
NVFS = "major_version minor_version poll_thresh_size max_direct_io_size dstatusflags dcontrolflags"
MORE = "fflags max_device_cache_size per_buffer_cache_size max_device_pinned_mem_size max_batch_io_size max_batch_io_timeout_msecs"
PROPERTIES = [f"nvfs.{name}" for name in NVFS.split()] + MORE.split()
PROPERTIES_AT = [name for name in PROPERTIES if name != "nvfs.minor_version"]
ENTRY = ["mode", *(f"u.batch.{name}" for name in "devPtr_base file_offset devPtr_offset size".split()), "fh", "opcode", "cookie"]
DESCRIPTION = ["type", "handle", "fs_ops"]
EVENT = ["cookie", "status", "ret"]
ERROR = ["err", "cu_err"]

STRUCTS = {
    "cuda.h": [
        ("src/device/cuda/batch.rs", "Attributes", "CUmemcpyAttributes", ATTRIBUTES),
        ("tests/fakecuda/src/copies.rs", "Rows", "CUDA_MEMCPY2D", ROWS_AT),
        ("tests/fakecuda/src/copies.rs", "CUmemcpyAttributes", "CUmemcpyAttributes", ATTRIBUTES),
    ],
    "cufile.h": [
        ("src/storage/cufile/library.rs", "Answer", "CUfileError_t", ERROR),
        ("src/storage/cufile/library.rs", "Properties", "CUfileDrvProps_t", PROPERTIES),
        ("src/storage/cufile/library.rs", "Description", "CUfileDescr_t", DESCRIPTION),
        ("src/storage/cufile/library.rs", "Entry", "CUfileIOParams_t", ENTRY),
        ("src/storage/cufile/library.rs", "Event", "CUfileIOEvents_t", EVENT),
        ("tests/fakecufile/src/calls.rs", "CUfileError", "CUfileError_t", ERROR),
        ("tests/fakecufile/src/calls.rs", "CUfileDrvProps", "CUfileDrvProps_t", PROPERTIES_AT),
        ("tests/fakecufile/src/calls.rs", "CUfileDescr", "CUfileDescr_t", DESCRIPTION),
        ("tests/fakecufile/src/batches.rs", "CUfileIOParams", "CUfileIOParams_t", ENTRY),
        ("tests/fakecufile/src/batches.rs", "CUfileIOEvents", "CUfileIOEvents_t", EVENT),
    ],
}
# Functions that are found in another way than by a name in a table: where their types are, and what the headers call those.
FUNCTION_TYPES = {
    "src/device/cuda/driver.rs": {"type ProcAddress": "PFN_cuGetProcAddress_v12000", "type ErrorName": "PFN_cuGetErrorName_v6000"},
    "src/device/cuda/batch.rs": {"type V12": "PFN_cuMemcpyBatchAsync_v12080", "type V13": "PFN_cuMemcpyBatchAsync_v13000"},
}
CONSTANTS = {
    "cuda.h": {
        "src/device/cuda/code.rs": {
            "CALL_REQUIRES_NEWER_DRIVER": "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
            "CONTAINED": "CUDA_ERROR_CONTAINED",
            "TENSOR_MEMORY_LEAK": "CUDA_ERROR_TENSOR_MEMORY_LEAK",
        },
        "src/device/cuda/batch.rs": {"IN_STREAM_ORDER": "CU_MEMCPY_SRC_ACCESS_ORDER_STREAM"},
        "tests/fakecuda/src/machine.rs": {
            "INVALID_VALUE": "CUDA_ERROR_INVALID_VALUE",
            "OUT_OF_MEMORY": "CUDA_ERROR_OUT_OF_MEMORY",
            "NOT_INITIALIZED": "CUDA_ERROR_NOT_INITIALIZED",
            "NO_DEVICE": "CUDA_ERROR_NO_DEVICE",
            "INVALID_DEVICE": "CUDA_ERROR_INVALID_DEVICE",
            "INVALID_CONTEXT": "CUDA_ERROR_INVALID_CONTEXT",
            "INVALID_HANDLE": "CUDA_ERROR_INVALID_HANDLE",
            "NOT_READY": "CUDA_ERROR_NOT_READY",
            "ALREADY_REGISTERED": "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
            "NOT_REGISTERED": "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        },
        "tests/fakecuda/src/capture.rs": {
            "UNSUPPORTED": "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            "INVALIDATED": "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
            "ISOLATION": "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
            "CAPTURED_EVENT": "CUDA_ERROR_CAPTURED_EVENT",
            "GLOBAL": "CU_STREAM_CAPTURE_MODE_GLOBAL",
            "RELAXED": "CU_STREAM_CAPTURE_MODE_RELAXED",
        },
        "tests/fakecuda/src/kernels.rs": {"INVALID_PTX": "CUDA_ERROR_INVALID_PTX", "NOT_FOUND": "CUDA_ERROR_NOT_FOUND"},
        "tests/fakecuda/src/copies.rs": {
            "NOT_FOUND": "CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND",
            "NOT_YET": "CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT",
        },
    },
    "cufile.h": {
        "src/storage/cufile/library.rs": {
            "KIND_FD": "CU_FILE_HANDLE_TYPE_OPAQUE_FD",
            "MODE_BATCH": "CUFILE_BATCH",
            "OPCODE_READ": "CUFILE_READ",
            "WAITING": "CUFILE_WAITING",
            "PENDING": "CUFILE_PENDING",
            "INVALID": "CUFILE_INVALID",
            "COMPLETE": "CUFILE_COMPLETE",
            "FAILED": "CUFILE_FAILED",
        },
        "src/storage/cufile/driver.rs": {
            "CUDA_ERROR": "CU_FILE_CUDA_DRIVER_ERROR",
            "ALREADY_OPEN": "CU_FILE_DRIVER_ALREADY_OPEN",
            "STORAGE_NVME": "1 << CU_FILE_NVME_SUPPORTED",
            "STORAGE_PEER_TO_PEER": "1 << CU_FILE_NVME_P2P_SUPPORTED",
            "FEATURE_PEER_TO_PEER": "1 << CU_FILE_P2P_SUPPORTED",
        },
    },
}
# What the numbers mean that have a remedy of their own.
CODES = {
    "cufile.h": ("CU_FILE_", "src/storage/cufile/driver.rs", {
        5001: "DRIVER_NOT_INITIALIZED",
        5004: "DRIVER_VERSION_MISMATCH",
        5005: "DRIVER_VERSION_READ_ERROR",
        5007: "PLATFORM_NOT_SUPPORTED",
        5008: "IO_NOT_SUPPORTED",
        5009: "DEVICE_NOT_SUPPORTED",
        5016: "INVALID_MAPPING_SIZE",
        5018: "INVALID_FILE_TYPE",
        5020: "DIO_NOT_SET",
        5025: "PERMISSION_DENIED",
        5030: "INTERNAL_ERROR",
        5033: "NVFS_SETUP_ERROR",
        5034: "IO_DISABLED",
        5036: "GPU_MEMORY_PINNING_FAILED",
    }),
}  # fmt: skip
