"""Checkpoints: safetensors files into device memory, with the shape of the safetensors package."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from typing import Any, Iterator, Mapping

from . import _abi
from .arrays import Array, array_of
from .device import Device
from .tensor import CUDA, Tensor

_SLICE_MS = 100
_FRAMEWORKS = {
    None: None, "strait": None, "pt": "torch", "torch": "torch", "pytorch": "torch", "np": "numpy", "numpy": "numpy",
    "jax": "jax", "flax": "jax",
}


class _Loaded(_abi.Owned):
    """The handle of a tensor in device memory."""

    __slots__ = ()

    def __init__(self, handle: int):
        self._own(handle, _abi.strait_tensor_free)


def _convert(tensor: Tensor, framework: str | None) -> Any:
    return tensor if framework is None else getattr(tensor, framework)()


def _framework(name: str | None) -> str | None:
    if name not in _FRAMEWORKS:
        raise ValueError(f'{name!r} is no framework: "pt", "np", "jax", or None for strait.Tensor')
    return _FRAMEWORKS[name]


class Checkpoint(_abi.Owned):
    """A safetensors file, an index (`model.safetensors.index.json`), or a directory with one or the other; headers only.

    `load()` reads tensors in file order and yields each as soon as it is there.
    """

    __slots__ = ("_numbers",)

    def __init__(self, path: Any):
        self._own(_abi.strait_checkpoint_open(os.fsencode(path)), _abi.strait_checkpoint_free)
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
            return _abi.strait_checkpoint_find(self._handle, name.encode())  # raises
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
        slices: dict[str, tuple[int, int, int]] | None = None, verify: Any = None, **options: Any,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, `Tensor`) as tensors finish.

        Args:
            names, matching: only these, and those that fit a pattern (`"model.layers.*"`). Default: all. None if `names` is
                empty.
            slices: {name: (dim, from, to)}: only elements `from` to `to`, without that, of a dimension.
            verify: a manifest to check bytes against.
            options: see strait.h, Loading checkpoints.
        """
        if names is not None and not names and matching is None:
            return iter(())
        builder = _abi.strait_load_builder_new(self._handle)
        try:
            kept = device if isinstance(device, Device) else Device(device)
            _abi.strait_load_builder_device(builder, kept._handle)
            for name in names or ():
                _abi.strait_load_builder_name(builder, name.encode())
            if matching is not None:
                _abi.strait_load_builder_matching(builder, matching.encode())
            for name, (dim, start, stop) in (slices or {}).items():
                _abi.strait_load_builder_slice(builder, name.encode(), 0, dim, start, stop)
            return _start(builder, verify, options)
        finally:
            _abi.strait_load_builder_free(builder)

    def load_into(self, tensors: Mapping[str, Any], *, verify: Any = None, **options: Any) -> None:
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
                key = name.encode()
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
            for handle in load.handles():
                try:
                    _abi.strait_tensor_wait(handle)
                finally:
                    _abi.strait_tensor_free(handle)
        finally:
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


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _release(owner: int) -> None:
    _lent.pop(owner, None)


_RELEASE = ctypes.cast(_release, ctypes.c_void_p)


def _come_to_rest(array: Array) -> None:
    """Waits for what a framework's stream still does with memory that it hands out."""
    if hasattr(array.kept, "device") and type(array.kept.device).__module__ == "torch":
        import torch

        torch.cuda.current_stream(array.kept.device).synchronize()


def _start(builder: int, verify: Any, options: dict[str, Any]) -> _Load:
    """Starts a load with these options."""
    if verify is not None:
        _abi.strait_load_builder_verify(builder, os.fsencode(verify))
    for name, value in options.items():
        if name not in _OPTIONS:
            raise TypeError(f"a load has no option {name}")
        getattr(_abi, f"strait_load_builder_{name}")(builder, value.encode() if isinstance(value, str) else value)
    return _Load(_abi.strait_load_builder_start(builder))


_OPTIONS = (
    "ring", "path", "deadline_ms", "block_bytes", "gap_bytes", "align_bytes", "reads_in_flight", "bytes_in_flight",
    "pinned_bytes_max", "open_files_max",
)


class _Load(_abi.Owned, Iterator):
    """A load under way."""

    __slots__ = ()

    def __init__(self, handle: int):
        self._own(handle, _abi.strait_load_free)

    def handles(self) -> Iterator[int]:
        """Tensors as they finish, each to be given back."""
        while True:
            # In slices, for signals are handled between calls only.
            while (handle := _abi.strait_load_next(self._handle, _SLICE_MS)) is _abi.PENDING:
                pass
            if handle is _abi.END:
                return
            yield handle

    def __next__(self) -> tuple[str, Tensor]:
        handle = next(self.handles(), None)
        if handle is None:
            self._free()
            raise StopIteration
        loaded = _Loaded(handle)
        name = _abi.text(_abi.strait_tensor_name(handle)[0])
        # On the host the bytes are there before anything looks at them; on a GPU streams wait for them.
        if _abi_host(tensor := Tensor(loaded, "strait_tensor_dlpack", (handle,))):
            _abi.strait_tensor_wait(handle)
        return name, tensor


def _abi_host(tensor: Tensor) -> bool:
    return tensor.__dlpack_device__()[0] == 1


