"""What is saved is what the safetensors package reads, and what was given; loads into arrays that are there."""

import ctypes
import gc
import json

import numpy as np
import pytest

import strait
from strait import weights
from strait.numpy import save_file as save_numpy


@pytest.fixture
def arrays():
    """Arrays of many types and shapes, also such as lie otherwise."""
    rng = np.random.default_rng(7)
    plain = {
        "b.weight": rng.random((8, 6), dtype=np.float32), "ids": np.arange(7, dtype=np.int64), "half": rng.random(9).astype(np.float16),
        "mask": np.array([True, False]), "scalar": np.array(2.5), "empty": np.zeros((0, 3), np.int16), "u": np.arange(5, dtype=np.uint8),
    }
    cube = np.arange(60, dtype=np.int32).reshape(3, 4, 5)
    return plain | {
        "turned": cube.T, "stepped": cube[:, ::2], "swapped": np.arange(4, dtype=">f8"), "number": np.float32(1.5),
    }


def test_save_file(arrays, tmp_path):
    path = tmp_path / "out.safetensors"
    saved = strait.save_file(arrays, path, {"format": "np", "made by": "a test"})
    assert saved.files == [str(path)] and saved.index is None and saved.manifest is None and saved.bytes == path.stat().st_size
    safetensors = pytest.importorskip("safetensors", reason="the safetensors package is not installed")
    with safetensors.safe_open(str(path), framework="np") as theirs:
        assert theirs.metadata() == {"format": "np", "made by": "a test"}
        assert set(theirs.keys()) == set(arrays)
        for name, array in arrays.items():
            found = theirs.get_tensor(name)
            assert found.shape == np.shape(array) and np.array_equal(found, array), name
            assert found.dtype == array.dtype.newbyteorder("="), name
    ours = strait.numpy.load_file(path)
    assert all(np.array_equal(ours[name], array) for name, array in arrays.items())


def test_shards_and_digests(arrays, tmp_path):
    path = tmp_path / "model.safetensors"
    saved = save_numpy(arrays, path, shard_bytes_max=200, digests="sha256", per="tensor", block_bytes=65536, ring="pread")
    assert len(saved.files) > 1 and saved.index == str(path) + ".index.json" and saved.ring == "pread"
    assert set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]) == set(arrays)
    (tmp_path / "manifest.json").write_text(saved.manifest)
    checkpoint = strait.Checkpoint(tmp_path)
    assert sorted(checkpoint.files) == sorted(saved.files)
    loaded = dict(checkpoint.load("host", verify=tmp_path / "manifest.json"))
    assert all(np.array_equal(tensor.numpy(), arrays[name]) for name, tensor in loaded.items())
    file, offset, size = checkpoint.extent("ids")
    data = bytearray(open(checkpoint.files[file], "rb").read())
    assert data[offset:offset + size] == arrays["ids"].tobytes()
    data[offset] ^= 1
    open(checkpoint.files[file], "wb").write(data)
    with pytest.raises(strait.errors.CorruptError, match="ids"):
        list(strait.Checkpoint(tmp_path).load("host", verify=tmp_path / "manifest.json"))


def test_a_save_that_fails_leaves_what_was_there(arrays, tmp_path):
    path = tmp_path / "out.safetensors"
    strait.save_file({"a": arrays["ids"]}, path)
    before = path.read_bytes()
    for wrong, error, match in [
        ({"__metadata__": arrays["ids"]}, strait.errors.ConfigError, "itself"),
        ({"a": [1, 2]}, TypeError, "list"),
        ({"a": np.array(["x"])}, TypeError, "does not know"),
    ]:
        with pytest.raises(error, match=match):
            strait.save_file(wrong, path)
    with pytest.raises(TypeError, match="speed"):
        strait.save_file({"a": arrays["ids"]}, path, speed=1)
    with pytest.raises(strait.errors.NotFoundError, match="crc32c"):
        strait.save_file({"a": arrays["ids"]}, path, digests="md5")
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["out.safetensors"]


class Interface:
    """An array of nobody's, by its interface alone."""

    def __init__(self, array):
        self.array, self.__array_interface__ = array, array.__array_interface__


class Foreign:
    """The same by DLPack alone."""

    def __init__(self, array, legacy=False):
        self.array, self.legacy = array, legacy

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **versions):
        if self.legacy and versions:
            raise TypeError("knows of no versions")
        return self.array.__dlpack__(**versions)


