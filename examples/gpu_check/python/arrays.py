"""Arrays by DLPack in PyTorch, CuPy and the bare driver: values and types, and races of streams that are provoked.

    loader --array--> consumer's slow stream: wait, sleep, copy      the array is given back before the copy has begun:
       ^                                                             only its fence keeps the memory from being filled again
       '---- memory for one batch more ----'
"""

import io
import pathlib
import tarfile
import time

import lines

numpy = lines.imported("numpy")
import consumers  # noqa: E402, behind what it needs

RECORDS, BYTES, BATCH = 480, 30_011, 16
# Consumers take as much before they look at it.
LOOK_EVERY = 24


def shard(directory):
    """Records whose bytes are known."""
    data = numpy.random.default_rng(5).integers(0, 256, (RECORDS, BYTES), numpy.uint8)
    path = pathlib.Path(directory) / "arrays.bin"
    path.write_bytes(data.tobytes())
    return str(path), data


def wrong(consumer, data):
    """Samples with a wrong byte, and all samples, among what was taken."""
    bad = count = 0
    for found, ids in consumer.values():
        same = found.reshape(len(ids), -1) == data[list(ids)]
        bad, count = bad + int((~same.all(axis=1)).sum()), count + len(ids)
    return bad, count


def race(strait, device, path, data, consumer, fenced, epochs):
    """Batches turn over while streams that read them are busy."""
    loader = strait.Loader(
        strait.Dataset(path, format="records", record_bytes=BYTES), batch_size=BATCH, device=device, shuffle=True, prefetch=1,
        hold=1, array={"record": ("u8", [BYTES])},
    )
    bad = count = taken = 0
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            consumer.take(batch["record"], batch.samples, fenced)
            batch.release()
            taken += 1
            if taken % LOOK_EVERY == 0:
                more = wrong(consumer, data)
                bad, count = bad + more[0], count + more[1]
    more = wrong(consumer, data)
    loader.close()
    return bad + more[0], count + more[1]


def races(strait, options, make, streams_of):
    """The race with each number of streams; then without fences, to see that it can be lost."""
    path, data = shard(options.memory)
    device = options.strait_device if options.part != "driver" else f"cuda:{options.device}"
    for name, streams in streams_of:
        with lines.check(f"memory turns over behind {name}") as detail:
            consumer = make(streams)
            bad, count = race(strait, device, path, data, consumer, True, 3)
            if bad:
                raise AssertionError(f"{bad} of {count} samples had wrong bytes")
            if objections := getattr(consumer, "misuse", str)():
                raise AssertionError(f"the stand-in for the driver objects: {objections}")
            detail.append(f"{count} samples")
        if time.monotonic() > options.end:
            lines.skipped("the other streams", "no time is left")
            break
    if device == "host":
        return
    name = "the same without fences, on purpose, is seen to go wrong"
    try:
        bad, count = race(strait, device, path, data, make(2), False, 1)
    except Exception as error:  # noqa: BLE001
        lines.unproven(name, f"{type(error).__name__}: {error}")
        return
    if bad:
        lines.ok(name, f"{bad} of {count} samples were wrong, as they should be")
    else:
        lines.unproven(name, f"none of {count} samples was wrong: the check could not have told")


def types(strait, options, to_bytes):
    """Arrays of each type that NumPy writes, windows of tokens, and ragged bytes, as their values are in the file."""
    directory = pathlib.Path(options.dir)
    rng = numpy.random.default_rng(6)
    with lines.check("rows of every type that NumPy writes") as detail:
        for dtype in ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"):
            rows = (rng.integers(0, 2 if dtype == "bool" else 100, (150, 3, 5))).astype(dtype)
            path = directory / f"{dtype}.npy"
            numpy.save(path, rows)
            for batch in strait.Loader(str(path), batch_size=32, device=options.strait_device, shuffle=True):
                found, name = to_bytes(batch["array"])
                assert name == dtype, f"{name} is not {dtype}"
                assert found == rows[list(batch.samples)].tobytes(), f"{dtype}: wrong bytes"
            detail.append(dtype)
    tokens = rng.integers(0, 50_000, 20_000).astype("uint16")
    (directory / "tokens.bin").write_bytes(tokens.tobytes())
    with lines.check("windows of tokens"):
        dataset = strait.Dataset(str(directory / "tokens.bin"), dtype="u16")
        for batch in strait.Loader(dataset, batch_size=8, device=options.strait_device, windows=(129, 128), policy="short"):
            found, _ = to_bytes(batch[batch.fields[0]])
            want = b"".join(tokens[128 * window:128 * window + 129].tobytes() for window in batch.samples)
            assert found == want, "wrong tokens"
    with lines.check("samples of any size"):
        sizes = [int(size) for size in rng.integers(1, 9000, 90)]
        with tarfile.open(directory / "ragged.tar", "w") as tar:
            data = [rng.bytes(size) for size in sizes]
            for number, content in enumerate(data):
                member = tarfile.TarInfo(f"{number:05}.bin")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        for batch in strait.Loader(str(directory / "ragged.tar"), batch_size=10, device=options.strait_device, shuffle=True):
            ragged = batch.ragged("bin")
            for place, sample in enumerate(batch.samples):
                assert to_bytes(ragged.raw(place))[0] == data[sample], f"sample {sample} has wrong bytes"


def rounded(numbers, dtype):
    """The bytes of these float32 as numbers of another type; bfloat16 by hand, which NumPy has not: to the nearest, ties to even."""
    if dtype != "bfloat16":
        return numbers.astype(dtype).tobytes()
    bits = numbers.view(numpy.uint32).astype(numpy.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16).tobytes()


