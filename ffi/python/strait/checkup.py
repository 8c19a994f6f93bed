"""What this machine gives, and why not more."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from . import _abi
from .dataset import Dataset
from .device import Device
from .errors import Error
from .loader import Loader


def doctor(directory: Any = None, device: Any = "auto") -> dict[str, Any]:
    """Reads a small file in `directory` (default: the temporary one) into `device`, and says which way the bytes took.

    Returns `version`, `library`, `device`, `cuda` (a name, or why there is none), `ring`, `path`, `path_reason`, `pages`,
    and `fallbacks`: what was wanted and could not be had, with what would change it. The command `strait doctor` says more.
    """
    found: dict[str, Any] = {"version": version(), "library": os.path.abspath(_abi.PATH)}
    try:
        found["cuda"] = Device("cuda").name
    except Error as error:
        found["cuda"] = error.message
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".bin") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        with Loader(Dataset(file.name, format="records", record_bytes=4096), batch_size=64, device=device) as loader:
            for batch in loader:
                batch.wait()
            stats = loader.stats()
    return found | {name: stats[name] for name in ("device", "ring", "path", "path_reason", "pages", "fallbacks")}


def version() -> str:
    """The version of the library."""
    return _abi.text(_abi.strait_version())
