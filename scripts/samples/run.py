"""One loader, in a process of its own: run.py DIRECTORY CELL LOADER. Talks with sample-pairs in lines.

    it                               sample-pairs
    "imported"                  -->
                                <--  "open": the page cache is empty now
    seconds .. as JSON          -->
                                <--  "check": again, not timed, and every byte is compared
    what is wrong, or null      -->
"""

import itertools
import json
import os
import resource
import sys
import time

from cells import CELLS


def children(pid):
    """The processes under it."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    except OSError:
        return found
    return found + [below for child in found for below in children(child)]


def cpu_seconds():
    """Its own, and those of its workers, whether they have ended or not."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    for child in children(os.getpid()):
        try:
            with open(f"/proc/{child}/stat") as file:
                user, system = file.read().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        used += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return used


def timed(loader, home):
    """What the first epoch took."""
    began = time.perf_counter()
    batches, view = loader.open(f"{home}/{loader.place}", **loader.options)
    opened, cpu, first, count, length = time.perf_counter(), cpu_seconds(), None, 0, 0
    for batch in itertools.islice(batches, loader.kind.BATCHES):
        first = first or time.perf_counter()
        more, longer = loader.kind.light(view(batch))
        count, length = count + more, length + longer
    seconds, cpu = time.perf_counter() - opened, cpu_seconds() - cpu
    found = {"first": first - began, "seconds": seconds, "cpu_seconds": cpu, "samples": count, "bytes": length}
    return found, batches, view


def checked(loader, home, batches, view):
    """What is wrong with another epoch."""
    stored, seen = loader.kind.Stored(home), set()
    for batch in itertools.islice(batches, loader.kind.BATCHES):
        for sample in loader.kind.samples(view(batch)):
            number = stored.number(sample)
            if number in seen:
                return f"sample {number} came twice"
            seen.add(number)
            if sample != stored[number]:
                return f"sample {number} is not what is stored"
    return None if len(seen) == stored.expected[0] else f"{len(seen)} samples came, not {stored.expected[0]}"


def main():
    home, cell, name = sys.argv[1:]
    # Loaders may print: this talk has a pipe of its own.
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line):
        print(line, file=talk, flush=True)

    loader = next(loader for loader in CELLS[cell] if loader.name == name)
    loader.imported()
    say("imported")
    if sys.stdin.readline() == "open\n":
        found, batches, view = timed(loader, home)
        expected = loader.kind.Stored(home).expected
        if (found["samples"], found["bytes"]) != expected:
            sys.exit(f"{found['samples']} samples of {found['bytes']} bytes came, not {expected}")
        say(json.dumps(found))
        if sys.stdin.readline() == "check\n":
            say(json.dumps(checked(loader, home, batches, view)))


if __name__ == "__main__":
    main()
