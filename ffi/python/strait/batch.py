"""Samples in device memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple, cast

from . import _abi
from .tensor import Tensor, convert, framework_of


class Window(NamedTuple):
    """A window of tokens: its pieces, one of a document each. Of n pieces:

    `tokens` has n + 1 `u32` from 0 on, where pieces start and the last one ends (what attention kernels call cu_seqlens);
    `documents` are n ids, and `starts` each piece's first token in its document; `offsets` and `lengths` (n `u64`) are
    bytes in `Batch.region`.
    """

    tokens: memoryview
    documents: tuple[int, ...]
    starts: tuple[int, ...]
    offsets: memoryview
    lengths: memoryview


class Batch(_abi.Owned):
    """Samples of one step. `batch["tokens"]` is a `Tensor` `[samples, ...]` where samples have one shape, or are windows of
    tokens; else a `Ragged`, `batch["jpg"][3]` being that of one sample.

    Its memory is filled again when the batch and every array of it are gone. A loader hands out as many batches at a time
    as its `hold` says. A batch outlives its loader.
    """

    __slots__ = ("_length", "_names")

    def __init__(self) -> None:
        raise TypeError("batches come from a strait.Loader")

    def _filled(self, handle: int, names: dict[str, str | None]) -> None:
        self._handle, self._names = handle, names
        self._length = _abi.strait_batch_len(handle)

    def __len__(self) -> int:
        return self._length

    @property
    def fields(self) -> list[str]:
        """The names of the fields."""
        return list(self._names)

    def __contains__(self, field: str) -> bool:
        return field in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def keys(self) -> list[str]:
        """The names of the fields: a batch is a mapping by them."""
        return self.fields

    def values(self) -> list[Column]:
        """The fields themselves, each as `batch[field]` is."""
        return [self[field] for field in self._names]

    def items(self) -> list[tuple[str, Column]]:
        """The fields with their names."""
        return [(field, self[field]) for field in self._names]

    def __getitem__(self, field: str) -> Column:
        """A field: a `Tensor`, or a `Ragged` if it does not come as one array; `isinstance` tells, and the loader's data."""
        if field not in self._names:
            raise KeyError(f"no field {field!r}: there are {', '.join(self._names)}")
        try:
            return cast("Column", Tensor(self, "strait_batch_field_tensor", (self._handle, field.encode())))
        except _abi.errors.OrderError:
            return cast("Column", Ragged(self, field))

    def ragged(self, field: str) -> Ragged:
        """A field sample by sample, also where it comes as one array."""
        return Ragged(self, field)

    @property
    def region(self) -> Tensor:
        """All of the batch's memory as bytes (`u8`, one dimension): what offsets and lengths cut."""
        return Tensor(self, "strait_batch_region_tensor", (self._handle,))

    @property
    def samples(self) -> tuple[int, ...]:
        """The ids of the samples; where samples are windows, the windows' numbers in the epoch."""
        return _abi.u64s(*_abi.strait_batch_samples(self._handle))

    @property
    def epoch(self) -> int:
        """The epoch that the batch belongs to."""
        return _abi.strait_batch_epoch(self._handle)

    @property
    def step(self) -> int:
        """The batch's place among those that this iteration delivers, from 0."""
        return _abi.strait_batch_step(self._handle)

    @property
    def padded(self) -> int:
        """How many samples at the end are padding: repeated, to be masked."""
        return _abi.strait_batch_padded(self._handle)

    @property
    def nbytes(self) -> int:
        """Bytes of all fields of all samples."""
        return _abi.strait_batch_bytes(self._handle)

    def cursor(self) -> str:
        """Where the run stands once every rank has used its batch of this step: JSON for `Loader.resume`."""
        return cursor_json(_abi.strait_batch_cursor, self._handle)

    def origin(self, sample: int) -> tuple[int, int]:
        """The dataset that a sample comes from, by its place in `Dataset.concat`, and its id there."""
        return _abi.strait_batch_origin(self._handle, place(sample, len(self), "sample"))

    @property
    def origins(self) -> list[tuple[int, int]]:
        """The same of all samples."""
        return [self.origin(sample) for sample in range(len(self))]

    @property
    def datasets(self) -> list[tuple[int, int]]:
        """How far each dataset of a mixture is once every rank has used its batch of this step: (epoch, samples consumed
        there). Empty where there is no mixture."""
        found: list[tuple[int, int]] = []
        while True:
            try:
                found.append(_abi.strait_batch_dataset(self._handle, len(found)))
            except _abi.errors.RangeError:
                return found

    def window(self, window: int) -> Window:
        """The pieces of a window of tokens."""
        window = place(window, len(self), "window")
        pieces, tokens, offsets, lengths = _abi.strait_batch_window(self._handle, window)
        places = [_abi.strait_batch_window_piece(self._handle, window, piece) for piece in range(pieces)]
        return Window(
            _abi.u64_view(tokens, pieces + 1, "I"), tuple(place[0] for place in places), tuple(place[1] for place in places),
            _abi.u64_view(offsets, pieces), _abi.u64_view(lengths, pieces),
        )

    def wait(self) -> None:
        """Waits, on the host, until the bytes are there. In host memory they are at once."""
        _abi.strait_batch_wait(self._handle)

    def wait_on(self, stream: int) -> None:
        """Makes a CUDA stream wait until the bytes are there: for `region` by pointer. Tensors do it themselves."""
        _abi.strait_batch_wait_on(self._handle, stream)

    def release(self, stream: int | None = None) -> None:
        """Gives the batch back now, or behind what is on `stream`; arrays of it keep its memory until they are gone too."""
        if stream is not None and self._free.alive:
            _abi.strait_batch_release_on(self._handle, stream)
            self._free.detach()
        self._free()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<strait.Batch of {self._length}: {', '.join(self._names)}>"


