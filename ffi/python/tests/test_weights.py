"""Checkpoints are what the safetensors package makes of them."""

import pickle

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


def test_options_are_those_of_loads(model):
    # `start` and `free` are functions of a load's builder, and no options.
    for name in ("start", "free", "name", "new", "skip"):
        for load in (strait.load_file, strait.Checkpoint(model[0]).load):
            arguments = (model[0],) if load is strait.load_file else ("host",)
            with pytest.raises(TypeError):
                load(*arguments, **{name: 1})
    with pytest.raises(TypeError, match="no option start; it has ring, path, deadline_ms"):
        strait.load_file(model[0], start=1)
    assert "cube" in strait.load_file(model[0], ring="pread", block_bytes=1 << 20, deadline_ms=60_000)


def test_names_with_a_nul_are_refused_and_not_cut(tmp_path, model):
    path = tmp_path / "nul.safetensors"
    path.write_bytes(safetensors_bytes({"a\0b": ("U8", [1], b"x"), "a": ("U8", [1], b"y")}))
    with pytest.raises(strait.errors.FormatError, match="a.*0b.*NUL") as caught:
        strait.load_file(path)
    assert caught.value.path == str(path)
    checkpoint = strait.Checkpoint(model[0])
    for call in (
        lambda: strait.load_file(str(model[0]) + "\0x"), lambda: strait.Dataset("x\0y"), lambda: checkpoint.shape("cube\0"),
        lambda: list(checkpoint.load("host", names=["cube\0x"])), lambda: list(checkpoint.load("host", matching="cube\0x")),
        lambda: list(checkpoint.load("host", slices={"cube\0": (0, 0, 1)})), lambda: strait.load_file(model[0], ring="auto\0"),
        lambda: strait.save_file({"a\0b": np.zeros(1)}, tmp_path / "x"),
        lambda: strait.save_file({"a": np.zeros(1)}, tmp_path / "x", {"k\0": "v"}),
        lambda: strait.save_file({"a": np.zeros(1)}, str(tmp_path / "x") + "\0"),
    ):
        with pytest.raises(ValueError, match="NUL"):
            call()


def test_errors_are_those_of_the_safetensors_package_too(model, tmp_path, run_python):
    safetensors = pytest.importorskip("safetensors", reason="the safetensors package is not installed")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    opened = strait.safe_open(model[0], "np")
    for call, own in (
        (lambda: strait.safe_open(tmp_path / "bad.safetensors", "np"), strait.errors.FormatError),
        (lambda: strait.load_file(tmp_path / "bad.safetensors"), strait.errors.FormatError),
        (lambda: opened.get_tensor("nope"), strait.errors.NotFoundError), (lambda: opened.get_slice("nope"), KeyError),
        (lambda: opened.get_slice("cube")[3], IndexError),
    ):
        with pytest.raises(safetensors.SafetensorError) as caught:
            call()
        assert isinstance(caught.value, own), caught.value
    with pytest.raises(safetensors.SafetensorError) as caught:
        strait.safe_open(tmp_path / "bad.safetensors", "np")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is strait.errors.FormatError and (again.status, again.path) == (caught.value.status, caught.value.path)
    with pytest.raises(FileNotFoundError) as caught:
        strait.safe_open(tmp_path / "none", "np")
    assert not isinstance(caught.value, safetensors.SafetensorError)
    opened.__exit__()
    with pytest.raises(safetensors.SafetensorError):
        opened.keys()
    # Nobody imports that package for it.
    program = """
import sys, strait
try:
    strait.load_file(sys.argv[1])
except strait.errors.FormatError as error:
    print(type(error).__mro__[1].__name__, "safetensors" in sys.modules)
"""
    assert run_python(program, tmp_path / "bad.safetensors") == "Error False\n"


FANCY = ["[[0, 2]]", "[np.array([0, 2])]", "[None]", "[True]", "[..., None]", "[None, 1]", "[..., ...]", "[:, [3, 0]]", "[-1, ..., -1]",
         "[np.int64(1)]", "[()]", "[1.0]", "['a']", "[:, :, :, 0]", "[3]"]


def test_slices_for_torch_are_what_the_safetensors_package_makes_of_them(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    safetensors = pytest.importorskip("safetensors", reason="the safetensors package is not installed")
    with safetensors.safe_open(str(model[0]), "pt") as theirs, strait.safe_open(model[0], "pt") as ours:
        for form in FANCY:
            def taken(opened):
                try:
                    return eval(f"opened.get_slice('cube'){form}", {"opened": opened, "np": np})
                except (IndexError, TypeError) as error:
                    return type(error).__name__

            mine, other = taken(ours), taken(theirs)
            if isinstance(other, torch.Tensor):
                assert isinstance(mine, torch.Tensor) and torch.equal(mine, other), form
            else:
                assert mine == other, form


def test_slices_of_the_whole_for_numpy(model):
    with strait.safe_open(model[0], "np") as opened:
        for index in ([0, 2], np.array([0, 2]), (None, 1), (slice(None), [3, 0]), model[1]["cube"] > 30):
            assert np.array_equal(opened.get_slice("cube")[index], model[1]["cube"][index]), index
        assert np.array_equal(opened.get_slice("cube")[True], model[1]["cube"][1])  # as theirs


def test_bytes_in_memory(model):
    from strait.numpy import load, save

    arrays = model[1]
    data = save(arrays, {"k": "v"})
    found = load(data)
    assert found.keys() == arrays.keys() and all(np.array_equal(found[name], array) for name, array in arrays.items())
    safetensors = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    assert all(np.array_equal(safetensors.load(data)[name], array) for name, array in arrays.items())
    assert load(safetensors.save(arrays)).keys() == arrays.keys()
    with pytest.raises(strait.Error):
        load(data[:-1])


def test_models_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = pytest.importorskip("safetensors.torch", reason="the safetensors package is not installed")
    import strait.torch

    def model(seed):
        torch.manual_seed(seed)
        made = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        made[1].weight = made[0].weight
        return made

    for save in (strait.torch.save_model, theirs.save_model):
        for load in (strait.torch.load_model, theirs.load_model):
            path, source, target = str(tmp_path / "model.safetensors"), model(1), model(2)
            save(source, path)
            with strait.safe_open(path, "pt") as opened:
                assert "0.weight" in opened.keys() and "1.weight" not in opened.keys()
                assert opened.metadata()["1.weight"] == "0.weight"
            missing, unexpected = load(target, path)
            assert not list(missing) and not list(unexpected)
            assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))
            assert target[1].weight is target[0].weight
    other = torch.nn.Linear(4, 4)
    with pytest.raises(RuntimeError, match="missing: bias, weight.*unexpected: 0.bias"):
        strait.torch.load_model(other, path)
    missing, unexpected = strait.torch.load_model(other, path, strict=False)
    assert sorted(missing) == ["bias", "weight"] and "0.bias" in unexpected
