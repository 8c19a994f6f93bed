"""Checkpoints: safetensors files into device memory, with the shape of the safetensors package."""

from __future__ import annotations

import ctypes
import itertools
import os
from typing import TYPE_CHECKING, Any, Iterator, Mapping, TypedDict, overload

from . import _abi
from .arrays import Array, array_of
from .dataset import path_for_c, text_for_c
from .device import Device
from .tensor import CUDA, Tensor, convert, framework_of
from .theirs import as_theirs

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SLICE_MS = 100


class LoadOptions(TypedDict, total=False):
    """How tensors are read; each has a default.

    `ring`: `"auto"`, `"uring"`, `"pread"` (threads), `"cufile"`. `path`: `"auto"`, or `"staged"` (through pinned memory).
    `block_bytes`: the length of a read. `gap_bytes`: what is read along between what is wanted. `align_bytes`: what reads
    start at a multiple of. `reads_in_flight`, `bytes_in_flight`, `pinned_bytes_max`, `open_files_max`: bounds. `deadline_ms`:
    what takes longer is an error that names it.
    """

    ring: str
    path: str
    deadline_ms: int
    block_bytes: int
    gap_bytes: int
    align_bytes: int
    reads_in_flight: int
    bytes_in_flight: int
    pinned_bytes_max: int
    open_files_max: int


class _Loaded(_abi.Owned):
    """The handle of a tensor in device memory."""

    __slots__ = ()