def test_anything_with_dlpack_or_an_interface(tmp_path, model, rows):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    batch = next(iter(strait.Loader(rows[0], batch_size=8, device="host")))
    kinds = {
        "interface": Interface(array), "stepped": Interface(array[:, ::2]), "dlpack": Foreign(array), "legacy": Foreign(array, True),
        "batch": batch["array"], "brain": strait.load_file(model[0])["brain"],
    }
    strait.save_file(kinds, tmp_path / "kinds.safetensors")
    found = strait.load_file(tmp_path / "kinds.safetensors")
    assert found["brain"].dtype == "bf16" and found["brain"].shape == (3, 4)
    for name in ("interface", "dlpack", "legacy"):
        assert np.array_equal(found[name].numpy(), array), name
    assert np.array_equal(found["stepped"].numpy(), array[:, ::2])
    assert np.array_equal(found["batch"].numpy(), rows[1][list(batch.samples)])
    with pytest.raises(ValueError, match="contiguous"):
        strait.save_file({"a": Foreign(array.T)}, tmp_path / "kinds.safetensors")


def test_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file as theirs
    from strait.torch import save_file

    types = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.bool, torch.float16]
    tensors = {str(dtype): torch.randint(0, 2, (3, 5)).to(dtype) for dtype in types}
    tensors["parameter"] = torch.nn.Parameter(torch.randn(4, 4))
    save_file(tensors, tmp_path / "t.safetensors", metadata={"format": "pt"})
    found = theirs(str(tmp_path / "t.safetensors"))
    assert found.keys() == tensors.keys()
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    strait.load_into(tmp_path / "t.safetensors", targets)
    for name, tensor in tensors.items():
        wanted = tensor.detach().reshape(-1).view(torch.uint8)
        assert found[name].dtype == tensor.dtype and torch.equal(found[name].reshape(-1).view(torch.uint8), wanted), name
        assert torch.equal(targets[name].detach().reshape(-1).view(torch.uint8), wanted), name
    with pytest.raises(ValueError, match="contiguous"):
        save_file({"a": tensors["parameter"].T}, tmp_path / "t.safetensors")


def test_bf16_of_numpy(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    array = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(2, 3)
    strait.save_file({"a": array, "t": array.T}, tmp_path / "b.safetensors")
    found = strait.load_file(tmp_path / "b.safetensors")
    assert found["a"].dtype == "bf16" and found["a"].numpy().tobytes() == array.tobytes()
    assert found["t"].shape == (3, 2) and found["t"].numpy().tobytes() == np.ascontiguousarray(array.T).tobytes()


def test_jax(tmp_path):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    values = {"a": jax.numpy.arange(6.0).reshape(2, 3), "b": jax.numpy.ones((4,), jax.numpy.bfloat16)}
    strait.save_file(values, tmp_path / "j.safetensors")
    found = strait.load_file(tmp_path / "j.safetensors")
    assert np.array_equal(found["a"].numpy(), np.asarray(values["a"])) and found["b"].dtype == "bf16"


def test_load_into(model):
    path, arrays, _ = model
    targets = {name: np.full_like(array, 1) for name, array in arrays.items() if name != "ids"}
    strait.load_into(path, targets)
    assert all(np.array_equal(target, arrays[name]) for name, target in targets.items())
    assert weights._lent == {}
    # Foreign memory: what is around it stays as it is.
    memory = (ctypes.c_uint8 * 4096)()
    view = np.frombuffer(memory, np.int64, 7, 64)
    strait.Checkpoint(path).load_into({"ids": Interface(view)}, ring="pread")
    assert list(view) == list(range(7)) and not any(memory[:64]) and not any(memory[64 + 56:])


def test_load_into_what_does_not_fit(model):
    path, arrays, _ = model
    cube = np.zeros((3, 4, 5), np.int32)
    locked = cube.copy()
    locked.flags.writeable = False
    for wrong, error, match in [
        ({"cube": cube.astype(np.int64)}, ValueError, "i32.*i64"), ({"cube": cube.reshape(12, 5)}, ValueError, r"\[12, 5\]"),
        ({"cube": locked}, ValueError, "read-only"), ({"cube": cube.T.copy().T}, ValueError, "dense"),
        ({"none": cube}, KeyError, "none"), ({"scalar": np.float32(0)}, ValueError, "read-only"),
        ({"cube": strait.load_file(path)["cube"]}, ValueError, "read-only"),
    ]:
        with pytest.raises(error, match=match):
            strait.load_into(path, wrong)
    with pytest.raises(TypeError, match="start"):
        strait.load_into(path, {"cube": cube}, start=1)
    strait.load_into(path, {})
    assert weights._lent == {} and not cube.any()


def test_what_a_load_may_write_to_is_kept_until_it_may_not(model):
    """A file that was cut short in the meantime: the load fails, and lets the arrays go."""
    path, arrays, _ = model
    checkpoint = strait.Checkpoint(path)
    path.write_bytes(path.read_bytes()[:-40])
    targets = {name: np.empty_like(array) for name, array in arrays.items()}
    with pytest.raises(strait.Error):
        checkpoint.load_into(targets)
    gc.collect()
    assert weights._lent == {}
