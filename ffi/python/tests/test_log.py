"""What the library says arrives in Python's logging."""

import logging
import os
import threading

import numpy as np
import pytest

import strait

LAUNCHER = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture
def told(caplog):
    """The messages of the logger "strait" so far, of all levels."""
    caplog.set_level(logging.DEBUG, logger="strait")
    return lambda text: [record for record in caplog.records if text in record.getMessage()]


def test_warnings(rows, told, monkeypatch):
    for name, value in LAUNCHER.items():
        monkeypatch.setenv(name, value)
    strait.Loader(rows[0], device="host").close()
    [record] = told("rank 1 of 4")
    assert record.levelno == logging.WARNING and record.name.startswith("strait.") and record.thread == threading.get_ident()
    strait.Loader(rows[0], 10, device="host", rank_from_env=True).close()
    assert len(told("rank 1 of 4")) == 1


def test_engines_say_what_they_leave_out(tmp_path, told):
    np.zeros(400 * 4096, np.uint8).tofile(tmp_path / "r.bin")
    dataset = strait.Dataset(tmp_path / "r.bin", format="records", record_bytes=4096)
    loader = strait.Loader(dataset, batch_size=4, device="host", hold=1, prefetch=1, bad_samples=(9, 9))
    samples = 0
    for batch in loader:
        if batch.step == 0:
            os.truncate(tmp_path / "r.bin", 399 * 4096)
        samples += len(batch)
        batch.release()
    assert samples == 399 and loader.stats()["bad_samples"] == [399]
    loader.close()
    [record] = told("399 cannot be read")
    assert record.levelno == logging.WARNING and record.thread != threading.get_ident()


def test_levels_are_those_of_logging(rows, run_python):
    program = """
import logging, os, sys, strait
os.environ.update({launcher})
{setting}
strait.Loader(sys.argv[1], device="host").close()
print("done")
"""
    quiet = program.format(launcher=LAUNCHER, setting='logging.getLogger("strait").setLevel(logging.ERROR)')
    assert run_python(quiet, rows[0]) == "done\n"
    redirected = program.format(launcher=LAUNCHER, setting="logging.basicConfig(stream=sys.stdout, format='%(levelname)s %(message)s')")
    assert "WARNING this is rank 1 of 4" in run_python(redirected, rows[0])


def test_a_forked_child_goes_on_saying(rows, run_python):
    program = """
import logging, os, sys, strait
logging.basicConfig(stream=sys.stdout, format="%(message)s")
strait.Loader(sys.argv[1], device="host").close()
sys.stdout.flush()
child = os.fork()
if child == 0:
    os.environ.update({launcher})
    strait.Loader(sys.argv[1], device="host").close()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
"""
    assert run_python(program.format(launcher=LAUNCHER), rows[0]).count("this is rank 1 of 4") == 1


def test_engines_that_talk_until_the_end(rows, run_python):
    """The interpreter ends while threads of Python make loaders that warn."""
    program = """
import os, sys, threading, time, strait
os.environ.update({launcher})
def work():
    while True:
        strait.Loader(sys.argv[1], device="host", hold=1, prefetch=1).close()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("done")
"""
    assert run_python(program.format(launcher=LAUNCHER), rows[0], quiet=False) == "done\n"
