"""Checkpoints to files, with the shape of the safetensors package."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Mapping, NamedTuple, TypedDict

from . import _abi
from .arrays import Array, array_of
from .dataset import path_for_c, text_for_c
from .device import Device
from .tensor import CUDA


class Saved(NamedTuple):
    """What was saved.

    `files` are paths, `index` that of `model.safetensors.index.json` where there are several; `bytes` is the length of all
    files. `manifest` is what `digests` asked for: JSON, which `verify` of a load reads once it is in a file. `ring`
    (`"uring"`, `"pread"`), `direct` (past the page cache) and `fallbacks` (what could not be had) say how.
    """

    files: list[str]
    index: str | None  # type: ignore[assignment]  # in place of the tuple's method
    bytes: int
    manifest: str | None
    ring: str
    direct: bool
    fallbacks: list[str]


class SaveOptions(TypedDict, total=False):
    """How arrays are written: see `save_file`."""

    shard_bytes_max: int | None
    digests: str | None
    per: str
    block_bytes: int | None
    writes_in_flight: int | None
    pinned_bytes_max: int | None
    ring: str | None
    deadline_ms: int | None


def save_file(
    tensors: Mapping[str, Any], filename: Any, metadata: Mapping[str, str] | None = None, *,
    shard_bytes_max: int | None = None, digests: str | None = None, per: str = "both", block_bytes: int | None = None,
    writes_in_flight: int | None = None, pinned_bytes_max: int | None = None, ring: str | None = None,
    deadline_ms: int | None = None,
) -> Saved:
    """Writes arrays to a safetensors file, in place of what is there: the old one or the new one, whole, whatever happens.

    Args:
        tensors: {name: array}, of NumPy, PyTorch, JAX, or whatever speaks DLPack or has an array interface, in host memory or
            that of one CUDA device; not changed until this returns. bf16 and fp8 by PyTorch, JAX or ml_dtypes. Arrays that
            share memory are written each.
        metadata: `__metadata__`, texts by texts; `{"format": "pt"}` is what libraries for PyTorch look for.
        shard_bytes_max: several files where one would be longer, with an index.
        digests: sums up what is written: `"crc32c"`, `"xxh3-64"`, `"sha256"`; `per` `"file"`, `"tensor"` or `"both"`.
        block_bytes: the length of a write. writes_in_flight, pinned_bytes_max: bounds. ring: `"auto"`, `"uring"`, `"pread"`
            (threads). deadline_ms: what takes longer is an error that names it.
    """
    arrays = {name: array_of(value, f"tensor {name!r}", copies=True) for name, value in tensors.items()}
    device = _device(arrays)
    save = _abi.strait_save_new(device._handle)
    try:
        for name, array in arrays.items():
            shape = (ctypes.c_uint64 * len(array.shape))(*array.shape)
            described = save, text_for_c(name), array.dtype.encode(), shape, len(array.shape)
            if array.device[0] == CUDA:
                _abi.strait_save_add_device(*described, array.address)
            else:
                _abi.strait_save_add_host(*described, array.address or None, array.nbytes)
        for key, value in (metadata or {}).items():
            _abi.strait_save_metadata(save, text_for_c(key), text_for_c(value))
        for stream in {array.stream for array in arrays.values() if array.stream is not None}:
            _abi.strait_save_after(save, stream)
        if digests is not None:
            _abi.strait_save_digests(save, digests.encode(), per.encode())
        options = dict(shard_bytes_max=shard_bytes_max, block_bytes=block_bytes, writes_in_flight=writes_in_flight,
                       pinned_bytes_max=pinned_bytes_max, ring=ring, deadline_ms=deadline_ms)
        for option, own in options.items():
            if own is not None:
                setter = getattr(_abi, f"strait_save_{option}")
                setter(save, text_for_c(own) if isinstance(own, str) else own)
        return _saved(_abi.strait_save_write(save, path_for_c(filename)))
    finally:
        _abi.strait_save_free(save)


def _device(arrays: Mapping[str, Array]) -> Device:
    """The one device that arrays are on besides the host."""
    others = {array.device for array in arrays.values() if array.device[0] == CUDA}
    if len(others) > 1:
        raise ValueError(f"the tensors are on CUDA devices {sorted(n for _, n in others)}: save those of each, or bring all to one")
    return Device(next(iter(others))[1] if others else "host")


def _saved(handle: int) -> Saved:
    def texts(function: Any) -> list[str]:
        found: list[str] = []
        while True:
            try:
                found.append(os.fsdecode(function(handle, len(found))))
            except _abi.errors.RangeError:
                return found

    try:
        index, manifest = _abi.strait_saved_index(handle), _abi.strait_saved_manifest(handle)
        ring, direct, _ = _abi.strait_saved_way(handle)
        return Saved(
            texts(_abi.strait_saved_file), None if index is _abi.ABSENT else os.fsdecode(index),
            _abi.strait_saved_files(handle)[1], None if manifest is _abi.ABSENT else _abi.text(manifest[0]),
            _abi.text(ring), direct, texts(_abi.strait_saved_fallback),
        )
    finally:
        _abi.strait_saved_free(handle)
