"""Tidemill beside Apache Kafka, on one machine: who takes how much, at what cost, how fast.

Three systems: Tidemill, whose every acknowledgement is on disk; Kafka as shipped, which
acknowledges from memory and leaves the disk to the kernel; and Kafka with
log.flush.interval.messages=1, which syncs before it acknowledges.

All three are started once. The two that are not being measured are frozen (SIGSTOP), so that they
use no processor and lose no warmth (each was warmed up by a load that is not measured); before each run everything that is dirty in memory is written
out, so that nobody pays for another's writes. For each workload the systems take turns: A B C, and
again. Each run has a topic of its own, which is verified to the last record and then deleted. A
run that lost, duplicated or damaged a record counts as failed, whatever its speed.

What the disk can do at most is measured first, by `tidemill perf disk`, so that rates can be told as a
share of it. Every process may open as many descriptors as the machine allows: 10,000 partitions want them.

Results lie in DIR, one file for each run: what succeeded is not measured again (--fresh begins anew).
"""

import argparse
import html
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import apache_kafka

SYSTEMS = [
    ("tidemill", "Tidemill", "every acknowledgement on disk"),
    ("kafka", "Kafka 4.3.1", "as shipped: acknowledged from memory"),
    ("kafka-sync", "Kafka 4.3.1, synced", "log.flush.interval.messages=1"),
]
LARGE = ["produce", "--rate", "max", "--batch-bytes", "65536", "--value-bytes", "1024"]
# A broker whose directory is larger still deletes what a run left.
DATA_BYTES_LEFT = 2 << 30
SMALL = ["produce", "--rate", "max", "--batch-bytes", "250", "--value-bytes", "100", "--in-flight", "1"]
E2E = ["e2e", "--partitions", "16", "--connections", "4", "--value-bytes", "1024", "--linger", "1"]


def number(value):
    if value is None:
        return "–"
    if 1000 <= value:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


class Workload:
    """`share` of the slowest system's rate in the workload `of`, where the load is open; `old`: what is
    produced to the topic before, not measured, and no longer in the kernel's memory when the run begins."""

    def __init__(self, name, title, arguments, quick=True, share=None, of=None, old=None):
        self.name, self.title, self.arguments = name, title, arguments
        self.quick, self.share, self.of, self.old = quick, share, of, old


def produce(partitions, connections, quick=True):
    return Workload(f"produce-{partitions}", f"1 KB in 64 KiB batches, {number(partitions)} partition{'s' * (1 < partitions)}",
                    LARGE + ["--partitions", str(partitions), "--connections", str(connections)], quick)


def tail(sets, quick):
    return Workload(f"tail-{sets}", f"1 KB in 64 KiB batches, {sets} sets of readers at the tail",
                    LARGE + ["--partitions", "16", "--connections", "4", "--fan-out", str(sets)], quick)


def open_loop(percent, quick):
    return Workload(f"e2e-{percent}", f"end to end at {percent} % of the slowest's maximum, 1 KB, linger 1 ms",
                    E2E, quick, percent / 100, "produce-16")


def small(connections, quick):
    return Workload(f"unbatched-{connections}", f"100 B unbatched, {number(connections)} connection{'s' * (1 < connections)}, one request at a time",
                    SMALL + ["--partitions", "8", "--connections", str(connections)], quick)


WORKLOADS = [
    produce(1, 4), produce(16, 4), produce(256, 8), produce(1000, 8, False), produce(10000, 8, False),
    small(64, True), small(1, False), small(2000, False),
    tail(1, False), tail(4, True), tail(8, False),
    Workload("catch-up", "reading 4 GB of cold data from the start while 50 MB/s are produced",
             ["produce", "--rate", "50MB", "--linger", "5", "--partitions", "16", "--connections", "4",
              "--no-read-back"], False,
             old=["produce", "--rate", "400MB", "--linger", "5", "--partitions", "16", "--connections", "4",
                  "--seconds", "10", "--warm-up", "0", "--no-read-back"]),
    open_loop(20, True), open_loop(50, True), open_loop(80, False),
]


