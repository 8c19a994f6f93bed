"""Tensors without a copy: DLPack, and the array interfaces of NumPy and CUDA.

    Tensor --__dlpack__--> capsule --> the consumer's array       each of them keeps the batch's memory
       '--__array_interface__--> NumPy's array, which keeps the Tensor
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from typing import Any

from . import _abi

HOST, CUDA, CUDA_HOST = 1, 2, 3
_NAMES = {
    (0, 8): "i8", (0, 16): "i16", (0, 32): "i32", (0, 64): "i64", (1, 8): "u8", (1, 16): "u16", (1, 32): "u32",
    (1, 64): "u64", (2, 16): "f16", (2, 32): "f32", (2, 64): "f64", (4, 16): "bf16", (5, 64): "c64", (5, 128): "c128",
    (6, 8): "bool", (10, 8): "f8_e4m3", (11, 8): "f8_e4m3fnuz", (12, 8): "f8_e5m2", (13, 8): "f8_e5m2fnuz",
    (14, 8): "f8_e8m0", (15, 6): "f6_e2m3", (16, 6): "f6_e3m2", (17, 4): "f4",
}
_TYPESTR = {"bool": "|b1", "c64": "<c8", "c128": "<c16", "u8": "|u1", "i8": "|i1"} | {
    f"{kind}{8 * width}": f"<{kind}{width}" for kind in "iuf" for width in (2, 4, 8)
}
_ML_DTYPES = {
    "bf16": "bfloat16", "f8_e4m3": "float8_e4m3fn", "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2": "float8_e5m2",
    "f8_e5m2fnuz": "float8_e5m2fnuz", "f8_e8m0": "float8_e8m0fnu",
}
_TORCH = _ML_DTYPES | {
    "bool": "bool", "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
} | {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Legacy(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("owner", ctypes.c_void_p), ("deleter", _DELETER)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("owner", ctypes.c_void_p), ("deleter", _DELETER),
        ("flags", ctypes.c_uint64), ("tensor", _DLTensor),
    ]


def _delete(kind: Any, address: int) -> None:
    kind.from_address(address).deleter(address)


_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype, _capsule_new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_is = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is.restype, _capsule_is.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


class _Capsules:
    """Capsules that were handed out and not yet seen to be consumed.

    A consumer renames the capsule and owns the tensor from then on. One that failed to leaves it as it is: then nobody but
    this list refers to the capsule, and the tensor is deleted here. A capsule's own destructor would have to be C, since
    it runs while an exception is on its way.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: list[list[Any]] = []

    def make(self, kind: type, address: int) -> Any:
        name = b"dltensor" if kind is _Legacy else b"dltensor_versioned"
        try:
            capsule = _capsule_new(address, name, None)
        except BaseException:
            _delete(kind, address)
            raise
        self.sweep()
        with self.lock:
            self.waiting.append([capsule, name, kind, address])
        return capsule

    def sweep(self) -> None:
        """Forgets those that were consumed, and deletes those that will never be."""
        if not self.waiting:
            return
        with self.lock:
            waiting, self.waiting = self.waiting, []
        left = []
        for entry in waiting:
            if not _capsule_is(entry[0], entry[1]):
                continue
            # The entry's reference and the call's argument.
            if sys.getrefcount(entry[0]) > 2:
                left.append(entry)
            else:
                _delete(entry[2], entry[3])
        if left:
            with self.lock:
                self.waiting += left


capsules = _Capsules()


