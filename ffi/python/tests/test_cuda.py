"""CUDA, over the repository's stand-in for its driver: `check` builds it. It says nothing about a real GPU."""

import os

import pytest

PROGRAM = """
import ctypes, logging, sys
driver = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import strait
logging.getLogger("strait").setLevel(logging.ERROR)
from strait.tensor import capsules

def _bytes(tensor):
    # Of the host.
    return (ctypes.c_uint8 * tensor.nbytes).from_address(tensor._pointer())

def on_device(tensor):
    # A copy from the device.
    target = ctypes.create_string_buffer(tensor.nbytes)
    strait._abi.strait_tensor_read_back(tensor._arguments[0], target, tensor.nbytes)
    return target.raw

loader = strait.Loader(sys.argv[2], batch_size=100, device="cuda:0")
assert loader.stats()["device"].startswith("cuda:0"), loader.stats()
want = open(sys.argv[2], "rb").read()[-1000 * 48:]
for batch in loader:
    tensor = batch["array"]
    assert tensor.__dlpack_device__() == (2, 0) and tensor.shape == (100, 3, 4)
    interface = tensor.__cuda_array_interface__
    assert interface["stream"] == 1 and interface["shape"] == (100, 3, 4) and interface["data"][0] > 0, interface
    assert not hasattr(tensor, "__array_interface__")
    for refused, stream in ((ValueError, 0),):
        try:
            tensor.__dlpack__(stream=stream)
        except refused:
            pass
        else:
            raise AssertionError("stream 0 was taken")
    for stream in (None, 1, 2, -1):
        assert "dltensor" in repr(tensor.__dlpack__(stream=stream, max_version=(1, 0)))
    capsules.sweep()
    try:
        tensor.numpy()
    except BufferError:
        pass
    else:
        raise AssertionError("NumPy took memory of a GPU")
    ragged = batch.ragged("array")
    for place, sample in enumerate(batch.samples):
        assert ragged.bytes(place) == want[48 * sample:48 * sample + 48]
    batch.release(stream=1)
assert not capsules.waiting
del batch, ragged, tensor
loader.close()
tensors = strait.load_file(sys.argv[3], device="cuda")
assert all(tensor.__dlpack_device__() == (2, 0) for tensor in tensors.values())
# From the device to a file, with an array of the host among them; and into memory of the device that is there.
class Foreign:
    def __init__(self, tensor):
        self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__
path, host = sys.argv[3] + ".copy", strait.load_file(sys.argv[3])
strait.save_file({name: host[name] if name == "half" else tensor for name, tensor in tensors.items()}, path)
back = strait.load_file(path)
assert {name: bytes(_bytes(tensor)) for name, tensor in host.items()} == {name: bytes(_bytes(back[name])) for name in host}
cube = tensors["cube"]
assert on_device(cube) == bytes(_bytes(host["cube"]))
blank = bytearray(open(path, "rb").read())
at = strait.Checkpoint(path).extent("cube")
blank[at[1]:at[1] + at[2]] = bytes(at[2])
open(path, "wb").write(blank)
half = Foreign(host["half"])
wait, waits = strait._abi.strait_tensor_wait, []
strait._abi.strait_tensor_wait = lambda handle: (waits.append(handle), wait(handle))
strait.load_into(path, {"cube": Foreign(cube), "half": half})
assert len(waits) == 2, "a device got what it did not ask for"
assert on_device(cube) == bytes(at[2]) and strait.weights._lent == {}
del tensors, host, back, cube, half
capsules.sweep()
assert strait._abi.strait_handles_live() <= 2
text = ctypes.create_string_buffer(4096)
driver.fakecuda_misuse.restype, driver.fakecuda_misuse.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]
print(text.raw[:driver.fakecuda_misuse(text, 4096)].decode() or "no misuse")
"""


def test_the_stand_in(rows, model, run_python):
    driver = os.environ.get("STRAIT_FAKECUDA") or pytest.skip("STRAIT_FAKECUDA does not name the stand-in for the driver")
    assert run_python(PROGRAM, driver, rows[0], model[0]) == "no misuse\n"


PINNED = """
import ctypes, logging, sys
driver = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import strait
logging.getLogger("strait").setLevel(logging.ERROR)

pinned = strait.Device.pinned_host("cuda:0")
assert "pinned for cuda:0" in pinned.name and pinned.__dlpack_device__() == (3, 0), pinned
loader = strait.Loader(sys.argv[2], batch_size=100, device=pinned)
want = open(sys.argv[2], "rb").read()[-1000 * 48:]
for number, batch in enumerate(loader):
    tensor = batch["array"]
    assert tensor.__dlpack_device__() == (3, 0)
    address = tensor.__array_interface__["data"][0]
    assert bytes((ctypes.c_uint8 * tensor.nbytes).from_address(address)) == want[number * 4800:][:4800]
print("pinned", number + 1)
"""


def test_host_memory_that_a_device_has_pinned(rows, run_python):
    fake = os.environ.get("STRAIT_FAKECUDA")
    if not fake:
        pytest.skip("STRAIT_FAKECUDA does not name the stand-in")
    assert run_python(PINNED, fake, rows[0]) == "pinned 10\n"
