"""The C ABI by ctypes: each function of strait.h as a Python function of the same name.

Inputs are arguments, outputs are results (None, a value, or a tuple), and an error is raised. Calls let other threads run.
What `END`, `PENDING` and `ABSENT` say is no error: they are returned in place of the outputs.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import weakref
from typing import Any, Callable, Literal

from . import errors
from ._functions import FUNCTIONS, STATUSES

UNKNOWN = 2**64 - 1
STREAM_NONE = -1
TENSOR_BYTES = 2

TYPES: dict[str, Any] = {
    "b": ctypes.c_bool, "i": ctypes.c_int32, "I": ctypes.c_uint32, "q": ctypes.c_int64, "Q": ctypes.c_uint64,
    "z": ctypes.c_size_t, "f": ctypes.c_float, "s": ctypes.c_char_p, "p": ctypes.c_void_p, "v": None,
}


class Answer:
    """What a call says in place of its outputs, without that being an error."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


END, PENDING, ABSENT = Answer("END"), Answer("PENDING"), Answer("ABSENT")
ANSWERS = {number: globals()[name] for number, name in STATUSES.items() if name in ("END", "PENDING", "ABSENT")}


def _find() -> str:
    """The shared library: beside this file, or where STRAIT_LIBRARY says."""
    named = os.environ.get("STRAIT_LIBRARY")
    return named or str(pathlib.Path(__file__).with_name("libstrait.so"))


def _open() -> ctypes.CDLL:
    path = _find()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"strait's shared library cannot be loaded: {error}; STRAIT_LIBRARY names another") from None
    for name, (result, parameters) in FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"{path} lacks {name}: it is of another version than this package")
        function.restype = TYPES[result]
        # Outputs go in by byref.
        function.argtypes = [ctypes.c_void_p if kind[0] == "*" else TYPES[kind] for kind in parameters.split()]
    return library


PATH = _find()
LIBRARY = _open()


def _wrap(name: str) -> Callable[..., Any]:
    """The Python function of a C function whose last parameter is an error."""
    function = getattr(LIBRARY, name)
    kinds = [TYPES[kind[1]] for kind in FUNCTIONS[name][1].split() if kind[0] == "*"][:-1]
    byref, pointer = ctypes.byref, ctypes.c_void_p

    def call(*inputs: Any) -> Any:
        outputs = [kind() for kind in kinds]
        error = pointer()
        status = function(*inputs, *[byref(output) for output in outputs], byref(error))
        if status:
            if (answer := ANSWERS.get(status)) is not None:
                return answer
            raise take_error(status, error)
        if len(outputs) == 1:
            return outputs[0].value
        return tuple(output.value for output in outputs) if outputs else None

    call.__name__ = name
    return call


def take_error(status: int, error: ctypes.c_void_p) -> errors.Error:
    """The exception of a C error, which is given back."""
    if not error:
        return errors.make(status, f"status {status}")
    number = ctypes.c_uint64()

    def optional(question: Any) -> int | None:
        return number.value if question(error, ctypes.byref(number)) else None

    try:
        path = LIBRARY.strait_error_path(error)
        return errors.make(
            status,
            (LIBRARY.strait_error_message(error) or b"").decode(errors="replace"),
            errno=LIBRARY.strait_error_errno(error) or None,
            device_code=LIBRARY.strait_error_device_code(error) or None,
            path=None if path is None else os.fsdecode(path),
            offset=optional(LIBRARY.strait_error_offset),
            sample=optional(LIBRARY.strait_error_sample),
        )
    finally:
        LIBRARY.strait_error_free(error)


def _plain(name: str, parameters: str) -> bool:
    """Whether it is not one of those that may fail with an error."""
    return not parameters.endswith("*p")


for _name, (_result, _parameters) in FUNCTIONS.items():
    globals()[_name] = getattr(LIBRARY, _name) if _plain(_name, _parameters) else _wrap(_name)


def __getattr__(name: str) -> Any:  # for type checkers: the functions are made above
    raise AttributeError(f"strait.h has no {name}")


class Owned:
    """A Python object that owns a handle, and gives it back once: when told to, when it goes, or as the program ends."""

    __slots__ = ("_handle", "_free", "__weakref__")

    def _own(self, handle: int, free: Callable[[int], Any]) -> None:
        self._handle = handle
        self._free = weakref.finalize(self, free, handle)


def text(value: bytes | None) -> str:
    """A text of the C ABI."""
    return "" if value is None else value.decode()


def texts(values: Any) -> tuple[Any, int]:
    """Texts as the C ABI takes many: an array, and how many."""
    if isinstance(values, str):
        raise TypeError(f"a list of names is wanted, not {values!r}")
    values = [value.encode() for value in values]
    return (ctypes.c_char_p * len(values))(*values), len(values)


def u64s(address: int | None, count: int) -> tuple[int, ...]:
    """The numbers of an array of the C ABI, copied."""
    return tuple((ctypes.c_uint64 * count).from_address(address)) if count and address else ()


def u64_view(address: int | None, count: int, kind: Literal["Q", "I"] = "Q") -> memoryview:
    """The same as a read-only buffer of one dimension, copied: `numpy.asarray` takes it as it is."""
    width = 8 if kind == "Q" else 4
    data = ctypes.string_at(address, width * count) if count and address else b""
    return memoryview(data).cast(kind)
