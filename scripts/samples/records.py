"""Records of 4 KiB, shuffled, in batches of 256: `[256, 4096]` of u8 in PyTorch; as tokens, of a large file."""

import os

from tokens import ROW_BYTES as RECORD
from tokens import Stored  # noqa: F401, the same bytes

BATCH, BATCHES = 256, 64


def light(view):
    """The work of a loop with each batch: one element of each row."""
    view[:, 0].sum()
    return len(view), view.numel()


def samples(view):
    """Each sample as `Stored` has it."""
    for row in view.numpy():
        yield row.tobytes()


def strait(place):
    import strait

    dataset = strait.Dataset(f"{place}/records.bin", format="records", record_bytes=RECORD)
    loader = strait.Loader(
        dataset, batch_size=BATCH, shuffle=True, seed=1, device="host", array={"record": ("u8", [RECORD])}, policy="short",
    )
    return loader, lambda batch: batch["record"].torch()


def torch_pread(place, workers):
    """A map-style Dataset that is asked for a batch at a time (`__getitems__`), and reads its records to their places in it."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Records(Dataset):
        file = None

        def __len__(self):
            return os.path.getsize(f"{place}/records.bin") // RECORD

        def __getitems__(self, indices):
            if self.file is None:
                self.file = os.open(f"{place}/records.bin", os.O_RDONLY)
            batch = torch.empty((len(indices), RECORD), dtype=torch.uint8)
            for row, index in zip(batch.numpy(), indices):
                os.preadv(self.file, [row], index * RECORD)
            return batch

    loader = DataLoader(Records(), BATCH, shuffle=True, num_workers=workers, collate_fn=lambda batch: batch)
    return loader, lambda batch: batch


def memmap(place, random):
    """Rows of a mapped file, taken by an array of numbers; `random` tells the kernel so, which reads ahead else."""
    import mmap

    import numpy
    import torch

    mapped = numpy.memmap(f"{place}/records.bin", dtype=numpy.uint8, mode="r")
    if random:
        mapped._mmap.madvise(mmap.MADV_RANDOM)
    rows = mapped.reshape(-1, RECORD)
    order = torch.randperm(len(rows))

    class Epochs:
        def __iter__(self):
            for batch in torch.split(order, BATCH):
                yield torch.from_numpy(rows[batch.numpy()])

    return Epochs(), lambda batch: batch


def mds(place, workers):
    """Local shards, its shuffle as it is by default; in workers of torch's DataLoader, as its documentation has it. Its epoch is
    as short as what is wanted of it: one that is left early may keep the next from beginning."""
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(local=place, shuffle=True, batch_size=BATCH, epoch_size=BATCH * BATCHES)
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers), lambda batch: batch["record"]


def cells(loader):
    found = [
        loader("strait", strait, "small", "strait torch"),
        loader("NumPy memmap", memmap, "small", "numpy torch", random=False),
        loader("NumPy memmap, MADV_RANDOM", memmap, "small", "numpy torch", random=True),
    ]
    for workers, said in ((0, ""), (2, ", 2 workers")):
        found += [
            loader(f"torch DataLoader, pread{said}", torch_pread, "small", "torch", workers=workers),
            loader(f"MosaicML streaming{said}", mds, "small-mds", "streaming torch", workers=workers),
        ]
    return {"records of 4 KiB, full shuffle": found}
