"""What `safetensors.numpy` calls so: `from strait.numpy import load_file, save_file`."""

from __future__ import annotations

from typing import Any

from . import weights
from .save import save_file

__all__ = ["load_file", "save_file"]


def load_file(filename: Any, **options: Any) -> dict[str, Any]:
    """All tensors of a checkpoint by name, as `numpy.ndarray`s."""
    return weights.load_file(filename, "cpu", framework="np", **options)
