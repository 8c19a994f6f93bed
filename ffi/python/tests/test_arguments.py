"""Arguments that are no such: an error that names them, never another value."""

import numpy as np
import pytest

import strait
from strait import _abi

NUMBERS = {
    "batch_size": 64, "seed": 64, "prefetch": 64, "hold": 64, "block_bytes": 64, "gap_bytes": 64, "align_bytes": 64,
    "reads_in_flight": 64, "bytes_in_flight": 64, "pinned_bytes_max": 64, "region_bytes_max": 64, "region_bytes": 64,
    "open_files_max": 64, "deadline_ms": 64, "pack": 64,
}


def load(rows, **options):
    with strait.Loader(rows[0], device="host", **options) as loader:
        return len(loader)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_a_loader(rows, name):
    for number in (-1, 2**NUMBERS[name], 2**NUMBERS[name] + 5, -2**64 + 7):
        with pytest.raises(ValueError, match=f"{name}.* is from 0 to {2**NUMBERS[name] - 1}, not {number}"):
            load(rows, **{name: number})
    for wrong in ("3", 3.0, True, [3], object()):
        with pytest.raises(TypeError, match=f"{name}.* is a whole number, not"):
            load(rows, **{name: wrong})


def test_numbers_of_numpy(rows):
    assert load(rows, batch_size=np.int64(10)) == load(rows, batch_size=np.uint8(10)) == 100
    loader = strait.Loader(rows[0], device="host")
    loader.set_epoch(np.int32(3))
    assert loader.epoch == 3 and next(iter(loader)).epoch == 3


@pytest.mark.parametrize("options, error, text", [
    ({"rank": 0}, TypeError, "rank and world go together"),
    ({"world": 2}, TypeError, "rank and world go together"),
    ({"rank": 0, "world": 2**32 + 1}, ValueError, "world is from 0"),
    ({"rank": -1, "world": 2}, ValueError, "rank is from 0"),
    ({"rank": 2, "world": 2}, ValueError, "rank 2 of world 2"),
    ({"rank_from_env": "no"}, TypeError, "rank_from_env is True or False"),
    ({"fields": "array"}, TypeError, "fields is a list"),
    ({"fields": [3]}, TypeError, "one of fields is a text, not 3"),
    ({"tensors": 5}, TypeError, "tensors is a list"),
    ({"on_host": ["array\0"]}, ValueError, "one of on_host has a NUL"),
    ({"array": [("array", "f32")]}, TypeError, "array is a dict"),
    ({"array": {"array": "f32"}}, TypeError, r"array: array is \(dtype, shape\)"),
    ({"array": {"array": ("f32", 12)}}, TypeError, "array: array: shape is a list"),
    ({"array": {"array": ("f32", (2**64 + 12,))}}, ValueError, "shape is from 0"),
    ({"array": {"array": (3, (12,))}}, KeyError, "3.* is none of"),
    ({"dtype": "f32"}, TypeError, r"dtype of a loader is .* strait.Dataset\(paths, dtype='f32'\)"),
    ({"scale": {"array": "f16"}}, TypeError, "scale: array is"),
    ({"scale": {"array": ("f16",)}}, ValueError, r"scale: array is \(dtype, factor\)"),
    ({"scale": {"array": ("f16", "2")}}, TypeError, "factor is a number, not '2'"),
    ({"scale": {"array": ("f16", 2, 1, 0)}}, ValueError, r"scale: array is \(dtype, factor, bias\)"),
    ({"tokens": "tokens"}, TypeError, r"tokens is \(field, item_bytes\)"),
    ({"tokens": ("array", 2**64 + 4)}, ValueError, "item_bytes is from 0"),
    ({"windows": 5}, TypeError, r"windows is \(tokens, stride\)"),
    ({"windows": (4,)}, ValueError, r"windows is \(tokens, stride\)"),
    ({"budget": 3}, TypeError, "budget is a dict"),
    ({"budget": {"samples_max": 4}}, TypeError, "budget has samples_max, cost_max"),
    ({"budget": {"samples_max": 4, "cost_max": 1, "most": 3}}, TypeError, "budget has .*most"),
    ({"budget": {"samples_max": 4, "cost_max": 1, "padded": "yes"}}, TypeError, "padded is True or False"),
    ({"shuffle": 7}, TypeError, "shuffle is True, False, .* not 7"),
    ({"shuffle": (1,)}, ValueError, "shuffle is"),
    ({"shuffle": (4096, -1)}, ValueError, "window is from 0"),
    ({"policy": 3}, TypeError, "policy is a text"),
    ({"ring": "pread\0"}, ValueError, "ring has a NUL"),
    ({"verify": True}, TypeError, "verify is a text"),
    ({"bad_samples": "skip"}, ValueError, "bad_samples is"),
    ({"bad_samples": (1,)}, ValueError, r"bad_samples is \(budget, consecutive\)"),
    ({"bad_samples": (2**32, 1)}, ValueError, "budget is from 0"),
    ({"mixture": 3}, TypeError, "mixture is a list"),
    ({"mixture": [2**32 + 1]}, ValueError, "one of mixture is from 0"),
    ({"mixture_positions": 5}, TypeError, "mixture_positions goes with mixture"),
    ({"batchsize": 3}, TypeError, "argument 'batchsize'"),
])
def test_options_of_a_loader(rows, options, error, text):
    with pytest.raises(error, match=text):
        load(rows, **options)


