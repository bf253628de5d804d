"""Our own client before Apache Kafka: it must not be able to tell the difference.

Kafka is started as the comparison in bench/compare starts it. The library's tests, the commands and
the load generator are the same that Tidemill is tested with. Unless it has to be quick, older ones
have their turn too: the last 3.x, and one that knows topics by name only and has ZooKeeper beside it.
"""

import os
import re
import subprocess
import sys
import time

from load import clean
from running import KEPT, READY_SECONDS, ROOT, Failure, demand, free_port, output

sys.path.append(str(ROOT / "bench/compare"))
import apache_kafka  # noqa: E402

# What a test build of the client may take, on a machine that has none.
BUILD_SECONDS = 1800


def check(run):
    one = os.environ.get("KAFKA_VERSION", "")
    older = [] if run.quick or one else os.environ["E2E_OLDER_KAFKAS"].split()
    for version in [one, *older]:
        kafka = Kafka(run, version)
        run.at_end.append(kafka.end)
        kafka.start()
        run.say(f"Kafka {kafka.version} serves after {kafka.ready_seconds:.1f} s")
        library(run, kafka)
        commands(run, kafka)
        loads(run, kafka)
        restarts(run, kafka)
        kafka.end()


class Kafka:
    """One broker, on the same port and data each time it is started; of the version that the
    comparison names, or of another."""

    def __init__(self, run, version):
        jars = KEPT / f"kafka{version and '-' + version}"
        self.version = version or next(jars.glob("kafka-server-4*")).stem.rsplit("-", 1)[1]
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.dir = run.dir / f"kafka-{self.version}"
        self.dir.mkdir()
        self.log = self.dir / "log"
        self.beside = None
        self.process = None
        self.ready_seconds = None
        if self.version.startswith("2."):
            zookeeper, self.command = apache_kafka.prepare_old(jars, self.dir, self.port)
            self.beside = self.begin(zookeeper)
        else:
            with open(self.log, "ab") as log:
                self.command = apache_kafka.prepare(jars, self.dir, self.port, log)

    def begin(self, command):
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    cwd=self.dir)

    def start(self):
        begun = time.monotonic()
        self.process = self.begin(self.command)
        while subprocess.run(tidemill("topic", "list", "-b", self.address),
                             capture_output=True).returncode != 0:
            words = f"Kafka does not serve; its log is {self.log}"
            demand(self.process.poll() is None, words)
            demand(time.monotonic() < begun + READY_SECONDS, words)
        self.ready_seconds = time.monotonic() - begun

    def kill(self):
        """kill -9; nothing if it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self):
        self.kill()
        if self.beside is not None:
            self.beside.kill()
            self.beside.wait()
            self.beside = None


def tidemill(*arguments):
    return [os.environ["TIDEMILL_BIN"], *arguments]


def cargo(*arguments):
    return ["cargo", *arguments[:1], "--quiet", "--manifest-path", str(ROOT / "Cargo.toml"), *arguments[1:]]


def library(run, kafka):
    """The tests of the client, against this broker instead of one of their own."""
    begun = time.monotonic()
    # What kills the broker starts one of its own, which is none of ours.
    tests = [word for name in ["client", "client_groups", "examples"] for word in ["--test", name]]
    command = cargo("test", "--package", "tidemill", *tests, "--", "--skip", "kill_9")
    done = subprocess.run(command, env={**os.environ, "TIDEMILL_BROKERS": kafka.address},
                          capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise Failure(f"the client's tests fail with Kafka: {done.stdout[-3000:]} {done.stderr[-2000:]}")
    passed = sum(int(count) for count in re.findall(r"ok\. (\d+) passed", done.stdout))
    run.say(f"{passed} tests of the client and its examples pass ({time.monotonic() - begun:.0f} s)")


def commands(run, kafka):
    """A topic's life, as an operator sees to it."""
    def told(*arguments, feed=None):
        return output(tidemill(*arguments, "-b", kafka.address), feed).decode()

    told("topic", "create", "life", "-p", "2", "-X", "retention.ms=3600000")
    told("topic", "configure", "life", "-X", "retention.ms=7200000", "--append", "cleanup.policy=compact")
    until("the settings", lambda: "retention.ms = 7200000" in told("topic", "describe", "life"))
    described = told("topic", "describe", "life")
    demand("compact" in described, described)
    told("topic", "configure", "life", "--delete", "retention.ms", "--subtract", "cleanup.policy=compact")
    until("the default", lambda: "retention.ms" not in told("topic", "describe", "life"))
    told("topic", "grow", "life", "-p", "3")
    until("the partitions", lambda: told("topic", "describe", "life").count("\n2 ") == 1)

    text = run.dir / "lines.txt"
    text.write_text("".join(f"key {n % 7}:line {n}\n" for n in range(1000)))
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        told("produce", "-t", "life", "-K", ":", "-z", codec, feed=text)
    read = told("consume", "-t", "life", "-e", "-K", ":").splitlines()
    demand(sorted(read) == sorted(text.read_text().splitlines() * 5), f"{len(read)} lines came back")
    member = ["consume", "-t", "life", "-e", "-g", "readers"]
    count = len(told(*member).splitlines())
    demand(count == 5000, f"a group read {count} of 5000 lines")
    demand(told(*member) == "", "a group read lines again")
    told("topic", "trim", "life", "--before", "-10")
    left = told("consume", "-t", "life", "-e").splitlines()
    demand(0 < len(left) <= 30, f"{len(left)} lines are left after the trim")
    told("topic", "trim", "life", "--before", "end")
    demand(told("consume", "-t", "life", "-e") == "", "lines are left after the trim")
    told("topic", "delete", "life")
    run.say("the commands: create, configure, grow, produce, consume, also as a group, trim, delete")


