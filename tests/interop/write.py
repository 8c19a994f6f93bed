"""Writes a dataset with each format's own library, and what strait must find in it.

    python write.py DIRECTORY      makes DIRECTORY/manifest.json, which tests/interop.rs compares with what it reads

Writers that cannot be imported are named on standard output and left out. Those of Megatron-Core, llm.c, nanoGPT and
datatrove are re-created here line by line, since their packages bring frameworks of gigabytes.
"""

import glob
import hashlib
import json
import os
import struct
import sys
import traceback

import numpy as np

import stand_ins

RNG = np.random.default_rng(7)
EDGES = [0, 1, 2, 510, 511, 512, 513, 514, 4094, 4095, 4096, 4097, 4098, 10000]


def blob(n):
    return RNG.integers(0, 256, n, dtype=np.uint8).tobytes()


def stored(samples):
    """Hashes instead of bytes: a field of a sample is as long as it says, and those bytes."""
    digest = lambda value: [len(value), hashlib.sha256(value).hexdigest()]
    return [{name: digest(value) for name, value in sample.items()} for sample in samples]


def dataset(path, format, samples, fields=None, /, **options):
    return {"path": path, "format": format, "samples": stored(samples), "fields": fields or {}, "options": options}


def webdataset(root):
    import webdataset as wds

    samples = []
    with wds.ShardWriter(f"{root}/%03d.tar", maxcount=9, verbose=0) as sink:
        for i, n in enumerate(EDGES):
            array = RNG.integers(0, 9, (2, i + 1))
            sink.write({"__key__": f"s/{i:04d}", "bin": blob(0), "jpg.bin": blob(n), "cls": i, "npy": array})
    # What its own reader finds.
    for sample in wds.WebDataset(sorted(glob.glob(f"{root}/*.tar")), shardshuffle=False):
        samples.append({name: value for name, value in sample.items() if not name.startswith("__")})
    yield dataset(root, "webdataset", samples)


def numpy(root):
    arrays = {
        "f4": RNG.random((7, 3, 4), dtype=np.float32),
        "u2": RNG.integers(0, 60000, 1000, dtype=np.uint16),
        "b1": RNG.integers(0, 2, (5, 513)).astype(bool),
        "f2": RNG.random((9, 2048)).astype(np.float16),
        "c16": RNG.random((3, 2)) + 1j,
        "M8": np.arange("2020-01-01", "2020-01-08", dtype="datetime64[D]"),
        "S": np.array([b"ab", b"cde"]),
        "scalar": np.float64(3.5),
        "empty": np.zeros((0, 4), np.int32),
    }
    types = {"f4": "f32", "u2": "u16", "b1": "bool", "f2": "f16", "c16": "c128", "scalar": "f64", "empty": "i32"}
    for name, array in arrays.items():
        array = np.asarray(array)
        for version in [(1, 0), (2, 0), (3, 0)]:
            path = f"{root}/{name}-{version[0]}.npy"
            with open(path, "wb") as file:
                np.lib.format.write_array(file, array, version=version)
            rows = [{"array": array[i : i + 1].tobytes()} for i in range(len(array))] if array.ndim else [{"array": array.tobytes()}]
            fields = {"array": {"dtype": types.get(name), "shape": list(array.shape[1:]) if name in types else None}}
            yield dataset(path, "npy", rows, fields)


def safetensors(root):
    from safetensors.numpy import save_file

    tensors = {"x": RNG.random((11, 5, 3), dtype=np.float32), "y": np.arange(11, dtype=np.int64), "scale": np.float32(2)}
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, f"{root}/rows.safetensors")
    rows = [{"x": x.tobytes(), "y": y.tobytes()} for x, y in zip(tensors["x"], tensors["y"])]
    fields = {"x": {"dtype": "f32", "shape": [5, 3]}, "y": {"dtype": "i64", "shape": []}}
    yield dataset(f"{root}/rows.safetensors", "safetensors", rows, fields)


def varints(numbers):
    out = bytearray()
    for number in numbers:
        number &= (1 << 64) - 1
        while number >= 0x80:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


