"""The end of the program, while its arrays are still used."""

import pathlib

import pytest

# Each array is alone in its process: a tensor that DLPack has handed out keeps its batch's memory, and would hide it if
# another one does not.
ARRAY = {
    "numpy": 'a = next(iter(loader))["array"].numpy()',
    "asarray": 'a = np.asarray(next(iter(loader))["array"])',
    "region": 'a = next(iter(loader)).region.numpy()[128:608].view(np.float32)',
    "sample": 'a = next(iter(loader)).ragged("array")[0].numpy()',
    "raw": 'a = next(iter(loader)).ragged("array").raw(0).numpy().view(np.float32)',
    "dlpack": 'a = np.from_dlpack(next(iter(loader))["array"])',
    "copy": 'a = np.from_dlpack(Copies(next(iter(loader))["array"]))',
    "weights": 'a = strait.load_file(sys.argv[2])["b.weight"].numpy()',
}
# Both come after everything that the package does as the program ends.
LATE = {
    "atexit": """
import atexit, os, sys
hold = {}
atexit.register(lambda: os.write(1, hold["a"].tobytes()))
import numpy as np, strait
from conftest import Copies
loader = strait.Loader(sys.argv[1], batch_size=10, device="host", hold=4)
%s
hold["a"] = a
""",
    "sys": """
import os, sys, numpy as np, strait
from conftest import Copies
loader = strait.Loader(sys.argv[1], batch_size=10, device="host", hold=4)
%s
class Late:
    def __del__(self, a=a, write=os.write):
        write(1, a.tobytes())
sys.late = Late()
""",
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("array", ARRAY)
def test_arrays_are_used_at_exit(rows, model, run_python, late, array):
    out = run_python(LATE[late] % ARRAY[array], rows[0], model[0], text=False, cwd=pathlib.Path(__file__).parent)
    wanted = model[1]["b.weight"] if array == "weights" else rows[1][:1 if array in ("sample", "raw") else 10]
    assert out == wanted.tobytes()


def test_exit_in_mid_epoch(rows, run_python):
    program = """
import sys, numpy as np, strait
loader = strait.Loader(sys.argv[1], batch_size=10, device="host", hold=4)
iteration = iter(loader)
first, second = next(iteration), next(iteration)
a, b, capsule = first["array"].numpy(), np.from_dlpack(second["array"]), second["array"].__dlpack__()
print("done")
"""
    assert run_python(program, rows[0]) == "done\n"


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


def test_without_the_gil_it_says_so(run_python):
    program = """
import sys
sys._is_gil_enabled = lambda: False
try:
    import strait
except ImportError as error:
    print(error)
"""
    assert "needs the GIL" in run_python(program) and "-X gil=1" in run_python(program)
