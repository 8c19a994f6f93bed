"""The examples run, where their frameworks are installed."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


def example(name, *arguments, **environment):
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_train_tokens(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    np.tile(np.arange(64, dtype=np.uint16), 300).tofile(tmp_path / "tokens.bin")
    lines = example("train_tokens.py", tmp_path / "tokens.bin", "--dtype", "u16", "--steps", "60")
    losses = [float(line.split()[-1]) for line in lines]
    assert losses[-1] < 0.5 * losses[0], lines


def test_images(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(5):
            data = io.BytesIO()
            image.new("RGB", (8, 6), (number, 0, 0)).save(data, "JPEG")
            for name, content in (("jpg", data.getvalue()), ("cls", b"3")):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert example("images.py", tmp_path / "a.tar") == ["the first picture: (8, 6), label 3", "5 pictures"]


def test_resume(rows, tmp_path):
    whole = example("resume.py", tmp_path / "whole.json", rows[0])
    first = example("resume.py", tmp_path / "cut.json", rows[0], "--stop-after", 13)
    rest = example("resume.py", tmp_path / "cut.json", rows[0])
    assert len(whole) == 20 and len(first) == 13 and first + rest == whole


def test_ranks(rows):
    for rank in range(2):
        launched = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        [line] = example("ranks.py", rows[0], **launched)
        assert re.match(rf"rank {rank}: 10 steps, 500 samples, on \w+", line), line


def test_ranks_by_torchrun(rows):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", EXAMPLES / "ranks.py", rows[0]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(line[:40] for line in done.stdout.splitlines()) == [
        f"rank {rank}: 10 steps, 500 samples, on host"[:40] for rank in range(2)
    ]


def test_train_jax(tmp_path):
    pytest.importorskip("jax", reason="JAX is not installed")
    values = np.random.default_rng(6).random((1000, 4), dtype=np.float32)
    values[:, 3] = values[:, :3] @ np.array([1, -2, 3], np.float32)
    np.save(tmp_path / "rows.npy", values)
    losses = [float(line.split()[-1]) for line in example("train_jax.py", tmp_path / "rows.npy")]
    assert losses[-1] < 0.2 * losses[0], losses


def test_ray(rows):
    pytest.importorskip("ray", reason="Ray is not installed")
    assert example("ray_train.py", rows[0])[-1] == "1000 samples, 1000 of them distinct, of 1000"


def test_slurm_snippet_is_a_script():
    shell = shutil.which("bash") or pytest.skip("no bash")
    subprocess.run([shell, "-n", EXAMPLES / "slurm.sh"], check=True)
