"""Single tensors and slices of checkpoints, with the shape of the safetensors package."""

from __future__ import annotations

import threading
from typing import Any

from .device import Device
from .tensor import Tensor, convert, framework_of
from .theirs import as_theirs
from .weights import Checkpoint

# Bytes that are read ahead of those who take tensors one by one.
_AHEAD_MAX = 8 << 20


class safe_open:  # noqa: N801, the name is that of the safetensors package
    """Opens a checkpoint to read single tensors and slices: a drop-in for `safetensors.safe_open`.

    Headers are read once. A load costs a fraction of a millisecond whatever its size, so whoever takes tensors in the order of
    `keys()` is read ahead of: as many bytes as were taken in a row, up to 8 MiB.
    """

    @as_theirs
    def __init__(self, filename: Any, framework: str | None = None, device: Any = "cpu"):
        self._framework = framework_of(framework)
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

    @as_theirs
    def keys(self) -> list[str]:
        """The names of the tensors, sorted."""
        self._open()
        return list(self._keys)

    @as_theirs
    def offset_keys(self) -> list[str]:
        """The names of the tensors, in the order of their places in the file."""
        return self._open().keys()

    @as_theirs
    def metadata(self) -> dict[str, str] | None:
        """`__metadata__`, or None."""
        return self._open().metadata() or None

    @as_theirs
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
        return convert(tensor, self._framework)

    def _names_from(self, checkpoint: Checkpoint, place: int) -> list[str]:
        """The name at `place`, and those behind it that are read with it."""
        names, left = [self._keys[place]], min(self._run, _AHEAD_MAX)
        for name in self._keys[place + 1:]:
            left -= checkpoint.extent(name)[2]
            if left < 0:
                break
            names.append(name)
        return names

    @as_theirs
    def get_tensors(self) -> dict[str, Any]:
        """All of them in one load, which is faster than one by one."""
        return {name: convert(tensor, self._framework) for name, tensor in self._open().load(self._device)}

    @as_theirs
    def get_slice(self, name: str) -> Slice:
        """A tensor to be indexed: only what that needs is read."""
        self._open()._number(name)
        return Slice(self, name)

    def _load(self, name: str, part: tuple[int, int, int] | None) -> Any:
        checkpoint = self._open()
        checkpoint._number(name)
        slices = None if part is None else {name: part}
        [(_, tensor)] = checkpoint.load(self._device, names=[name], slices=slices)
        return convert(tensor, self._framework)


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

    @as_theirs
    def __getitem__(self, index: Any) -> Any:
        """A part, by integers, slices and `...`, of which only what is needed is read; by whatever else the framework's arrays
        take, of the whole."""
        parts, shape = index if isinstance(index, tuple) else (index,), self.get_shape()
        # Theirs takes True for 1 where arrays are NumPy's.
        kinds = (slice, bool) if self._opened._framework == "numpy" else (slice,)
        if not all(part is Ellipsis or isinstance(part, kinds) or _is_integer(part) for part in parts):
            return _index(self._opened._load(self._name, None), index)
        wholes = [at for at, part in enumerate(parts) if part is Ellipsis]
        if len(wholes) > 1:
            return _index(self._opened._load(self._name, None), index)
        if wholes:
            at = wholes[0]
            parts = parts[:at] + (slice(None),) * (len(shape) - len(parts) + 1) + parts[at + 1:]
        if len(parts) > len(shape):
            raise IndexError(f"{len(parts)} indices into {self._name}, which has {len(shape)} dimensions")
        # The first dimension that is cut is read in part; the rest is the framework's.
        for dim, (part, length) in enumerate(zip(parts, shape)):
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                if (start, stop, step) == (0, length, 1) or step != 1 or stop <= start:
                    continue
            else:
                start = int(part) + length if part < 0 else int(part)
                if not 0 <= start < length:
                    raise IndexError(f"{part} in dimension {dim} of {self._name}, which is {length} long")
                stop = start + 1
            tensor = self._opened._load(self._name, (dim, start, stop))
            rest = slice(None) if isinstance(part, slice) else 0
            return _index(tensor, parts[:dim] + (rest,) + parts[dim + 1:])
        return _index(self._opened._load(self._name, None), parts)


def _is_integer(part: Any) -> bool:
    """Whether it is one for arrays: those are besides, as True is."""
    return hasattr(part, "__index__") and not isinstance(part, bool) and not getattr(part, "shape", ())


def _index(tensor: Any, index: Any) -> Any:
    if isinstance(index, tuple) and all(isinstance(part, slice) and part == slice(None) for part in index):
        return tensor
    if isinstance(tensor, Tensor):
        raise TypeError("a strait.Tensor cannot be indexed: name a framework, or cut one dimension only")
    return tensor[index]
