"""Samples of about 100 KiB with a label, in batches of 64: how each loader is asked for them.

A loader is a function of a directory. It returns what one iterates, epoch by epoch, and what makes of one of its batches
the pictures (bytes, or arrays of u8) and the labels (whole numbers) in it.
"""

import glob
import json
import os
import struct

BATCH = 64
FILES = "pictures.json"
# The whole epoch.
BATCHES = None


def light(view):
    """The work of a loop with each sample: its length, its first byte, its label."""
    pictures, labels = view
    for picture, label in zip(pictures, labels):
        picture[0], int(label)
    return len(pictures), sum(map(len, pictures))


def samples(view):
    """Each sample as `Stored` has it."""
    for picture, label in zip(*view):
        yield bytes(picture), int(label)


class Stored:
    """The samples by number, read plainly: the oracle."""

    def __init__(self, home):
        self.place = f"{home}/tar"
        with open(f"{self.place}/{FILES}") as file:
            self.names, self.extents = json.load(file)
        self.expected = len(self.extents), sum(length for _, _, length, _ in self.extents)

    def __getitem__(self, number):
        shard, offset, length, label = self.extents[number]
        with open(f"{self.place}/{self.names[shard]}", "rb") as file:
            file.seek(offset)
            return file.read(length), label

    @staticmethod
    def number(sample):
        return struct.unpack_from("<Q", sample[0])[0]


def strait(place, shuffle):
    import strait

    loader = strait.Loader(place, batch_size=BATCH, device="host", shuffle=shuffle, seed=1, policy="short")
    return loader, lambda batch: (batch["jpg"].arrays("np"), batch.ragged("cls").integers())


def webdataset(place, shuffle, workers):
    """As its README has it: shards and then a buffer of samples are shuffled; WebLoader makes workers of the DataLoader."""
    import webdataset

    shards = sorted(glob.glob(f"{place}/*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=100 if shuffle else False)
    if shuffle:
        dataset = dataset.shuffle(1000)
    dataset = dataset.to_tuple("jpg", "cls").batched(BATCH, partial=True)
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=workers), tuple


def spdl(place, shuffle):
    """As its documentation reads archives: each one whole, threads that cut it into views, no process besides."""
    import random

    from spdl.io import iter_tarfile
    from spdl.pipeline import PipelineBuilder

    def samples(shard):
        with open(shard, "rb") as file:
            members = iter_tarfile(file.read())
        parts = {name: data for name, data in members}
        found = [(parts[name], int(bytes(parts[f"{name[:-4]}.cls"]))) for name in parts if name.endswith(".jpg")]
        if shuffle:
            random.shuffle(found)
        return found

    class Epochs:
        def __iter__(self):
            shards = sorted(glob.glob(f"{place}/*.tar"))
            if shuffle:
                random.shuffle(shards)
            builder = PipelineBuilder().add_source(shards).pipe(samples, concurrency=2, output_order="input")
            pipeline = builder.disaggregate().aggregate(BATCH).add_sink(2).build(num_threads=2)
            with pipeline.auto_stop():
                yield from pipeline

    return Epochs(), lambda batch: tuple(zip(*batch))


def mds(place, workers):
    """Local shards, its shuffle as it is by default; in workers of torch's DataLoader, as its documentation has it."""
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(local=place, shuffle=True, batch_size=BATCH)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers)
    return loader, lambda batch: (batch["jpg"], batch["cls"])


def torch_pread(place, workers):
    """A map-style Dataset over the tar files with a list of where each picture is, read by pread: no format in the way. Pictures
    are bytes, which come from workers at less cost than tensors."""
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset):
        def __init__(self):
            with open(f"{place}/{FILES}") as file:
                self.names, self.extents = json.load(file)
            self.files = None

        def __len__(self):
            return len(self.extents)

        def __getitem__(self, index):
            if self.files is None:
                self.files = [os.open(f"{place}/{name}", os.O_RDONLY) for name in self.names]
            shard, offset, length, label = self.extents[index]
            return os.pread(self.files[shard], length, offset), label

    loader = DataLoader(Pictures(), BATCH, shuffle=True, num_workers=workers, collate_fn=lambda batch: tuple(zip(*batch)))
    return loader, tuple


def grain(place):
    """ArrayRecord of one record per group, as its documentation wants it for random access, and its 16 threads and buffer of 500
    as they are by default. Its processes are for work in Python, of which there is none here, and take seconds to start."""
    import grain

    def parsed(record):
        return record[4:], struct.unpack("<I", record[:4])[0]

    source = grain.sources.ArrayRecordDataSource(sorted(glob.glob(f"{place}/*.arrayrecord")))
    dataset = grain.MapDataset.source(source).shuffle(seed=1).map(parsed).to_iter_dataset(grain.ReadOptions())
    return dataset.batch(BATCH, batch_fn=lambda samples: tuple(zip(*samples))), tuple


def litdata(place, workers):
    """Its own chunks of 64 MB, shuffled as it shuffles: chunks, and within each."""
    from litdata import StreamingDataLoader, StreamingDataset

    def collated(samples):
        # They are views of its memory, which do not go from a worker.
        return [bytes(sample["jpg"]) if workers else sample["jpg"] for sample in samples], [sample["cls"] for sample in samples]

    dataset = StreamingDataset(place, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collated), tuple


def cells(loader):
    def tars(shuffle):
        return [
            loader("strait", strait, "tar", "strait numpy", shuffle=shuffle),
            loader("webdataset", webdataset, "tar", "webdataset torch", shuffle=shuffle, workers=0),
            loader("webdataset, 2 workers", webdataset, "tar", "webdataset torch", shuffle=shuffle, workers=2),
            loader("SPDL, 2 threads", spdl, "tar", "spdl.io spdl.pipeline", shuffle=shuffle),
        ]

    whole = [
        loader("strait, MDS", strait, "mds", "strait numpy", shuffle=True),
        loader("strait, tar", strait, "tar", "strait numpy", shuffle=True),
        loader("grain, ArrayRecord", grain, "arrayrecord", "grain array_record"),
    ]
    for workers, said in ((0, ""), (2, ", 2 workers")):
        whole += [
            loader(f"MosaicML streaming{said}", mds, "mds", "streaming torch", workers=workers),
            loader(f"torch DataLoader, pread{said}", torch_pread, "tar", "torch", workers=workers),
            loader(f"LitData{said}", litdata, "litdata", "litdata torch", workers=workers),
        ]
    return {
        "pictures in tar, in order": tars(False),
        "pictures in tar, each as it shuffles": tars(True),
        "pictures, full shuffle": whole,
    }
