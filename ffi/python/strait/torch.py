"""What `safetensors.torch` calls so: `from strait.torch import load_file, save_file`."""

from __future__ import annotations

from typing import Any

from . import weights
from .save import save_file

__all__ = ["load_file", "save_file"]


def load_file(filename: Any, device: Any = "cpu", **options: Any) -> dict[str, Any]:
    """All tensors of a checkpoint by name, as `torch.Tensor`s on `device`."""
    return weights.load_file(filename, device, framework="pt", **options)
