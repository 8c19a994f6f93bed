"""What the README does, as a program that `mypy --strict` passes; it is not run."""

from __future__ import annotations

import strait
import strait.numpy
import strait.torch

loader = strait.Loader("train/", batch_size=256, shuffle=True, seed=17, device="host")
for batch in loader:
    tokens = batch["tokens"].torch()
    saved = loader.state_dict()
    jpg = batch["jpg"][3].numpy()
    kept = [picture.sum() for picture in batch["jpg"].arrays("np")]
    labels: list[int | None] = batch["cls"].integers()
    if isinstance(batch["text"], strait.Ragged):
        raw = batch.ragged("text").bytes(0)
        if raw is not None:
            first: int = raw[0]
steps: int = len(loader)
loader.load_state_dict(strait.merge([saved, saved]))
cursor: str = strait.merge([batch.cursor()])


def weights(path: str) -> int:
    with strait.safe_open(path, framework="pt", device="cuda:0") as opened:
        head = opened.get_slice("lm_head.weight")[:128]
        names: list[str] = opened.keys()
    loaded = strait.load_file(path, ring="pread", block_bytes=1 << 20)
    strait.load_into(path, {name: head for name in names}, deadline_ms=1000)
    strait.save_file(loaded, path, {"format": "pt"}, digests="xxh3-64")
    strait.torch.save_file(strait.torch.load_file(path), path)
    strait.numpy.save(strait.numpy.load(b""))
    return loaded["x"].shape[0]


found: dict[str, object] = strait.doctor()
pinned: strait.Device = strait.Device.pinned_host(strait.Device("cuda"))
