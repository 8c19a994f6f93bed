"""Errors are exceptions that go anywhere: to other processes, and through those who make them anew."""

import copy
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import pytest

import strait
from strait import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)]
FIELDS = ("status", "code", "message", "errno", "device_code", "path", "offset", "sample")


def same(again, error):
    return type(again) is type(error) and all(getattr(again, field) == getattr(error, field) for field in FIELDS)


@pytest.mark.parametrize("status", errors.STATUSES)
def test_errors_pickle_with_their_fields(status):
    error = errors.make(status, "what", errno=2, device_code=700, path="/a/b", offset=2**63, sample=4)
    assert str(error) == "what" and error.status == status and error.code == errors.STATUSES[status]
    for again in (*(pickle.loads(pickle.dumps(error, protocol)) for protocol in range(6)), copy.copy(error), copy.deepcopy(error)):
        assert same(again, error) and str(again) == "what" and again.args == ("what",)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_made_of_a_text_alone(kind):
    """As the parent of a PyTorch worker makes them: type(error)(text)."""
    for error in (kind("Caught it in worker 0"), kind(message="Caught it in worker 0")):
        assert str(error) == error.message == "Caught it in worker 0" and "Caught it" in repr(error)
        assert error.code == errors.STATUSES[error.status] and [getattr(error, field) for field in FIELDS[3:]] == [None] * 5
        assert same(pickle.loads(pickle.dumps(error)), error)
    # PyTorch calls those with a class's text for their message otherwise.
    assert str(kind()) == kind.message == ""


def test_the_class_says_its_code():
    assert (errors.ConfigError.code, errors.MissingError.code, errors.MemoryError.code) == ("CONFIG", "OPEN", "MEMORY")
    assert errors.Error.code == "OTHER" and errors.make(10, "a ring").code == "RING"


def test_an_error_of_the_library_pickles(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        strait.Dataset(tmp_path / "none")
    again = pickle.loads(pickle.dumps(missing.value))
    assert same(again, missing.value) and again.errno == 2 and again.path == str(tmp_path / "none")


def test_a_worker_of_pytorch_tells_its_error(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return len(strait.Dataset(tmp_path / "none"))

    with pytest.raises(errors.MissingError, match="cannot open"):
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))


def test_sources_without_the_library_say_how_to_install(tmp_path):
    package = pathlib.Path(strait.__file__).parent
    shutil.copytree(package, tmp_path / "strait", ignore=shutil.ignore_patterns("*.so"))
    environment = {name: value for name, value in os.environ.items() if name != "STRAIT_LIBRARY"}
    for more, says in (({}, True), ({"STRAIT_LIBRARY": "/nowhere.so"}, False)):
        done = subprocess.run([sys.executable, "-c", "import strait"], cwd=tmp_path, env=environment | more, capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 1 and "STRAIT_LIBRARY names another" in done.stderr
        assert ("pip install ./ffi/python" in done.stderr) == says, done.stderr
