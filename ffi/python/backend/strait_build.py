"""Builds the wheel: the package and the shared library, by cargo alone (PEP 517, without dependencies).

The environment variable STRAIT_LIBRARY names a library that is built already.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import platform
import re
import subprocess
import zipfile

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
# What manylinux lets a wheel link; the rest would have to be inside.
SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"}


def _version() -> str:
    [version] = re.findall(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), flags=re.M)[:1]
    return version


def _library() -> pathlib.Path:
    """The shared library, built if need be."""
    if built := os.environ.get("STRAIT_LIBRARY"):
        return pathlib.Path(built)
    subprocess.run(["cargo", "build", "--release", "--locked", "--package", "strait-ffi"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (ROOT / target) / "release" / "libstrait_ffi.so"


def _tag(library: bytes) -> str:
    """The wheel's tag: any Python 3, and the C library that the shared library needs."""
    foreign = {name.decode() for name in re.findall(rb"lib[\w+-]+\.so\.[\d.]+(?=\0)", _dynamic_strings(library))}
    foreign = {name for name in foreign - SYSTEM if not name.startswith(("libstrait", "ld-linux"))}
    machine = platform.machine()
    if foreign:
        print(f"linked to {', '.join(sorted(foreign))}: the wheel is for this machine's kind only")
        return f"py3-none-linux_{machine}"
    needed = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library)), default=17)
    return f"py3-none-manylinux_2_{max(needed, 17)}_{machine}"


def _dynamic_strings(library: bytes) -> bytes:
    """The names of what the library is linked to: the string table that holds its symbols' names too."""
    start = library.find(b"\0strait_")
    at = library.rfind(b"\0\0", 0, start)
    end = library.find(b"\0\0", start)
    return library[at:end]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 517's."""
    version, library = _version(), _library().read_bytes()
    tag = _tag(library)
    info = f"strait-{version}.dist-info"
    files = {f"strait/{path.name}": path.read_bytes() for path in sorted((HERE / "strait").iterdir())
             if path.suffix in (".py", ".typed")}
    files["strait/libstrait.so"] = library
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: strait\nVersion: {version}\n"
        "Summary: Streams training shards and model weights from NVMe into GPU memory\nRequires-Python: >=3.9\n"
        "License: MIT OR Apache-2.0\nDescription-Content-Type: text/markdown\n\n" + (HERE / "README.md").read_text()
    ).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: strait_build\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    for license in ("LICENSE-MIT", "LICENSE-APACHE"):
        files[f"{info}/licenses/{license}"] = (ROOT / license).read_bytes()
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = f"strait-{version}-{tag}.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            # One time for all: the same sources give the same wheel.
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, data)
    return wheel


def build_sdist(sdist_directory, config_settings=None) -> str:
    """PEP 517's: there is none, since the library's sources lie outside of the package."""
    raise RuntimeError("strait is installed from a wheel, or from a checkout of its repository")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