def changed(strait, device, directory, to_bytes, fractions):
    """Arrays whose elements change on the way: tokens of 16 bits as int64, and every byte scaled to each of `fractions`."""
    directory = pathlib.Path(directory)
    rng = numpy.random.default_rng(8)
    tokens = rng.permutation(1 << 16).astype("uint16")
    (directory / "every-word.bin").write_bytes(tokens.tobytes())
    with lines.check("tokens of 16 bits as int32 and int64"):
        dataset = strait.Dataset(str(directory / "every-word.bin"), dtype="u16")
        [field] = dataset.fields
        for dtype in ("int32", "int64"):
            loader = strait.Loader(
                dataset, batch_size=8, device=device, windows=(129, 128), policy="short", dtype={field: dtype})
            count = 0
            for batch in loader:
                found, name = to_bytes(batch[field])
                want = b"".join(tokens[128 * one:128 * one + 129].astype(dtype).tobytes() for one in batch.samples)
                assert name == dtype and found == want, f"{name}: wrong tokens"
                count += len(batch)
            assert count == 511, f"{count} windows of 511"
    rows = rng.permuted(numpy.tile(numpy.arange(256, dtype=numpy.uint8), (64, 1)), axis=1)
    numpy.save(directory / "every-byte.npy", rows)
    with lines.check("every byte as a fraction, to the bit") as detail:
        factor, bias = numpy.float32(1 / 255), numpy.float32(-0.5)
        for dtype in fractions:
            for options, want in (
                ({"dtype": {"array": dtype}}, rows.astype(numpy.float32)),
                ({"scale": {"array": (dtype, 1 / 255, -0.5)}}, rows.astype(numpy.float32) * factor + bias),
            ):
                count = 0
                for batch in strait.Loader(
                    str(directory / "every-byte.npy"), batch_size=9, device=device, shuffle=True, policy="short", **options
                ):
                    found, name = to_bytes(batch["array"])
                    assert name == dtype and found == rounded(want[list(batch.samples)], dtype), f"{name}: wrong numbers"
                    count += len(batch)
                assert count == 64, f"{count} rows of 64"
            detail.append(dtype)


def outlives(strait, options, keep):
    """Arrays stay as they are when their batch and loader are gone."""
    path, data = shard(options.dir)
    with lines.check("arrays outlive batch and loader"):
        dataset = strait.Dataset(path, format="records", record_bytes=BYTES)
        loader = strait.Loader(dataset, batch_size=BATCH, device=options.strait_device, array={"record": ("u8", [BYTES])})
        kept = []
        for batch in loader:
            kept.append((keep(batch["record"]), batch.samples))
            if len(kept) == 2:
                break
        del batch
        loader.close()
        for array, ids in kept:
            found = numpy.frombuffer(bytes(array()), numpy.uint8).reshape(-1, BYTES)
            assert (found == data[list(ids)]).all(), "wrong bytes"


def with_torch(strait, options):
    torch = lines.imported("torch")
    if options.torch_device != "cpu":
        if not torch.cuda.is_available():
            print("PyTorch sees no GPU")
            raise SystemExit(lines.NOTHING_HERE)
        lines.say(machine={"torch_gpu": torch.cuda.get_device_name(options.device), "torch_cuda": torch.version.cuda})
        torch.cuda.set_device(options.device)

    def to_bytes(tensor):
        array = tensor.torch()
        return array.cpu().contiguous().view(torch.uint8).numpy().tobytes(), str(array.dtype).removeprefix("torch.")

    def keep(tensor):
        array = tensor.torch()
        return lambda: array.cpu().numpy().tobytes()

    types(strait, options, to_bytes)
    changed(strait, options.strait_device, options.dir, to_bytes, ("float16", "bfloat16", "float32"))
    outlives(strait, options, keep)

    def make(streams):
        return consumers.Torch(torch, options.torch_device, streams)

    races(strait, options, make, [("two streams of PyTorch", 2), ("PyTorch's default stream", 0)])


def with_cupy(strait, options):
    if options.torch_device == "cpu":
        print("CuPy needs a GPU")
        raise SystemExit(lines.NOTHING_HERE)
    cupy = lines.imported("cupy")
    cupy.cuda.Device(options.device).use()

    def to_bytes(tensor):
        array = cupy.from_dlpack(tensor)
        return array.get().tobytes(), str(array.dtype)

    def keep(tensor):
        array = cupy.from_dlpack(tensor)
        return lambda: array.get().tobytes()

    types(strait, options, to_bytes)
    # CuPy has no bfloat16.
    changed(strait, options.strait_device, options.dir, to_bytes, ("float16", "float32"))
    outlives(strait, options, keep)

    def make(streams):
        return consumers.Cupy(cupy, options.device, streams)

    races(strait, options, make, [("two streams of CuPy", 2), ("CuPy's default stream", 0)])


def with_driver(strait, options):
    def make(streams):
        return consumers.Driver(options.driver, options.device, streams)

    consumer = make(1)

    def to_bytes(tensor):
        consumer.take(tensor, None)
        [(found, _)] = consumer.values()
        return found.tobytes(), {"bf16": "bfloat16"}.get(tensor.dtype, tensor.dtype.replace("f", "float").replace("i", "int"))

    changed(strait, f"cuda:{options.device}", options.dir, to_bytes, ("float16", "bfloat16", "float32"))

    races(strait, options, make, [("two streams of the bare driver", 2), ("one stream of the bare driver", 1)])


if __name__ == "__main__":
    found = lines.options()
    import strait as library

    parts = {"torch": with_torch, "cupy": with_cupy, "driver": with_driver}
    parts[found.part](library, found)
    lines.finish()