def test_options_that_are_none_keep_their_defaults(rows):
    assert load(rows, batch_size=None, seed=None, rank=None, world=None, shuffle=None, fields=None) == 4


def test_other_calls(rows):
    dataset = strait.Dataset(rows[0])
    for number in (2**64, -1):
        with pytest.raises(ValueError, match="sample is from 0"):
            dataset.extent(number, "array")
    for wrong, error, text in (({"record_bytes": 2**64 + 4}, ValueError, "record_bytes is from 0"),
                               ({"verify": 2}, TypeError, "verify is True or False"), ({"format": 3}, TypeError, "format is a text")):
        with pytest.raises(error, match=text):
            strait.Dataset(rows[0], **wrong)
    with pytest.raises(ValueError, match="NUL"):
        strait.Dataset(f"{rows[0]}\0.npy")
    for device in (2**32, np.uint64(2**33)):
        with pytest.raises(ValueError, match="ordinal is from 0"):
            strait.Device(device)
    for device in (-1, True, 1.0, None):
        with pytest.raises(ValueError, match="is no device"):
            strait.Device(device)


def test_habits_of_other_loaders(pictures, rows):
    """What comes naturally and is otherwise here: the message says how."""
    dataset = strait.Dataset(rows[0])
    for call in (lambda: dataset[0], lambda: list(dataset)):
        with pytest.raises(TypeError, match=r"strait.Loader\(dataset\)"):
            call()
    for path, text in (("s3://bucket/a.tar", "reads files"), ("a-{00..99}.tar", "patterns"), ("~/a.tar", "shell")):
        with pytest.raises(FileNotFoundError, match=text):
            strait.Dataset(path)
    [batch] = strait.Loader(pictures[0], batch_size=60, device="host")
    for name in ("torch", "numpy", "shape"):
        assert not hasattr(batch["cls"], name)
        with pytest.raises(AttributeError, match=f"cls has no {name}: .*integers"):
            getattr(batch["cls"], name)
    with pytest.raises(AttributeError, match="has no attribute 'torsh'"):
        batch["cls"].torsh
    with pytest.raises(ValueError, match="mps.*move"):
        strait.Device("mps")
    with pytest.raises(ValueError, match="tf.*DLPack"):
        strait.load_file("x.safetensors", framework="tf")


def test_epochs_and_states(rows):
    loader = strait.Loader(rows[0], device="host")
    for epoch in (2**64, -1):
        with pytest.raises(ValueError, match="epoch is from 0"):
            loader.set_epoch(epoch)
    for epoch in ("a", 1.5, None, True):
        with pytest.raises(TypeError, match="epoch is a whole number"):
            loader.set_epoch(epoch)
    assert loader.epoch == 0
    for state in (None, {}, 3, "x", {"strait": 1}, {"strait": 1, "cursor": None}, {"strait": 2, "cursor": ""}):
        with pytest.raises(ValueError, match="not a state_dict"):
            loader.load_state_dict(state)
    with pytest.raises(TypeError, match="cursor is a text"):
        loader.resume(3)
    with pytest.raises(TypeError, match="allow_changed is True or False"):
        loader.resume(loader.state_dict()["cursor"], "no")


def test_places_in_a_batch(rows):
    batch = next(iter(strait.Loader(rows[0], batch_size=8, device="host")))
    ragged = batch.ragged("array")
    calls = [batch.origin, batch.window, ragged.__getitem__, ragged.raw, ragged.bytes, ragged.integer]
    for call in calls:
        for number in (8, -9, 2**64, 2**64 + 1, -2**70):
            with pytest.raises(IndexError, match="of a batch of 8"):
                call(number)
        for wrong in ("a", None, 1.0, True):
            with pytest.raises(TypeError, match="is a whole number"):
                call(wrong)
    assert batch.origin(-1) == (0, 7) and batch.origin(np.int64(1)) == (0, 1)
    with pytest.raises(TypeError, match="field is a text"):
        batch.ragged(3)
    for call in (batch.wait_on, batch.release):
        with pytest.raises(ValueError, match="stream is from"):
            call(2**63)
    with pytest.raises(TypeError, match="Loader"):
        strait.Batch()


def test_every_number_of_the_header_is_checked():
    """For each function: a number that does not fit is named, before anything is called."""
    count = 0
    for name, (_, parameters) in _abi.FUNCTIONS.items():
        kinds = parameters.split()
        if kinds[-1:] != ["*p"]:
            continue
        inputs = [kind for kind in kinds if kind[0] != "*"]
        for at, kind in enumerate(inputs):
            if kind[0] in "iIqQz":
                values = [None if other[0] in "ps" else False if other[0] == "b" else 0 for other in inputs]
                for wrong in (2**64, -2**63 - 1):
                    values[at] = wrong
                    with pytest.raises(ValueError, match=f"{kind[2:]} is from"):
                        getattr(_abi, name)(*values)
                    count += 1
    assert count > 150
