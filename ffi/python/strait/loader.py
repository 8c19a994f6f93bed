"""Iterates the batches of a dataset."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping
from typing import Any, Iterable, Iterator, NoReturn

from . import _abi, errors
from .batch import Batch, json_of
from .dataset import Dataset, Path, dtype_for_c
from .device import Device
from .tensor import capsules

_SLICE_MS = 100
# Where reference cycles have kept batches before.
_CYCLES_MS = 10
# Looking for cycles takes 0.1 s where PyTorch is imported: it may cost a twentieth of a core, where it finds none.
_PAUSE = 20
# The library's default.
_DEADLINE_MS = 30_000
_NUMBERS = (
    "batch_size", "seed", "prefetch", "hold", "block_bytes", "gap_bytes", "align_bytes", "reads_in_flight",
    "bytes_in_flight", "pinned_bytes_max", "region_bytes_max", "region_bytes", "open_files_max", "deadline_ms",
)
_TEXTS = ("policy", "ring", "path", "verify")


class Loader(_abi.Owned):
    """Batches of a dataset, epoch by epoch, read ahead into device memory by a thread of the library.

    `for batch in loader` is one epoch. The next one begins where that ended, unless `set_epoch` says another; an iteration
    that was left early starts its epoch over. `state_dict` and `load_state_dict` follow PyTorch's protocol of stateful data
    loaders: samples that were delivered count, and others do not, so they may be called at any time.

    Args:
        dataset: a `Dataset`, or paths.
        batch_size: samples (or windows) per batch; default 256.
        device: `"cuda"`, `"host"` ..; default the first CUDA device if it works, else the host.
        shuffle: False, True or `"full"`, `"block:64x16"`, or (block_bytes, window).
        seed: what decides the order.
        rank, world: which slice of every global batch is this process's.
        rank_from_env: takes them from the launcher's environment (torchrun, Slurm, Open MPI, PMI).
        policy: what happens behind the last whole global batch: `"drop"`, `"pad"`, `"wrap"`, `"short"`.
        bad_samples: `"raise"`, `"replace"`, or (budget, consecutive) to skip.
        mixture: weights of the datasets of `Dataset.concat`; with `mixture_positions` an epoch has so many positions.
        fields: reads only these. tensors: those that come as one array. on_host: those whose bytes are on the host too.
        array: {field: (dtype, shape)} where the format does not say them.
        dtype: {field: dtype} of arrays that are to be wider than they are stored, with the same values: `{"tokens": "int64"}`.
        scale: {field: (dtype, factor, bias)}, or without bias: `byte * factor + bias` of each u8, as float16, bfloat16 or
            float32.
        tokens: (field, item_bytes): what samples are measured in. windows: (tokens, stride). pack: tokens of a window.
        budget: dict(samples_max, cost_max, padded, window, run): batches cut by length.
        prefetch: batches read ahead. hold: batches that may be held at once while others are read.
        block_bytes: the length of a read. gap_bytes: what is read along between samples, at most a read or 1 MiB. align_bytes: what reads start at a
            multiple of. reads_in_flight, bytes_in_flight, pinned_bytes_max, region_bytes_max, open_files_max: bounds.
            region_bytes: memory for batches, where it is not to be worked out. deadline_ms: what takes longer is an error.
        ring: `"auto"`, `"uring"`, `"pread"` (threads), `"cufile"`. path: `"auto"`, or `"staged"` (through pinned memory).
        verify: `"off"`, or `"checksums"`: compares samples with those of their sidecars.
    """

    __slots__ = ("dataset", "_names", "_lock", "_epoch", "_rest", "_turn", "_ended", "_coming", "_cycles", "_starved", "_look_at",
                 "_pause_max")

    def __init__(
        self, dataset: Dataset | Path | Iterable[Path], batch_size: int | None = None, *, device: Any = None,
        shuffle: bool | str | tuple[int, int] | None = None, seed: int | None = None, rank: int | None = None,
        world: int | None = None, rank_from_env: bool | None = None, policy: str | None = None,
        bad_samples: str | tuple[int, int] | None = None, mixture: Iterable[int] | None = None,
        mixture_positions: int | None = None, fields: Iterable[str] | None = None, tensors: Iterable[str] | None = None,
        on_host: Iterable[str] | None = None, array: Mapping[str, tuple[Any, Iterable[int]]] | None = None,
        dtype: Mapping[str, Any] | None = None, scale: Mapping[str, tuple[Any, ...]] | None = None,
        tokens: tuple[str, int] | None = None, windows: tuple[int, int] | None = None, pack: int | None = None,
        budget: Mapping[str, Any] | None = None, prefetch: int | None = None, hold: int | None = None,
        block_bytes: int | None = None, gap_bytes: int | None = None, align_bytes: int | None = None,
        reads_in_flight: int | None = None, bytes_in_flight: int | None = None, pinned_bytes_max: int | None = None,
        region_bytes_max: int | None = None, region_bytes: int | None = None, open_files_max: int | None = None,
        deadline_ms: int | None = None, ring: str | None = None, path: str | None = None, verify: str | None = None,
    ):
        # By name, so that an option is named once here and once where it is passed on.
        options = dict(locals())
        for argument in ("self", "dataset", "batch_size", "device"):
            del options[argument]
        if dtype is not None and not isinstance(dtype, Mapping):
            raise TypeError('dtype of a loader is what arrays become: a dict, {"tokens": "int64"}; '
                            f"what files hold that do not say it, strait.Dataset(paths, dtype={dtype!r}) does")
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
        builder = _abi.strait_loader_builder_new(self.dataset._handle)
        try:
            if batch_size is not None:
                options["batch_size"] = batch_size
            if device is not None:
                kept = device if isinstance(device, Device) else Device(device)
                _abi.strait_loader_builder_device(builder, kept._handle)
            _set(builder, options)
            handle = _abi.strait_loader_builder_build(builder)
        finally:
            _abi.strait_loader_builder_free(builder)
        self._own(handle, _abi.strait_loader_free)
        self._names: dict[str, str | None] | None = None
        self._lock = threading.Lock()
        self._epoch = 0
        # Whether the next iteration goes on from a cursor.
        self._rest = False
        # The number of this iteration, and of the last one that came to its end.
        self._turn = self._ended = 0
        self._coming = _abi.Coming(Batch, _abi.strait_batch_free)
        # Whether reference cycles have kept batches, and how often there was no memory when that was last looked for.
        self._cycles, self._starved, self._look_at = False, 0, 0.0
        # Whoever runs into the deadline has looked within the last third of it.
        self._pause_max = (deadline_ms or _DEADLINE_MS) / 3000

    @property
    def epoch(self) -> int:
        """The epoch that is iterated, or else will be."""
        return self._epoch

    @property
    def device(self) -> Device:
        """Where its batches live: the device that was given, or was chosen."""
        return Device._of(_abi.strait_loader_device(self._handle))

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration delivers. After `load_state_dict`, the epoch of that state goes on where it
        stood, and another one starts from its start."""
        epoch = _abi.whole(epoch, "Q", "epoch")
        with self._lock:
            if epoch != self._epoch:
                self._epoch, self._rest = epoch, False

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        steps = _abi.strait_loader_steps(self._handle)
        if steps == _abi.UNKNOWN:
            raise TypeError("batches are cut by a budget: how many there are shows only as they come")
        return steps

    def __bool__(self) -> bool:
        """True: also where there is no length."""
        return True

    def __iter__(self) -> Iterator[Batch]:
        with self._lock:
            if self._rest:
                _abi.strait_loader_begin_rest(self._handle)
                self._rest = False
            else:
                _abi.strait_loader_begin(self._handle, self._epoch)
            self._turn += 1
            return _Iteration(self, self._turn)

    def _next(self, turn: int) -> Batch:
        # An exception that came in place of the last batch has left it here.
        slot = self._coming.slot()
        if slot.turn not in (None, turn):
            self._coming.drop()
            slot = self._coming.slot()
        slot.turn = turn
        if slot.cell.value is None:
            self._receive(slot, turn)
        if self._names is None:
            self._names = _names(slot.cell.value)
        batch: Batch = slot.made
        batch._filled(slot.cell.value, self._names)
        self._coming.taken()
        return batch

    def _receive(self, slot: _abi.Slot, turn: int) -> None:
        """Waits until the handle of the next batch is in the cell."""
        wait = Wait(self)
        while True:
            if turn != self._turn:
                if turn == self._ended:
                    raise StopIteration
                raise RuntimeError("the loader has begun another iteration: this one is over")
            capsules.sweep()
            try:
                # In slices, for signals are handled between calls only.
                answer = _abi.strait_loader_next(self._handle, wait.slice_ms, into=(slot.cell,))
            except errors.TimeoutError as error:
                raise wait.explained(error) from None
            if answer is _abi.PENDING:
                slot.before = slot.before or self._cursor()
                wait.more()
            elif answer is _abi.END:
                self._end(turn)
                raise StopIteration
            else:
                return

    def _end(self, turn: int) -> None:
        with self._lock:
            if turn == self._turn:
                self._epoch = self._progress()[0]
                self._ended = turn
                self._turn += 1

    def _cursor(self) -> _abi.Handle:
        cursor = _abi.Handle(_abi.strait_cursor_free)
        _abi.strait_loader_cursor(self._handle, into=(cursor._cell,))
        return cursor

    def _progress(self) -> tuple[int, int, int]:
        with self._cursor() as cursor:
            return _abi.strait_cursor_progress(cursor)

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands after the last batch that was delivered: a few hundred bytes of plain values. One in whose
        place an exception came (of Ctrl-C) is yet to be."""
        left = self._coming.left()
        before = left.before if left is not None and left.turn == self._turn else None
        cursor = before or self._cursor()
        return {"strait": 1, "cursor": json_of(cursor._cell)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another batch size or on other ranks, when next iterated."""
        if not isinstance(state, Mapping) or state.get("strait") != 1 or not isinstance(state.get("cursor"), str):
            raise ValueError("not a state_dict of a strait.Loader of this version")
        self.resume(state["cursor"])

    def resume(self, cursor: str, allow_changed: bool = False) -> None:
        """Goes on from a cursor of `Batch.cursor` when next iterated; `allow_changed`: even if the dataset has changed."""
        data = _abi.encoded(cursor, "cursor") or b""
        parsed = _abi.strait_cursor_parse(data, len(data))
        try:
            with self._lock:
                _abi.strait_loader_resume(self._handle, parsed, allow_changed)
                self._epoch = _abi.strait_cursor_progress(parsed)[0]
                self._rest = True
                self._turn += 1
        finally:
            _abi.strait_cursor_free(parsed)

    def stats(self) -> dict[str, Any]:
        """What the loader has done so far; never waits for a batch. Numbers (`"bytes_read"`), texts (`"path"`, `"ring"`),
        `"fallbacks"` with their reasons, and `"bad_samples"`."""
        with _abi.Handle(_abi.strait_stats_free) as stats:
            return read_stats(_abi.strait_loader_stats(self._handle, into=(stats,)))

    def close(self) -> None:
        """Stops the loader in bounded time. Batches that are held stay valid."""
        self._coming.drop()
        self._free()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self._free.alive:
            return "<strait.Loader, closed>"
        steps = _abi.strait_loader_steps(self._handle)
        batches = "batches" if steps == _abi.UNKNOWN else f"{steps} batches"
        return f"<strait.Loader of {self.dataset.format}: {batches} an epoch, on {self.device}, epoch {self.epoch}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a loader has a thread and memory of its process: pass the dataset, and make a loader there")


