"""`python -m strait`: the command `strait` that came with this package."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys


def _command() -> str:
    """Where the installer has put it, or else what is found by its name."""
    try:
        files = importlib.metadata.files("strait") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for path in (str(file.locate()) for file in files if file.name == "strait"):
        if os.access(path, os.X_OK):
            return path
    if found := shutil.which("strait"):
        return found
    sys.exit("strait: this package came without its command; `cargo install --path . --features cli` in a checkout installs it")


def main() -> None:
    """In place of this process, so that signals and the exit code are the command's own."""
    command = _command()
    os.execv(command, ["strait", *sys.argv[1:]])


if __name__ == "__main__":
    main()
