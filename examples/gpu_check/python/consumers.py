"""Those who take strait's arrays by DLPack, each on slow streams of its own, and look at the values long after they have given
the arrays back."""

import ctypes
import mmap

import numpy

CYCLES = 20_000_000  # of a GPU's clock: about 10 ms


class Unfenced:
    """An array that is waited for and given back on no stream, whatever the consumer says: what a program must not do."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, *, max_version=None, **_):
        return self.tensor.__dlpack__(stream=-1, max_version=max_version)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class Torch:
    """PyTorch, on side streams and the default one; on a CPU without streams."""

    def __init__(self, torch, device, streams):
        self.torch, self.pending, self.turn = torch, [], 0
        self.device = torch.device(device)
        self.streams = [None] * streams
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            self.streams = [torch.cuda.Stream() for _ in range(streams)] or [torch.cuda.default_stream()]
        self.streams = self.streams or [None]

    def take(self, tensor, key, fenced=True):
        stream = self.streams[self.turn % len(self.streams)]
        self.turn += 1
        source = tensor if fenced else Unfenced(tensor)
        if stream is None:
            self.pending.append((self.torch.from_dlpack(source).clone(), key))
            return
        with self.torch.cuda.stream(stream):
            array = self.torch.from_dlpack(source)
            assert array.device == self.device, f"{array.device} is not {self.device}"
            self.torch.cuda._sleep(CYCLES)
            self.pending.append((array.clone(), key))
            del array

    def values(self):
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
        pending, self.pending = self.pending, []
        for array, key in pending:
            yield array.cpu().contiguous().view(self.torch.uint8).numpy().reshape(-1), key


class Cupy:
    """CuPy, on streams that do not wait for the default one."""

    SPIN = 'extern "C" __global__ void spin(long long n) { long long t = clock64(); while (clock64() - t < n) {} }'

    def __init__(self, cupy, device, streams):
        self.cupy, self.pending, self.turn = cupy, [], 0
        cupy.cuda.Device(device).use()
        self.streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(streams)] or [cupy.cuda.Stream.null]
        try:
            self.spin = cupy.RawKernel(self.SPIN, "spin")
            self.spin((1,), (1,), (numpy.int64(1),))
        except Exception as error:  # noqa: BLE001
            print(f"no kernel of our own ({error}): copies keep the streams busy")
            self.spin, self.ballast = None, [cupy.zeros(256 << 20, cupy.uint8) for _ in range(2)]

    def take(self, tensor, key, fenced=True):
        stream = self.streams[self.turn % len(self.streams)]
        self.turn += 1
        with stream:
            array = self.cupy.from_dlpack(tensor if fenced else Unfenced(tensor))
            if self.spin:
                self.spin((1,), (1,), (numpy.int64(CYCLES),))
            else:
                for _ in range(40):
                    self.ballast[0][...] = self.ballast[1]
            self.pending.append((array.copy(), key))
            del array

    def values(self):
        for stream in self.streams:
            stream.synchronize()
        pending, self.pending = self.pending, []
        for array, key in pending:
            yield array.get().reshape(-1).view(numpy.uint8), key


class Driver:
    """The driver itself, without a framework: the one consumer that the stand-in can have too."""

    ROOM = 32 << 20
    # Memory that stays registered must stay mapped: what is mapped there next would pass for it.
    landings = []

    def __init__(self, library, device, streams):
        from strait.tensor import _Versioned

        self.kind = _Versioned
        self.library = ctypes.CDLL(library or "libcuda.so.1")
        self.is_stand_in = hasattr(self.library, "fakecuda_late")
        self.turn, self.pending, self.used, self.streams = 0, [], 0, []
        handle = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), device)
        self.call("cuCtxPushCurrent_v2", handle)
        for _ in range(streams):
            stream = ctypes.c_void_p()
            self.call("cuStreamCreate", ctypes.byref(stream), 1)
            self.streams.append(stream.value)
            if self.is_stand_in:
                self.library.fakecuda_late(ctypes.c_size_t(stream.value), ctypes.c_uint64(10_000))
        self.landing = mmap.mmap(-1, self.ROOM)
        self.landings.append(self.landing)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.landing))
        self.call("cuMemHostRegister_v2", ctypes.c_void_p(self.base), ctypes.c_size_t(self.ROOM), 0)
        self.ballast = ctypes.c_uint64()
        self.ballast_bytes = 64 << 20
        self.call("cuMemAlloc_v2", ctypes.byref(self.ballast), ctypes.c_size_t(2 * self.ballast_bytes))

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with {code}")

    def take(self, tensor, key, fenced=True):
        """As a framework does: makes a capsule its own, starts work on the array, and calls the deleter at once."""
        stream = self.streams[self.turn % len(self.streams)]
        self.turn += 1
        capsule = tensor.__dlpack__(stream=stream if fenced else -1, max_version=(1, 0))
        python = ctypes.pythonapi
        python.PyCapsule_GetPointer.restype = ctypes.c_void_p
        python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
        address = python.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        python.PyCapsule_SetName(capsule, b"used_dltensor_versioned")
        managed = self.kind.from_address(address)
        source, count = managed.tensor.data + managed.tensor.byte_offset, tensor.nbytes
        assert self.used + count <= self.ROOM, "more was taken than there is room for"
        handle, half = ctypes.c_void_p(stream), self.ballast.value + self.ballast_bytes
        for _ in range(0 if self.is_stand_in else 100):
            self.call("cuMemcpyDtoDAsync_v2", self.ballast, ctypes.c_uint64(half), ctypes.c_size_t(self.ballast_bytes), handle)
        target = ctypes.c_void_p(self.base + self.used)
        self.call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(source), ctypes.c_size_t(count), handle)
        managed.deleter(address)
        self.pending.append((self.used, count, key))
        self.used += count

    def values(self):
        for stream in self.streams:
            self.call("cuStreamSynchronize", ctypes.c_void_p(stream))
        pending, self.pending, self.used = self.pending, [], 0
        for at, count, key in pending:
            yield numpy.frombuffer(self.landing, numpy.uint8, count, at).copy(), key

    def misuse(self):
        """What the stand-in objected to."""
        if not self.is_stand_in:
            return ""
        self.library.fakecuda_misuse.restype = ctypes.c_size_t
        text = ctypes.create_string_buffer(4096)
        return text.raw[: self.library.fakecuda_misuse(text, ctypes.c_size_t(4096))].decode()