def forget_page_cache():
    """Cold data is on the disk, not in the kernel's memory."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except PermissionError:
        sys.exit("only root may empty the page cache, and reading cold data needs that; leave it out with --only")


def bytes_below(directory):
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                pass  # deleted while we look
    return total


class Broker:
    """One system: started, frozen, thawed, stopped. Only what was started here is ever signalled."""

    def __init__(self, kind, port, directory):
        self.kind, self.port, self.directory = kind, port, directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.log = open(directory / "log.txt", "wb")
        command = self.tidemill() if kind == "tidemill" else self.kafka()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=directory)
        self.wait_until_it_serves()

    def tidemill(self):
        data = self.directory / "data"
        return [os.environ["TIDEMILL_BIN"], "start", "--data-dir", str(data), "--listen", f"127.0.0.1:{self.port}"]

    def kafka(self):
        settings = {
            # It is frozen for minutes; its own controller must not take that for its death.
            "broker.session.timeout.ms": "3600000",
            # What is deleted goes at once, as with the others; a minute later is another's run.
            "log.segment.delete.delay.ms": "1000",
        }
        if self.kind == "kafka-sync":
            settings["log.flush.interval.messages"] = "1"
        return apache_kafka.prepare(os.environ["KAFKA_LIB"], self.directory, self.port, self.log, settings)

    def wait_until_it_serves(self):
        probe = [os.environ["TIDEMILL_BIN"], "bench", "produce", "--broker", f"127.0.0.1:{self.port}", "--topic", "probe",
                 "--rate", "100", "--seconds", "0.2", "--warm-up", "0", "--delete-topic"]
        deadline = time.monotonic() + 90
        while True:
            # A server that does not listen yet refuses; the client itself waits for leaders.
            ended = subprocess.run(probe, capture_output=True, text=True, timeout=120)
            if ended.returncode == 0:
                return
            if self.process.poll() is not None or deadline < time.monotonic():
                self.stop()
                sys.exit(f"{self.kind} does not serve: {ended.stderr}; see {self.directory}/log.txt")

    def warm_up(self, seconds):
        """A load that is not measured, until a just-in-time compiler has seen what matters."""
        subprocess.run([os.environ["TIDEMILL_BIN"], "bench", *LARGE, "--partitions", "4", "--connections", "4", "--fan-out", "1",
                        "--broker", f"127.0.0.1:{self.port}", "--topic", "warm-up", "--seconds", str(seconds),
                        "--delete-topic"], capture_output=True)
        self.wait_until_deleted()

    def wait_until_deleted(self):
        """Until a deleted topic has left the disk: else the next run would share it."""
        deadline = time.monotonic() + 60
        while DATA_BYTES_LEFT < bytes_below(self.directory / "data") and time.monotonic() < deadline:
            time.sleep(0.2)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            # A frozen process would not hear that it is to end.
            self.thaw()
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Comparison:
    def __init__(self, options):
        self.options = options
        self.dir = Path(options.dir).resolve()
        self.results = self.dir / ("quick" if options.quick else "full")
        if options.fresh:
            shutil.rmtree(self.results, ignore_errors=True)
        self.results.mkdir(parents=True, exist_ok=True)
        self.workloads = [w for w in WORKLOADS if w.quick or not options.quick]
        if options.only:
            self.workloads = [w for w in self.workloads if w.name in options.only.split(",")]
        self.seconds = options.seconds or (3 if options.quick else 20)
        self.repetitions = options.repetitions or (2 if options.quick else 3)
        self.until = time.monotonic() + options.budget if options.budget else None
        self.brokers = {}
        self.limits = self.results / "limits.toml"

    def disk_limit(self):
        """MB/s that the disk writes at most, in large blocks past the page cache."""
        if not self.limits.exists():
            return None
        cases = tomllib.loads(self.limits.read_text())["disk"]["case"]
        return max(case["bytes_per_second"] for case in cases if "write" in case["name"]) / 1e6

    def measure_disk(self):
        if not self.limits.exists():
            os.sync()
            subprocess.run([os.environ["TIDEMILL_BIN"], "perf", "disk", "--dir", str(self.dir), "--keep",
                            str(self.limits), "--seconds", "10"], check=True, stdout=subprocess.DEVNULL)

    def file(self, workload, kind, repetition):
        return self.results / f"{workload.name}.{kind}.{repetition}.json"

    def read(self, workload, kind):
        files = [self.file(workload, kind, n) for n in range(self.repetitions)]
        return [json.loads(file.read_text()) for file in files if file.exists()]

    def is_measured(self, workload, kind, repetition):
        file = self.file(workload, kind, repetition)
        return file.exists() and is_sound(json.loads(file.read_text()))

    def measure(self):
        rounds = [(w, n) for w in self.workloads for n in range(self.repetitions)]
        if self.options.quick:
            # All workloads once before any of them twice: a short time then leaves no gaps.
            rounds = [(w, n) for n in range(self.repetitions) for w in self.workloads]
        self.measure_disk()
        try:
            for workload, repetition in rounds:
                for kind, title, _ in SYSTEMS:
                    if self.until and self.until < time.monotonic():
                        print("the time is up; what is missing is left out")
                        return
                    if not self.is_measured(workload, kind, repetition):
                        self.one(workload, kind, repetition)
        finally:
            for broker in self.brokers.values():
                broker.stop()
            for kind in self.brokers:
                shutil.rmtree(self.dir / kind / "data", ignore_errors=True)

    def broker(self, kind):
        if kind in self.brokers and self.brokers[kind].process.poll() is not None:
            print(f"{kind} has ended by itself: see {self.dir / kind}/log.txt; it is started again", flush=True)
            del self.brokers[kind]
        if kind not in self.brokers:
            port = self.options.port + 10 * [kind for kind, _, _ in SYSTEMS].index(kind)
            self.brokers[kind] = Broker(kind, port, self.dir / kind)
            self.brokers[kind].warm_up(5 if self.options.quick else 20)
            self.brokers[kind].freeze()
        return self.brokers[kind]

    def rate(self, workload):
        """Records per second: a share of what the slowest system took. Decided once, for all runs of it."""
        decided = self.results / f"{workload.name}.rate"
        if not decided.exists():
            base = next(w for w in WORKLOADS if w.name == workload.of)
            taken = []
            for kind, _, _ in SYSTEMS:
                runs = [run for run in self.read(base, kind) if is_sound(run)]
                taken += [statistics.median(run["produced_records"] / run["seconds"] for run in runs)] if runs else []
            if not taken:
                return None
            decided.write_text(str(max(100, int(min(taken) * workload.share))))
        return int(decided.read_text())

    def read_from_start(self, target):
        """A reader beside the producer, from the first record to where the topic ended when it began."""
        command = [os.environ["TIDEMILL_BIN"], "bench", "--output", "json", "consume", *target, "--connections", "4", "--seconds", "60"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def add_reading(self, found, reading, target):
        """Waits for the reader, adds what it found, and deletes the topic, which both have left."""
        told, said = reading.communicate()
        read = json.loads(told) if told.strip() else {"clean": False}
        found["clean"] = bool(found["clean"]) and is_sound({**read, "exit": reading.returncode})
        if read.get("seconds"):
            found["fetched_bytes"], found["fetched_records"] = read["fetched_bytes"], read["fetched_records"]
            found["read_seconds"] = read["seconds"]
        found["read_said"] = said[-2000:]
        subprocess.run([os.environ["TIDEMILL_BIN"], "topic", "delete", "-b", target[1], target[3]], capture_output=True)

    def one(self, workload, kind, repetition):
        for other, _, _ in SYSTEMS:
            self.broker(other)
        broker = self.broker(kind)
        os.sync()
        broker.thaw()
        target = ["--broker", f"127.0.0.1:{broker.port}", "--topic", f"{workload.name}-{repetition}-{int(time.time())}"]
        if workload.old:
            # Whether all of it was taken shows in what is read.
            subprocess.run([os.environ["TIDEMILL_BIN"], "bench", *workload.old, *target], capture_output=True)
            forget_page_cache()
        command = [os.environ["TIDEMILL_BIN"], "bench", "--output", "json", *workload.arguments, *target,
                   "--pid", str(broker.process.pid), "--seconds", str(self.seconds), "--warm-up", "1"] + ([] if workload.old else ["--delete-topic"])
        if workload.share:
            rate = self.rate(workload)
            if rate is None:
                print(f"{workload.name}: its rate is a share of {workload.of}, which was not measured", flush=True)
                broker.freeze()
                return
            command += ["--rate", str(rate)]
        reading = self.read_from_start(target) if workload.old else None
        ended = subprocess.run(command, capture_output=True, text=True)
        found = json.loads(ended.stdout) if ended.stdout.strip() else {"clean": False}
        if reading:
            self.add_reading(found, reading, target)
        broker.wait_until_deleted()
        broker.freeze()
        found["commit"], found["exit"], found["command"], found["said"] = commit(self.options.root), ended.returncode, command[1:], ended.stderr[-2000:]
        self.file(workload, kind, repetition).write_text(json.dumps(found, indent=1))
        shown = figures([found])
        print(f"{workload.name:14} {kind:11} {repetition}: "
              + (f"{shown['rate']:.3g} MB/s, p99 {shown['p99'] or 0:.3g} ms" if shown else f"failed: {ended.stderr[-300:]}"),
              flush=True)


def is_sound(run):
    return bool(run.get("clean")) and run.get("exit") == 0


def figures(runs, disk_limit=None):
    """The medians of clean runs; none if there are none."""
    runs = [run for run in runs if is_sound(run)]
    if not runs:
        return None
    def median(of):
        values = [value for value in map(of, runs) if value is not None]
        return statistics.median(values) if values else None
    def latency(quantile):
        def of(run):
            histogram = run.get("e2e_ns") or run.get("ack_ns") or {}
            samples = histogram.get("count", 0)
            # A quantile is told only if ten samples lie above it.
            if samples * (1 - {"p50": .5, "p99": .99, "p99.9": .999, "p99.99": .9999}[quantile]) < 10:
                return None
            return histogram[quantile] / 1e6
        return median(of)
    # Old records are read in a time of their own, for which the processor's time is not known.
    moved = lambda run: 0 if "read_seconds" in run else run["produced_bytes"] + run["fetched_bytes"]
    records = lambda run: 0 if "read_seconds" in run else run["produced_records"] + run["fetched_records"]
    rate = lambda run: run["produced_bytes"] / run["seconds"] / 1e6
    rates = [rate(run) for run in runs]
    return {
        "runs": len(runs),
        "rate": median(rate),
        # Half the way from the lowest to the highest, in percent of the median.
        "noise": round((max(rates) - min(rates)) / 2 / median(rate) * 100, 1) if 1 < len(runs) and median(rate) else None,
        "disk": median(rate) / disk_limit * 100 if disk_limit else None,
        # Where nobody reads there is nothing to tell.
        "read": median(lambda run: run["fetched_bytes"] / run.get("read_seconds", run["seconds"]) / 1e6 or None),
        "records": median(lambda run: run["produced_records"] / run["seconds"]),
        "gb": median(lambda run: run["broker_cpu_seconds"] / moved(run) * 1e9 if moved(run) else None),
        "million": median(lambda run: run["broker_cpu_seconds"] / records(run) * 1e6 if records(run) else None),
        "rss": median(lambda run: run["broker_resident_bytes"] / 1e6),
        "bound": any(run["generator_bound"] for run in runs),
        **{q: latency(q) for q in ("p50", "p99", "p99.9", "p99.99")},
    }


COLUMNS = [
    ("rate", "produced MB/s", True), ("noise", "± %", None), ("disk", "% of disk", None), ("records", "records/s", True), ("read", "read MB/s", True),
    ("gb", "CPU s/GB", False), ("million", "CPU s/M records", False), ("p50", "p50 ms", False),
    ("p99", "p99 ms", False), ("p99.9", "p99.9 ms", False), ("p99.99", "p99.99 ms", False), ("rss", "memory MB", False),
    ("runs", "runs", None),
]


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = int(open("/proc/meminfo").readline().split()[1]) / 1024 / 1024
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"


def commit(root):
    return subprocess.check_output(["git", "-C", root, "rev-parse", "--short", "HEAD"], text=True).strip()


def facts(comparison):
    root = comparison.options.root
    runs = [run for w in comparison.workloads for kind, _, _ in SYSTEMS for run in comparison.read(w, kind)]
    commits = sorted({run["commit"] for run in runs if "commit" in run}) or [commit(root)]
    java = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[:1]
    return [
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), machine(), f"commit {' and '.join(commits)}", *java,
        f"up to {comparison.repetitions} runs of {comparison.seconds} s after 1 s of warm-up, medians",
        "generator and broker share the machine; the generator verifies every record",
        "a broker lives through many workloads: its memory is what all of them so far have left",
        f"up to {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} descriptors each",
        *([f"the disk writes at most {limit:,.0f} MB/s (tidemill perf disk)"] if (limit := comparison.disk_limit()) else []),
        "± %: half the way from the lowest to the highest repetition",
    ]


def table(comparison):
    """(title, note, rows): a row is a name and its cells, ratios of Tidemill to the others last."""
    for workload in comparison.workloads:
        found = {kind: figures(comparison.read(workload, kind), comparison.disk_limit()) for kind, _, _ in SYSTEMS}
        rows = []
        for kind, title, words in SYSTEMS:
            of = found[kind]
            if of is None:
                tried = comparison.read(workload, kind)
                failed = " ".join(tried[-1].get("said", "").split()) if tried else ""
                rows.append((title, [("failed: " + failed[:200]) if tried else "not measured"]))
                continue
            rows.append((title + (" ⚠" if of["bound"] else ""), [number(of[key]) for key, _, _ in COLUMNS]))
        ours = found["tidemill"]
        for kind, title, _ in SYSTEMS[1:]:
            theirs = found[kind]
            if ours and theirs:
                ratio = [f"{ours[key] / theirs[key]:.2f}×" if better is not None and ours[key] and theirs[key] else "–"
                         for key, _, better in COLUMNS]
                rows.append((f"Tidemill / {title}", ratio))
        note = ""
        if workload.share and comparison.rate(workload):
            note = f"{number(comparison.rate(workload))} records/s"
        yield workload.title, note, rows, found


def markdown(comparison):
    out = ["# Tidemill beside Apache Kafka", "", *(f"- {fact}" for fact in facts(comparison)), ""]
    out += [f"- {title}: {words}" for _, title, words in SYSTEMS]
    out += ["- ⚠: the load generator, not the broker, may have set the figure; latency is end to end where there are "
            "readers of new records, else to the acknowledgement; in closed loops it is that of a full queue", ""]
    for title, note, rows, _ in table(comparison):
        out += [f"## {title}" + (f" ({note})" if note else ""), ""]
        out += ["| | " + " | ".join(name for _, name, _ in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
        for name, cells in rows:
            out.append(f"| {name} | " + " | ".join(cells + [""] * (len(COLUMNS) - len(cells))) + " |")
        out.append("")
    return "\n".join(out)


STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--back:#fff;--soft:#667;--line:#dde;--a:#0a7d6c;--b:#b4632a;--c:#7a5cc0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--back:#15181c;--soft:#99a;--line:#333a42;--a:#3cc4ae;--b:#e2975c;--c:#ae95ee}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:92rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.2rem;font-size:1.1rem}.soft{color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .4rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:500;color:var(--soft);white-space:normal;vertical-align:bottom}tr.ratio td{color:var(--soft)}
td:first-child,th:first-child{text-align:left;position:sticky;left:0;background:var(--back)}
.bar{display:grid;grid-template-columns:11rem 1fr 7rem;gap:.6rem;align-items:center;margin:.15rem 0}
.bar i{display:block;height:.8rem;border-radius:2px}.bar b{font-weight:500;text-align:right}
@media(max-width:44rem){.bar{grid-template-columns:1fr auto;gap:0 .6rem;margin:.4rem 0}.bar i{grid-column:1/-1;grid-row:2}
table{font-size:.85rem}td:first-child{white-space:normal;min-width:6.5rem}ul{padding-left:1.2rem}}
"""


