"""Who keeps what, and that nothing is kept for ever."""

import gc
import itertools
import threading

import numpy as np
import pytest

import strait
from strait import _abi
from strait.tensor import capsules


def test_arrays_outlive_tensor_batch_and_loader(rows):
    loader = strait.Loader(rows[0], batch_size=100, device="host", hold=4)
    batches = list(itertools.islice(loader, 3))
    wanted = [rows[1][list(batch.samples)] for batch in batches]
    arrays = [batches[0]["array"].numpy(), np.from_dlpack(batches[1]["array"]), np.asarray(batches[2].region)]
    batches[0].release()
    batches[1].release()
    loader.close()
    del loader, batches
    gc.collect()
    assert np.array_equal(arrays[0], wanted[0]) and np.array_equal(arrays[1], wanted[1])
    assert len(arrays[2]) >= wanted[2].nbytes


@pytest.mark.parametrize("make", [strait.Tensor.numpy, np.asarray, np.from_dlpack])
def test_memory_is_not_filled_again_under_an_array(rows, make):
    loader = strait.Loader(rows[0], batch_size=10, device="host", hold=2, prefetch=2)
    iteration = iter(loader)
    batch = next(iteration)
    kept, wanted = make(batch["array"]), rows[1][list(batch.samples)]
    for batch in iteration:
        batch.release()
    gc.collect()
    for batch in loader:
        batch.release()
        assert np.array_equal(kept, wanted)


@pytest.mark.parametrize("make", [strait.Tensor.numpy, np.asarray, np.from_dlpack])
def test_an_array_keeps_a_batch_that_was_released(rows, make):
    loader = strait.Loader(rows[0], batch_size=10, device="host", hold=2, prefetch=2)
    iteration = iter(loader)
    batch = next(iteration)
    kept, wanted = make(batch["array"]), rows[1][list(batch.samples)]
    batch.release()
    for batch in iteration:
        batch.release()
        assert np.array_equal(kept, wanted)


def test_no_leak_over_10000_batches(tmp_path):
    np.arange(10_000, dtype=np.uint8).tofile(tmp_path / "r.bin")
    loader = strait.Loader(strait.Dataset(tmp_path / "r.bin", format="records", record_bytes=1), batch_size=1, device="host")
    before = None
    for count, batch in enumerate(loader):
        value = np.from_dlpack(batch.ragged("record")[0])
        assert value[0] == count % 256
        if before is None:
            before = _abi.strait_handles_live()
        # At most the batch of the last step besides this one, which its array keeps.
        assert _abi.strait_handles_live() <= before + 1
    assert count == 9_999 and len(capsules.waiting) <= 1


def test_a_capsule_that_nobody_takes_is_deleted(rows):
    loader = strait.Loader(rows[0], batch_size=100, device="host", hold=1)
    iteration = iter(loader)
    for batch in iteration:
        batch["array"].__dlpack__()
        kept = batch["array"].__dlpack__(max_version=(1, 0))
        batch.release()
        capsules.sweep()
        # The one that is still referred to may be taken.
        assert len(capsules.waiting) == 1
        del kept
    capsules.sweep()
    assert capsules.waiting == []


def test_a_consumer_that_refuses_leaves_its_own_error(model):
    tensor = strait.load_file(model[0])["brain"]
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(tensor)
    capsules.sweep()
    assert capsules.waiting == []


def test_freed_objects_say_so(rows):
    loader = strait.Loader(rows[0], batch_size=100, device="host")
    batch = next(iter(loader))
    tensor = batch["array"]
    batch.release()
    batch.release()
    with pytest.raises(strait.errors.HandleError, match="freed"):
        batch["array"]
    with pytest.raises(strait.errors.HandleError, match="freed"):
        tensor.numpy()
    loader.close()
    with pytest.raises(strait.errors.HandleError, match="freed"):
        len(loader)


def test_threads_share_an_iteration(rows):
    loader = strait.Loader(rows[0], batch_size=10, device="host", hold=8)
    iteration, seen, failures = iter(loader), [], []

    def work():
        try:
            for batch in iteration:
                assert np.array_equal(batch["array"].numpy(), rows[1][list(batch.samples)])
                loader.stats()
                seen.extend(batch.samples)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and sorted(seen) == list(range(1000))


def test_interpreter_exit_in_mid_epoch(rows, run_python):
    program = """
import sys, numpy as np, strait
loader = strait.Loader(sys.argv[1], batch_size=10, device="host", hold=4)
iteration = iter(loader)
first, second = next(iteration), next(iteration)
a, b, capsule = first["array"].numpy(), np.from_dlpack(second["array"]), second["array"].__dlpack__()
class Late:
    def __del__(self, a=a):
        assert a[0, 0, 0] == float(sys.argv[2])
sys.late = Late()
print("done")
"""
    assert run_python(program, rows[0], float(rows[1][0, 0, 0])) == "done\n"


def test_exit_while_a_thread_waits(rows, run_python):
    program = """
import sys, threading, strait
loader = strait.Loader(sys.argv[1], batch_size=10, device="host", hold=1)
iteration = iter(loader)
batch, asked = next(iteration), threading.Event()
def work():
    asked.set()
    next(iteration)
threading.Thread(target=work, daemon=True).start()
asked.wait()
print("done")
"""
    # The thread is told that the loader is gone, and may have the time to say so.
    assert run_python(program, rows[0], quiet=False) == "done\n"
