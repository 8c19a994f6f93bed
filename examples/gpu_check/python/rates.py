"""strait and others by turns: A B C, B C A, .. , each in a process of its own, with medians of what they took.

A contender that cannot be imported, fails, hangs, or delivers wrong bytes is a line in the report; the others go on.
"""

import json
import os
import pathlib
import selectors
import statistics
import subprocess
import sys
import time

import lines

numpy = lines.imported("numpy")

GIB = 1 << 30
PARTS = {
    "peers-weights": ("strait weights", ["safetensors", "InstantTensor", "fastsafetensors", "Run:ai streamer"]),
    "peers-loaders": ("strait", ["torch DataLoader"]),
    "peers-reads": ("strait", ["pinned blocks by hand", "kvikio", "cuFile by torch.cuda.gds"]),
}
# Not as it would go where there is GPUDirect Storage, or by a device's own calls.
HOW = {"fastsafetensors": " (nogds)", "Run:ai streamer": " (to host memory, then copied)"}
# Of one run; what takes longer is left out from then on.
RUN_SECONDS_MAX = 25
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A contender's process."""

    def __init__(self, name, device):
        self.name, self.gone, self.version = name, None, None
        script = str(pathlib.Path(__file__).with_name("contenders.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, name, device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.heard = b""

    def ask(self, work, seconds):
        """The answer to a command; None, and why in `gone`, if there is none."""
        try:
            self.process.stdin.write(json.dumps(work).encode() + b"\n")
        except OSError:
            return self.leave("its process is gone")
        return self.listen(seconds)

    def listen(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.heard:
            if not self.selector.select(max(0, end - time.monotonic())):
                return self.leave(f"no answer within {seconds:.0f} s")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                return self.leave(f"its process ended: {self.process.wait()}")
            self.heard += more
        line, self.heard = self.heard.split(b"\n", 1)
        found = json.loads(line)
        return self.leave(found["error"]) if "error" in found else found

    def leave(self, why):
        self.gone = why.strip().splitlines()[0][:300] if why.strip() else "no reason given"
        self.close()
        return None

    def close(self):
        try:
            self.process.kill()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            pass

    def cpu_seconds(self):
        """User and system time so far, of its living descendants too."""
        parents, used = {}, {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])
                used[int(entry.name)] = sum(map(int, fields[11:15]))
        ours = {self.process.pid}
        for _ in range(4):
            ours |= {child for child, parent in parents.items() if parent in ours}
        return sum(used.get(process, 0) for process in ours) / TICKS


def evict(files):
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sum_of(path, skip=0):
    """The sum of a file's bytes."""
    total = 0
    with open(path, "rb") as file:
        file.seek(skip)
        while block := file.read(16 << 20):
            total += int(numpy.frombuffer(block, numpy.uint8).sum(dtype=numpy.int64))
    return total


class Case:
    """Files of one place, and how they are read."""

    def __init__(self, name, place, part, options, record=1 << 20, batch=16, shuffle=False):
        self.name, self.cold = name, place == "disk"
        root = pathlib.Path(options.dir if self.cold else options.memory)
        self.directory = None
        if part == "peers-weights":
            self.directory = root / "model"
            self.files = sorted(map(str, self.directory.glob("*.safetensors")))
        else:
            self.files = sorted(map(str, (root / "rates").glob("*.bin")))
        self.options = dict(record=record, batch=batch, shuffle=shuffle)
        self.runs = {}

    def work(self, count, **more):
        directory = str(self.directory) if self.directory else None
        return dict(files=self.files[:count], directory=directory, **self.options, **more)

    def small(self):
        """What a first run takes: a file; a model whole."""
        return len(self.files) if self.directory else 1

    def expected(self, count):
        if self.directory:
            header = [8 + int.from_bytes(open(path, "rb").read(8), "little") for path in self.files]
            return sum(map(sum_of, self.files, header))
        return sum(map(sum_of, self.files[:count]))


def cases(part, options):
    small = dict(record=128 << 10, batch=128, shuffle=True)
    kinds = {
        "peers-weights": [("disk", {}), ("tmpfs", {})],
        "peers-loaders": [("disk", small), ("disk", {}), ("tmpfs", small)],
        "peers-reads": [("disk", {}), ("tmpfs", {})],
    }
    found = []
    for place, how in kinds[part]:
        if place == "tmpfs" and not options.tmpfs:
            continue
        order = {"peers-loaders": ", shuffled 128 KiB" if how else ", in order 1 MiB"}.get(part, "")
        case = Case(place + order, place, part, options, **how)
        if case.files:
            found.append(case)
        else:
            lines.skipped(f"from {place}", "there are no files to measure with")
    return found


def start(part, options):
    """The processes that answer, strait's first."""
    ours, peers = PARTS[part]
    processes = [Process(name, options.torch_device) for name in [ours, *peers]]
    for process in processes:
        ready = process.listen(60)
        process.version = ready and ready.get("ready")
    for process in processes:
        if process.gone and process.name != ours:
            lines.skipped(process.name, process.gone)
    if processes[0].gone:
        with lines.check("strait starts"):
            raise RuntimeError(processes[0].gone)
        lines.finish()
    lines.say(machine={process.name.lower(): process.version for process in processes[1:] if not process.gone})
    return processes


def verify(process, case, strait):
    """One run whose bytes are added up."""
    count = case.small()
    found = process.ask(case.work(count, sum=True), 60)
    name = f"{process.name}, {case.name}: bytes add up"
    if found is None:
        if process is strait:
            with lines.check(name):
                raise RuntimeError(process.gone)
        return lines.skipped(process.name, process.gone)
    if found["sum"] == case.expected(count):
        return lines.ok(name, f"{found['bytes'] >> 20} MiB") if process is strait else None
    if process is strait:
        with lines.check(name):
            raise AssertionError("the sum of what came is not the files'")
    process.leave("it delivered wrong bytes")
    lines.skipped(process.name, process.gone)


def one_run(process, case, count):
    if case.cold:
        evict(case.files[:count])
    cpu = process.cpu_seconds()
    found = process.ask(case.work(count), RUN_SECONDS_MAX)
    if found is None:
        lines.skipped(f"{process.name}, {case.name}", f"left out from here on: {process.gone}")
        return None
    found["cpu"] = process.cpu_seconds() - cpu
    return found


def say_rows(case, processes, table):
    strait = case.runs.get(processes[0].name, {})
    for process in processes:
        runs = case.runs.get(process.name, {})
        if not runs:
            continue
        rate = {number: run["bytes"] / run["seconds"] / 1e9 for number, run in runs.items()}
        ours = {number: run["bytes"] / run["seconds"] / 1e9 for number, run in strait.items()}
        ratios = [ours[number] / rate[number] for number in rate if number in ours]
        row = {
            "what": f"{process.name}{HOW.get(process.name, '')}, {case.name}",
            "GB_per_s": statistics.median(rate.values()),
            "strait_over_it": statistics.median(ratios) if ratios else None,
            "CPU_s_per_GiB": statistics.median(run["cpu"] / (run["bytes"] / GIB) for run in runs.values()),
            "first_ms": statistics.median(run["first_ms"] for run in runs.values()),
            "rounds": len(runs),
            "all_GB_per_s": list(rate.values()),
        }
        lines.say(table=table, row=row)


def main():
    options = lines.options()
    part = options.part
    lines.imported("torch")
    processes = start(part, options)
    strait, table = processes[0], f"strait and others: {part.split('-')[1]}"
    found = cases(part, options)
    for case in found:
        for process in processes:
            if not process.gone:
                verify(process, case, strait)
    counts = {}
    for number in range(options.rounds):
        began = time.monotonic()
        for case in found:
            order = processes[number % len(processes):] + processes[:number % len(processes)]
            if case not in counts:
                # So many files that strait takes half a second.
                run = None if strait.gone else one_run(strait, case, case.small())
                if run is None:
                    break
                per_file = run["seconds"] / case.small()
                counts[case] = len(case.files) if case.directory else max(1, min(len(case.files), int(0.5 / per_file)))
            for process in order:
                if process.gone or time.monotonic() > options.end:
                    continue
                run = one_run(process, case, counts[case])
                if run:
                    case.runs.setdefault(process.name, {})[number] = run
            say_rows(case, processes, table)
        if strait.gone:
            with lines.check("strait runs"):
                raise RuntimeError(strait.gone)
            break
        if time.monotonic() + (time.monotonic() - began) > options.end:
            break
    for process in processes:
        process.close()
    lines.finish()


if __name__ == "__main__":
    main()