class Checkpoint(_abi.Owned):
    """A safetensors file, an index (`model.safetensors.index.json`), or a directory with one or the other; headers only.

    `load()` reads tensors in file order and yields each as soon as it is there.
    """

    __slots__ = ("_numbers",)

    def __init__(self, path: Any):
        self._own(_abi.strait_checkpoint_open(path_for_c(path)), _abi.strait_checkpoint_free)
        count, _ = _abi.strait_checkpoint_tensors(self._handle)
        names = (_abi.strait_checkpoint_tensor(self._handle, number)[0] for number in range(count))
        self._numbers = {_abi.text(name): number for number, name in enumerate(names)}

    def keys(self) -> list[str]:
        """The names of the tensors, in file order."""
        return list(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            return _abi.strait_checkpoint_find(self._handle, text_for_c(name))  # raises
        return self._numbers[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, the outermost length first."""
        return _abi.u64s(*_abi.strait_checkpoint_shape(self._handle, self._number(name)))

    def dtype(self, name: str) -> str:
        """The type of its elements: `"bf16"`."""
        return _abi.text(_abi.strait_checkpoint_tensor(self._handle, self._number(name))[1])

    def metadata(self) -> dict[str, str]:
        """What the files' writers had to say (`__metadata__`)."""
        entries: dict[str, str] = {}
        number = 0
        while True:
            try:
                key, value = _abi.strait_checkpoint_metadata(self._handle, number)
            except _abi.errors.RangeError:
                return entries
            entries.setdefault(_abi.text(key), _abi.text(value))
            number += 1

    @property
    def files(self) -> list[str]:
        """Its files."""
        count = _abi.strait_checkpoint_files(self._handle)
        return [os.fsdecode(_abi.strait_checkpoint_file(self._handle, file)[0]) for file in range(count)]

    def extent(self, name: str) -> tuple[int, int, int]:
        """Where a tensor's bytes lie: number of the file, first byte, bytes."""
        number = self._number(name)
        file, offset = _abi.strait_checkpoint_extent(self._handle, number)
        return file, offset, _abi.strait_checkpoint_tensor(self._handle, number)[2]

    def load(
        self, device: Any = "auto", *, names: list[str] | None = None, matching: str | None = None,
        slices: dict[str, tuple[int, int, int]] | None = None, verify: Any = None, **options: Unpack[LoadOptions],
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, `Tensor`) as tensors finish.

        Args:
            names, matching: only these, and those that fit a pattern (`"model.layers.*"`). Default: all. None if `names` is
                empty.
            slices: {name: (dim, from, to)}: only elements `from` to `to`, without that, of a dimension.
            verify: a manifest to check bytes against.
            options: those of `LoadOptions`.
        """
        if names is not None and not names and matching is None:
            return iter(())
        builder = _abi.strait_load_builder_new(self._handle)
        try:
            kept = device if isinstance(device, Device) else Device(device)
            _abi.strait_load_builder_device(builder, kept._handle)
            for name in names or ():
                _abi.strait_load_builder_name(builder, text_for_c(name))
            if matching is not None:
                _abi.strait_load_builder_matching(builder, text_for_c(matching))
            for name, (dim, start, stop) in (slices or {}).items():
                _abi.strait_load_builder_slice(builder, text_for_c(name), 0, dim, start, stop)
            return _start(builder, verify, options)
        finally:
            _abi.strait_load_builder_free(builder)

    def load_into(self, tensors: Mapping[str, Any], *, verify: Any = None, **options: Unpack[LoadOptions]) -> None:
        """Reads tensors into arrays that are there: parameters of a model, shared or pinned memory.

        Args:
            tensors: {name: array}, of NumPy, PyTorch, or whatever speaks DLPack or has an array interface; dense, writable,
                of the tensor's dtype and shape; on the host or CUDA devices. Other tensors are not read. Arrays on CUDA that
                are not PyTorch's must not be in use by a stream.
            verify, options: as for `load`.

        On an error some arrays may have been written to. One that the storage may still write to is kept until it cannot.
        """
        arrays = {name: array_of(value, f"tensor {name!r}") for name, value in tensors.items()}
        for name, array in arrays.items():
            self._fits(name, array)
        if not arrays:
            return
        devices = list(dict.fromkeys(array.device for array in arrays.values()))
        builder = _abi.strait_load_builder_new(self._handle)
        try:
            for kind, number in devices:
                kept = Device(number if kind == CUDA else "host")
                _abi.strait_load_builder_device(builder, kept._handle)
            for name, array in arrays.items():
                key = text_for_c(name)
                _abi.strait_load_builder_name(builder, key)
                for place, device in enumerate(devices):
                    if device != array.device:
                        _abi.strait_load_builder_skip(builder, key, place)
                        continue
                    owner = next(_numbers)
                    _lent[owner] = array
                    try:
                        _abi.strait_load_builder_place(builder, key, place, array.address, array.nbytes, _RELEASE, owner)
                    except BaseException:
                        del _lent[owner]
                        raise
            for array in arrays.values():
                if array.stream is not None:
                    _come_to_rest(array)
            load = _start(builder, verify, options)
        finally:
            _abi.strait_load_builder_free(builder)
        try:
            while (slot := load.arrived()) is not None:
                _abi.strait_tensor_wait(slot.cell.value)
                load._coming.drop()
        finally:
            load._coming.drop()
            load._free()

    def _fits(self, name: str, array: Array) -> None:
        dtype, shape = self.dtype(name), self.shape(name)
        if (array.dtype, array.shape) != (dtype, shape):
            raise ValueError(f"tensor {name!r} is {dtype} {list(shape)}, and its array {array.dtype} {list(array.shape)}")
        if not array.writable:
            raise ValueError(f"the array of tensor {name!r} is read-only")


# Arrays that loads may write to, by number; the library says when it is done with one, in whatever thread that is.
_lent: dict[int, Array] = {}
_numbers = itertools.count(1)


def _release(owner: int) -> None:
    _lent.pop(owner, None)


_release_by_c = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_release)
_RELEASE = ctypes.cast(_release_by_c, ctypes.c_void_p)


def _come_to_rest(array: Array) -> None:
    """Waits for what a framework's stream still does with memory that it hands out."""
    if hasattr(array.kept, "device") and type(array.kept.device).__module__ == "torch":
        import torch

        torch.cuda.current_stream(array.kept.device).synchronize()


def _start(builder: int, verify: Any, options: Mapping[str, Any]) -> _Load:
    """Starts a load with these options."""
    if verify is not None:
        _abi.strait_load_builder_verify(builder, path_for_c(verify))
    for name, value in options.items():
        if name not in LoadOptions.__annotations__:
            raise TypeError(f"a load has no option {name}; it has {', '.join(LoadOptions.__annotations__)}")
        getattr(_abi, f"strait_load_builder_{name}")(builder, text_for_c(value) if isinstance(value, str) else value)
    return _Load(_abi.strait_load_builder_start(builder))


class _Load(_abi.Owned, Iterator[Any]):
    """A load under way."""

    __slots__ = ("_coming",)

    def __init__(self, handle: int):
        self._own(handle, _abi.strait_load_free)
        self._coming = _abi.Coming(_Loaded, _abi.strait_tensor_free)

    def arrived(self) -> _abi.Slot | None:
        """Waits for the next tensor. If an exception came in place of the last one, it is still here."""
        slot = self._coming.slot()
        while slot.cell.value is None:
            # In slices, for signals are handled between calls only.
            if _abi.strait_load_next(self._handle, _SLICE_MS, into=(slot.cell,)) is _abi.END:
                return None
        return slot

    def __next__(self) -> tuple[str, Tensor]:
        slot = self.arrived()
        if slot is None:
            self._free()
            raise StopIteration
        handle = slot.cell.value
        name = _abi.text(_abi.strait_tensor_name(handle)[0])
        # On the host the bytes are there before anything looks at them; on a GPU streams wait for them.
        if _abi_host(tensor := Tensor(slot.made, "strait_tensor_dlpack", (handle,))):
            _abi.strait_tensor_wait(handle)
        self._coming.taken()
        return name, tensor


def _abi_host(tensor: Tensor) -> bool:
    return tensor.__dlpack_device__()[0] == 1


@overload
def load_file(
    filename: Any, device: Any = "cpu", *, framework: None = None, verify: Any = None, **options: Unpack[LoadOptions],
) -> dict[str, Tensor]: ...


@overload
def load_file(
    filename: Any, device: Any = "cpu", *, framework: str | None, verify: Any = None, **options: Unpack[LoadOptions],
) -> dict[str, Any]: ...


@as_theirs
def load_file(
    filename: Any, device: Any = "cpu", *, framework: str | None = None, verify: Any = None, **options: Unpack[LoadOptions],
) -> dict[str, Any]:
    """All tensors of a checkpoint by name, on `device`: as `strait.Tensor`s, or of a framework (`"pt"`, `"np"`, `"jax"`).

    `strait.torch.load_file` and `strait.numpy.load_file` are those of the safetensors package.
    """
    chosen = framework_of(framework)
    checkpoint = Checkpoint(filename)
    loaded = {name: convert(tensor, chosen) for name, tensor in checkpoint.load(device, verify=verify, **options)}
    return {name: loaded[name] for name in checkpoint.keys()}


def load_into(filename: Any, tensors: Mapping[str, Any], *, verify: Any = None, **options: Unpack[LoadOptions]) -> None:
    """Reads tensors of a checkpoint into arrays that are there: see `Checkpoint.load_into`."""
    Checkpoint(filename).load_into(tensors, verify=verify, **options)
