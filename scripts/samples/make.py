"""Makes the samples, in every format that is asked for: make.py DIRECTORY MIB FORMAT..

Bytes are random, so that nothing compresses them, but for the first eight of each sample: its number.
"""

import io
import json
import os
import random
import struct
import sys
import tarfile

import pictures
import tokens

MIB = 1 << 20
SHARDS = 8
# The file of small samples is so many times as large as the pictures, and its copy in MDS, which is written slowly.
SMALL, SMALL_MDS = 32, 4


def tar(place, mib):
    """WebDataset's pairs of members, and where each picture is in its file."""
    chance, extents = random.Random(1), []
    names = [f"train-{shard:04}.tar" for shard in range(SHARDS)]
    for shard, name in enumerate(names):
        with open(f"{place}/{name}", "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            while file.tell() < mib * MIB // SHARDS:
                number, label = len(extents), chance.randrange(1000)
                picture = struct.pack("<Q", number) + os.urandom(chance.randrange(60_000, 145_000))
                for suffix, data in (("jpg", picture), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:08}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                    if suffix == "jpg":
                        end = archive.offset - (-len(data) % 512)
                        extents.append((shard, end - len(data), len(data), label))
    with open(f"{place}/{pictures.FILES}", "w") as file:
        json.dump([names, extents], file)


def mds(place, _):
    from streaming import MDSWriter

    with MDSWriter(out=place, columns={"jpg": "bytes", "cls": "int"}) as writer:
        for picture, label in pictures.Stored(os.path.dirname(place)):
            writer.write({"jpg": picture, "cls": label})


def arrayrecord(place, mib):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer, shard, left = None, 0, 0
    for picture, label in pictures.Stored(os.path.dirname(place)):
        if left <= 0:
            if writer:
                writer.close()
            writer = ArrayRecordWriter(f"{place}/train-{shard:04}.arrayrecord", "group_size:1,uncompressed")
            shard, left = shard + 1, mib * MIB // SHARDS
        writer.write(struct.pack("<I", label) + picture)
        left -= len(picture)
    writer.close()


def _sample(pair):
    return {"jpg": pair[0], "cls": pair[1]}


def litdata(place, _):
    from litdata import optimize

    samples = list(pictures.Stored(os.path.dirname(place)))
    optimize(_sample, samples, output_dir=place, chunk_bytes="64MB", num_workers=1, verbose=False)


def small(place, mib):
    """One .bin: nanoGPT's as it is, Megatron's with the .idx. Documents are 1 to 16 windows long, so that windows are the same in
    whatever order Megatron puts documents."""
    import numpy

    chance, number, per_mib = numpy.random.default_rng(1), 0, MIB // tokens.ROW_BYTES
    with open(f"{place}/tokens.bin", "wb") as file:
        for _ in range(SMALL * mib):
            rows = numpy.frombuffer(bytearray(chance.bytes(MIB)), dtype="<u8").reshape(per_mib, -1)
            rows[:, 0] = range(number, number + per_mib)
            number += per_mib
            file.write(rows)
    lengths = chance.integers(1, 17, number)
    ends = numpy.minimum(lengths.cumsum(), number)
    ends = ends[: ends.searchsorted(number) + 1]
    starts, count = numpy.concatenate([[0], ends[:-1]]), len(ends)
    with open(f"{place}/tokens.idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, count, count + 1))
        file.write(((ends - starts) * tokens.WINDOW).astype("<i4").tobytes())
        file.write((starts * tokens.ROW_BYTES).astype("<i8").tobytes())
        file.write(numpy.arange(count + 1, dtype="<i8").tobytes())
    os.link(f"{place}/tokens.bin", f"{place}/records.bin")


def small_mds(place, mib):
    import numpy
    from streaming import MDSWriter

    rows = numpy.memmap(f"{os.path.dirname(place)}/small/records.bin", dtype=numpy.uint8, mode="r").reshape(-1, tokens.ROW_BYTES)
    with MDSWriter(out=place, columns={"record": f"ndarray:uint8:{tokens.ROW_BYTES}"}) as writer:
        for row in rows[: SMALL_MDS * mib * MIB // tokens.ROW_BYTES]:
            writer.write({"record": row})


FORMATS = {"tar": tar, "mds": mds, "arrayrecord": arrayrecord, "litdata": litdata, "small": small, "small-mds": small_mds}


def main():
    home, mib, formats = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    for name in formats:
        print(f"writing {name}", file=sys.stderr)
        os.mkdir(f"{home}/{name}")
        FORMATS[name](f"{home}/{name}", mib)
    os.sync()


if __name__ == "__main__":
    main()