class _Iteration(Iterator[Batch]):
    """One epoch, or the rest of one. Threads may share it."""

    def __init__(self, loader: Loader, turn: int):
        self._loader, self._turn = loader, turn
        self._over = False

    def __next__(self) -> Batch:
        if self._over:
            raise StopIteration
        try:
            return self._loader._next(self._turn)
        except StopIteration:
            self._over = True
            raise


class Wait:
    """How one batch is waited for. The first look is short: it is the usual case, and says what stood before the wait."""

    __slots__ = ("slice_ms", "collected", "_loader")

    def __init__(self, loader: Loader):
        self._loader, self.slice_ms, self.collected = loader, 0, False

    def more(self) -> None:
        """After a slice without a batch. Where the engine found no memory for one, cycles of references may hold it, which go
        only when Python looks for them."""
        loader, first = self._loader, self.slice_ms == 0
        self.slice_ms = _CYCLES_MS if first and loader._cycles else _SLICE_MS
        if first or self.collected or (began := time.monotonic()) < loader._look_at:
            return
        if (starved := loader.stats()["waits_for_region"]) > loader._starved:
            loader._starved, self.collected = starved, True
            live = _abi.strait_handles_live()
            gc.collect()
            if _abi.strait_handles_live() < live:
                loader._cycles = True
            else:
                ended = time.monotonic()
                loader._look_at = ended + min(_PAUSE * (ended - began), loader._pause_max)

    def explained(self, error: errors.TimeoutError) -> errors.TimeoutError:
        """The error, with what was tried."""
        if self.collected:
            error.message += ("; arrays keep their batches, so copy those that are to stay (gc.collect() was called: it is no garbage in "
                              "reference cycles that holds them)")
            error.args = (error.message,)
        return error


