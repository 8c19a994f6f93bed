"""DLPack's structures, the capsules that carry them to other libraries, and copies."""

from __future__ import annotations

import ctypes
import itertools
import sys
from typing import Any


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


_libc = ctypes.CDLL(None)
_aligned_alloc = _libc.aligned_alloc
_aligned_alloc.restype, _aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
# What DLPack asks data to be aligned to.
_COPY_ALIGN = 256
_IS_COPIED = 2


def copied(kind: Any, made: int, nbytes: int) -> int:
    """A tensor of host memory, in C order, with bytes of its own, in place of `made`, which is deleted.

    All of it is one piece of memory that starts with the tensor, so its deleter is `free`: C, which works after Python's end.
    """
    try:
        source = kind.from_address(made).tensor
        numbers = 8 * source.ndim
        start = -(-(ctypes.sizeof(kind) + 2 * numbers) // _COPY_ALIGN) * _COPY_ALIGN
        address = _aligned_alloc(_COPY_ALIGN, start + -(-nbytes // _COPY_ALIGN) * _COPY_ALIGN)
        if not address:
            raise MemoryError(f"no memory for a copy of {nbytes} bytes")
        ctypes.memmove(address, made, ctypes.sizeof(kind))
        copy = kind.from_address(address)
        copy.owner, copy.deleter = None, ctypes.cast(_libc.free, _DELETER)
        tensor, shape = copy.tensor, address + ctypes.sizeof(kind)
        if numbers:
            ctypes.memmove(shape, source.shape, numbers)
            ctypes.memmove(shape + numbers, source.strides, numbers)
            tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
            tensor.strides = ctypes.cast(shape + numbers, ctypes.POINTER(ctypes.c_int64))
        if nbytes:
            ctypes.memmove(address + start, source.data + source.byte_offset, nbytes)
        tensor.data, tensor.byte_offset = address + start, 0
        if kind is _Versioned:
            copy.flags |= _IS_COPIED
    finally:
        _delete(kind, made)
    return address


_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype, _capsule_new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_is = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is.restype, _capsule_is.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


class _Capsules:
    """Capsules that were handed out and not yet seen to be consumed.

    A consumer renames the capsule and owns the tensor from then on. One that failed to leaves it as it is: then nobody but
    this table refers to the capsule, and the tensor is deleted here. A capsule's own destructor would have to be C, since
    it runs while an exception is on its way.
    """

    def __init__(self) -> None:
        # Each of its operations is one step for other threads.
        self.waiting: dict[int, tuple[Any, bytes, type, int]] = {}
        self._numbers = itertools.count()

    def make(self, kind: type, address: int) -> Any:
        name = b"dltensor" if kind is _Legacy else b"dltensor_versioned"
        try:
            capsule = _capsule_new(address, name, None)
        except BaseException:
            _delete(kind, address)
            raise
        self.sweep()
        self.waiting[next(self._numbers)] = capsule, name, kind, address
        return capsule

    def sweep(self) -> None:
        """Forgets those that were consumed, and deletes those that will never be."""
        for number in list(self.waiting):
            entry = self.waiting.get(number)
            if entry is None:
                continue
            # In this order: while somebody else refers to it, it may be consumed at any time, and when nobody does, never more.
            alone = _references(entry) == _ALONE
            unused = _capsule_is(entry[0], entry[1])
            # Of several threads that come here at once, one has it.
            if (alone or not unused) and self.waiting.pop(number, None) is not None and unused:
                _delete(entry[2], entry[3])


def _references(entry: tuple[Any, ...]) -> int:
    return sys.getrefcount(entry[0])


# To something that only its entry refers to.
_ALONE = _references((object(),))
capsules = _Capsules()
