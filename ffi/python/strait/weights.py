"""Checkpoints: safetensors files into device memory, with the shape of the safetensors package."""

from __future__ import annotations

import os
from typing import Any, Iterator

from . import _abi
from .device import Device
from .tensor import Tensor

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

    def load(
        self, device: Any = "auto", *, names: list[str] | None = None, matching: str | None = None,
        slices: dict[str, tuple[int, int, int]] | None = None, verify: Any = None, **options: Any,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, `Tensor`) as tensors finish.

        Args:
            names, matching: only these, and those that fit a pattern (`"model.layers.*"`). Default: all.
            slices: {name: (dim, from, to)}: only elements `from` to `to`, without that, of a dimension.
            verify: a manifest to check bytes against.
            options: see strait.h, Loading checkpoints.
        """
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
            if verify is not None:
                _abi.strait_load_builder_verify(builder, os.fsencode(verify))
            for name, value in options.items():
                setter = getattr(_abi, f"strait_load_builder_{name}", None)
                if setter is None:
                    raise TypeError(f"a load has no option {name}")
                setter(builder, value.encode() if isinstance(value, str) else value)
            load = _Load(_abi.strait_load_builder_start(builder))
        finally:
            _abi.strait_load_builder_free(builder)
        return load


class _Load(_abi.Owned, Iterator):
    """A load under way."""

    __slots__ = ()

    def __init__(self, handle: int):
        self._own(handle, _abi.strait_load_free)

    def __next__(self) -> tuple[str, Tensor]:
        # In slices, for signals are handled between calls only.
        while (handle := _abi.strait_load_next(self._handle, _SLICE_MS)) is _abi.PENDING:
            pass
        if handle is _abi.END:
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


class safe_open:  # noqa: N801, the name is that of the safetensors package
    """Opens a checkpoint to read single tensors and slices: a drop-in for `safetensors.safe_open`."""

    def __init__(self, filename: Any, framework: str | None = None, device: Any = "cpu"):
        self._framework = _framework(framework)
        self._device = Device(device)
        self._checkpoint: Checkpoint | None = Checkpoint(filename)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *_: Any) -> None:
        self._checkpoint = None

    def _open(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ValueError("the file is closed")
        return self._checkpoint

    def keys(self) -> list[str]:
        """The names of the tensors, sorted."""
        return sorted(self._open().keys())

    def offset_keys(self) -> list[str]:
        """The names of the tensors, in the order of their places in the file."""
        return self._open().keys()

    def metadata(self) -> dict[str, str] | None:
        """`__metadata__`, or None."""
        return self._open().metadata() or None

    def get_tensor(self, name: str) -> Any:
        """A tensor, on the device, of the framework."""
        return self._load(name, None)

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