def _names(batch: int) -> dict[str, str | None]:
    """The fields of a loader's batches and their types, which are the same in all."""
    pairs = (_abi.strait_batch_field_name(batch, field) for field in range(_abi.strait_batch_fields(batch)))
    return {_abi.text(name): None if dtype is None else dtype.decode() for name, dtype in pairs}


def read_stats(handle: int) -> dict[str, Any]:
    """The numbers and texts of stats."""
    stats: dict[str, Any] = {}
    index = 0
    while (name := _abi.strait_stats_name(index)) is not None:
        number = _abi.strait_stats_number(handle, name)
        stats[name.decode()] = None if number == _abi.UNKNOWN else number
        index += 1
    for name in ("path", "path_reason", "ring", "device", "pages"):
        stats[name] = _abi.text(_abi.strait_stats_text(handle, name.encode()))
    count = _abi.strait_stats_fallbacks(handle)
    stats["fallbacks"] = [_abi.text(_abi.strait_stats_fallback(handle, number)) for number in range(count)]
    stats["bad_samples"] = list(_abi.u64s(*_abi.strait_stats_bad_samples(handle)))
    return stats


def _set(builder: int, options: dict[str, Any]) -> None:
    """Passes options on; those that are None keep their defaults."""
    options = {name: value for name, value in options.items() if value is not None}

    def call(name: str, *values: Any) -> None:
        getattr(_abi, f"strait_loader_builder_{name}")(builder, *values)

    for name in (*_NUMBERS, *_TEXTS, "pack"):
        if name in options:
            call(name, options.pop(name))
    for name in ("fields", "tensors", "on_host"):
        if name in options:
            call(name, *_abi.texts(options.pop(name), name))
    for field, described in _mapping(options.pop("array", {}), "array").items():
        dtype, shape = _abi.listed(described, f"array: {field}", "dtype", "shape")
        call("array", field, dtype_for_c(dtype), *_abi.wholes(shape, "Q", f"array: {field}: shape"))
    for field, dtype in _mapping(options.pop("dtype", {}), "dtype").items():
        call("widen", field, dtype_for_c(dtype))
    for field, described in _mapping(options.pop("scale", {}), "scale").items():
        parts = ("dtype", "factor", "bias") if len(described := _abi.listed(described, f"scale: {field}")) > 2 else ("dtype", "factor")
        dtype, factor, *bias = _abi.listed(described, f"scale: {field}", *parts)
        call("scale", field, dtype_for_c(dtype), factor, *(bias or (0.0,)))
    _set_order(call, options)
    if "tokens" in options:
        call("tokens", *_abi.listed(options.pop("tokens"), "tokens", "field", "item_bytes"))
    if "windows" in options:
        call("windows", *_abi.listed(options.pop("windows"), "windows", "tokens", "stride"))
    if "budget" in options:
        given = _mapping(options.pop("budget"), "budget")
        budget = {"samples_max": None, "cost_max": None, "padded": False, "window": 1, "run": 1} | given
        if len(budget) > 5 or None in budget.values():
            raise TypeError(f"budget has samples_max, cost_max, and maybe padded, window and run; not {', '.join(map(str, given))}")
        call("budget", *budget.values())
    if options:
        raise TypeError(f"a loader has no option {', '.join(options)}")


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a dict, not {value!r}")
    return dict(value)


