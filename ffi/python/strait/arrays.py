"""Other people's arrays: where they lie, and what they are. NumPy's, PyTorch's, and whatever speaks DLPack or has an array
interface; none of these packages is imported for it."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

from .tensor import _ML_DTYPES, _NAMES, _TORCH, _TYPESTR, CUDA, CUDA_HOST, HOST, Tensor, _Legacy, _Versioned

_OF_TYPESTR = {typestr: name for name, typestr in _TYPESTR.items()}
_OF_ML_DTYPES = {other: name for name, other in _ML_DTYPES.items()}
_OF_TORCH = {other: name for name, other in _TORCH.items()}
_READ_ONLY = 1

_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Array(NamedTuple):
    """An array as it lies: dense, in C order, little-endian. `kept` keeps its memory."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    # DLPack's type of the device, and its number.
    device: tuple[int, int]
    # The stream that fills it, on CUDA.
    stream: int | None
    writable: bool
    kept: Any

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        bits = next(bits for (_, bits), name in _NAMES.items() if name == self.dtype)
        for length in self.shape:
            bits *= length
        return -(-bits // 8)


def array_of(value: Any, what: str, copies: bool = False) -> Array:
    """What `value` is; `what` is for messages. With `copies`, host memory that lies otherwise is copied so that it is dense."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(torch, value, what)
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _of_numpy(numpy, value, what, copies)
    if hasattr(value, "__dlpack__"):
        return _of_dlpack(value, what)
    if hasattr(value, "__array_interface__"):
        import numpy as np

        return _of_numpy(np, np.asarray(value), what, copies)
    raise TypeError(f"{what} is of {type(value).__name__}: an array of NumPy, PyTorch or JAX is wanted, or one with __dlpack__")


def _of_torch(torch: Any, value: Any, what: str) -> Array:
    if value.layout != torch.strided:
        raise ValueError(f"{what} is sparse: make it dense")
    if not value.is_contiguous():
        raise ValueError(f"{what} is not contiguous: call .contiguous() on it")
    if value.is_conj() or value.is_neg():
        raise ValueError(f"{what} is a view that negates or conjugates: call .resolve_conj().resolve_neg() on it")
    dtype = _OF_TORCH.get(str(value.dtype).rpartition(".")[2])
    if dtype is None:
        raise TypeError(f"{what} is of {value.dtype}, which strait does not know")
    if value.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{what} is on {value.device}: bring it to the CPU or a CUDA device")
    device, stream = (HOST, 0), None
    if value.device.type == "cuda":
        device = CUDA, value.device.index or 0
        stream = torch.cuda.current_stream(value.device).cuda_stream or 1
    return Array(value.data_ptr(), dtype, tuple(value.shape), device, stream, True, value)


def _of_numpy(numpy: Any, value: Any, what: str, copies: bool) -> Array:
    scalar = not isinstance(value, numpy.ndarray)
    value = numpy.asarray(value)
    dtype = _OF_TYPESTR.get(value.dtype.newbyteorder("<").str) or _OF_ML_DTYPES.get(value.dtype.name)
    if dtype is None:
        raise TypeError(f"{what} is of {value.dtype}, which strait does not know")
    dense = numpy.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).reshape(value.shape)
    if dense.ctypes.data != value.ctypes.data and not copies:
        raise ValueError(f"{what} is not dense in C order and little-endian: numpy.ascontiguousarray makes it so")
    return Array(dense.ctypes.data, dtype, dense.shape, (HOST, 0), None, dense.flags.writeable and not scalar, dense)


def _of_dlpack(value: Any, what: str) -> Array:
    device = tuple(value.__dlpack_device__())
    if device[0] not in (HOST, CUDA, CUDA_HOST):
        raise ValueError(f"{what} is on DLPack's device {device}: bring it to the host or a CUDA device")
    stream = 1 if device[0] == CUDA else None
    try:
        capsule = value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # an older producer
        capsule = value.__dlpack__(stream=stream)
    # Not taken over: the capsule keeps the memory, and gives it back itself.
    name = _capsule_name(capsule)
    kind = _Versioned if name == b"dltensor_versioned" else _Legacy
    made = kind.from_address(_capsule_pointer(capsule, name))
    tensor = made.tensor
    shape = tuple(tensor.shape[:tensor.ndim]) if tensor.ndim else ()
    dtype = _NAMES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise TypeError(f"{what} is of DLPack's type {tensor.code}, {tensor.bits} bits, which strait does not know")
    if tensor.ndim and tensor.strides and not _is_dense(shape, tensor.strides[:tensor.ndim]):
        raise ValueError(f"{what} is not dense in C order: make it contiguous")
    writable = not (kind is _Versioned and made.flags & _READ_ONLY) and not isinstance(value, Tensor)
    return Array((tensor.data or 0) + tensor.byte_offset, dtype, shape, device, stream, writable, (value, capsule))


def _is_dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides)):
        if length > 1 and stride != step:
            return 0 in shape
        step *= length
    return True
