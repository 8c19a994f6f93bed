"""What comes out of batches is what lies in the shards."""

import gzip
import io
import json
import os
import struct
import tarfile

import numpy as np
import pytest

import strait
from conftest import Copies, safetensors_bytes
from strait import _abi


def test_dense_rows(rows):
    path, values = rows
    dataset = strait.Dataset(path)
    assert len(dataset) == 1000 and dataset.format == "npy"
    assert dataset.fields["array"] == strait.Field("array", "f32", (3, 4), 48)
    loader = strait.Loader(dataset, batch_size=64, device="host", shuffle=True, seed=5)
    assert len(loader) == 16
    seen = []
    for step, batch in enumerate(loader):
        tensor = batch["array"]
        assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("f32", (len(batch), 3, 4), 48 * len(batch))
        assert (batch.epoch, batch.step, batch.padded) == (0, step, 0)
        wanted = values[list(batch.samples)]
        for array in (tensor.numpy(), np.asarray(tensor), np.from_dlpack(tensor)):
            assert array.dtype == np.float32 and np.array_equal(array, wanted)
        seen += batch.samples
    assert sorted(seen) == list(range(1000)) and seen != sorted(seen)


def test_ragged_pictures(pictures):
    path, samples = pictures
    loader = strait.Loader(path, batch_size=16, device="host")
    for batch in loader:
        assert list(batch) == batch.fields and set(batch) == {"jpg", "cls", "json"}
        jpg, region = batch["jpg"], batch.region.numpy()
        assert len(jpg) == len(batch) and isinstance(jpg, strait.Ragged)
        for place, sample in enumerate(batch.samples):
            wanted = samples[sample]["jpg"]
            assert jpg[place].dtype == "u8" and jpg[place].shape == (len(wanted),)
            assert jpg[place].numpy().tobytes() == wanted == jpg.bytes(place)
            offset, length = jpg.offsets[place], jpg.lengths[place]
            assert region[offset:offset + length].tobytes() == wanted
            text = samples[sample].get("json")
            found = batch["json"][place]
            assert (None if found is None else found.numpy().tobytes()) == text
            assert batch["json"].bytes(place) == text
        for field in batch:
            found = [None if array is None else array.tobytes() for array in batch[field].arrays("np")]
            assert found == [samples[sample].get(field) for sample in batch.samples]
        assert [tensor and tensor.shape for tensor in jpg.arrays(None)] == [(length,) for length in jpg.lengths]
        assert batch["cls"].integers() == [sample % 7 for sample in batch.samples]
        assert jpg[-1].numpy().tobytes() == jpg[len(jpg) - 1].numpy().tobytes() and len(jpg[1:3]) == 2
        with pytest.raises(IndexError):
            jpg[len(jpg)]
        with pytest.raises(KeyError, match="there are .*jpg"):
            batch["png"]


