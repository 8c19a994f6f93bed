"""The C ABI by ctypes: each function of strait.h as a Python function of the same name.

Inputs are arguments, outputs are results (None, a value, or a tuple), and an error is raised. Calls let other threads run.
What `END`, `PENDING` and `ABSENT` say is no error: they are returned in place of the outputs.
"""

from __future__ import annotations

import ctypes
import operator
import os
import pathlib
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
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
        bare = "STRAIT_LIBRARY" not in os.environ and not os.path.exists(path)
        remedy = "these are the sources without it, so install the package (`pip install ./ffi/python` in a checkout), or " if bare else ""
        raise ImportError(f"strait's shared library cannot be loaded: {error}; {remedy}STRAIT_LIBRARY names another") from None
    for name, (result, parameters) in FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"{path} lacks {name}: it is of another version than this package")
        function.restype = TYPES[result]
        # Outputs go in by byref.
        function.argtypes = [ctypes.c_void_p if kind[0] == "*" else TYPES[kind[0]] for kind in parameters.split()]
    return library


if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError("strait needs the GIL: it counts who refers to a tensor on its way to another library; start Python with -X gil=1")

PATH = _find()
LIBRARY = _open()


def integer(value: Any, name: str) -> int:
    """A whole number: Python's, or NumPy's."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r}") from None


def _range(kind: str) -> tuple[int, int]:
    bits = 8 * ctypes.sizeof(TYPES[kind])
    return (0, 1 << bits) if kind in "IQz" else (-1 << bits - 1, 1 << bits - 1)


_RANGES = {kind: _range(kind) for kind in "iIqQz"}


def whole(value: Any, kind: str, name: str) -> int:
    """A whole number that a parameter of that type takes: ctypes would cut it off, and read -1 as 2**64 - 1."""
    number = value if type(value) is int else integer(value, name)
    first, end = _RANGES[kind]
    if not first <= number < end:
        raise ValueError(f"{name} is from {first} to {end - 1}, not {number}")
    return number


def real(value: Any, name: str) -> float:
    """A number: Python's, or NumPy's."""
    if isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise TypeError(f"{name} is a number, not {value!r}")
    return float(value)


def encoded(value: Any, name: str) -> bytes | None:
    """A text for C, where it ends with its first NUL."""
    data = value.encode() if isinstance(value, str) else value
    if type(data) is not bytes and data is not None:
        raise TypeError(f"{name} is a text, not {value!r}")
    if data and b"\0" in data:
        raise ValueError(f"{name} has a NUL in it: {value!r}")
    return data


def truth(value: Any, name: str) -> bool:
    """True or False, or NumPy's; not what Python takes for either."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} is True or False, not {value!r}")
    return bool(value)


def _checks(name: str) -> list[tuple[int, Callable[..., Any], tuple[str, ...]]]:
    """Which inputs of a function are checked, how, and with what besides; by the names that options have."""
    option = name.partition("_builder_")[2]
    checks: list[tuple[int, Callable[..., Any], tuple[str, ...]]] = []
    for at, parameter in enumerate(FUNCTIONS[name][1].split()):
        kind, _, called = parameter.partition(":")
        called = called if option in ("", called) else f"{option}: {called}"
        if kind == "s":
            checks.append((at, encoded, (called,)))
        elif kind == "b":
            checks.append((at, truth, (called,)))
        elif kind == "f":
            checks.append((at, real, (called,)))
        elif kind in "iIqQz":
            checks.append((at, whole, (kind, called)))
    return checks


def _wrap(name: str, checking: bool = True) -> Any:
    """The Python function of a C function whose last parameter is an error.

    Outputs go `into` cells of the caller's if it has some: a signal that comes while C works is handled when C is done, by an
    exception in place of the result.
    """
    function, checks = getattr(LIBRARY, name), _checks(name) if checking else []
    kinds = [TYPES[kind[1]] for kind in FUNCTIONS[name][1].split() if kind[0] == "*"][:-1]
    byref, pointer = ctypes.byref, ctypes.c_void_p

    def call(*inputs: Any, into: tuple[Any, ...] | None = None) -> Any:
        if checks:
            checked = list(inputs)
            for at, check, besides in checks:
                checked[at] = check(checked[at], *besides)
            inputs = tuple(checked)
        outputs = [kind() for kind in kinds] if into is None else into
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
    if checks:
        # For inputs that this package has made itself.
        call.unchecked = _wrap(name, False)  # type: ignore[attr-defined]
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

    def _own_cell(self, free: Callable[[Any], Any]) -> Any:
        """The same of the handle that a call will write: it never is without an owner."""
        cell: Any = ctypes.c_void_p()
        self._free = weakref.finalize(self, free, cell)
        return cell


