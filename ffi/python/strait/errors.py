"""What goes wrong, as exceptions with the fields of the C ABI's errors."""

from __future__ import annotations

import builtins
import errno as _errno
from typing import Any

from ._functions import STATUSES


class Error(Exception):
    """Any error of strait. The text says what went wrong, where, and what to do.

    Attributes:
        status: the number of `strait_status`, which never changes.
        code: its name, `"FORMAT"`.
        message: the text.
        errno: the operating system's error number, or None.
        device_code: the driver's result code (on CUDA a CUresult), or None.
        path: the shard or other file that it is about, or None.
        offset: the byte of that file, or None.
        sample: the id of the sample that cannot be read, or None.
    """

    status: int = 299
    code: str = STATUSES[299]
    message: str = ""
    errno: int | None = None
    device_code: int | None = None
    path: str | None = None
    offset: int | None = None
    sample: int | None = None

    def __init__(self, message: str = ""):
        # What an exception is pickled with: this argument, and the attributes that it has been given.
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return str(self.message)


class ConfigError(Error, ValueError):
    """An option that cannot be met, or a text that no option has; nothing was started."""


class OpenError(Error, OSError):
    """A file or directory could not be opened or examined."""


class MissingError(OpenError, FileNotFoundError):
    """A file or directory does not exist."""


class FormatError(Error, ValueError):
    """A shard or an index is not what its format demands."""


class ChangedError(Error):
    """A shard is no longer the file that was indexed."""


class TruncatedError(Error):
    """A shard ended inside an extent that its index promises."""


class IoError(Error, OSError):
    """The storage failed."""


class TimeoutError(Error, builtins.TimeoutError):  # noqa: A001
    """Something did not happen in time; the text says what."""


class MemoryError(Error, builtins.MemoryError):  # noqa: A001
    """Memory could not be had, or a batch needs more than there is room for."""


class DeviceError(Error, RuntimeError):
    """A device or its driver failed a call, or there is no such device."""


class StoppedError(Error, RuntimeError):
    """The engine is gone; the loader must be built anew."""


class BadSampleError(Error):
    """A sample cannot be read, and the policy for bad samples does not forgive it."""


class CorruptError(Error):
    """Bytes that were read are not those that their checksum was made of."""


class HandleError(Error, RuntimeError):
    """An object that was given back, or was made before a fork: the child of a fork makes its own."""


class OrderError(Error, RuntimeError):
    """Too early or too late for this call; the text says what comes first."""


class NotFoundError(Error, KeyError):
    """No field, tensor or option of that name; the text lists what there is."""


class RangeError(Error, IndexError):
    """An index beyond the end."""


_CLASSES = {
    "CONFIG": ConfigError, "BAD_TEXT": ConfigError, "OPEN": OpenError, "FORMAT": FormatError, "TENSOR": FormatError,
    "CHANGED": ChangedError, "TRUNCATED": TruncatedError, "IO": IoError, "WRITE": IoError, "TIMEOUT": TimeoutError,
    "MEMORY": MemoryError, "BATCH_TOO_LARGE": MemoryError, "DEVICE": DeviceError, "NO_DEVICE": DeviceError,
    "STOPPED": StoppedError, "BAD_SAMPLE": BadSampleError, "CORRUPT": CorruptError, "BAD_HANDLE": HandleError,
    "POISONED": HandleError, "WRONG_ORDER": OrderError, "NOT_FOUND": NotFoundError, "OUT_OF_RANGE": RangeError,
}


for _number, _code in STATUSES.items():
    # An exception that is made by its class alone says the first of those codes.
    if "status" not in vars(_class := _CLASSES.get(_code, Error)):
        _class.status, _class.code = _number, _code


def make(
    status: int, message: str, *, errno: int | None = None, device_code: int | None = None, path: str | None = None,
    offset: int | None = None, sample: int | None = None,
) -> Error:
    """The exception of a status."""
    code = STATUSES.get(status, "OTHER")
    kind = _CLASSES.get(code, Error)
    if kind is OpenError and errno == _errno.ENOENT:
        kind = MissingError
    error = kind(message)
    error.status, error.code = status, code
    error.errno, error.device_code = errno, device_code
    error.path, error.offset, error.sample = path, offset, sample
    return error
