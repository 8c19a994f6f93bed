"""Checkpoints are what the safetensors package makes of them."""

import numpy as np
import pytest

import strait
from conftest import safetensors_bytes


def test_load_file(model):
    path, arrays, raw = model
    loaded = strait.load_file(path)
    assert list(loaded) == list(arrays) + list(raw)
    for name, array in arrays.items():
        found = loaded[name].numpy()
        assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)
    assert (loaded["brain"].dtype, loaded["brain"].shape, loaded["brain"].nbytes) == ("bf16", (3, 4), 24)
    assert loaded["eight"].dtype == "f8_e4m3"


def test_numbers_that_numpy_lacks(model):
    tensor = strait.load_file(model[0])["brain"]
    try:
        import ml_dtypes
    except ImportError:
        with pytest.raises(TypeError, match="install ml_dtypes"):
            tensor.numpy()
    else:
        array = tensor.numpy()
        assert array.dtype == ml_dtypes.bfloat16 and array.shape == (3, 4) and array.tobytes() == model[2]["brain"]


def test_checkpoint(model):
    checkpoint = strait.Checkpoint(model[0])
    assert checkpoint.shape("cube") == (3, 4, 5) and checkpoint.dtype("brain") == "bf16" and "cube" in checkpoint
    assert dict(checkpoint.load("host", matching="*.weight")).keys() == {"b.weight"}
    [(name, part)] = checkpoint.load("host", names=["cube"], slices={"cube": (1, 1, 3)})
    assert name == "cube" and np.array_equal(part.numpy(), model[1]["cube"][:, 1:3])
    with pytest.raises(KeyError, match="nothing"):
        checkpoint.shape("nothing")


def test_tensors_outlive_their_load(model):
    load = strait.Checkpoint(model[0]).load("host")
    arrays = {name: tensor.numpy() for name, tensor in load if name in model[1]}
    del load
    assert all(np.array_equal(arrays[name], array) for name, array in model[1].items())


INDICES = [
    np.s_[:], np.s_[1:3], np.s_[2], np.s_[-1], np.s_[:, 1:], np.s_[:, :, 2], np.s_[0, :, 1:4], np.s_[..., 3], np.s_[::2],
    np.s_[1:3, ::2, -2:], np.s_[1:1], np.s_[...],
]


def test_safe_open_is_a_drop_in(model):
    safetensors = pytest.importorskip("safetensors", reason="the safetensors package is not installed")
    with safetensors.safe_open(str(model[0]), framework="np") as theirs, \
            strait.safe_open(str(model[0]), framework="np", device="cpu") as ours:
        assert sorted(ours.keys()) == sorted(theirs.keys()) and ours.metadata() == theirs.metadata()
        assert list(ours.keys()) == list(theirs.keys())
        if hasattr(theirs, "offset_keys"):
            assert ours.offset_keys() == theirs.offset_keys()
        for name in model[1]:
            mine, other = ours.get_tensor(name), theirs.get_tensor(name)
            assert mine.dtype == other.dtype and mine.shape == other.shape and np.array_equal(mine, other)
        for name in [*model[1], *model[2]]:
            mine, other = ours.get_slice(name), theirs.get_slice(name)
            assert mine.get_shape() == other.get_shape() and mine.get_dtype() == other.get_dtype()
        for index in INDICES:
            mine = ours.get_slice("cube")[index]
            assert np.array_equal(mine, model[1]["cube"][index]), index
            if any(isinstance(part, slice) and part.step for part in np.index_exp[index]):
                continue  # older ones of theirs ignore steps
            try:
                other = theirs.get_slice("cube")[index]
            except Exception:  # it takes fewer kinds
                continue
            assert mine.shape == other.shape and np.array_equal(mine, other), index
    with pytest.raises(ValueError):
        ours.keys()


def test_single_tensors_in_order_are_few_loads(tmp_path, monkeypatch):
    arrays = {f"t{number:03}": np.full(100, number, np.float32) for number in range(100)}
    strait.save_file(arrays, tmp_path / "many.safetensors")
    loads, load = [], strait.Checkpoint.load
    monkeypatch.setattr(strait.Checkpoint, "load", lambda self, *a, **k: loads.append(k["names"]) or load(self, *a, **k))
    with strait.safe_open(tmp_path / "many.safetensors", framework="np") as opened:
        taken = 0
        for name in opened.keys():
            before = len(loads)
            array = opened.get_tensor(name)
            assert np.array_equal(array, arrays[name])
            # No more ahead than was taken.
            assert len(loads) == before or len(loads[-1]) <= max(1, taken + 1)
            taken += 1
        assert len(loads) < 10 and sorted(sum(loads, [])) == sorted(arrays)
        loads.clear()
        for name in sorted(arrays, reverse=True):
            assert np.array_equal(opened.get_tensor(name), arrays[name])
        assert loads == [[name] for name in sorted(arrays, reverse=True)]
        array[:] = 0  # each is its own
        assert np.array_equal(opened.get_tensor("t099"), arrays["t099"])


def test_errors(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        strait.safe_open(tmp_path / "none.safetensors", framework="np")
    with strait.safe_open(model[0], framework="np") as opened:
        with pytest.raises(KeyError):
            opened.get_tensor("nothing")
        with pytest.raises(IndexError):
            opened.get_slice("cube")[3]
    with pytest.raises(ValueError, match="framework"):
        strait.load_file(model[0], framework="fortran")
    (tmp_path / "cut.safetensors").write_bytes(model[0].read_bytes()[:-1])
    with pytest.raises(strait.Error):
        strait.load_file(tmp_path / "cut.safetensors")


def test_torch(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file as theirs
    from strait.torch import load_file as ours

    mine, other = ours(model[0], device=torch.device("cpu")), theirs(str(model[0]))
    assert mine.keys() == other.keys()
    for name, tensor in other.items():
        found = mine[name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
        assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_numpy_module(model):
    from strait.numpy import load_file

    path = model[0].with_name("plain.safetensors")
    path.write_bytes(safetensors_bytes({"a": ("F32", [2], b"\0\0\x80\x3f" * 2)}))
    assert load_file(path)["a"].tolist() == [1.0, 1.0]