def _set_order(call: Any, options: dict[str, Any]) -> None:
    """Which samples come, and in which order."""
    shuffle = options.pop("shuffle", False)
    if isinstance(shuffle, (tuple, list)):
        call("shuffle_blocks", *_abi.listed(shuffle, "shuffle", "block_bytes", "window"))
    elif not isinstance(shuffle, (bool, str)):
        raise TypeError(f'shuffle is True, False, "full", "block:64x16" or (block_bytes, window), not {shuffle!r}')
    elif shuffle:
        call("shuffle", "full" if shuffle is True else shuffle)
    if _abi.truth(options.pop("rank_from_env", False), "rank_from_env"):
        call("rank_from_env")
    if "rank" in options or "world" in options:
        rank, world = options.pop("rank", None), options.pop("world", None)
        if rank is None or world is None:
            raise TypeError("rank and world go together")
        call("rank", rank, world)
    bad = options.pop("bad_samples", "raise")
    if isinstance(bad, (tuple, list)):
        call("bad_samples_skip", *_abi.listed(bad, "bad_samples", "budget", "consecutive"))
    elif bad in ("raise", "replace"):
        call(f"bad_samples_{bad}")
    else:
        raise ValueError(f'bad_samples is "raise", "replace" or (budget, consecutive), not {bad!r}')
    positions = options.pop("mixture_positions", 0)
    weights, count = _abi.wholes(options.pop("mixture", ()), "I", "mixture")
    if count:
        call("mixture", weights, count, positions)
    elif positions:
        raise TypeError("mixture_positions goes with mixture")
