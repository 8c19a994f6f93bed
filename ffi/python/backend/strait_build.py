"""Builds the wheel: the package, the shared library and the command `strait`, by cargo alone (PEP 517 and 660, without
dependencies).

The environment variable STRAIT_LIBRARY names a library that is built already, and STRAIT_COMMAND the command beside it: without
that the wheel has none.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
# What manylinux lets a wheel link; the rest would have to be inside.
SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"}


def _version() -> str:
    [version] = re.findall(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), flags=re.M)[:1]
    return version


def _built() -> tuple[pathlib.Path, bytes | None]:
    """Where the shared library is, and the command, built if need be: in one go, for what they share is compiled once then."""
    library, command = os.environ.get("STRAIT_LIBRARY"), os.environ.get("STRAIT_COMMAND")
    if not library:
        packages = ["--package", "strait-ffi", "--package", "strait", "--features", "strait/cli"]
        subprocess.run(["cargo", "build", "--release", "--locked", *packages], cwd=ROOT, check=True)
        built = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
        library, command = built / "libstrait_ffi.so", built / "strait"
    return pathlib.Path(library).resolve(), _stripped(command) if command else None


def _stripped(command: str | pathlib.Path) -> bytes:
    """The command without debug information, which is most of it, where there is a tool for that."""
    with tempfile.TemporaryDirectory() as directory:
        out = shutil.copy(command, directory)
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-debug", out], check=True)
        return pathlib.Path(out).read_bytes()


def _tag(library: bytes, command: bytes) -> str:
    """The wheel's tag: any Python 3, and the C library that the shared library and the command need."""
    foreign = {name.decode() for built, known in ((library, b"\0strait_"), (command, b"\0__libc_start_main"))
               for name in re.findall(rb"lib[\w+-]+\.so\.[\d.]+(?=\0)", _dynamic_strings(built, known))}
    foreign = {name for name in foreign - SYSTEM if not name.startswith(("libstrait", "ld-linux"))}
    machine = platform.machine()
    if foreign:
        print(f"linked to {', '.join(sorted(foreign))}: the wheel is for this machine's kind only")
        return f"py3-none-linux_{machine}"
    needed = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library + command)), default=17)
    return f"py3-none-manylinux_2_{max(needed, 17)}_{machine}"


def _dynamic_strings(built: bytes, known: bytes) -> bytes:
    """The names of what a file is linked to: the string table that holds its symbols' names too, of which one is known."""
    start = built.find(known)
    at = built.rfind(b"\0\0", 0, start)
    end = built.find(b"\0\0", start)
    return built[at:end]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 517's."""
    library, command = _built()
    files = {f"strait/{path.name}": path.read_bytes() for path in sorted((HERE / "strait").iterdir())
             if path.suffix in (".py", ".typed")}
    files["strait/libstrait.so"] = library.read_bytes()
    return _wheel(wheel_directory, files, command, _tag(files["strait/libstrait.so"], command or b""))


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 660's, for `pip install -e`: the package is that of the checkout, and its library what cargo built last."""
    library, command = _built()
    link = HERE / "strait" / "libstrait.so"
    link.unlink(missing_ok=True)
    link.symlink_to(library)
    return _wheel(wheel_directory, {"strait.pth": f"{HERE}\n".encode()}, command, f"py3-none-linux_{platform.machine()}")


def _wheel(directory: str, files: dict[str, bytes], command: bytes | None, tag: str) -> str:
    """Writes a wheel of these files, and gives its name."""
    version = _version()
    info = f"strait-{version}.dist-info"
    if command:
        files[f"strait-{version}.data/scripts/strait"] = command
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
    with zipfile.ZipFile(os.path.join(directory, wheel), "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            # One time for all: the same sources give the same wheel.
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            # Installers keep the mode of what says that it is a regular file.
            entry.external_attr = (stat.S_IFREG | 0o755 if name.endswith((".so", "/scripts/strait")) else stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, data)
    return wheel


def build_sdist(sdist_directory, config_settings=None) -> str:
    """PEP 517's: there is none, since the library's sources lie outside of the package."""
    raise RuntimeError("strait is installed from a wheel, or from a checkout of its repository")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
