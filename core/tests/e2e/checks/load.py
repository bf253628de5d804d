"""The load generator against the real broker: every command, and what its options promise.

Each run is small and verified to the last record; what is checked here is that it ends as it
should, says what it should, and leaves the result that others read.
"""

import json
import os
import pathlib
import subprocess

from running import ROOT, demand


def bench(words, seconds=120):
    """Runs `tidemill bench`; its exit code, its lines of JSON, and what it said besides."""
    command = [os.environ["TIDEMILL_BIN"], "bench", *map(str, words), "--output", "json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return done.returncode, lines, done.stderr.decode(errors="replace")


def clean(words, seconds=120):
    """The figures of a run that has to be clean."""
    code, lines, said = bench(words, seconds)
    demand(code == 0 and lines and lines[-1]["clean"], f"{words} ended with {code}: {said} {lines[-1:]}")
    return lines[-1]


def check(run):
    broker = run.broker(shards=2)
    seconds = 1 if run.quick else 5
    at = ["--broker", broker.address, "--pid", broker.pid]
    short = at + ["--seconds", seconds, "--warm-up", "0.2"]
    shapes(run, at, short, seconds)
    readers(run, short, seconds)
    phases(run, at)
    workers(run, short, seconds)
    objectives(run, short)
    limits(run, short)
    mistakes(run, broker)
    evidence(run)
    broker.stop()


def shapes(run, at, short, seconds):
    """Acks, codecs, keys, sizes and patterns: each asked for is what comes back."""
    cases = [
        ("acks-all", ["--acks", "all"]),
        ("acks-1", ["--acks", "1"]),
        ("acks-0", ["--acks", "0"]),
        ("gzip", ["--compression", "gzip", "--linger", "5"]),
        ("snappy", ["--compression", "snappy", "--linger", "5"]),
        ("lz4", ["--compression", "lz4", "--linger", "5", "--compressible", "0.9"]),
        ("zstd", ["--compression", "zstd", "--linger", "5", "--compressible", "0"]),
        ("keys", ["--keys", "10", "--partitions", "3", "--connections", "2"]),
        ("sizes", ["--value-bytes", "40..20000"]),
        ("poisson", ["--arrival", "poisson"]),
        ("bursts", ["--arrival", "bursts:100", "--linger", "1"]),
        ("many", ["--partitions", "50", "--connections", "20", "--shards", "2"]),
    ]
    for name, words in cases:
        told = clean(["produce", *short, "--rate", "2000", "--topic", name, *words])
        due = 2000 * seconds
        # Chance keeps its rate within four deviations.
        slack = 4 * due ** 0.5 if name == "poisson" else 100
        if name != "acks-0":
            counted = told["ack_ns"]["count"]
            demand(abs(counted - due) <= slack, f"{name}: {counted} records of {due} counted")
        demand(told["verified_records"] >= due - slack, f"{name}: {told['verified_records']} verified")
    # All of it once more, from the beginning, by whoever comes later.
    again = clean(["consume", *at, "--topic", "lz4"])
    demand(again["verified_records"] >= 2000 * seconds, f"consume: {again['verified_records']}")
    run.say(f"{len(cases)} shapes of load came back, each record once, in order and undamaged")


def readers(run, short, seconds):
    rate = ["--rate", "5000", "--partitions", "4", "--connections", "2", "--linger", "1"]
    many = clean(["e2e", *short, *rate, "--topic", "fan-out", "--fan-out", "3"])
    demand(many["e2e_ns"]["count"] == 3 * many["ack_ns"]["count"], "three sets read each record")
    slow = clean(["e2e", *short, *rate, "--topic", "slow", "--reader-rate", "1MB"])
    late = clean(["e2e", *short, *rate, "--topic", "late", "--reader-delay", "0.7"])
    behind = min(slow["e2e_ns"]["p99"], late["e2e_ns"]["p99"])
    demand(behind > 200e6, f"slow and late readers are behind, not {behind / 1e6} ms")
    start = clean(["mixed", *short, *rate, "--topic", "fan-out"])
    demand(start["verified_records"] > 10_000 * seconds, "reading began at the first record")
    run.say("sets of readers, slow, late and from the start, saw everything")


def phases(run, at):
    told = clean(["e2e", *at, "--topic", "phases", "--partitions", "4", "--connections", "2",
                  "--phases", ROOT / "bench/examples/phases.toml"])
    counts = {phase["name"]: phase["ack_ns"]["count"] for phase in told["phases"]}
    demand(list(counts) == ["steady", "rush", "after"], f"three phases, not {counts}")
    wanted = {"steady": 40_000, "rush": 80_000, "after": 40_000}
    for name, count in counts.items():
        demand(abs(count - wanted[name]) < 0.03 * wanted[name], f"{name}: {count} records")
    demand(told["ack_ns"]["count"] == sum(counts.values()), "the whole is its phases")
    run.say(f"the example of phases: {counts}")


def workers(run, short, seconds):
    dir = run.dir / "crew"
    words = ["e2e", *short, "--rate", "6000", "--topic", "crew", "--partitions", "4",
             "--connections", "4", "--linger", "1", "--result", dir]
    told = clean([*words, "--workers", "2",
                  "--worker", f"{os.environ['TIDEMILL_BIN']} bench worker"])
    count, due = told["ack_ns"]["count"], 6000 * seconds
    demand(abs(count - due) < 50, f"three workers sent {count} records, not {due}")
    for name in ["env.json", "latency.hlog", "result.json", "report.html"]:
        demand((dir / name).stat().st_size > 0, f"{name} is there")
    report = subprocess.run([os.environ["TIDEMILL_BIN"], "perf", "report", str(dir), "--output", "json"],
                            capture_output=True, check=True)
    tags = json.loads(report.stdout)["tags"]
    demand(tags["ack"]["count"] == count, f"the log holds {tags['ack']['count']} of {count}")
    run.say(f"three workers as one: {count} latencies in one histogram")


def objectives(run, short):
    base = ["produce", *short, "--topic", "slo", "--linger", "1", "--no-read-back"]
    code, _, said = bench([*base, "--rate", "2000", "--slo", "p99<10s,errors=0"])
    demand(code == 0, f"an easy objective is met: {said}")
    code, lines, said = bench([*base, "--rate", "1000", "--slo", "p50<1us"])
    demand(code == 11 and lines[-1]["missed"], f"a hard one is missed with 11, not {code}: {said}")
    code, lines, said = bench([*base, "--sweep", "500..2k"])
    demand(code == 0 and [line["rate"] for line in lines] == [500, 1000, 2000], f"sweep: {said}")
    # Nothing answers within 50 us and much within a second: the search has to come to an end.
    code, lines, said = bench([*base, "--rate", "4M", "--slo", "p99<300ms", "--find-max"], 400)
    found = lines[-1].get("find_max_records_per_second")
    demand(code == 0 and found and found < 100_000_000, f"find-max ended with {code}: {said}")
    run.say(f"find-max: {found:.0f} records/s of 1 KB at p99<300ms, after {len(lines) - 1} runs")


def limits(run, short):
    """Shares of what this machine can do, where that was measured."""
    file = run.dir / "limits.toml"
    for probe in ["disk", "net"]:
        where = ["--dir", str(run.dir)] if probe == "disk" else []
        subprocess.run([os.environ["TIDEMILL_BIN"], "perf", probe, *where, "--seconds", "2",
                        "--keep", str(file)], capture_output=True, check=True)
    told = clean(["produce", *short, "--rate", "20000", "--topic", "limits", "--limits", file])
    share = told["of_limits"]["disk writes"]
    demand(0 < share < 1 and 0 < told["of_limits"]["bytes in"] < 1, f"shares: {told}")
    run.say(f"to store 20 MB/s took {share:.1%} of what the disk can write")


def mistakes(run, broker):
    """What makes no sense is refused in words, and makes no topic."""
    at = ["--broker", broker.address, "--topic", "never-made"]
    for words, told in [
        (["consume", *at, "--rate", "5"], "--rate"),
        (["e2e", *at, "--fetch-bytes", "-5"], "--fetch-bytes"),
        (["e2e", *at, "--reader-rate", "0.1"], "at least one byte"),
        (["produce", *at, "--slo", "p99"], "p99<5ms"),
        (["produce", *at, "--rate", "fast"], "fast"),
        (["produce", *at, "--rate", "-5"], "above zero"),
        (["produce", *at, "--phases", "nowhere.toml"], "nowhere.toml"),
    ]:
        code, _, said = bench(words)
        demand(code == 2 and told in said, f"{words}: refused in words, not {code}: {said}")
    code, _, said = bench(["consume", *at])
    demand(code == 1 and "never-made" in said, f"a topic that is not there: {code} {said}")
    run.say("mistakes on the command line are told, and make no topic")


def evidence(run):
    """A topic in which records were lost is not deleted, whatever was asked for."""
    server = subprocess.Popen([os.environ["TIDEMILL_BIN"], "bench", "sink", "--keep", "100000000",
                               "--misdeed", "lose"], stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[1]
        code, lines, said = bench(["produce", "--broker", address, "--rate", "2000", "--seconds", "1",
                                   "--topic", "lossy", "--delete-topic"])
        demand(code == 1 and lines[0]["lost"] > 0, f"what was lost is told: {code} {said}")
        demand("lossy is kept" in said, f"the evidence is kept: {said}")
    finally:
        server.terminate()
        server.wait()
    run.say("a topic with lost records is kept")