def load_file(filename: Any, device: Any = "cpu", *, framework: str | None = None, **options: Any) -> dict[str, Any]:
    """All tensors of a checkpoint by name, on `device`: as `strait.Tensor`s, or of a framework (`"pt"`, `"np"`, `"jax"`).

    `strait.torch.load_file` and `strait.numpy.load_file` are those of the safetensors package.
    """
    chosen = _framework(framework)
    checkpoint = Checkpoint(filename)
    loaded = {name: _convert(tensor, chosen) for name, tensor in checkpoint.load(device, **options)}
    return {name: loaded[name] for name in checkpoint.keys()}


def load_into(filename: Any, tensors: Mapping[str, Any], **options: Any) -> None:
    """Reads tensors of a checkpoint into arrays that are there: see `Checkpoint.load_into`."""
    Checkpoint(filename).load_into(tensors, **options)


# Bytes that are read ahead of those who take tensors one by one.
_AHEAD_MAX = 8 << 20


class safe_open:  # noqa: N801, the name is that of the safetensors package
    """Opens a checkpoint to read single tensors and slices: a drop-in for `safetensors.safe_open`.

    Headers are read once. A load costs a fraction of a millisecond whatever its size, so whoever takes tensors in the order of
    `keys()` is read ahead of: as many bytes as were taken in a row, up to 8 MiB.
    """

    def __init__(self, filename: Any, framework: str | None = None, device: Any = "cpu"):
        self._framework = _framework(framework)
        self._device = Device(device)
        self._checkpoint: Checkpoint | None = Checkpoint(filename)
        self._lock = threading.Lock()
        self._keys = sorted(self._checkpoint.keys())
        self._places = {name: place for place, name in enumerate(self._keys)}
        # The place that is asked for next if tensors are taken in order, the bytes taken so, and what was read ahead.
        self._next, self._run = 0, 0
        self._ahead: dict[str, Tensor] = {}

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *_: Any) -> None:
        self._checkpoint = None
        self._ahead = {}

    def _open(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ValueError("the file is closed")
        return self._checkpoint

    def keys(self) -> list[str]:
        """The names of the tensors, sorted."""
        self._open()
        return list(self._keys)

    def offset_keys(self) -> list[str]:
        """The names of the tensors, in the order of their places in the file."""
        return self._open().keys()

    def metadata(self) -> dict[str, str] | None:
        """`__metadata__`, or None."""
        return self._open().metadata() or None

    def get_tensor(self, name: str) -> Any:
        """A tensor, on the device, of the framework."""
        checkpoint = self._open()
        checkpoint._number(name)
        with self._lock:
            place, in_order = self._places[name], self._places[name] == self._next
            if not in_order:
                self._run, self._ahead = 0, {}
            if name not in self._ahead:
                self._ahead = dict(checkpoint.load(self._device, names=self._names_from(checkpoint, place)))
            tensor = self._ahead.pop(name)
            self._next, self._run = place + 1, self._run + tensor.nbytes
        return _convert(tensor, self._framework)

    def _names_from(self, checkpoint: Checkpoint, place: int) -> list[str]:
        """The name at `place`, and those behind it that are read with it."""
        names, left = [self._keys[place]], min(self._run, _AHEAD_MAX)
        for name in self._keys[place + 1:]:
            left -= checkpoint.extent(name)[2]
            if left < 0:
                break
            names.append(name)
        return names

    def get_tensors(self) -> dict[str, Any]:
        """All of them in one load, which is faster than one by one."""
        return {name: _convert(tensor, self._framework) for name, tensor in self._open().load(self._device)}

    def get_slice(self, name: str) -> Slice:
        """A tensor to be indexed: only what that needs is read."""
        self._open()._number(name)
        return Slice(self, name)

    def _load(self, name: str, part: tuple[int, int, int] | None) -> Any:
        checkpoint = self._open()
        checkpoint._number(name)
        slices = None if part is None else {name: part}
        [(_, tensor)] = checkpoint.load(self._device, names=[name], slices=slices)
        return _convert(tensor, self._framework)


class Slice:
    """A tensor of which parts are read: `opened.get_slice("w")[:, 8:16]`."""

    def __init__(self, opened: safe_open, name: str):
        self._opened, self._name = opened, name

    def get_shape(self) -> list[int]:
        """The shape of the whole."""
        return list(self._opened._open().shape(self._name))

    def get_dtype(self) -> str:
        """The type of the elements as safetensors writes it: `"BF16"`."""
        return self._opened._open().dtype(self._name).upper()

    def __getitem__(self, index: Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        shape = self.get_shape()
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = index[:at] + (slice(None),) * (len(shape) - len(index) + 1) + index[at + 1:]
        if len(index) > len(shape):
            raise IndexError(f"{len(index)} indices into {self._name}, which has {len(shape)} dimensions")
        # The first dimension that is cut is read in part; the rest is the framework's.
        for dim, (part, length) in enumerate(zip(index, shape)):
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                if (start, stop, step) == (0, length, 1) or step != 1 or stop <= start:
                    continue
            else:
                start = part + length if part < 0 else part
                if not 0 <= start < length:
                    raise IndexError(f"{part} in dimension {dim} of {self._name}, which is {length} long")
                stop = start + 1
            tensor = self._opened._load(self._name, (dim, start, stop))
            rest = slice(None) if isinstance(part, slice) else 0
            return _index(tensor, index[:dim] + (rest,) + index[dim + 1:])
        return _index(self._opened._load(self._name, None), index)


def _index(tensor: Any, index: tuple[Any, ...]) -> Any:
    if all(part == slice(None) for part in index if isinstance(part, slice)) and all(isinstance(p, slice) for p in index):
        return tensor
    if isinstance(tensor, Tensor):
        raise TypeError("a strait.Tensor cannot be indexed: name a framework, or cut one dimension only")
    return tensor[index]
