"""What `safetensors.torch` calls so: `from strait.torch import load_file, save_file`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from . import memory, weights
from .save import SaveOptions, Saved
from .save import save_file as _save_file
from .theirs import as_theirs

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["load", "load_file", "load_model", "save", "save_file", "save_model"]


def load_file(
    filename: Any, device: Any = "cpu", *, backend: Any = None, verify: Any = None, **options: Unpack[weights.LoadOptions],
) -> dict[str, Any]:
    """All tensors of a checkpoint by name, as `torch.Tensor`s on `device`. `backend` is for programs that name one of the
    safetensors package; it does nothing here."""
    return weights.load_file(filename, device, framework="pt", verify=verify, **options)


def load(data: bytes) -> dict[str, Any]:
    """The same of the bytes of a file, on the CPU."""
    return memory.load(data, load_file)


@as_theirs
def save_file(
    tensors: Mapping[str, Any], filename: Any, metadata: Mapping[str, str] | None = None, **options: Unpack[SaveOptions],
) -> Saved:
    """Writes tensors to a file: see `strait.save_file`. Tensors that share memory are written each; `save_model` writes one of
    those that are the same."""
    return _save_file(tensors, filename, metadata, **options)


@as_theirs
def save(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of the file that `save_file` writes."""
    return memory.save(tensors, metadata)


def save_model(
    model: Any, filename: Any, metadata: Mapping[str, str] | None = None, force_contiguous: bool = True,
    **options: Unpack[SaveOptions],
) -> Saved:
    """Writes a module's `state_dict`. Of names for one and the same tensor the first in alphabetical order is in the file, and the
    others are in its metadata, as the safetensors package has it."""
    tensors = dict(model.state_dict())
    said = dict(metadata or {})
    for kept, others in _tied(tensors).items():
        for other in others:
            said.setdefault(other, kept)
            del tensors[other]
    if force_contiguous:
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save_file(tensors, filename, said, **options)


def load_model(
    model: Any, filename: Any, strict: bool = True, device: Any = "cpu", *, backend: Any = None,
    **options: Unpack[weights.LoadOptions],
) -> tuple[list[str], list[str]]:
    """Reads a file into a module, and returns the names that the file lacks and those that the module does. Unless `strict` is
    False, such names are an error. A name for the same tensor as one that is in the file is not missing."""
    loaded = load_file(filename, device, **options)
    tied = _tied(model.state_dict())
    missing, unexpected = model.load_state_dict(loaded, strict=False)
    for kept, others in tied.items():
        names = {kept, *others}
        if names & loaded.keys():
            missing = [name for name in missing if name not in names]
    if strict and (missing or unexpected):
        parts = [f"{what}: {', '.join(sorted(names))}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
        raise RuntimeError(f"{filename} is not of a {type(model).__name__}: tensors {'; '.join(parts)}")
    return list(missing), list(unexpected)


def _tied(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names for one and the same tensor: the first, and the others."""
    same: dict[Any, list[str]] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.device.type != "meta" and tensor.numel() > 0:
            key = tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
            same.setdefault(key, []).append(name)
    return {names[0]: names[1:] for names in same.values() if len(names) > 1}