def test_labels_that_are_absent(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, data in (("0.jpg", b"a"), ("0.cls", b"-5"), ("1.jpg", b"b"), ("2.jpg", b""), ("2.cls", b"7")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    [batch] = strait.Loader(tmp_path / "train.tar", batch_size=3, device="host")
    assert batch["cls"].integers() == [-5, None, 7]
    assert [array.tobytes() for array in batch["jpg"].arrays("np")] == [b"a", b"b", b""]


def test_windows_of_tokens(tokens):
    path, values = tokens
    loader = strait.Loader(strait.Dataset(path, dtype="u16"), batch_size=4, device="host", windows=(129, 128))
    count = 0
    for batch in loader:
        tensor = batch["tokens"]
        assert tensor.dtype == "u16" and tensor.shape == (len(batch), 129)
        for row, window in zip(tensor.numpy(), batch.samples):
            assert np.array_equal(row, values[128 * window:128 * window + 129])
        window = batch.window(0)
        assert list(window.tokens) == [0, 129] and window.documents == (0,)
        assert window.starts == (128 * batch.samples[0],) and list(window.lengths) == [258]
        count += len(batch)
    assert count == 78


def test_wide_windows(tokens):
    path, values = tokens
    dataset = strait.Dataset(path, dtype="u16")
    for dtype, name in (("int64", "i64"), ("i32", "i32"), (np.int64, "i64"), (np.dtype("int32"), "i32")):
        loader = strait.Loader(dataset, batch_size=4, device="host", windows=(129, 128), dtype={"tokens": dtype})
        for batch in loader:
            tensor = batch["tokens"]
            assert (tensor.dtype, tensor.shape) == (name, (len(batch), 129))
            for row, window in zip(tensor.numpy(), batch.samples):
                assert np.array_equal(row, values[128 * window:128 * window + 129])
            assert batch.window(0).lengths[0] == 258
        assert loader.stats()["bytes_cast"] == 78 * 129 * int(name[1:]) // 8
    with pytest.raises(strait.errors.ConfigError, match="no u8 is made of tokens, which is u16"):
        strait.Loader(dataset, device="host", windows=(129, 128), dtype={"tokens": "uint8"})


def test_scaled_bytes(tmp_path):
    values = np.random.default_rng(5).integers(0, 256, (40, 3, 5), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", values)
    factor, bias = np.float32(1 / 255), np.float32(-0.5)
    wanted = values.astype(np.float32) * factor + bias
    for dtype, name in (("float16", "f16"), ("f32", "f32")):
        scale = {"array": (dtype, 1 / 255, -0.5)}
        for batch in strait.Loader(tmp_path / "pictures.npy", batch_size=9, device="host", shuffle=True, scale=scale):
            found = batch["array"]
            assert found.dtype == name
            assert np.array_equal(found.numpy(), wanted[list(batch.samples)].astype(found.numpy().dtype))
            assert np.array_equal(batch.ragged("array")[1].numpy(), values[batch.samples[1]])
    for batch in strait.Loader(tmp_path / "pictures.npy", device="host", dtype={"array": "bfloat16"}):
        assert (batch["array"].dtype, batch["array"].shape) == ("bf16", (40, 3, 5))


def test_described_arrays_and_unaligned_samples(tmp_path):
    values = np.random.default_rng(4).integers(0, 2**16, (50, 7), dtype=np.uint16)
    values.tofile(tmp_path / "records.bin")
    dataset = strait.Dataset(tmp_path / "records.bin", format="records", record_bytes=14)
    loader = strait.Loader(dataset, batch_size=10, device="host", array={"record": ("u16", (7,))})
    for batch in loader:
        assert np.array_equal(batch["record"].numpy(), values[list(batch.samples)])
        assert batch.ragged("record").raw(1).numpy().tobytes() == values[batch.samples[1]].tobytes()
        for array, sample in zip(batch.ragged("record").arrays("np"), batch.samples):
            assert array.dtype == np.uint16 and np.array_equal(array, values[sample])


def test_unaligned_samples(tmp_path):
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensors = {"a": ("U8", [3], b"abc"), "b": ("F32", [3, 2], numbers.tobytes())}
    (tmp_path / "odd.safetensors").write_bytes(safetensors_bytes(tensors))
    batch = next(iter(strait.Loader(tmp_path / "odd.safetensors", batch_size=3, device="host", tensors=[])))
    assert isinstance(batch["b"], strait.Ragged)
    with pytest.raises(strait.errors.ConfigError):
        batch["b"][1]
    assert batch["b"].raw(1).numpy().tobytes() == numbers[1].tobytes() and batch["a"][2].numpy() == ord("c")
    dense = next(iter(strait.Loader(tmp_path / "odd.safetensors", batch_size=3, device="host")))
    assert np.array_equal(dense["b"].numpy(), numbers)


def test_dataset(pictures, rows):
    dataset = strait.Dataset(pictures[0])
    assert dataset.shards == [strait.Shard(str(pictures[0]), pictures[0].stat().st_size, 60)]
    data = pictures[0].read_bytes()
    for sample, fields in enumerate(pictures[1]):
        for name in ("jpg", "json"):
            extent = dataset.extent(sample, name)
            assert (extent and data[extent.offset:extent.offset + extent.bytes]) == fields.get(name)
    both = strait.Dataset.concat([dataset, strait.Dataset(rows[0])])
    assert len(both) == 1060 and both.format == "mixed"
    mixed = strait.Loader(both, batch_size=10, device="host", mixture=[1, 1])
    assert mixed.device.name == "host" and both.parts == [60, 1000] and dataset.parts == [60]
    batch = next(iter(mixed))
    assert [origin for origin, _ in batch.origins] == [0, 1] * 5 or [origin for origin, _ in batch.origins] == [1, 0] * 5
    assert batch.origins == [batch.origin(place) for place in range(10)] and batch.datasets == [(0, 5), (0, 5)]
    assert dataset.sidecars == (0, 0, 0, None) and dataset.largest_sample >= max(len(s["jpg"]) for s in pictures[1])
    assert next(iter(strait.Loader(rows[0], device="host"))).datasets == []


def test_an_index_that_is_damaged_is_no_absent_sample(tmp_path):
    """Megatron's index is looked up, not read: what is wrong in it shows with the document that it is about."""
    documents = [np.arange(count, dtype=np.uint16) for count in (5, 6, 7)]
    (tmp_path / "d.bin").write_bytes(b"".join(document.tobytes() for document in documents))
    pointers = [0, 2**40, 22]
    (tmp_path / "d.idx").write_bytes(
        b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 3, 4) + struct.pack("<3i", 5, 6, 7) + struct.pack("<3q", *pointers)
        + struct.pack("<4q", 0, 1, 2, 3)
    )
    dataset = strait.Dataset(tmp_path / "d.idx")
    [field] = dataset.fields
    assert dataset.extent(0, field).bytes == 10
    with pytest.raises(strait.errors.FormatError, match="damaged|index"):
        dataset.extent(1, field)


def test_types_have_the_names_of_others_too(tokens):
    for dtype in ("u16", "uint16", np.uint16, np.dtype("uint16")):
        assert strait.Dataset(tokens[0], dtype=dtype).fields["tokens"].dtype == "u16"


def test_a_batch_is_a_mapping(pictures):
    with strait.Loader(pictures[0], batch_size=60, device="host") as loader:
        assert repr(loader) == "<strait.Loader of webdataset: 1 batches an epoch, on host, epoch 0>"
        [batch] = loader
        assert [name for name, _ in batch.items()] == batch.keys() == list(batch) == ["jpg", "cls", "json"]
        assert [column.bytes(0) for column in batch.values()] == [column.bytes(0) for column in dict(batch).values()]
        assert dict(batch.items())["jpg"].bytes(7) == pictures[1][7]["jpg"]
        batch.release()
    assert repr(loader) == "<strait.Loader, closed>"


def test_compressed_shards(tmp_path):
    """Mutant seen red: the library built without what decompresses them, as it was."""
    values, config = np.arange(7, dtype=np.int32), b"{}"
    start = 4 + 4 * 8 + len(config)
    raw = np.array([7, *(start + 4 * np.arange(8))], np.uint32).tobytes() + config + values.tobytes()
    squeezed = gzip.compress(raw)
    (tmp_path / "shard.00000.mds.gz").write_bytes(squeezed)
    shard = {"column_encodings": ["int32"], "column_names": ["x"], "column_sizes": [4], "compression": "gz", "format": "mds",
             "hashes": [], "raw_data": {"basename": "shard.00000.mds", "bytes": len(raw), "hashes": {}}, "samples": 7,
             "size_limit": 1 << 20, "version": 2,
             "zip_data": {"basename": "shard.00000.mds.gz", "bytes": len(squeezed), "hashes": {}}}
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    [batch] = strait.Loader(tmp_path, device="host")
    assert (batch["x"].numpy() == values).all()


def test_varints():
    from strait.batch import varints

    assert varints(b"") == [] and varints(b"\x05\xac\x02") == [5, 300]
    assert varints(b"\xff" * 9 + b"\x01") == [-1] and varints(b"\xfe" + b"\xff" * 8 + b"\x01\x00") == [-2, 0]
    for wrong in (b"\x80", b"\xff" * 10 + b"\x01"):
        with pytest.raises(ValueError, match="varints"):
            varints(wrong)


def test_device_protocol(rows):
    tensor = next(iter(strait.Loader(rows[0], batch_size=8, device="cpu")))["array"]
    assert tensor.__dlpack_device__() == (1, 0)
    assert not hasattr(tensor, "__cuda_array_interface__")
    assert "dltensor_versioned" in repr(tensor.__dlpack__(max_version=(1, 1)))
    assert '"dltensor"' in repr(tensor.__dlpack__())
    with pytest.raises(ValueError, match="no streams"):
        tensor.__dlpack__(stream=1)
    with pytest.raises(BufferError):
        tensor.__dlpack__(dl_device=(2, 0))


@pytest.mark.parametrize("legacy", [False, True])
def test_copies_by_dlpack(rows, model, legacy):
    """What the standard demands of host memory: bytes of their own."""
    batch = next(iter(strait.Loader(rows[0], batch_size=10, device="host")))
    shared, copy = batch["array"].numpy(), np.from_dlpack(Copies(batch["array"], legacy))
    assert np.array_equal(copy, rows[1][:10]) and copy.shape == (10, 3, 4) and copy.flags.c_contiguous and copy.ctypes.data % 256 == 0
    assert not np.shares_memory(copy, shared)
    batch.release()
    del batch
    shared[:] = 0
    assert np.array_equal(copy, rows[1][:10])
    tensors = strait.load_file(model[0])
    for name, array in model[1].items():
        if array.dtype != bool or np.lib.NumpyVersion(np.__version__) >= "2.0.0":
            assert np.array_equal(np.from_dlpack(Copies(tensors[name], legacy)), array), name


def test_numpy_is_told_what_it_has_no_type_for(model):
    """Not an array of one object."""
    tensor = strait.load_file(model[0])["brain"]
    try:
        wanted = tensor.numpy()
    except TypeError as error:
        for make in (np.asarray, np.array, lambda tensor: np.stack([tensor, tensor]), lambda tensor: np.asarray(tensor, np.float32)):
            with pytest.raises(TypeError, match=str(error)):
                make(tensor)
        return
    found = np.asarray(tensor)
    assert found.dtype == wanted.dtype and found.tobytes() == model[2]["brain"] and np.shares_memory(found, wanted)
    copy = np.array(tensor)
    assert copy.tobytes() == model[2]["brain"] and not np.shares_memory(copy, wanted)
    assert np.array_equal(np.asarray(tensor, np.float32), wanted.astype(np.float32), equal_nan=True)
    with pytest.raises(ValueError):
        tensor.__array__(np.float32, copy=False)


def test_numpy_is_told_without_the_package_of_its_types(model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="ml_dtypes"):
        np.asarray(strait.load_file(model[0])["brain"])


def test_errors(tmp_path, rows):
    with pytest.raises(FileNotFoundError) as missing:
        strait.Dataset(tmp_path / "none")
    assert missing.value.code == "OPEN" and missing.value.errno == 2 and missing.value.path == str(tmp_path / "none")
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"\x93NUMPY\x01\x00" + b"\xff" * 20)
    with pytest.raises(strait.errors.FormatError) as error:
        strait.Dataset(bad)
    assert error.value.status == 3 and error.value.path == str(bad) and str(error.value) == error.value.message
    with pytest.raises(ValueError):
        strait.Loader(rows[0], device="host", shuffle="sideways")
    with pytest.raises(TypeError, match="batchsize"):
        strait.Loader(rows[0], device="host", batchsize=3)
    with pytest.raises(ValueError, match="is no device"):
        strait.Loader(rows[0], device="tape")


def test_every_function_of_the_header_is_declared():
    missing = [name for name in _abi.FUNCTIONS if not hasattr(_abi, name)]
    assert missing == [] and len(_abi.FUNCTIONS) > 170


def test_doctor(tmp_path, pictures):
    found = strait.doctor(tmp_path, device="host")
    assert found["ring"] in ("uring", "pread") and found["device"] == "host" and found["version"] == strait.__version__
    assert os.path.dirname(found["read"]) == str(tmp_path) and not os.path.exists(found["read"])
    # A file is read as it is, however long.
    assert strait.doctor(pictures[0], device="host")["read"] == str(pictures[0])
    (tmp_path / "prime").write_bytes(b"x" * 65_537)
    assert strait.doctor(tmp_path / "prime", device="host")["ring"] == found["ring"]
    with pytest.raises(FileNotFoundError):
        strait.doctor(tmp_path / "none")


def test_doctor_where_nothing_can_be_written(pictures, monkeypatch):
    def refused(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    assert strait.doctor(pictures[0].parent, device="host")["read"] == str(pictures[0])


def test_torch(rows, pictures):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for batch in strait.Loader(rows[0], batch_size=100, device="host"):
        assert torch.equal(batch["array"].torch(), torch.from_numpy(rows[1][list(batch.samples)]))
    for batch in strait.Loader(pictures[0], batch_size=20, device="host"):
        assert bytes(batch["jpg"][3].torch().numpy()) == pictures[1][batch.samples[3]]["jpg"]
        assert bytes(batch["jpg"].arrays("pt")[3].numpy()) == pictures[1][batch.samples[3]]["jpg"]


def test_jax(rows):
    pytest.importorskip("jax", reason="JAX is not installed")
    for batch in strait.Loader(rows[0], batch_size=100, device="host"):
        assert np.array_equal(np.asarray(batch["array"].jax()), rows[1][list(batch.samples)])
