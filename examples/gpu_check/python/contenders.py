"""One loader in a process of its own, which rates.py asks to run by turns: a JSON object on a line in, one out.

    {"files": [..], "record": 1048576, "batch": 16, "shuffle": false, "sum": true}  ->  {"seconds": .., "bytes": .., ..}

`sum` has the bytes added up, to see that they are right; such a run's time means nothing.
"""

import ctypes
import importlib.metadata
import inspect
import json
import os
import pathlib
import sys
import time

import lines  # noqa: F401, which says where packed wheels lie
import numpy


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def has_modules():
    """Whether cuFile's driver opens here at all: without this file it spins for ever."""
    return os.path.exists("/proc/modules")


def has_udev():
    """Whether cuFile finds out which file system a disk has."""
    return os.path.isdir("/run/udev/data") and bool(os.listdir("/run/udev/data"))


def answer_for_udev(file):
    """In a mount namespace of this process alone: what a udev database would say of the disk that a file is on."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    new_namespace, private = 0x20000, ctypes.c_ulong(1 << 14 | 1 << 18)
    call("unshare", new_namespace)
    call("mount", b"none", b"/", None, private, None)
    call("mount", b"tmpfs", b"/run", b"tmpfs", ctypes.c_ulong(0), None)
    device = os.stat(file).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = [line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo") if line.split()[2] == number]
    data = pathlib.Path("/run/udev/data")
    data.mkdir(parents=True)
    (data / f"b{number}").write_text(f"E:ID_FS_USAGE=filesystem\nE:ID_FS_TYPE={kinds[-1] if kinds else 'ext4'}\n")


class Contender:
    """What all have: a device, and the sum of what arrived."""

    def __init__(self, device):
        import torch

        self.torch, self.device, self.known, self.loaders = torch, torch.device(device), {}, {}
        self.cuda = self.device.type == "cuda"
        if self.cuda:
            torch.cuda.set_device(self.device)
            torch.empty(1, device=self.device)

    def loader(self, work, make):
        """One for each place and way of reading, as long as its files stay the same: workers are started once."""
        case = os.path.dirname(work["files"][0]), work["record"], work["shuffle"]
        files, loader = self.loaders.get(case, (None, None))
        if files != work["files"]:
            del loader
            self.loaders.pop(case, None)
            self.loaders[case] = work["files"], make()
        return self.loaders[case][1]

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def run(self, work):
        """One run. `arrays` yields tensors as they come."""
        total = summed = 0
        first, kept = None, None
        start = time.perf_counter()
        for array in self.arrays(work):
            if first is None:
                self.wait()
                first = time.perf_counter() - start
            total += array.numel() * array.element_size()
            if work.get("sum"):
                summed += int(array.reshape(-1).view(self.torch.uint8).sum(dtype=self.torch.int64))
            kept = array
        self.wait()
        seconds = time.perf_counter() - start
        del kept, array
        return {"seconds": seconds, "first_ms": (first or 0) * 1e3, "bytes": total, "sum": summed}


class Strait(Contender):
    """Records in batches, each one array."""

    def __init__(self, device):
        super().__init__(device)
        import strait

        self.strait = strait
        self.version = strait.version()

    def on(self):
        return str(self.device) if self.cuda else "host"

    def arrays(self, work):
        def make():
            dataset = self.strait.Dataset(work["files"], format="records", record_bytes=work["record"])
            return self.strait.Loader(
                dataset, batch_size=work["batch"], device=self.on(), shuffle=work["shuffle"], policy="short",
                array={"record": ("u8", [work["record"]])},
            )

        for batch in self.loader(work, make):
            yield batch["record"].torch()


class TorchLoader(Contender):
    """PyTorch's DataLoader as its users tune it: workers that fill a batch each, pinned memory, copies that do not block."""

    def __init__(self, device):
        super().__init__(device)
        self.version = self.torch.__version__
        self.workers = max(1, min(8, (os.cpu_count() or 2) - 1))

    def arrays(self, work):
        from torch.utils.data import DataLoader

        def make():
            return DataLoader(
                Records(work["files"], work["record"]), batch_size=work["batch"], shuffle=work["shuffle"], pin_memory=self.cuda,
                num_workers=self.workers, persistent_workers=True, prefetch_factor=4, collate_fn=itself,
            )

        for batch in self.loader(work, make):
            yield batch.to(self.device, non_blocking=True)


