"""Shards on disk whose bytes the tests know."""

import gc
import io
import json
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import strait
from strait import _abi


@pytest.fixture(autouse=True)
def nothing_left():
    """Every handle that a test made has been given back when it is over."""
    gc.collect()
    before = _abi.strait_handles_live()
    yield
    gc.collect()
    strait.tensor.capsules.sweep()
    assert _abi.strait_handles_live() <= before, "handles were not given back"


@pytest.fixture
def rows(tmp_path):
    """1000 rows of f32 [3, 4] as an .npy file, and their values."""
    values = np.random.default_rng(1).random((1000, 3, 4), dtype=np.float32)
    np.save(tmp_path / "rows.npy", values)
    return tmp_path / "rows.npy", values


@pytest.fixture
def pictures(tmp_path):
    """A WebDataset shard of 60 samples: jpg of odd sizes, cls, and json in every third; their bytes."""
    rng, samples = np.random.default_rng(2), []
    with tarfile.open(tmp_path / "train-0000.tar", "w") as tar:
        for number in range(60):
            sample = {"jpg": rng.bytes(int(rng.integers(1, 9000))), "cls": str(number % 7).encode()}
            if number % 3 == 0:
                sample["json"] = json.dumps({"n": number}).encode()
            for name, data in sample.items():
                member = tarfile.TarInfo(f"{number:05}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            samples.append(sample)
    return tmp_path / "train-0000.tar", samples


@pytest.fixture
def tokens(tmp_path):
    """A headerless file of 10,000 u16 tokens that count up."""
    values = np.arange(10_000, dtype=np.uint16)
    (tmp_path / "tokens.bin").write_bytes(values.tobytes())
    return tmp_path / "tokens.bin", values


def safetensors_bytes(tensors, metadata=None):
    """A safetensors file by hand: {name: (dtype, shape, bytes)}."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def model(tmp_path):
    """A checkpoint of several types, and its arrays (those of bf16 and f8 as bytes)."""
    rng = np.random.default_rng(3)
    arrays = {
        "b.weight": rng.random((8, 6), dtype=np.float32), "a.bias": rng.random(5), "ids": np.arange(7, dtype=np.int64),
        "mask": np.array([True, False, True]), "scalar": np.array(2.5, np.float32), "half": rng.random(9).astype(np.float16),
        "cube": np.arange(60, dtype=np.int32).reshape(3, 4, 5),
    }
    names = {"float32": "F32", "float64": "F64", "int64": "I64", "bool": "BOOL", "float16": "F16", "int32": "I32"}
    tensors = {name: (names[str(a.dtype)], list(a.shape), a.tobytes()) for name, a in arrays.items()}
    raw = rng.bytes(24)
    tensors["brain"] = ("BF16", [3, 4], raw)
    tensors["eight"] = ("F8_E4M3", [12], raw[:12])
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(tensors, {"format": "pt", "made": "by hand"}))
    return path, arrays, {"brain": raw, "eight": raw[:12]}


class Copies:
    """A tensor that gives copies alone: older NumPys do not ask for them. Of the version that is asked for, or the legacy one."""

    def __init__(self, tensor, legacy=False):
        self.tensor, self.legacy = tensor, legacy

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, *, stream=None, max_version=None, **_):
        return self.tensor.__dlpack__(stream=stream, max_version=None if self.legacy else max_version, copy=True)


@pytest.fixture
def run_python():
    """Runs a program in a fresh interpreter; what it prints."""

    def run(program, *arguments, quiet=True, text=True, **options):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=text, timeout=60, **options)
        assert done.returncode == 0, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        assert not done.stderr or not quiet, done.stderr
        return done.stdout

    return run
