"""Windows of 2,048 u16 tokens, shuffled, in batches of 64: `[64, 2048]` of int64 in PyTorch, as models take them.

What is timed is the beginning of an epoch: of a file that is 128 times as large, so that little of what the kernel reads
ahead is wanted before the end, as with files that are larger than memory.
"""

import os
import struct

BATCH, WINDOW = 64, 2048
ROW_BYTES = 2 * WINDOW
BATCHES = 256


def light(view):
    """The work of a loop with each batch: one element of each row."""
    view[:, 0].sum()
    return len(view), view.numel() * 2


def samples(view):
    """Each sample as `Stored` has it."""
    import numpy

    for row in view.numpy().astype(numpy.uint16):
        yield row.tobytes()


class Stored:
    """The samples by number, read plainly: the oracle."""

    expected = BATCH * BATCHES, BATCH * BATCHES * ROW_BYTES

    def __init__(self, home):
        self.file = os.open(f"{home}/small/tokens.bin", os.O_RDONLY)

    def __getitem__(self, number):
        row = os.pread(self.file, ROW_BYTES, number * ROW_BYTES)
        if not row:
            raise IndexError
        return row

    @staticmethod
    def number(sample):
        return struct.unpack_from("<Q", sample)[0]


def strait(place):
    import strait

    dataset = strait.Dataset(f"{place}/tokens.bin")
    loader = strait.Loader(
        dataset, batch_size=BATCH, windows=(WINDOW, WINDOW), shuffle=True, seed=1, device="host", dtype={"tokens": "int64"},
        policy="short",
    )
    return loader, lambda batch: batch["tokens"].torch()


def nanogpt(place):
    """get_batch of its train.py; its random offsets are here those of windows, none twice."""
    import numpy
    import torch

    offsets = torch.randperm(os.path.getsize(f"{place}/tokens.bin") // ROW_BYTES) * WINDOW

    class Epochs:
        def __iter__(self):
            for batch in torch.split(offsets, BATCH):
                # Mapped anew for every batch, as it says, "to avoid a memory leak".
                data = numpy.memmap(f"{place}/tokens.bin", dtype=numpy.uint16, mode="r")
                yield torch.stack([torch.from_numpy(data[i : i + WINDOW].astype(numpy.int64)) for i in batch])

    return Epochs(), lambda batch: batch


def torch_memmap(place, workers):
    """The same mapping behind a map-style Dataset and a DataLoader."""
    import numpy
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Windows(Dataset):
        def __init__(self):
            self.data = numpy.memmap(f"{place}/tokens.bin", dtype=numpy.uint16, mode="r")

        def __len__(self):
            return len(self.data) // WINDOW

        def __getitem__(self, index):
            return torch.from_numpy(self.data[index * WINDOW : (index + 1) * WINDOW].astype(numpy.int64))

    return DataLoader(Windows(), BATCH, shuffle=True, num_workers=workers), lambda batch: batch


def megatron(place, workers, mapped):
    """GPTDataset of Megatron-Core, masks of attention left to the kernel, in the DataLoader that its pretraining makes. It makes
    labels, positions and masks of loss too. `mapped` is its --no-mmap-bin-files turned round."""
    import types

    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.utils import Split
    import numpy
    from torch.utils.data import DataLoader

    tokenizer = types.SimpleNamespace(vocab_size=65536, eod=0, pad=-1, unique_identifiers={"class": "none"})
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=WINDOW, tokenizer=tokenizer, blend=([f"{place}/tokens"], None), split="1,0,0",
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
        add_extra_token_to_sequence=False, mmap_bin_files=mapped, path_to_cache=f"{place}/cache",
    )
    indexed = GPTDataset.build_low_level_dataset(f"{place}/tokens", config)
    documents = numpy.arange(indexed.document_indices.shape[0] - 1, dtype=numpy.int32)
    dataset = GPTDataset(indexed, f"{place}/tokens", documents, None, Split.train, config)
    # It shuffles by itself: its samplers hand out numbers in order.
    return DataLoader(dataset, BATCH, num_workers=workers), lambda batch: batch["tokens"]


def cells(loader):
    found = [
        loader("strait", strait, "small", "strait torch"),
        loader("nanoGPT's get_batch", nanogpt, "small", "numpy torch"),
    ]
    for workers, said in ((0, ""), (2, ", 2 workers")):
        found += [
            loader(f"torch DataLoader, memmap{said}", torch_memmap, "small", "numpy torch", workers=workers),
            loader(f"Megatron-Core{said}", megatron, "small", "megatron.core torch numpy", workers=workers, mapped=True),
        ]
    name = "Megatron-Core, no mmap, 2 workers"
    found.append(loader(name, megatron, "small", "megatron.core torch numpy", workers=2, mapped=False))
    return {"windows of 2,048 tokens, shuffled": found}