class Records:
    """Records of files, read by the batch into one tensor."""

    def __init__(self, files, record):
        self.files, self.record, self.opened = files, record, {}
        self.ends = numpy.cumsum([os.path.getsize(path) // record for path in files])

    def __len__(self):
        return int(self.ends[-1])

    def __getitems__(self, indices):
        import torch

        batch = torch.empty((len(indices), self.record), dtype=torch.uint8)
        rows = batch.numpy()
        for row, index in zip(rows, indices):
            file = int(numpy.searchsorted(self.ends, index, side="right"))
            if file not in self.opened:
                self.opened[file] = os.open(self.files[file], os.O_RDONLY)
            place = index - (int(self.ends[file - 1]) if file else 0)
            os.preadv(self.opened[file], [row], place * self.record)
        return batch

    def __getitem__(self, index):
        return self.__getitems__([index])[0]


def itself(batch):
    return batch


class StraitWeights(Strait):
    def arrays(self, work):
        yield from self.strait.load_file(work["directory"], self.on(), framework="pt").values()


class Safetensors(Contender):
    def __init__(self, device):
        super().__init__(device)
        import safetensors.torch

        self.load, self.version = safetensors.torch.load_file, safetensors.__version__

    def arrays(self, work):
        held = [self.load(path, device=str(self.device)) for path in work["files"]]
        for tensors in held:
            yield from tensors.values()


class FastSafetensors(Contender):
    def __init__(self, device):
        super().__init__(device)
        import fastsafetensors

        self.module, self.version = fastsafetensors, version("fastsafetensors")

    def arrays(self, work):
        loader = self.module.SafeTensorsFileLoader(self.module.SingleGroup(), str(self.device), nogds=True)
        loader.add_filenames({0: work["files"]})
        held = loader.copy_files_to_device()
        for name in list(held.key_to_rank_lidx):
            yield held.get_tensor(name)
        self.wait()
        held.close()
        loader.close()


class InstantTensor(Contender):
    def __init__(self, device):
        super().__init__(device)
        import instanttensor

        self.module, self.version = instanttensor, version("instanttensor")
        self.copies = "copy" in inspect.signature(instanttensor.safe_open).parameters

    def arrays(self, work):
        device = self.device.index if self.cuda else str(self.device)
        with self.module.safe_open(work["files"], framework="pt", device=device) as opened:
            # Without the option, what it gives is a view of a buffer that it fills again.
            held = [tensor if self.copies else tensor.clone() for _, tensor in opened.tensors()]
            self.wait()
        yield from held


class RunAi(Contender):
    def __init__(self, device):
        super().__init__(device)
        import runai_model_streamer

        self.module, self.version = runai_model_streamer, version("runai-model-streamer")
        self.goes_on = "device" in inspect.signature(self.module.SafetensorsStreamer.stream_files).parameters

    def arrays(self, work):
        with self.module.SafetensorsStreamer() as streamer:
            streamer.stream_files(work["files"], **({"device": str(self.device)} if self.goes_on else {}))
            # Of host memory it may hand out what it fills again.
            held = [tensor.to(self.device) if self.cuda else tensor.clone() for _, tensor in streamer.get_tensors()]
        yield from held


class Whole(Contender):
    """Files as they are, each into device memory that is there already."""

    def target(self, path):
        size = os.path.getsize(path)
        if size not in self.known:
            self.known[size] = self.torch.empty(size, dtype=self.torch.uint8, device=self.device)
        return self.known[size]


class PinnedCopies(Whole):
    """A thread that reads, and copies out of two pinned blocks: what people write by hand."""

    def __init__(self, device):
        super().__init__(device)
        self.version = self.torch.__version__
        self.blocks = [self.torch.empty(16 << 20, dtype=self.torch.uint8, pin_memory=self.cuda) for _ in range(2)]

    def arrays(self, work):
        events = [self.torch.cuda.Event() if self.cuda else None for _ in self.blocks]
        turn = 0
        for path in work["files"]:
            target = self.target(path)
            with open(path, "rb", buffering=0) as file:
                at = 0
                while at < len(target):
                    block, event = self.blocks[turn % 2], events[turn % 2]
                    if event and turn > 1:
                        event.synchronize()
                    count = file.readinto(block.numpy()[: len(target) - at])
                    target[at:at + count].copy_(block[:count], non_blocking=True)
                    if event:
                        event.record()
                    at, turn = at + count, turn + 1
            yield target


class KvikIo(Whole):
    def __init__(self, device):
        super().__init__(device)
        if not has_modules():
            os.environ["KVIKIO_COMPAT_MODE"] = "ON"  # read as it is imported
        import kvikio
        import kvikio.defaults

        self.module, self.version = kvikio, kvikio.__version__
        self.set("num_threads", 16)
        self.set("task_size", 4 << 20)

    def set(self, name, value):
        """Settings come and go with its versions."""
        try:
            self.module.defaults.set({name: value})
        except Exception as error:  # noqa: BLE001
            print(f"kvikio keeps its own {name}: {error}")

    def arrays(self, work):
        self.set("auto_direct_io_read", work["cold"])
        for path in work["files"]:
            target = self.target(path)
            with self.module.CuFile(path, "r") as file:
                assert file.pread(target if self.cuda else target.numpy()).get() == len(target)
            yield target


class CuFile(Whole):
    """cuFile through PyTorch: GPUDirect Storage, or its compatibility mode."""

    def __init__(self, device):
        if not has_modules():
            raise RuntimeError("there is no /proc/modules: cuFile's driver would spin for ever")
        if not has_udev():
            # Before cuFile has threads, which would be in the namespace around.
            try:
                answer_for_udev(os.environ["STRAIT_TEST_DIR"])
            except OSError as error:
                raise RuntimeError(f"there is no udev database, without which cuFile takes no file ({error})") from error
        super().__init__(device)
        if not self.cuda:
            raise RuntimeError("it reads into GPU memory only")
        self.version = self.torch.__version__

    def arrays(self, work):
        for path in work["files"]:
            target = self.target(path)
            file = self.torch.cuda.gds.GdsFile(path, os.O_RDONLY)
            file.load_storage(target.untyped_storage(), 0)
            del file
            yield target


CONTENDERS = {
    "strait": Strait, "torch DataLoader": TorchLoader, "strait weights": StraitWeights, "safetensors": Safetensors,
    "fastsafetensors": FastSafetensors, "InstantTensor": InstantTensor, "Run:ai streamer": RunAi,
    "pinned blocks by hand": PinnedCopies, "kvikio": KvikIo, "cuFile by torch.cuda.gds": CuFile,
}


def main(name, device):
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**found):
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        contender = CONTENDERS[name](device)
    except Exception as error:  # noqa: BLE001
        answer(error=f"{type(error).__name__}: {error}")
        return
    answer(ready=str(contender.version))
    for line in sys.stdin:
        try:
            answer(**contender.run(json.loads(line)))
        except Exception as error:  # noqa: BLE001
            import traceback

            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
