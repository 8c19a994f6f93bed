"""The page cache, and the memory of processes."""

import ctypes
import os
import threading
import time

from run import children


class Stat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently")]


def evict(place):
    """Empties the page cache of the directory's files; gives the pages that stay, by cachestat(2), Linux 6.5."""
    # Those that are just being read ahead, or are mapped by a process that is ending, stay for a moment.
    deadline = time.monotonic() + 5
    while (left := evict_once(place)) and time.monotonic() < deadline:
        os.sched_yield()
    return left


def evict_once(place):
    left = 0
    for directory, _, names in os.walk(place):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                stat, whole = Stat(), (ctypes.c_uint64 * 2)(0, 0)
                if ctypes.CDLL(None).syscall(451, file.fileno(), whole, ctypes.byref(stat), 0) == 0:
                    left += stat.cached
    return left


def memory(pid):
    """Bytes of a process and those under it that are not a file's: each one's own, and its share of what is shared."""
    total = 0
    for process in [pid, *children(pid)]:
        try:
            with open(f"/proc/{process}/smaps_rollup") as file:
                lines = dict(line.split(":", 1) for line in file.readlines()[1:])
        except OSError:
            continue
        for name in ("Pss_Anon", "Pss_Shmem", "Private_Hugetlb", "Shared_Hugetlb"):
            total += int(lines[name].split()[0]) << 10
    return total


class Memory(threading.Thread):
    """The most that a process has until `most` is called, or the process is gone."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.seen, self.over = pid, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.02) and os.path.exists(f"/proc/{self.pid}"):
            self.seen = max(self.seen, memory(self.pid))

    def most(self):
        self.over.set()
        self.join()
        return self.seen
