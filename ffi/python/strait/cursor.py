"""Where runs stand."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, TypeVar, cast

from . import _abi
from .batch import cursor_json

State = TypeVar("State", str, "dict[str, Any]")


def merge(states: Iterable[State]) -> State:
    """One cursor (`Batch.cursor`), or one `Loader.state_dict`, of those of all ranks: it knows of the samples that any of them has
    left out. They are of one run and one step."""
    whole: Any = None
    merged = ""
    for state in states:
        own = state["cursor"] if isinstance(state, Mapping) else state
        merged, whole = own if whole is None else _merged(merged, own), state
    if whole is None:
        raise ValueError("there are no states to merge")
    whole = {**whole, "cursor": merged} if isinstance(whole, Mapping) else merged
    return cast(State, whole)


def _merged(cursor: str, other: str) -> str:
    handles: list[int] = []
    try:
        for text in (cursor, other):
            data = text.encode()
            handles.append(_abi.strait_cursor_parse(data, len(data)))
        return cursor_json(_abi.strait_cursor_merge, *handles)
    finally:
        for handle in handles:
            _abi.strait_cursor_free(handle)