class Ragged(Sequence[Any]):
    """One field of all samples, whose sizes differ: a sequence of `Tensor`s, None where a sample lacks the field.

    They have the field's dtype and shape where the format says them, else one dimension of bytes (`u8`).
    """

    __slots__ = ("_batch", "_name", "_key", "_places")

    def __init__(self, batch: Batch, name: str):
        self._batch, self._name, self._key = batch, name, _abi.encoded(name, "field")
        self._places = _abi.strait_batch_field(batch._handle, self._key), len(batch)

    @property
    def offsets(self) -> memoryview:
        """Where each sample's bytes start in `Batch.region`: `u64`, as many as samples."""
        (offsets, _), count = self._live()
        return _abi.u64_view(offsets, count)

    @property
    def lengths(self) -> memoryview:
        """How many bytes each sample has, 2**64 - 1 where it lacks the field: `u64`, as many as samples."""
        (_, lengths), count = self._live()
        return _abi.u64_view(lengths, count)

    def _live(self) -> tuple[tuple[int, int], int]:
        # The arrays go with the batch's handle.
        return _abi.strait_batch_field(self._batch._handle, self._key), self._places[1]

    def __len__(self) -> int:
        return self._places[1]

    def __getitem__(self, sample: Any) -> Any:
        if isinstance(sample, slice):
            return [self[number] for number in range(*sample.indices(len(self)))]
        return self._tensor(sample, 0)

    def arrays(self, framework: str | None) -> list[Any]:
        """Those of all samples as arrays of `"np"` (`numpy.ndarray`), `"pt"` (`torch.Tensor`) or `"jax"`, or with None as
        `Tensor`; None where a sample lacks the field. Of bytes that have no type, NumPy's and PyTorch's are cut from one array,
        which takes a fraction of the time of one by one."""
        chosen = framework_of(framework)
        if chosen not in ("numpy", "torch") or self._batch._names[self._name] is not None:
            return [None if tensor is None else convert(tensor, chosen) for tensor in self]
        region = convert(self._batch.region, chosen)
        return [
            None if length == _abi.UNKNOWN else region[offset:offset + length]
            for offset, length in zip(self.offsets.tolist(), self.lengths.tolist())
        ]

    def raw(self, sample: int) -> Tensor | None:
        """A sample's bytes as a `Tensor` of `u8`, whatever the field's dtype: also where they lie unaligned."""
        return self._tensor(sample, _abi.TENSOR_BYTES)

    def _tensor(self, sample: int, flags: int) -> Tensor | None:
        sample = place(sample, len(self), "sample")
        try:
            return Tensor(self._batch, "strait_batch_sample_tensor", (self._batch._handle, self._key, sample), flags)
        except LookupError as error:
            if isinstance(error, _abi.errors.Error):
                raise
            return None

    def bytes(self, sample: int) -> bytes | None:
        """A copy of a sample's bytes on the host, from whatever device: for labels, texts, and checks."""
        sample = place(sample, len(self), "sample")
        try:
            found = _abi.strait_batch_host_bytes(self._batch._handle, self._key, sample)
        except _abi.errors.ConfigError:
            length = self.lengths[sample]
            target = ctypes.create_string_buffer(length)
            done = _abi.strait_batch_read_back(self._batch._handle, self._key, sample, target, length)
            return target.raw[:done]
        return None if found is _abi.ABSENT else ctypes.string_at(*found)

    def text(self, sample: int) -> str | None:
        """The same as text."""
        data = self.bytes(sample)
        return None if data is None else data.decode()

    def integer(self, sample: int) -> int | None:
        """A sample's value as a whole number: of the field's own type, else decimal text, as WebDataset writes `cls`."""
        value = _abi.strait_batch_integer(self._batch._handle, self._key, place(sample, len(self), "sample"))
        return None if value is _abi.ABSENT else value

    def integers(self) -> list[int | None]:
        """All of them."""
        ask, batch = _abi.strait_batch_integer.unchecked, self._batch._handle
        values = [ask(batch, self._key, sample) for sample in range(len(self))]
        return [None if value is _abi.ABSENT else value for value in values]

    def numbers(self, sample: int) -> list[int] | None:
        """All whole numbers of a sample, where the field is of those of a `tf.train.Example` (`Field.varints`)."""
        data = self.bytes(sample)
        return None if data is None else varints(data)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("torch", "numpy", "jax", "shape", "dtype"):
                raise AttributeError(
                    f"{self._name} has no {name}: its samples differ in size or have no type, so they are no one array; take those "
                    "of each, batch[field][i], or integers() of labels, or say what they are: Loader(array={field: (dtype, shape)})"
                )
            raise AttributeError(f"'Ragged' object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<strait.Ragged {self._name}: {len(self)} samples>"


if TYPE_CHECKING:

    class Column(Tensor, Ragged):
        """What `batch[field]` is to type checkers, which cannot know which of the two comes: what either has."""


def varints(data: bytes) -> list[int]:
    """Signed 64-bit numbers, each 7 bits a byte, the lowest first, with the top bit set in all but its last byte."""
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            value &= _abi.UNKNOWN
            numbers.append(value - 2**64 if value >= 2**63 else value)
            value, shift = 0, 0
        elif shift == 70:
            raise ValueError("the bytes are no varints: one is longer than 10 bytes")
    if shift:
        raise ValueError("the bytes are no varints: the last one has no end")
    return numbers


def place(number: Any, count: int, name: str) -> int:
    """One of `count` places of a batch, from its end if negative."""
    number = _abi.integer(number, name)
    if not -count <= number < count:
        raise IndexError(f"{name} {number} of a batch of {count}")
    return number % count


def cursor_json(call: Any, *handles: int) -> str:
    """The JSON of the cursor that a call gives."""
    with _abi.Handle(_abi.strait_cursor_free) as cursor:
        return json_of(call(*handles, into=(cursor,)))


def json_of(cursor: int) -> str:
    """The JSON of a cursor."""
    return _abi.text(_abi.strait_cursor_json(cursor)[0])