def tfrecord(root):
    import tfrecord as tfr

    path = f"{root}/data.tfrecord"
    writer = tfr.TFRecordWriter(path)
    samples = []
    for i, n in enumerate(EDGES):
        image, floats, label = blob(n), RNG.random(3, dtype=np.float32), i * i - 20
        writer.write({"image": (image, "byte"), "emb": (floats.tolist(), "float"), "label": (label, "int")})
        samples.append({"image": image, "emb": floats.tobytes(), "label": varints([label])})
    writer.close()
    fields = {"emb": {"dtype": "f32", "shape": [3]}, "image": {"dtype": None, "shape": None}}
    yield dataset(path, "tfrecord", samples, fields)
    yield dataset(path, "tfrecord", samples, fields, verify=True)
    # A file that others wrote, with its checksums.
    for path in sorted(glob.glob(os.environ.get("STRAIT_INTEROP_TFRECORD", ""), recursive=True)):
        records = [{"record": record} for record in frames(open(path, "rb").read())]
        yield dataset(path, "tfrecord", records, examples=False, verify=True)


def frames(data):
    at = 0
    while at < len(data):
        (n,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + n]
        at += n + 16


def mds(root):
    stand_ins.install()
    from streaming import MDSWriter
    from streaming.base.format.mds.encodings import mds_encode

    plain = {"i": "int", "s": "str", "a": "ndarray:float32:2,3", "b": "ndarray", "u": "uint16", "raw": "bytes", "j": "json"}
    types = {
        "i": {"dtype": "i64", "shape": []},
        "a": {"dtype": "f32", "shape": [2, 3]},
        "u": {"dtype": "u16", "shape": []},
        "raw": {"dtype": None, "shape": None},
    }
    layouts = {"all": plain, "one": {"raw": "bytes"}, "fixed": {"i": "int", "f": "float64"}, "two": {"i": "int", "raw": "bytes"}}
    for name, columns in layouts.items():
        for compression in [None, "zstd:7", "gz", "bz2", "br", "snappy"] if name == "all" else [None]:
            out = f"{root}/{name}-{(compression or 'raw').replace(':', '-')}"
            samples = []
            with MDSWriter(columns=columns, out=out, compression=compression, hashes=["sha256", "xxh3_64", "xxh64"], size_limit=20000) as sink:
                for i, n in enumerate(EDGES):
                    values = {"i": i - 3, "s": "é" * i, "a": RNG.random((2, 3), dtype=np.float32), "b": np.arange(i + 1),
                              "u": i, "raw": blob(n), "j": {"n": n}, "f": 0.5 * i}
                    sink.write({column: values[column] for column in columns})
                    samples.append({column: mds_encode(encoding, values[column]) for column, encoding in columns.items()})
            fields = {column: types[column] for column in columns if column in types}
            yield dataset(out, "mds", samples, fields)


def litdata(root):
    stand_ins.install()
    # So that the writer does not ask torch.
    os.environ["DATA_OPTIMIZER_GLOBAL_RANK"] = "0"
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    items = []
    writer = BinaryWriter(root, chunk_size=5)
    for i, n in enumerate(EDGES):
        row = RNG.integers(0, 99, 4).astype(np.uint16)
        item = {"id": i, "flag": i % 2 == 0, "x": 0.5 * i, "text": "é" * i, "img": blob(n), "row": row}
        writer[i] = item
        items.append({"id": struct.pack("<q", i), "flag": bytes([i % 2 == 0]), "x": struct.pack("<d", 0.5 * i),
                      "text": item["text"].encode(), "img": item["img"], "row": row.tobytes()})
    writer.done()
    writer._merge_no_wait()
    fields = {"id": {"dtype": "i64", "shape": []}, "row": {"dtype": "u16", "shape": [4]}, "flag": {"dtype": "bool", "shape": []}}
    yield dataset(root, "litdata", items, fields)
    root += "-tokens"
    writer = BinaryWriter(root, chunk_bytes=6000, item_loader=TokensLoader(block_size=16))
    documents = []
    for i, n in enumerate(EDGES[1:]):
        tokens = RNG.integers(0, 60000, n).astype(np.int32)
        writer[i] = tokens
        documents.append({"tokens": tokens.tobytes()})
    writer.done()
    writer._merge_no_wait()
    yield dataset(root, "litdata", documents, {"tokens": {"dtype": "i32", "shape": None}})


