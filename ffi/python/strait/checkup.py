"""What this machine gives, and why not more."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any, Iterator

from . import _abi
from .dataset import Dataset
from .device import Device
from .errors import Error
from .loader import Loader


def doctor(path: Any = ".", device: Any = "auto") -> dict[str, Any]:
    """Reads at `path` into `device`, and says which way the bytes took: nothing is guessed that can be tried.

    A file is read as it is, up to 1 MiB of it. In a directory that is a temporary file, removed at once, or, where none can be
    made, a file that is there. Storage differs from place to place, so name where the shards are.

    Returns `version`, `library`, `device`, `cuda` (a name, or why there is none), `read` (the file), `ring`, `path`,
    `path_reason`, `pages`, and `fallbacks`: what was wanted and could not be had, with what would change it. The command
    `strait doctor` says more.
    """
    found: dict[str, Any] = {"version": version(), "library": os.path.abspath(_abi.PATH)}
    try:
        found["cuda"] = Device("cuda").name
    except Error as error:
        found["cuda"] = error.message
    with _trial(os.fspath(path)) as file:
        stats = _read(file, device)
    return found | {"read": file} | {name: stats[name] for name in _TOLD}


# Bytes of a batch.
_STEP = 64 << 10
_TOLD = ("device", "ring", "path", "path_reason", "pages", "fallbacks")


@contextlib.contextmanager
def _trial(path: str) -> Iterator[str]:
    """A file to read."""
    if not os.path.isdir(path):
        yield path
        return
    try:
        file = tempfile.NamedTemporaryFile(dir=path, prefix=".strait-doctor-", suffix=".bin")
    except OSError as error:
        there = (entry.path for entry in os.scandir(path) if entry.is_file() and entry.stat().st_size)
        if (first := next(there, None)) is None:
            raise error
        yield first
        return
    with file:
        file.write(os.urandom(1 << 20))
        file.flush()
        yield file.name


def _read(file: str, device: Any) -> dict[str, Any]:
    """Reads up to 1 MiB of a file, as records, whatever it is."""
    size = os.path.getsize(file)
    record_bytes = next(length for length in range(min(size, _STEP) or 1, 0, -1) if size % length == 0)
    data = Dataset(file, format="records", record_bytes=record_bytes)
    with Loader(data, batch_size=min(_STEP // record_bytes, 256), device=device, rank=0, world=1) as loader:
        for batch in loader:
            batch.wait()
            if batch.step == 15:
                break
        return loader.stats()


def version() -> str:
    """The version of the library."""
    return _abi.text(_abi.strait_version())