# How often this process is the child of a fork. Handles of its parent are none of its own.
forks = 0


def _forked() -> None:
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


class Handle(Owned):
    """A handle for the length of a `with`, which gives the cell that a call writes it to."""

    __slots__ = ("_cell",)

    def __init__(self, free: Callable[[Any], Any]):
        self._cell = self._own_cell(free)

    def __enter__(self) -> Any:
        return self._cell

    def __exit__(self, *_: Any) -> None:
        self._free()


class Slot:
    """An object to be, and the cell that a call will write its handle to. The frames of that call have only this, so that an
    exception which keeps them does not keep the object once it is handed over."""

    __slots__ = ("made", "cell", "turn", "before")

    def __init__(self, made: Owned, free: Callable[[Any], Any]):
        self.made: Any = made
        self.cell: Any = made._own_cell(free)
        # Of a loader: the iteration that it is for, and where the run stood before it, if it did not come at once.
        self.turn: int | None = None
        self.before: Handle | None = None


class Coming:
    """What calls that wait are about to make, by thread. If an exception (of Ctrl-C, most often) takes the place of a call's
    result, the result is here, for the next call of that thread."""

    __slots__ = ("_kind", "_free", "_slots")

    def __init__(self, kind: Any, free: Callable[[Any], Any]):
        self._kind, self._free = kind, free
        self._slots: dict[int, Slot] = {}

    def slot(self) -> Slot:
        """What this thread's last call left, or a new one."""
        thread = threading.get_ident()
        found = self._slots.get(thread)
        if found is None:
            found = self._slots[thread] = Slot(self._kind.__new__(self._kind), self._free)
        return found

    def left(self) -> Slot | None:
        """The same, if its object has come."""
        found = self._slots.get(threading.get_ident())
        return None if found is None or found.cell.value is None else found

    def taken(self) -> None:
        """The caller has the object."""
        if (slot := self._slots.pop(threading.get_ident(), None)) is not None:
            slot.made = None

    def drop(self) -> None:
        """Gives back what this thread's last call left, whatever still refers to it."""
        if (slot := self._slots.pop(threading.get_ident(), None)) is not None:
            slot.made._free()


def text(value: bytes | None) -> str:
    """A text of the C ABI."""
    return "" if value is None else value.decode()


def texts(values: Any, name: str = "names") -> tuple[Any, int]:
    """Texts as the C ABI takes many: an array, and how many."""
    data = [encoded(value, f"one of {name}") for value in listed(values, name)]
    return (ctypes.c_char_p * len(data))(*data), len(data)


def wholes(values: Any, kind: Literal["Q", "I"], name: str) -> tuple[Any, int]:
    """The same of whole numbers."""
    numbers = [whole(value, kind, f"one of {name}") for value in listed(values, name)]
    return (TYPES[kind] * len(numbers))(*numbers), len(numbers)


def listed(values: Any, name: str, *parts: str) -> list[Any]:
    """Several values, of which each has a name if there are so many."""
    what = f"({', '.join(parts)})" if parts else "a list"
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {what}, not {values!r}")
    values = list(values)
    if parts and len(values) != len(parts):
        raise ValueError(f"{name} is {what}, not {values!r}")
    return values


def u64s(address: int | None, count: int) -> tuple[int, ...]:
    """The numbers of an array of the C ABI, copied."""
    return tuple((ctypes.c_uint64 * count).from_address(address)) if count and address else ()


def u64_view(address: int | None, count: int, kind: Literal["Q", "I"] = "Q") -> memoryview:
    """The same as a read-only buffer of one dimension, copied: `numpy.asarray` takes it as it is."""
    width = 8 if kind == "Q" else 4
    data = ctypes.string_at(address, width * count) if count and address else b""
    return memoryview(data).cast(kind)