def megatron(root):
    """megatron/core/datasets/indexed_dataset.py: _IndexWriter.write and IndexedDatasetBuilder.add_item."""
    codes = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}
    names = {"uint8": "u8", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint16": "u16"}
    for name, code in codes.items():
        for modes in [False, True]:
            prefix = f"{root}/{name}-{modes}_text_document"
            sequences = [np.asarray(RNG.integers(0, 100, n), dtype=name) for n in EDGES]
            with open(prefix + ".bin", "wb") as file:
                for sequence in sequences:
                    file.write(sequence.tobytes(order="C"))
            lengths = [len(sequence) for sequence in sequences]
            pointers = np.cumsum([0] + [n * np.dtype(name).itemsize for n in lengths])[:-1]
            with open(prefix + ".idx", "wb") as file:
                file.write(b"MMIDIDX\x00\x00")
                file.write(struct.pack("<Q", 1))
                file.write(struct.pack("<B", code))
                file.write(struct.pack("<Q", len(lengths)))
                file.write(struct.pack("<Q", len(lengths) + 1))
                file.write(np.array(lengths, dtype=np.int32).tobytes(order="C"))
                file.write(np.array(pointers, dtype=np.int64).tobytes(order="C"))
                file.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes(order="C"))
                if modes:
                    file.write(np.zeros(len(lengths), dtype=np.int8).tobytes(order="C"))
            samples = [{"tokens": sequence.tobytes()} for sequence in sequences]
            yield dataset(prefix, "megatron", samples, {"tokens": {"dtype": names[name], "shape": None}})


def tokens(root):
    stream = RNG.integers(0, 50257, 12345).astype(np.uint16)
    # nanoGPT/data/openwebtext/prepare.py: np.memmap(filename, dtype=np.uint16, mode='w+', shape=(n,))
    memmap = np.memmap(f"{root}/train.bin", dtype=np.uint16, mode="w+", shape=stream.shape)
    memmap[:] = stream
    memmap.flush()
    whole = lambda array: [{"tokens": array.tobytes()}]
    yield dataset(f"{root}/train.bin", "tokens", whole(stream), {"tokens": {"dtype": "u16"}}, dtype="u16")
    # OLMo: np.memmap too, in spite of the name.
    stream.astype(np.uint32).tofile(f"{root}/part-0-00000.npy")
    yield dataset(f"{root}/part-0-00000.npy", "tokens", whole(stream.astype(np.uint32)), dtype="u32", format="tokens")
    # llm.c/dev/data/data_common.py: write_datafile
    for name, (magic, version, dtype) in {"gpt-2": (20240520, 1, np.uint16), "llama-3": (20240801, 7, np.uint32)}.items():
        header = np.zeros(256, dtype=np.int32)
        header[0], header[1], header[2] = magic, version, len(stream)
        toks = stream.astype(dtype)
        with open(f"{root}/{name}.bin", "wb") as file:
            file.write(header.tobytes())
            file.write(toks.tobytes())
        yield dataset(f"{root}/{name}.bin", "tokens", whole(toks), {"tokens": {"dtype": "u16" if version == 1 else "u32"}})
    # datatrove/pipeline/tokens/tokenizer.py: TokenizedFile.write_bytes, write_final_metadata, close
    for name, letter in [("narrow", "H"), ("wide", "I")]:
        documents = [RNG.integers(0, 50000, n).tolist() for n in EDGES]
        ends = np.cumsum([len(document) for document in documents]).tolist()
        with open(f"{root}/{name}.ds", "wb") as file:
            for document in documents:
                file.write(struct.pack("<%s%s" % (len(document), letter), *document))
        with open(f"{root}/{name}.ds.index", "wb") as file:
            file.write(struct.pack("<%sQ" % len(ends), *ends))
        samples = [{"tokens": struct.pack("<%s%s" % (len(document), letter), *document)} for document in documents]
        yield dataset(f"{root}/{name}.ds", "tokens", samples, {"tokens": {"dtype": "u16" if letter == "H" else "u32"}})


def main():
    root = os.path.abspath(sys.argv[1])
    datasets = []
    for write in [webdataset, numpy, safetensors, tfrecord, mds, litdata, megatron, tokens]:
        directory = f"{root}/{write.__name__}"
        os.makedirs(directory)
        try:
            datasets.extend(write(directory))
        except ImportError as e:
            print(f"SKIPPED: {write.__name__}: {e}")
        except Exception:
            traceback.print_exc()
            sys.exit(f"{write.__name__} could not write its dataset")
    with open(f"{root}/manifest.json", "w") as file:
        json.dump({"datasets": datasets}, file)
    print(f"{len(datasets)} datasets written")


main()
