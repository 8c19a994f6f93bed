"""Checkpoints loaded by strait, next to the safetensors package: the same names, types, shapes and bytes."""

import json
import math
import pathlib
import struct

import lines

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}
SHAPES = ([], [0], [1], [7], [3, 5], [128, 33], [5, 0, 2], [2, 3, 4, 5], [1000, 129])
INDICES = (
    "[:]", "[0]", "[-1]", "[1:3]", "[:, 2:5]", "[2:3, :7]", "[..., 1:4]", "[10:90, 3]", "[::2]", "[:, ::3]", "[5:5]", "[-9:, -4:]",
)


def known(safetensors):
    """The types that this safetensors package has for PyTorch."""
    types = getattr(safetensors.torch, "_TYPES", SIZES)
    return {name: size for name, size in SIZES.items() if name in types}


def content(rng, dtype, count):
    """Bytes of so many elements; of a BOOL, 0 and 1. No NaN is made quiet on the way, since bytes are compared."""
    size = SIZES[dtype] * count
    return bytes(byte & 1 for byte in rng.bytes(size)) if dtype == "BOOL" else rng.bytes(size)


def write(path, tensors, metadata=None, order=None, pad=8, spaces=0):
    """A file by hand: its header as long as it comes (`pad` 1), with blanks, its data in another order than its names."""
    header, data, places = ({"__metadata__": metadata} if metadata else {}), b"", {}
    for name in order or list(tensors):
        raw = tensors[name][2]
        places[name] = [len(data), len(data) + len(raw)]
        data += raw
    for name, (dtype, shape, _) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": places[name]}
    text = json.dumps(header, indent=spaces or None).encode()
    text += b" " * (-len(text) % pad)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def files(directory, rng, types):
    """Name and path of files with odd headers."""

    def tensor(dtype, shape):
        return dtype, list(shape), content(rng, dtype, math.prod(shape))

    every = {f"{dtype}.{number}": tensor(dtype, shape) for dtype in types for number, shape in enumerate(SHAPES)}
    made = {
        "every type and shape": dict(tensors=every, metadata={"format": "pt"}),
        "a header of odd length": dict(tensors={"a": tensor("F32", [1000, 129]), "b": tensor("U8", [13])}, pad=1, spaces=3),
        "data in another order": dict(tensors=every, order=sorted(every, key=lambda name: name[::-1])),
        "odd names": dict(tensors={"": tensor("F32", [3]), "ä/\n\"\\": tensor("I16", [5]), "a" * 300: tensor("U8", [1])}),
        "one byte": dict(tensors={"x": tensor("U8", [1])}, pad=1),
        "many small ones": dict(tensors={f"layer.{i}": tensor("BF16", [i % 50]) for i in range(3000)}),
    }
    for number, (name, arguments) in enumerate(made.items()):
        path = directory / f"odd-{number}.safetensors"
        write(path, **arguments)
        yield name, path


def alike(torch, one, other):
    """Whether they have the same bytes; no two NaNs are equal."""
    raw = [value.contiguous().reshape(-1).view(torch.uint8) if value.numel() else value for value in (one, other)]
    return not one.numel() and not other.numel() or torch.equal(*raw)


def same(torch, found, wanted):
    """Whether two dictionaries of tensors are equal, byte by byte."""
    assert sorted(found) == sorted(wanted), f"names differ: {sorted(set(found) ^ set(wanted))[:5]}"
    for name, want in wanted.items():
        got = found[name]
        assert got.dtype == want.dtype, f"{name}: {got.dtype} is not {want.dtype}"
        assert got.shape == want.shape, f"{name}: {tuple(got.shape)} is not {tuple(want.shape)}"
        assert got.device == want.device, f"{name}: {got.device} is not {want.device}"
        assert alike(torch, got, want), f"{name} has wrong bytes"
    return f"{len(wanted)} tensors"


def slices(torch, strait, safetensors, path, device):
    """Parts of tensors as the safetensors package gives them."""
    count = 0
    with strait.safe_open(path, framework="pt", device=device) as ours:
        with safetensors.safe_open(path, framework="pt", device=device) as theirs:
            assert sorted(ours.keys()) == sorted(theirs.keys())
            for name in ("F32.8", "BF16.8", "U8.5", "I64.4", "F16.7"):
                part, their_part = ours.get_slice(name), theirs.get_slice(name)
                assert list(part.get_shape()) == list(their_part.get_shape()), name
                for index in INDICES:
                    try:
                        want = eval(f"part{index}", {"part": their_part})
                    except Exception:  # noqa: BLE001
                        continue  # theirs does not do this
                    found = eval(f"part{index}", {"part": part})
                    assert found.dtype == want.dtype and found.shape == want.shape, f"{name}{index}: {found.shape}"
                    assert alike(torch, found, want), f"{name}{index} has wrong bytes"
                    count += 1
    return f"{count} slices"


def behind_a_busy_stream(torch, strait, paths, device, wanted):
    """Tensors are used on a slow stream, and given up at once: their memory must not go to the next load before, whose file
    has the same tensors in other places."""
    if device == "cpu":
        return "no streams on the host"
    stream, kept = torch.cuda.Stream(), []
    for number in range(6):
        loaded = strait.torch.load_file(paths[number % len(paths)], device)
        # The tensors are ready on the stream on which they were made.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            kept.append({name: tensor.clone() for name, tensor in loaded.items()})
        torch.cuda.current_stream().wait_stream(stream)
        del loaded
    torch.cuda.synchronize()
    for one in kept:
        same(torch, one, wanted)
    return f"{len(kept)} loads"


def main():
    options = lines.options()
    torch, safetensors = lines.imported("torch"), lines.imported("safetensors")
    numpy = lines.imported("numpy")
    import safetensors.torch
    import strait.torch

    device = options.torch_device
    if device != "cpu" and not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        raise SystemExit(lines.NOTHING_HERE)
    rng = numpy.random.default_rng(9)
    for place in dict.fromkeys([options.dir, options.memory]):
        directory = pathlib.Path(place) / "odd"
        directory.mkdir(exist_ok=True)
        where = "disk" if place == options.dir else "tmpfs"
        first, paths = None, []
        for name, path in files(directory, rng, known(safetensors)):
            with lines.check(f"{name}, from {where}") as detail:
                try:
                    wanted = safetensors.torch.load_file(str(path), device=device)
                except Exception as error:  # noqa: BLE001
                    lines.skipped(f"{name}, from {where}", f"the safetensors package refuses it: {error}")
                    detail.append("strait alone")
                    strait.torch.load_file(str(path), device)
                    continue
                detail.append(same(torch, strait.torch.load_file(str(path), device), wanted))
            first = first or str(path)
            if name in ("every type and shape", "data in another order"):
                paths.append(str(path))
        with lines.check(f"slices, from {where}") as detail:
            detail.append(slices(torch, strait, safetensors, first, device))
        with lines.check(f"tensors given up behind a busy stream, from {where}") as detail:
            wanted = safetensors.torch.load_file(first, device=device)
            detail.append(behind_a_busy_stream(torch, strait, paths, device, wanted))
    lines.finish()


if __name__ == "__main__":
    main()