def until(what, holds):
    """Kafka's nodes learn of a change a moment after it is acknowledged."""
    deadline = time.monotonic() + 60
    while not holds():
        demand(time.monotonic() < deadline, f"{what}: not seen for 60 s")


def loads(run, kafka):
    """Verified loads: a record lost, doubled, damaged or out of order fails."""
    for name, *load in [["produce", "--rate", "20MB"], ["e2e", "--rate", "5k", "--value-bytes", "200"]]:
        told = clean([name, *load, "--broker", kafka.address, "--topic", f"load-{name}",
                      "--partitions", "4", "--connections", "2", "--seconds", "2", "--warm-up", "1",
                      "--linger", "2", "--delete-topic"])
        run.say(f"tidemill bench {name}: {told['verified_records']} records verified")


def restarts(run, kafka):
    """Each line is stored once and in order, though Kafka is killed while they are sent."""
    count = 200_000
    output(tidemill("topic", "create", "kept", "-p", "1", "-b", kafka.address))
    with open(run.dir / "produce.log", "wb") as log:
        sender = subprocess.Popen(tidemill("produce", "-t", "kept", "-b", kafka.address),
                                  stdin=subprocess.PIPE, stdout=log, stderr=log)
    run.at_end.append(sender.kill)
    half = count // 2
    sender.stdin.write("".join(f"{n}\n" for n in range(half)).encode())
    sender.stdin.flush()
    kafka.kill()
    begun = time.monotonic()
    kafka.start()
    sender.stdin.write("".join(f"{n}\n" for n in range(half, count)).encode())
    sender.stdin.close()
    told = f"tidemill produce ended with {sender.wait(120)}"
    demand(sender.returncode == 0, f"{told}: {(run.dir / 'produce.log').read_text()}")
    read = output(tidemill("consume", "-t", "kept", "-e", "-b", kafka.address)).split()
    demand(len(read) == count, f"{count} lines were sent, {len(read)} came back")
    demand(read == [str(n).encode() for n in range(count)], "the lines are out of order, or others")
    run.say(f"{count} lines stored once and in order across a kill -9 ({time.monotonic() - begun:.0f} s)")
