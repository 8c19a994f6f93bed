"""What `safetensors.numpy` calls so: `from strait.numpy import load_file, save_file`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from . import memory, weights
from .save import SaveOptions, Saved
from .save import save_file as _save_file
from .theirs import as_theirs

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["load", "load_file", "save", "save_file"]


def load_file(filename: Any, *, backend: Any = None, verify: Any = None, **options: Unpack[weights.LoadOptions]) -> dict[str, Any]:
    """All tensors of a checkpoint by name, as `numpy.ndarray`s. `backend` is for programs that name one of the safetensors
    package; it does nothing here."""
    return weights.load_file(filename, "cpu", framework="np", verify=verify, **options)


def load(data: bytes) -> dict[str, Any]:
    """The same of the bytes of a file."""
    return memory.load(data, load_file)


@as_theirs
def save_file(
    tensor_dict: Mapping[str, Any], filename: Any, metadata: Mapping[str, str] | None = None, **options: Unpack[SaveOptions],
) -> Saved:
    """Writes arrays to a file: see `strait.save_file`."""
    return _save_file(tensor_dict, filename, metadata, **options)


@as_theirs
def save(tensor_dict: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of the file that `save_file` writes."""
    return memory.save(tensor_dict, metadata)
