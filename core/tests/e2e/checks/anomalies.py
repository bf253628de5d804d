"""Nothing that a broker must not show: real clients under kill -9 and pauses, and what they saw
judged.

A run is a broker, the processes of `anomaly_load` before it, and a trouble-maker that kills the
broker and starts it again, or stops and continues it, every few seconds. It is of one of 16
combinations: librdkafka's clients or Apache Kafka's own; partitions assigned by hand or shared by a
group; each operation in a transaction or alone; kills or pauses. The history that is left goes to
`cargo sim --judge`, whose library (`core/sim/src/history.rs`) says what each anomaly is and which
ones are allowed.

In full 50 runs of 60 s, at least three of each combination; E2E_RUNS, E2E_SECONDS, E2E_PARALLEL
and E2E_ONLY (a part of a combination's name) ask for others.
"""

import collections
import concurrent.futures
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import anomaly_java
from running import ROOT, Failure, demand

FULL_RUNS, FULL_SECONDS = 50, 60
QUICK_SECONDS = 10
# What the last reading may take, and all that has to come to an end before it.
END_SECONDS = 300
ERRORS_TOLD = 20
QUICK = ["librdkafka-subscribe-transactions-kill", "java-assign-transactions-pause",
         "java-subscribe-alone-kill", "librdkafka-assign-alone-pause"]

# The smallest: partitions are of several segments all the time.
SMALL_SEGMENTS = {"log.segment.bytes": "16KiB", "message.max.bytes": "16KiB"}

Combination = collections.namedtuple("Combination", "client assignment operations trouble")
COMBINATIONS = [Combination(*parts) for parts in itertools.product(
    ["librdkafka", "java"], ["assign", "subscribe"], ["transactions", "alone"], ["kill", "pause"])]


def check(run):
    only = os.environ.get("E2E_ONLY", "")
    chosen = [c for c in COMBINATIONS if only in "-".join(c)]
    demand(chosen, f"no combination is named {only}")
    if run.quick and not only:
        chosen = [c for c in COMBINATIONS if "-".join(c) in QUICK]
    count = int(os.environ.get("E2E_RUNS", len(chosen) if run.quick else FULL_RUNS))
    seconds = float(os.environ.get("E2E_SECONDS", QUICK_SECONDS if run.quick else FULL_SECONDS))
    parallel = int(os.environ.get("E2E_PARALLEL", 2 if run.quick else 3))
    judge = the_judge()
    classes = anomaly_java.compile_program(run.dir / "classes")
    # Neighbours in this row share nothing that is dear, so that the machine has an even load.
    plan = [(number, chosen[number * 7 % len(chosen)] if len(chosen) == 16 else
             chosen[number % len(chosen)]) for number in range(count)]
    verdicts = []
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        tasks = [pool.submit(one, run, number, combination, seconds, classes, judge)
                 for number, combination in plan]
        for task in concurrent.futures.as_completed(tasks):
            verdict = task.result()
            verdicts.append(verdict)
            run.say(verdict.line())
    table(run, chosen, verdicts)
    bad = [verdict for verdict in verdicts if not verdict.is_clean()]
    demand(not bad, f"{len(bad)} of {count} runs: {bad[0].line()}" if bad else "")


class Verdict:
    """What a run came to."""

    def __init__(self, number, combination, dir):
        self.number, self.combination, self.dir = number, combination, dir
        self.counts = dict.fromkeys(["ok", "fail", "info"], 0)
        self.allowed, self.forbidden = {}, {}
        self.troubles = 0
        self.unsound = []
        self.errors = collections.Counter()
        self.variant = ""

    def is_clean(self):
        return not self.forbidden and not self.unsound

    def line(self):
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        found = ", ".join(f"{name} {count}" for name, count in self.forbidden.items())
        end = "clean" if self.is_clean() else f"{found or 'no anomaly'} {self.unsound or ''}"
        return (f"run {self.number} {'-'.join(self.combination)} ({self.variant}): "
                f"{self.troubles} troubles, {counts}: {end}")


