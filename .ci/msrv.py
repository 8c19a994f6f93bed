"""Reads `cargo metadata` and fails if a dependency needs a newer Rust than the workspace promises."""

import json
import sys


def version(text):
    return tuple(int(part) for part in text.split(".")) + (0,) * (3 - len(text.split(".")))


metadata = json.load(sys.stdin)
members = set(metadata["workspace_members"])
packages = metadata["packages"]
ours = min(version(p["rust_version"]) for p in packages if p["id"] in members and p["rust_version"])
newer = [
    f"{p['name']} {p['version']} needs {p['rust_version']}"
    for p in packages
    if p["id"] not in members and p["rust_version"] and version(p["rust_version"]) > ours
]
print(f"{len(packages) - len(members)} dependencies, minimum Rust {'.'.join(map(str, ours))}")
if newer:
    sys.exit("newer than that: " + "; ".join(newer))
