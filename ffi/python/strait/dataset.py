"""What exists on disk: shards, samples, fields."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Iterable, NamedTuple, NoReturn, Union

from . import _abi

Path = Union[str, bytes, "os.PathLike[str]"]


class Shard(NamedTuple):
    """One file of a dataset."""

    path: str
    bytes: int
    samples: int


class Field(NamedTuple):
    """A named part of samples. `dtype` (`"u16"`), `shape` and `fixed_bytes` are None where they are not known, or differ.
    `text`: the format says that it is UTF-8. `varints`: whole numbers of a `tf.train.Example`, see `Ragged.numbers`."""

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    fixed_bytes: int | None
    text: bool = False
    varints: bool = False


class Extent(NamedTuple):
    """Where a field of a sample lies: number of the shard, first byte, bytes."""

    shard: int
    offset: int
    bytes: int


class Sidecars(NamedTuple):
    """Which shards' indexes came from sidecars (`strait index`): how many are used, how many of these have checksums, how many
    are stale or damaged, and why the first of them is not used."""

    used: int
    checksums: int
    unusable: int
    why: str | None


class Dataset(_abi.Owned):
    """Shards and the place of every sample. It does not change, holds no file open, and pickles as its arguments;
    of these the child of a fork opens it again when it uses it.

    Args:
        paths: shards, or directories: those stand for the files in them, sorted by name.
        format: reads the files as this format (`"webdataset"`), whatever they look like.
        record_bytes: the size of the records of raw files.
        dtype: the type of the elements in files that do not say it (headerless tokens): `"u16"`, `"uint16"`, `numpy.uint16`.
        index_dir: the directory of sidecar indexes, if they are not beside their shards.
        examples: whether TFRecords are `tf.train.Example`s. Default: what the first one is.
        verify: reads the shards whole and compares the checksums that their format has.
    """

    __slots__ = ("_arguments", "_opened", "_forks")

    def __init__(
        self, paths: Path | Iterable[Path], *, format: str | None = None, record_bytes: int | None = None,
        dtype: str | None = None, index_dir: Path | None = None, examples: bool | None = None, verify: bool = False,
    ):
        one = isinstance(paths, (str, bytes, os.PathLike))
        many: Any = [paths] if one else paths
        encoded = [path_for_c(path) for path in many]
        options: dict[str, Any] = dict(format=format, record_bytes=record_bytes, dtype=dtype, index_dir=index_dir,
                                       examples=examples, verify=verify)
        self._arguments: tuple[Any, Any] = encoded, options
        builder = _abi.strait_dataset_builder_new()
        try:
            for path in encoded:
                _abi.strait_dataset_builder_add_path(builder, path)
            for name, value in options.items():
                if value is not None:
                    value = path_for_c(value) if name == "index_dir" else dtype_for_c(value) if name == "dtype" else value
                    value = value.encode() if isinstance(value, str) else value
                    getattr(_abi, f"strait_dataset_builder_{name}")(builder, value)
            handle = _abi.strait_dataset_builder_build(builder)
        finally:
            _abi.strait_dataset_builder_free(builder)
        self._own(handle, _abi.strait_dataset_free)

    @classmethod
    def concat(cls, datasets: Iterable[Dataset]) -> Dataset:
        """Joins datasets to one, whose sample ids count through them: what `Loader(mixture=...)` mixes."""
        datasets = list(datasets)
        self = cls.__new__(cls)
        self._arguments = (datasets, None)
        handles = (ctypes.c_void_p * len(datasets))(*[dataset._handle for dataset in datasets])
        self._own(_abi.strait_dataset_concat(handles, len(datasets)), _abi.strait_dataset_free)
        return self

    @property
    def _handle(self) -> int:
        if self._forks != _abi.forks:
            again = _remake(*self._arguments)
            again._free.detach()
            self._own(again._opened, _abi.strait_dataset_free)
        return self._opened

    @_handle.setter
    def _handle(self, handle: int) -> None:
        self._opened, self._forks = handle, _abi.forks

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, self._arguments

    def __len__(self) -> int:
        return _abi.strait_dataset_len(self._handle)

    def __getitem__(self, sample: Any) -> NoReturn:
        raise TypeError("a strait.Dataset says where samples lie, and reads none: strait.Loader(dataset) hands out batches of them")

    @property
    def format(self) -> str:
        """The format's name: `"records"`, `"webdataset"`; `"mixed"` where different ones are joined."""
        return _abi.text(_abi.strait_dataset_format(self._handle))

    @property
    def shards(self) -> list[Shard]:
        """All shards, in order."""
        count = _abi.strait_dataset_shards(self._handle)
        rows = (_abi.strait_dataset_shard(self._handle, shard) for shard in range(count))
        return [Shard(os.fsdecode(path), size, samples) for path, size, samples in rows]

    @property
    def fields(self) -> dict[str, Field]:
        """All fields that samples may have, by name."""
        return {field.name: field for field in map(self._field, range(_abi.strait_dataset_fields(self._handle)))}

    def _field(self, number: int) -> Field:
        name, dtype, fixed = _abi.strait_dataset_field(self._handle, number)
        shape = _abi.strait_dataset_field_shape(self._handle, number)
        return Field(
            _abi.text(name),
            None if dtype is None else dtype.decode(),
            None if shape is _abi.ABSENT else _abi.u64s(*shape),
            None if fixed == _abi.UNKNOWN else fixed,
            *_abi.strait_dataset_field_encoding(self._handle, number),
        )

    @property
    def parts(self) -> list[int]:
        """The number of samples of each dataset that was joined, by which `Batch.origin` counts; else its own."""
        parts: list[int] = []
        while True:
            try:
                parts.append(_abi.strait_dataset_part(self._handle, len(parts)))
            except _abi.errors.RangeError:
                return parts

    @property
    def sidecars(self) -> Sidecars:
        """Which shards' indexes came from sidecars."""
        used, checksums, unusable, why = _abi.strait_dataset_sidecars(self._handle)
        return Sidecars(used, checksums, unusable, None if why is None else _abi.text(why))

    @property
    def largest_sample(self) -> int:
        """The bytes of the largest sample, all fields together. Takes a pass over the index, unless sidecars say it."""
        return _abi.strait_dataset_largest_sample(self._handle)

    def extent(self, sample: int, field: str) -> Extent | None:
        """Where a field of a sample lies; None if the sample lacks it."""
        names = list(self.fields)
        if field not in names:
            raise KeyError(f"no field {field!r}: there are {', '.join(names)}")
        extent = _abi.strait_dataset_extent(self._handle, sample, names.index(field))
        return None if extent is _abi.ABSENT else Extent(*extent)

    def __repr__(self) -> str:
        return f"<strait.Dataset {self.format}: {len(self)} samples, fields {', '.join(self.fields)}>"


def path_for_c(path: Any) -> bytes:
    """A path for C, where a text ends with its first NUL."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"no path has a NUL in it: {path!r}")
    return encoded


def dtype_for_c(dtype: Any) -> bytes:
    """The name of a type here, `"i64"`, of that name or of what NumPy or PyTorch call it: `"int64"`, `torch.int64`."""
    name = str(getattr(dtype, "__name__", dtype)).rpartition(".")[2]
    for theirs, own in (("bfloat", "bf"), ("float", "f"), ("uint", "u"), ("int", "i")):
        if name.startswith(theirs):
            name = own + name.removeprefix(theirs)
            break
    return name.encode()


def text_for_c(text: str) -> bytes:
    """The same of a name."""
    if "\0" in text:
        raise ValueError(f"no name or text has a NUL in it: {text!r}")
    return text.encode()


def _remake(paths: Any, options: Any) -> Dataset:
    return Dataset.concat(paths) if options is None else Dataset(paths, **options)