def bars(found):
    out = []
    largest = max((of["rate"] for of in found.values() if of), default=0) or 1
    for (kind, title, _), colour in zip(SYSTEMS, "abc"):
        of = found[kind]
        if of:
            width = of["rate"] / largest * 100
            out.append(f'<div class="bar"><span>{html.escape(title)}</span><i style="width:{width:.1f}%;'
                       f'background:var(--{colour})"></i><b>{number(of["rate"])} MB/s</b></div>')
    return "".join(out)


def page(comparison):
    out = ['<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
           f"<title>Tidemill beside Apache Kafka</title><style>{STYLE}</style><h1>Tidemill beside Apache Kafka</h1><ul class=soft>"]
    out += [f"<li>{html.escape(fact)}" for fact in facts(comparison)]
    out += [f"<li>{html.escape(title)}: {html.escape(words)}" for _, title, words in SYSTEMS]
    out.append("<li>⚠: the load generator, not the broker, may have set the figure. Latency is end to end where there are "
               "readers of new records, else to the acknowledgement; in closed loops it is that of a full queue.</ul>")
    for title, note, rows, found in table(comparison):
        out.append(f"<h2>{html.escape(title)} <span class=soft>{html.escape(note)}</span></h2>")
        if not note:
            out.append(bars(found))
        out.append('<div class="scroll"><table><tr><th>' + "".join(f"<th>{name}" for _, name, _ in COLUMNS))
        for name, cells in rows:
            ratio = ' class="ratio"' if "/" in name else ""
            out.append(f"<tr{ratio}><td>{html.escape(name)}" + "".join(f"<td>{html.escape(cell)}" for cell in cells))
        out.append("</table></div>")
    return "\n".join(out) + "\n"


