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

numpy = lines.imported("numpy")  # behind lines, which says where packed wheels lie

GIB = 1 << 30
PARTS = {
    "peers-weights": ("strait weights", ["safetensors", "InstantTensor", "fastsafetensors", "Run:ai streamer"]),
    "peers-loaders": ("strait", ["torch DataLoader"]),
    "peers-reads": ("strait", ["pinned blocks by hand", "kvikio", "cuFile by torch.cuda.gds"]),
}
# Not as it would go where there is GPUDirect Storage, or by a device's own calls.
HOW = {"fastsafetensors": " (nogds)", "Run:ai streamer": " (by way of host memory)"}
# Of one run; what takes longer is left out from then on.
RUN_SECONDS_MAX = 25
LATE = "no answer within"
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A contender's process."""

    def __init__(self, name, device):
        self.name, self.gone, self.why, self.version = name, None, None, None
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
                return self.leave(f"{LATE} {seconds:.0f} s")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                return self.leave(f"its process ended: {self.process.wait()}")
            self.heard += more
        line, self.heard = self.heard.split(b"\n", 1)
        found = json.loads(line)
        if "error" in found:
            # It lives, and may do better in another place.
            self.why = first_line(found["error"])
            return None
        return found

    def leave(self, why):
        self.gone = self.why = first_line(why)
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


def first_line(text):
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"


def failed(name, why):
    """Of strait itself. What only took too long has failed at nothing."""
    if why.startswith(LATE):
        return lines.unproven(name, why)
    with lines.check(name):
        raise RuntimeError(why)


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
        self.options = dict(record=record, batch=batch, shuffle=shuffle, cold=self.cold)
        self.runs, self.sums, self.out = {}, {}, {}

    def leaves_out(self, process, why):
        """It has no part in this case from here on."""
        self.out[process.name] = why
        lines.skipped(f"{process.name}, {self.name}", f"left out from here on: {why}")

    def has(self, process):
        return not process.gone and process.name not in self.out

    def work(self, count, **more):
        directory = str(self.directory) if self.directory else None
        return dict(files=self.files[:count], directory=directory, **self.options, **more)

    def small(self):
        """What a first run takes: a file; a model whole."""
        return len(self.files) if self.directory else 1

    def expected(self, count):
        for path in self.files[:count]:
            if path not in self.sums:
                with open(path, "rb") as file:
                    header = 8 + int.from_bytes(file.read(8), "little") if self.directory else 0
                self.sums[path] = sum_of(path, header)
        return sum(self.sums[path] for path in self.files[:count])


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


def left(options):
    return max(1, options.end - time.monotonic())


def start(part, options):
    """The processes that answer, strait's first."""
    ours, peers = PARTS[part]
    processes = [Process(name, options.torch_device) for name in [ours, *peers]]
    for process in processes:
        ready = process.listen(min(60, left(options) / 2))
        if ready is None and not process.gone:
            process.leave(process.why)
        process.version = ready and ready.get("ready")
    for process in processes:
        if process.gone and process.name != ours:
            lines.skipped(process.name, process.gone)
    if processes[0].gone:
        failed("strait starts", processes[0].gone)
        lines.finish()
    lines.say(machine={process.name.lower(): process.version for process in processes[1:] if not process.gone})
    return processes


def verify(process, case, strait, options):
    """One run whose bytes are added up."""
    count = case.small()
    if process is not strait and left(options) < options.seconds * 0.25:
        return case.leaves_out(process, "no time was left to see that its bytes are right")
    found = process.ask(case.work(count, sum=True), min(60, left(options) / 3))
    right = found is not None and found["sum"] == case.expected(count)
    why = process.why if found is None else "it delivered wrong bytes"
    if process is not strait:
        return None if right else case.leaves_out(process, why)
    name = f"{process.name}, {case.name}: bytes add up"
    if right:
        return lines.ok(name, f"{found['bytes'] >> 20} MiB")
    case.out[process.name] = why
    return failed(name, why)


def one_run(process, case, count, options):
    if case.cold:
        evict(case.files[:count])
    cpu = process.cpu_seconds()
    found = process.ask(case.work(count), min(RUN_SECONDS_MAX, left(options) + 8))
    if found is None:
        return case.leaves_out(process, process.why)
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
        cores = [run["cpu"] / run["seconds"] for run in runs.values()]
        row = {
            "what": f"{process.name}{HOW.get(process.name, '')}, {case.name}",
            "GB_per_s": statistics.median(rate.values()),
            "strait_over_it": statistics.median(ratios) if ratios else None,
            "CPU_s_per_GiB": statistics.median(run["cpu"] / (run["bytes"] / GIB) for run in runs.values()),
            "cores": statistics.median(cores),
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
                verify(process, case, strait, options)
    rounds(options, processes, found, table)
    for process in processes:
        for case in found:
            if case.has(process) and process.name not in case.runs:
                lines.skipped(f"{process.name}, {case.name}", "no time was left for it")
        process.close()
    lines.finish()


def rounds(options, processes, found, table):
    """All of them by turns, as often as there is time for."""
    strait, counts = processes[0], {}
    for number in range(options.rounds):
        began = time.monotonic()
        order = processes[number % len(processes):] + processes[:number % len(processes)]
        for case in found:
            if case not in counts:
                counts[case] = count_of(case, processes, options)
            for process in order if counts[case] else ():
                if case.has(process) and time.monotonic() < options.end:
                    if run := one_run(process, case, counts[case], options):
                        case.runs.setdefault(process.name, {})[number] = run
            say_rows(case, processes, table)
        took = time.monotonic() - began
        print(f"round {number + 1} of {options.rounds} took {took:.1f} s", flush=True)
        if time.monotonic() + took > options.end:
            if number + 1 < options.rounds:
                lines.note("fewer rounds", f"{number + 1} of {options.rounds}: there was no time for more")
            break
    for case in found:
        if not case.has(strait):
            failed(f"{strait.name} runs, {case.name}", case.out.get(strait.name, strait.gone))


def count_of(case, processes, options):
    """So many files that strait takes half a second. None if strait does not run."""
    run = one_run(processes[0], case, case.small(), options) if case.has(processes[0]) else None
    if run is None or case.directory:
        return run and len(case.files)
    per_file = run["seconds"] / case.small()
    count = max(1, min(len(case.files), int(0.5 / per_file)))
    # Workers start, memory is mapped: once, and not timed.
    for process in processes:
        if case.has(process) and time.monotonic() < options.end:
            one_run(process, case, count, options)
    return count


if __name__ == "__main__":
    main()
