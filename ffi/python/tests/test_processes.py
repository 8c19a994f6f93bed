"""Signals, forks, and processes of their own."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

import strait


def sleeps(pid):
    """Whether the main thread of a process is waiting for something."""
    with open(f"/proc/{pid}/task/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"


def test_interrupt_while_waiting(rows):
    # Two batches are all that may be held: the third does not come before the deadline of a minute.
    program = """
import sys, strait
loader = strait.Loader(sys.argv[1], batch_size=10, device="host", hold=1, prefetch=1, deadline_ms=60000)
iteration = iter(loader)
held = [next(iteration), next(iteration)]
try:
    print("waiting", flush=True)
    next(iteration)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(rows[0])], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "waiting\n"
    asleep = 0
    while asleep < 5:
        asleep = asleep + 1 if sleeps(child.pid) else 0
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    try:
        out, _ = child.communicate(timeout=20)
    finally:
        child.kill()
    assert (out, child.returncode) == ("interrupted\n", 0)


def test_fork_is_a_clear_error_and_children_make_their_own(rows):
    loader = strait.Loader(rows[0], batch_size=100, device="host")
    iteration = iter(loader)
    batch = next(iteration)
    array = batch["array"].numpy()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"no error"
        try:
            next(iteration)
        except strait.errors.HandleError as error:
            answer = str(error).encode()
        try:
            del array, batch
            own = strait.Loader(rows[0], batch_size=100, device="host")
            answer += b" | own: %d" % sum(len(batch) for batch in own)
        finally:
            os.write(write, answer)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        answer = answers.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    assert "fork" in answer and answer.endswith("| own: 1000"), answer
    assert sum(len(batch) for batch in iteration) == 900 and len(array) == 100


def killed_by(question):
    """What ends the child of a fork that asks: None if it comes to an answer, which is True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if question() else 1)
        finally:
            os._exit(2)
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else os.WEXITSTATUS(status) or None


def test_children_have_loaded_tensors(tmp_path):
    # As servers load first, and fork then.
    import numpy as np

    arrays = {"w": np.arange(1 << 20, dtype=np.float32), "b": np.ones(3, np.float32)}
    path = tmp_path / "m.safetensors"
    strait.save_file(arrays, path)
    with strait.safe_open(path, framework="np") as opened:
        one, part = opened.get_tensor("w"), opened.get_slice("w")[5:1000]
    loaded = strait.load_file(path, framework="np")
    load = strait.Checkpoint(path).load("host")
    first, tensor = next(load)
    early = tensor.numpy()
    del load  # left before its end, or at it
    for question in (
        lambda: np.array_equal(loaded["w"], arrays["w"]) and np.array_equal(loaded["b"], arrays["b"]),
        lambda: np.array_equal(one, arrays["w"]), lambda: np.array_equal(part, arrays["w"][5:1000]),
        lambda: np.array_equal(early, arrays[first]),
    ):
        assert killed_by(question) is None
    # What the child changes or gives back is its own.
    assert killed_by(lambda: loaded["w"].fill(7) or loaded.clear() or True) is None
    assert np.array_equal(loaded["w"], arrays["w"])


def test_children_open_datasets_again(rows, pictures):
    # As workers of PyTorch use those of a map-style dataset.
    dataset, other = strait.Dataset(rows[0]), strait.Dataset(pictures[0], format="webdataset")
    both = strait.Dataset.concat([dataset, other])

    def question():
        first = len(dataset) == 1000 and dataset.extent(3, "array") is not None and other.format == "webdataset"
        assert killed_by(lambda: len(other) == 60) is None
        with strait.Loader(dataset, batch_size=100, device="host") as loader:
            return first and len(both) == 1060 and sum(len(batch) for batch in loader) == 1000

    assert killed_by(question) is None
    assert len(both) == 1060 and dataset.extent(3, "array") is not None
    pictures[0].unlink()

    def gone():
        try:
            return len(other) < 0
        except strait.errors.MissingError:
            return True

    assert killed_by(gone) is None


def test_torch_workers_have_loaded_tensors(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import strait.torch

    weights = {"w": torch.arange(1 << 20)}
    strait.torch.save_file(weights, tmp_path / "m.safetensors")
    loaded = strait.torch.load_file(tmp_path / "m.safetensors")
    # A sum of torch's own would wait for threads that a child does not have.
    assert killed_by(lambda: loaded["w"][12345].item() == 12345 and loaded["w"][-1].item() == (1 << 20) - 1) is None


def samples_of(dataset, rank):
    """Run in a process of its own: the samples of a rank."""
    loader = strait.Loader(dataset, batch_size=10, device="host", rank=rank, world=2, shuffle=True)
    return [sample for batch in loader for sample in batch.samples]


def test_spawn(rows):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = pool.starmap(samples_of, [(strait.Dataset(rows[0]), 0), (strait.Dataset(rows[0]), 1)])
    assert sorted(parts[0] + parts[1]) == list(range(1000)) and len(parts[0]) == len(parts[1])


def test_loaders_do_not_pickle(rows):
    import pickle

    with pytest.raises(TypeError, match="pass the dataset"):
        pickle.dumps(strait.Loader(rows[0], device="host"))


def test_frameworks_are_not_imported_unasked(rows, run_python):
    program = """
import sys, strait
for batch in strait.Loader(sys.argv[1], batch_size=100, device="host"):
    batch["array"].shape, batch.ragged("array").offsets
print([name for name in ("numpy", "torch", "jax") if name in sys.modules])
"""
    assert run_python(program, rows[0]) == "[]\n"