class Tensor:
    """An array in device memory: of a batch's field, a sample's, or a checkpoint's.

    It keeps the memory that it shows; so do the arrays that are made of it, also when it is gone itself.
    """

    __slots__ = ("_owner", "_function", "_arguments", "_bytes", "_description", "_export", "__weakref__")

    def __init__(self, owner: Any, function: str, arguments: tuple[Any, ...], flags: int = 0):
        self._owner, self._function, self._arguments, self._bytes = owner, function, arguments, flags
        self._export: tuple[int, int] | None = None
        # Made to be looked at, on no stream, and given back before anything uses it.
        address = self._make(_abi.STREAM_NONE)
        tensor = _Versioned.from_address(address).tensor
        shape = tuple(tensor.shape[:tensor.ndim]) if tensor.ndim else ()
        strides = tuple(tensor.strides[:tensor.ndim]) if tensor.ndim and tensor.strides else None
        name = _NAMES[tensor.code, tensor.bits]
        self._description = name, shape, strides, tensor.bits, (tensor.device_type, tensor.device_id)
        _delete(_Versioned, address)

    def _make(self, stream: int, legacy: bool = False, flags: int | None = None) -> int:
        function = getattr(_abi, self._function + ("_legacy" if legacy else ""))
        made = function(*self._arguments, stream, self._bytes if flags is None else flags)
        if made is _abi.ABSENT:
            raise LookupError("the sample does not have that field")
        return made

    @property
    def dtype(self) -> str:
        """The type of the elements: `"u16"`, `"bf16"`."""
        return self._description[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths, the outermost first."""
        return self._description[1]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        bits = self._description[3]
        for length in self.shape:
            bits *= length
        return -(-bits // 8)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type of the device (1 the host, 2 CUDA, 3 pinned host memory) and its number."""
        return self._description[4]

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
                   dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> Any:
        """A DLPack capsule, ready on `stream` (see `strait.h`, Tensors). On CUDA None is the legacy default stream."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("strait makes no copies and moves nothing between devices: copy what this call returns")
        legacy = max_version is None or max_version[0] < 1
        return capsules.make(_Legacy if legacy else _Versioned, self._make(self._stream(stream), legacy))

    def _stream(self, stream: int | None) -> int:
        if self.__dlpack_device__()[0] != CUDA:
            if stream not in (None, -1):
                raise ValueError(f"host memory has no streams: stream is None or -1, not {stream}")
            return _abi.STREAM_NONE
        return 1 if stream is None else stream

    def _pointer(self) -> int:
        """The first byte; the memory stays as long as this object. On CUDA it is ready on, and refilled behind, the legacy
        default stream."""
        if self._export is None:
            address = self._make(self._stream(None))
            weakref.finalize(self, _delete, _Versioned, address)
            tensor = _Versioned.from_address(address).tensor
            self._export = address, (tensor.data or 0) + tensor.byte_offset
        return self._export[1]

    def _interface(self) -> dict[str, Any]:
        name, shape, strides, bits, _ = self._description
        if name not in _TYPESTR:
            raise AttributeError(f"the array interface has no {name}: use DLPack, .torch() or .numpy()")
        strides = None if strides is None else tuple(stride * bits // 8 for stride in strides)
        return {"shape": shape, "typestr": _TYPESTR[name], "data": (self._pointer(), False), "strides": strides, "version": 3}

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array interface, of host memory. The array keeps this object."""
        if self.__dlpack_device__()[0] not in (HOST, CUDA_HOST):
            raise AttributeError("the memory is not the host's")
        return self._interface()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Numba's interface, of CUDA memory: ready on the legacy default stream. The array keeps this object."""
        if self.__dlpack_device__()[0] != CUDA:
            raise AttributeError("the memory is not a CUDA device's")
        return self._interface() | {"stream": 1}

    def numpy(self) -> Any:
        """A `numpy.ndarray` without a copy, of host memory. bf16 and f8 need the package ml_dtypes. Children of a fork have that of a
        checkpoint, if its load was over, and not that of a batch: they are killed if they look at it."""
        import numpy

        if self.__dlpack_device__()[0] not in (HOST, CUDA_HOST):
            raise BufferError("NumPy takes host memory only: use .torch() or .jax(), or a loader on the host device")
        if self.dtype in _TYPESTR:
            return numpy.asarray(self)
        if self.dtype not in _ML_DTYPES:
            raise TypeError(f"NumPy has no {self.dtype}")
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(f"NumPy has no {self.dtype}: install ml_dtypes, or use .torch()") from None
        raw = _Raw(self, {"shape": (self.nbytes,), "typestr": "|u1", "data": (self._pointer(), False), "version": 3})
        return numpy.asarray(raw).view(getattr(ml_dtypes, _ML_DTYPES[self.dtype])).reshape(self.shape)

    def torch(self) -> Any:
        """A `torch.Tensor` without a copy, on the same device."""
        import torch

        if self.dtype not in _TORCH or not hasattr(torch, _TORCH[self.dtype]):
            raise TypeError(f"PyTorch {torch.__version__} has no {self.dtype}")
        try:
            return torch.from_dlpack(self)
        except (BufferError, RuntimeError, TypeError):
            if self._function != "strait_tensor_dlpack":
                raise
        # DLPack got that type later than PyTorch did.
        raw = torch.from_dlpack(Tensor(self._owner, self._function, self._arguments, _abi.TENSOR_BYTES))
        return raw.view(getattr(torch, _TORCH[self.dtype])).reshape(self.shape)

    def jax(self) -> Any:
        """A `jax.Array` on the same device, without a copy where JAX takes it so."""
        import jax

        return jax.dlpack.from_dlpack(self)

    def __repr__(self) -> str:
        return f"<strait.Tensor {self.dtype} {list(self.shape)}>"


class _Raw:
    """Bytes of a tensor for NumPy, which keeps it."""

    def __init__(self, tensor: Tensor, interface: dict[str, Any]):
        self.tensor, self.__array_interface__ = tensor, interface
