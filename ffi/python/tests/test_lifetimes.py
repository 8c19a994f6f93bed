"""Who keeps what, and that nothing is kept for ever."""

import gc
import itertools
import sys
import threading
import types

import numpy as np
import pytest

import strait
from conftest import Copies
from strait import _abi
from strait.loader import Wait
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


def test_all_samples_arrays_keep_their_memory(pictures):
    path, samples = pictures
    loader, kept = strait.Loader(path, batch_size=5, device="host", hold=2, prefetch=2), []
    for batch in loader:
        kept = kept or list(zip(batch["jpg"].arrays("np"), batch.samples))[1:2]
        batch.release()
    loader.close()
    [(array, sample)] = kept
    assert array.tobytes() == samples[sample]["jpg"]


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


def resident():
    """Bytes of this process that are in memory and no file's: pages of the program come and go as the kernel likes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))


def test_no_leak_over_10000_batches(tmp_path):
    np.arange(10_000, dtype=np.uint8).tofile(tmp_path / "r.bin")
    loader = strait.Loader(strait.Dataset(tmp_path / "r.bin", format="records", record_bytes=1), batch_size=1, device="host")
    before = None
    for count, batch in enumerate(loader):
        ragged = batch.ragged("record")
        value = np.from_dlpack(ragged[0])
        assert value[0] == np.from_dlpack(Copies(ragged[0]))[0] == ragged[0].numpy()[0] == count % 256
        batch.region.__dlpack__()
        assert isinstance(batch.cursor(), str) and len(ragged.offsets) == 1
        if before is None:
            before = _abi.strait_handles_live()
        # At most the batch of the last step besides this one, which its array keeps.
        assert _abi.strait_handles_live() <= before + 1
        if count == 2_000:
            at_first = resident()
    assert count == 9_999 and len(capsules.waiting) <= 1
    # A leak of 100 bytes a batch is 800 kB.
    assert resident() - at_first < 600_000


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
    assert not capsules.waiting


def test_a_consumer_that_refuses_leaves_its_own_error(model):
    tensor = strait.load_file(model[0])["brain"]
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(tensor)
    capsules.sweep()
    assert not capsules.waiting


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


def test_a_capsule_is_consumed_while_others_look_for_unused_ones(rows, monkeypatch):
    """The consumer comes between the questions that are asked of a capsule: the tensor is its own, and is not deleted."""
    tensor = next(iter(strait.Loader(rows[0], batch_size=10, device="host")))["array"]
    taken, deleted = [], []

    class Source:
        def __init__(self):
            self.capsule = tensor.__dlpack__()

        def __dlpack__(self, **_):
            capsule, self.capsule = self.capsule, None
            return capsule

        def __dlpack_device__(self):
            return 1, 0

    source = Source()

    def between(question):
        def asked(*arguments):
            answer = question(*arguments)
            del arguments
            if source.capsule is not None:
                taken.append(np.from_dlpack(source))
            return answer

        return asked

    for name in ("_references", "_capsule_is"):
        monkeypatch.setattr(strait.dlpack, name, between(getattr(strait.dlpack, name)))
    monkeypatch.setattr(strait.dlpack, "_delete", lambda kind, address: deleted.append(address))
    capsules.sweep()
    capsules.sweep()
    assert len(taken) == 1 and deleted == [] and not capsules.waiting


def test_threads_take_tensors_at_once(rows):
    tensor = next(iter(strait.Loader(rows[0], batch_size=100, device="host")))["array"]
    interval, wrong = sys.getswitchinterval(), []
    sys.setswitchinterval(1e-7)

    def work():
        for _ in range(1_000):
            tensor.__dlpack__()
            if not np.array_equal(np.from_dlpack(tensor), rows[1][:100]):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    capsules.sweep()
    assert wrong == [] and not capsules.waiting


def test_batches_in_reference_cycles_come_back(rows):
    """As saved exceptions and hooks make them. The loop itself makes too little garbage for Python to look for any."""
    loader = strait.Loader(rows[0], batch_size=100, device="host", hold=1, prefetch=1, deadline_ms=10_000)
    gc.disable()
    try:
        for batch in loader:
            cycle = [batch["array"].numpy()]
            cycle.append(cycle)
    finally:
        gc.enable()
    assert batch.step == 9


@pytest.mark.parametrize("seconds, pause", [(0.1, 2.0), (2.0, 10.0)])
def test_looking_for_reference_cycles_in_vain_costs_a_twentieth_of_a_core(monkeypatch, seconds, pause):
    """As where a slow disk is waited for, and memory was short before; more than that where the deadline wants it sooner.
    Red where each wait looks, where only the first does, and where the pause outlasts the deadline."""
    clock, waits, looks = [0.0], itertools.count(1), []

    def collect():
        looks.append(clock[0])
        clock[0] += seconds

    slow = types.SimpleNamespace(_cycles=False, _starved=0, _look_at=0.0, _pause_max=10.0)
    slow.stats = lambda: {"waits_for_region": next(waits)}
    monkeypatch.setattr("strait.loader.gc", types.SimpleNamespace(collect=collect))
    monkeypatch.setattr("strait.loader.time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    for _ in range(1000):
        wait = Wait(slow)
        for _ in range(2):
            clock[0] += 0.1
            wait.more()
    apart = [later - look for look, later in zip(looks, looks[1:])]
    assert len(apart) > 10 and pause < min(apart) and max(apart) < pause + seconds + 0.5, apart


def test_batches_that_are_held_are_no_garbage_and_the_error_says_so(rows):
    loader = strait.Loader(rows[0], batch_size=100, device="host", hold=1, prefetch=1, deadline_ms=2_000)
    iteration = iter(loader)
    held = [next(iteration), next(iteration)]
    with pytest.raises(strait.errors.TimeoutError, match="holds 2 of 2.*arrays keep their batches.*gc.collect") as error:
        next(iteration)
    assert str(error.value) == error.value.message == error.value.args[0]
    del held


def test_other_threads_run_while_one_waits(rows):
    """What the call waits for is done by another thread, during that very call. Else it ends without a batch."""
    loader = strait.Loader(rows[0], batch_size=10, device="host", hold=1, prefetch=1, deadline_ms=60_000)
    iteration, go = iter(loader), threading.Event()
    held = [next(iteration), next(iteration)]

    def work():
        go.wait()
        held.pop().release()

    thread, interval = threading.Thread(target=work), sys.getswitchinterval()
    thread.start()
    # From here on the other thread runs only if this one lets it.
    sys.setswitchinterval(1_000)
    try:
        go.set()
        handle = _abi.strait_loader_next(loader._handle, 5_000)
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert handle is not _abi.PENDING
    assert _abi.strait_batch_step(handle) == 2
    _abi.strait_batch_free(handle)
