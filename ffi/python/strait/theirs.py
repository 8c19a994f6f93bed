"""Errors as those who know the safetensors package catch them."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Callable, TypeVar

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
R = TypeVar("R")


def as_theirs(call: Callable[P, R]) -> Callable[P, R]:
    """Has what `call` raises be a `safetensors.SafetensorError` too, where that package has been imported, as the same call of
    theirs would raise one. A file that does not exist is a FileNotFoundError there too, and a wrong type a TypeError."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except (FileNotFoundError, TypeError, StopIteration):
            raise
        except Exception as error:
            theirs = getattr(sys.modules.get("safetensors"), "SafetensorError", None)
            if theirs is None or isinstance(error, theirs):
                raise
            try:
                error.__class__ = _both(type(error), theirs)
            except TypeError:  # of a class that is laid out otherwise
                made = _both(type(error), theirs)(*error.args)
                made.__dict__.update(error.__dict__)
                raise made.with_traceback(error.__traceback__) from error.__cause__
            raise

    return wrapped


_made: dict[tuple[Any, Any], type[Exception]] = {}


def _both(ours: type[Exception], theirs: type[Exception]) -> type[Exception]:
    """A class that is both, and unpickles as ours."""
    if (ours, theirs) in _made:
        return _made[ours, theirs]

    def reduce(self: Exception, _: Any) -> tuple[Any, ...]:
        return _plain, (ours, self.args, self.__dict__)

    body = {"__module__": ours.__module__, "__qualname__": ours.__qualname__, "__reduce_ex__": reduce}
    made = _made[ours, theirs] = type(ours.__name__, (ours, theirs), body)
    return made


def _plain(ours: type[Exception], args: tuple[Any, ...], fields: dict[str, Any]) -> Exception:
    error = ours(*args)
    error.__dict__.update(fields)
    return error
