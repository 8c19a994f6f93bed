"""What the library says that is no error of a call, in Python's `logging`: to the logger "strait" and those below it.

Warnings (what is done in place of what was wanted, and why; samples that are left out) show on stderr unless the program
sets up `logging` otherwise; `logging.getLogger("strait").setLevel(logging.ERROR)` silences them. They may come from threads
of the library, which wait for the handlers.
"""

from __future__ import annotations

import atexit
import ctypes
import logging

from . import _abi

_LEVELS = {1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG}


def _say(context: int | None, level: int, source: bytes, message: bytes) -> None:
    # "strait::storage::writes" is the logger "strait.storage.writes".
    logger = logging.getLogger(source.decode(errors="replace").replace("::", "."))
    logger.log(_LEVELS.get(level, logging.DEBUG), "%s", message.decode(errors="replace"))


_SAY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_char_p)(_say)


def start() -> None:
    """Passes everything on from now on, until the program ends: Python's own levels say what is wanted."""
    _abi.strait_log_to(4, ctypes.cast(_SAY, ctypes.c_void_p), None)
    # Waits for calls that are under way, since none may come once the interpreter is taken apart.
    atexit.register(_abi.strait_log_to, 0, None, None)
