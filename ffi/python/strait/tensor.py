"""Tensors without a copy: DLPack, and the array interfaces of NumPy and CUDA.

    Tensor --__dlpack__--> capsule --> the consumer's array       each of them keeps the batch's memory
       '--__array_interface__--> NumPy's array, which keeps the Tensor
"""

from __future__ import annotations

import weakref
from typing import Any

from . import _abi
from .dlpack import _delete, _Legacy, _Versioned, capsules, copied

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

_FRAMEWORKS = {
    None: None, "strait": None, "pt": "torch", "torch": "torch", "pytorch": "torch", "np": "numpy", "numpy": "numpy",
    "jax": "jax", "flax": "jax",
}


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
        made = function.unchecked(*self._arguments, stream, self._bytes if flags is None else flags)
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
        """A DLPack capsule, ready on `stream` (see `strait.h`, Tensors). On CUDA None is the legacy default stream. Copies are
        made of host memory only."""
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError("strait moves nothing between devices: copy what this call returns for the tensor's own")
        legacy = max_version is None or max_version[0] < 1
        kind, host = _Legacy if legacy else _Versioned, self.__dlpack_device__()[0] in (HOST, CUDA_HOST)
        if copy and not host:
            raise BufferError("strait makes no copies on a device: copy what this call returns without one")
        made = self._make(self._stream(stream), legacy)
        return capsules.make(kind, copied(kind, made, self.nbytes) if copy else made)

    def _stream(self, stream: int | None) -> int:
        if self.__dlpack_device__()[0] != CUDA:
            if stream not in (None, -1):
                raise ValueError(f"host memory has no streams: stream is None or -1, not {stream}")
            return _abi.STREAM_NONE
        return 1 if stream is None else _abi.whole(stream, "q", "stream")

    def _pointer(self) -> int:
        """The first byte; the memory stays as long as this object. On CUDA it is ready on, and refilled behind, the legacy
        default stream."""
        if self._export is None:
            address = self._make(self._stream(None))
            # Not as the program ends: arrays may be used for longer than any Python code of this package runs.
            weakref.finalize(self, _delete, _Versioned, address).atexit = False
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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What NumPy makes of a type that its array interface does not know, or says of memory that is not the host's."""
        array = self.numpy()
        if dtype is None or dtype == array.dtype:
            return array.copy() if copy else array
        if copy is False:
            raise ValueError(f"{self.dtype} as {dtype} is a copy")
        return array.astype(dtype)

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


def convert(tensor: Tensor, framework: str | None) -> Any:
    return tensor if framework is None else getattr(tensor, framework)()


def framework_of(name: str | None) -> str | None:
    if name not in _FRAMEWORKS:
        raise ValueError(f'{name!r} is no framework of strait: "pt", "np", "jax", or None for strait.Tensor, '
                         "which others take by DLPack or as an array of NumPy")
    return _FRAMEWORKS[name]
