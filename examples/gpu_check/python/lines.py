"""What the scripts share: their options, and what they say to gpu_check (see lines.rs): a line of `@` and JSON each."""

import argparse
import contextlib
import json
import os
import sys
import time
import traceback

NOTHING_HERE = 3
# Wheels that were packed come after this machine's own packages, and shadow none of them.
if site := os.environ.get("GPU_CHECK_SITE"):
    sys.path.append(site)


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", required=True)
    parser.add_argument("--dir", required=True, help="on the disk")
    parser.add_argument("--tmpfs", help="in memory")
    parser.add_argument("--driver", help="a stand-in for the CUDA driver: what needs a GPU then runs on the host")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    found = parser.parse_args()
    found.memory = found.tmpfs or found.dir
    found.strait_device = "host" if found.driver else f"cuda:{found.device}"
    found.torch_device = "cpu" if found.driver else f"cuda:{found.device}"
    found.end = time.monotonic() + found.seconds
    return found


def say(**line):
    print("@" + json.dumps(line), flush=True)


def ok(name, detail=""):
    say(ok=name, detail=detail)


def skipped(name, why):
    say(skipped=name, detail=why)


def unproven(name, why):
    """A check that could not have failed."""
    say(unfinished=name, detail=why)


def note(name, detail):
    say(note=name, detail=detail)


failures = []


@contextlib.contextmanager
def check(name):
    """A check: what it appends to the list is its detail; what it raises is why it failed, and the next one goes on."""
    detail = []
    try:
        yield detail
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        failures.append(name)
        say(failed=name, detail=f"{type(error).__name__}: {error}")
    else:
        ok(name, "; ".join(map(str, detail)))


def imported(name):
    """A module, or an end of the script that says why there is none."""
    try:
        module = __import__(name)
    except Exception as error:  # noqa: BLE001
        print(f"{name} cannot be imported: {type(error).__name__}: {error}")
        sys.exit(NOTHING_HERE)
    say(machine={name: getattr(module, "__version__", "?")})
    return module


def finish():
    sys.stdout.flush()
    sys.exit(1 if failures else 0)