def raise_descriptor_limit():
    """Kafka holds several files open for each partition. What it may have is told in the report."""
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    for wanted in (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        except (ValueError, PermissionError):
            continue


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the repository")
    parser.add_argument("--dir", required=True, help="where brokers keep their data, and results")
    parser.add_argument("--quick", action="store_true", help="the most telling workloads, at most 8 minutes")
    parser.add_argument("--only", help="only these workloads: NAME,NAME")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--budget", type=float, help="seconds after which no run is begun; 440 with --quick, else 8500")
    parser.add_argument("--port", type=int, default=29500)
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--publish", help="copy the reports into bench/runs under this name")
    options = parser.parse_args()
    if not options.budget:
        # A run that has begun is finished: what is left to 8 minutes, and to 2.5 hours, is for that.
        options.budget = 440 if options.quick else 8_500
    # Whoever ends this must not leave frozen brokers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    raise_descriptor_limit()
    comparison = Comparison(options)
    comparison.measure()
    for name, text in [("report.md", markdown(comparison)), ("report.html", page(comparison))]:
        (comparison.results / name).write_text(text)
        print(comparison.results / name)
        if options.publish:
            place = Path(options.root) / "bench" / "runs" / (options.publish + Path(name).suffix)
            place.write_text(text)


if __name__ == "__main__":
    main()