def one(run, number, combination, seconds, classes, judge):
    """One run, from the start of its broker to the verdict."""
    seed = run.seed + number
    dir = run.dir / f"run-{number}"
    verdict = Verdict(number, combination, dir)
    # What else may differ from run to run: the protocol of the group, the number of shards.
    turn = number // len(COMBINATIONS)
    protocol = ["classic", "consumer"][(number // 2 + turn) % 2]
    shards = 1 + (number + (turn + 1) // 2) % 2
    settings = {"tidemill.journal.bytes": "64MiB", "group.initial.rebalance.delay.ms": "0",
                "group.consumer.session.timeout.ms": "6000"}
    small = number % 3 == 1
    if small:
        settings |= SMALL_SEGMENTS
    verdict.variant = f"{protocol}, {shards} shards{', small segments' if small else ''}"
    broker = run.broker(f"run-{number}", shards=shards, settings=settings)
    history = dir / "history.jsonl"
    command = [sys.executable, str(pathlib.Path(__file__).with_name("anomaly_load.py"))]
    command += ["--address", broker.address, "--history", str(history), "--seed", str(seed)]
    command += ["--seconds", str(seconds), "--protocol", protocol]
    command += ["--transactions"] if combination.operations == "transactions" else []
    command += ["--subscribe"] if combination.assignment == "subscribe" else []
    if combination.client == "java":
        command += ["--classes", str(classes), "--java-log", str(dir / "java.log")]
    with open(dir / "load.log", "wb") as log:
        load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        verdict.troubles = torment(broker, load, combination.trouble, seconds, random.Random(seed))
        told, _ = load.communicate(b"healed\n", END_SECONDS)
    except subprocess.TimeoutExpired:
        told = b""
    finally:
        load.kill()
        load.wait()
    finish(verdict, told, judge, history)
    broker.demand_alive("the run")
    broker.kill()
    if verdict.is_clean():
        shutil.rmtree(dir)
    return verdict


def torment(broker, load, trouble, seconds, chance):
    """Makes trouble until the load has had its time; how often."""
    count, end = 0, time.monotonic() + seconds
    # The longest outlasts what clients wait for an answer; short runs are to see something else, too.
    outages = [0.3, 1, 3, 7, 11] if trouble == "pause" else [0, 0.2, 1, 3, 11]
    outages = [outage for outage in outages if outage <= seconds / 5]
    time.sleep(min(2, seconds / 4))
    while time.monotonic() < end and load.poll() is None:
        if trouble == "kill":
            broker.kill()
            time.sleep(chance.choice(outages))
            broker.start()
        else:
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                time.sleep(chance.choice(outages))
            finally:
                os.kill(broker.pid, signal.SIGCONT)
        count += 1
        left = end - time.monotonic()
        time.sleep(max(min(chance.uniform(1, 7), left), 0))
    return count


def finish(verdict, told, judge, history):
    """What the processes said of themselves, and the judge of their history."""
    lines = told.decode().strip().splitlines()
    if not lines:
        verdict.unsound.append(f"the load said nothing in the end: see {verdict.dir}/load.log")
        return
    outcome = json.loads(lines[-1])
    (verdict.dir / "outcome.json").write_text(json.dumps(outcome, indent=1))
    for words, count in outcome["errors"]:
        # The same error of another place is one error.
        verdict.errors[re.sub(r"[0-9]+", "N", words)] += count
    if outcome["stuck"]:
        verdict.unsound.append(f"{outcome['stuck']} workers never ended")
    if not outcome["settled"]:
        verdict.unsound.append("transactions are still open")
    if not outcome["caught_up"]:
        verdict.unsound.append("the last reading did not come to the end")
    verdict.unsound += outcome["broken"]
    done = subprocess.run([*judge, "--judge", str(history)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=END_SECONDS)
    report = done.stdout.decode()
    (verdict.dir / "verdict.txt").write_text(report)
    if done.returncode not in (0, 1):
        verdict.unsound.append(f"it cannot be judged: {report[-300:]}")
        return
    for count, outcome in re.findall(r"(\d+) (ok|fail|info)", report.splitlines()[0]):
        verdict.counts[outcome] = int(count)
    for kind, name, count in re.findall(r"^(allowed|forbidden) (\S+) (\d+)$", report, re.M):
        (verdict.allowed if kind == "allowed" else verdict.forbidden)[name] = int(count)
    if verdict.counts["ok"] < 20:
        verdict.unsound.append("hardly anything was done")


def table(run, combinations, verdicts):
    run.say("| combination | runs | troubles | ok | fail | info | forbidden | allowed |")
    run.say("|---|---|---|---|---|---|---|---|")
    for combination in combinations:
        row = [verdict for verdict in verdicts if verdict.combination == combination]
        if not row:
            continue
        sums = [sum(verdict.counts[outcome] for verdict in row) for outcome in ("ok", "fail", "info")]
        cells = ["-".join(combination), len(row), sum(verdict.troubles for verdict in row), *sums]
        for kind in ("forbidden", "allowed"):
            found = collections.Counter()
            for verdict in row:
                found.update(getattr(verdict, kind))
            cells.append(", ".join(f"{name} {n}" for name, n in sorted(found.items())) or "none")
        run.say("| " + " | ".join(map(str, cells)) + " |")
    errors = sum((verdict.errors for verdict in verdicts), collections.Counter())
    for words, count in errors.most_common(ERRORS_TOLD):
        run.say(f"{count} times: {words}")


def the_judge():
    """The program that judges: of the simulator, built as `cargo sim` builds it."""
    if "TIDEMILL_JUDGE" in os.environ:
        return [os.environ["TIDEMILL_JUDGE"]]
    command = ["cargo", "build", "--profile", "sim", "--quiet", "--package", "tidemill-sim"]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Failure(f"the judge cannot be built: {done.stderr.decode()[-1000:]}")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return [str(target / "sim" / "tidemill-sim")]
