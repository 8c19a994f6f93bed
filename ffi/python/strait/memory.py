"""Checkpoints that are bytes in memory, as files without a name."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Callable, Mapping

from .save import save_file


def load(data: bytes, load_file: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What `load_file` makes of a file of these bytes."""
    file = os.memfd_create("strait-load")
    try:
        with open(file, "wb", closefd=False) as whole:
            whole.write(data)
        return load_file(f"/proc/self/fd/{file}", ring="pread")
    finally:
        os.close(file)


def save(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None) -> bytes:
    """The bytes of a file of these tensors."""
    with tempfile.TemporaryDirectory(prefix="strait-save-") as directory:
        path = os.path.join(directory, "model.safetensors")
        save_file(tensors, path, metadata)
        with open(path, "rb") as file:
            return file.read()
