"""What every check stands on: one run of a check, and the broker as a process.

A run owns a directory below `target/e2e/data` and the processes it has started. At its end the
processes are ended by their ids; the directory is removed if all went well and kept if not.
"""

import os
import pathlib
import queue
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

KEPT = pathlib.Path(os.environ.get("E2E_KEPT", "target/e2e"))
ROOT = pathlib.Path(os.environ.get("E2E_ROOT", "."))

# The longest a start may take before it counts as failed; `big-restart` asks for far less.
READY_SECONDS = 60
STOP_SECONDS = 60
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something that was promised does not hold."""


def demand(holds, otherwise):
    """Fails with the words `otherwise` unless the promise holds."""
    if not holds:
        raise Failure(otherwise)


class Run:
    """One run of one check."""

    def __init__(self, name, asked):
        self.name = name
        self.quick = asked.quick
        self.asked = asked
        self.seed = asked.seed if asked.seed is not None else random.SystemRandom().getrandbits(32)
        self.random = random.Random(self.seed)
        self.dir = KEPT / "data" / name
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.brokers = []
        self.at_end = []

    def say(self, text):
        print(f"    {self.name}: {text}", flush=True)

    def broker(self, name="broker", **options):
        """A broker with a directory of its own, started."""
        broker = Broker(options.pop("dir", self.dir / name), self.dir / f"{name}.log", **options)
        self.brokers.append(broker)
        broker.start()
        return broker

    def demand_no_panic(self):
        """A broker that was killed anyway may have panicked before, unseen."""
        for broker in self.brokers:
            lines = broker.log.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                told = " ".join(lines[number:number + 2])
                demand("panicked at" not in line, f"the broker's log says: {told}")

    def end(self, failed):
        for broker in self.brokers:
            broker.kill()
        for undo in reversed(self.at_end):
            undo()
        if failed:
            self.say(f"the data and the broker's log are kept in {self.dir}; seed {self.seed}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)


class Broker:
    """The real binary, on the same port and data each time it is started."""

    def __init__(self, dir, log, shards=1, settings=None, port=None):
        self.dir = pathlib.Path(dir)
        # What it says on stderr, all starts together; not on a disk that a check fills up.
        self.log = log
        self.dir.mkdir(parents=True, exist_ok=True)
        self.data = self.dir / "data"
        self.shards = shards
        self.settings = settings or {}
        self.port = port or free_port()
        self.process = None
        self.ready_seconds = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Starts the process and waits until it says that it serves."""
        demand(self.process is None, "the broker already runs")
        command = [os.environ["TIDEMILL_BIN"], "start", "--data-dir", str(self.data)]
        command += ["--listen", self.address, "--shards", str(self.shards)]
        for name, value in self.settings.items():
            command += ["--set", f"{name}={value}"]
        begun = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        lines = queue.Queue()
        threading.Thread(target=pass_on, args=(self.process.stdout, lines), daemon=True).start()
        try:
            line = lines.get(timeout=READY_SECONDS)
        except queue.Empty:
            raise Failure(f"not ready after {READY_SECONDS} s: {self.last_words()}") from None
        self.ready_seconds = time.monotonic() - begun
        demand(line.startswith(b"ready "), f"instead of `ready`: {line!r} {self.last_words()}")

    def kill(self):
        """kill -9, as a power cut would; nothing if it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        """A clean stop."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"no stop within {STOP_SECONDS} s: {self.last_words()}") from None
        self.process = None
        demand(code == 0, f"the stop ended with {code}: {self.last_words()}")

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def demand_alive(self, after):
        if not self.is_alive():
            code = self.process.poll()
            raise Failure(f"the broker ended with {code} after {after}: {self.last_words()}")

    def last_words(self):
        lines = self.log.read_text(errors="replace").splitlines()
        return " | ".join(lines[-6:])

    def resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failure("the process has no memory")

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def stored_bytes(self):
        """What the data directory occupies on the disk."""
        files = (path for path in self.data.rglob("*") if path.is_file())
        return sum(path.stat().st_blocks * 512 for path in files)


def pass_on(stream, lines):
    """Hands on the first line and keeps the pipe empty, so that writing never blocks."""
    lines.put(stream.readline())
    while stream.read(4096):
        pass


def free_port():
    """A port that nobody uses, below those the kernel hands out; free 1000 above it too."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(12_000, 30_000)
        if all(is_free(other) for other in (port, *range(port + 1000, port + 1004))):
            return port
    raise Failure("no free port")


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def output(command, feed=None, seconds=600):
    """Runs a program to its end and returns what it wrote; fails with its words if it fails."""
    with open(feed, "rb") if feed else open(os.devnull, "rb") as source:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=seconds,
        )
    words = done.stderr.decode(errors="replace")
    demand(done.returncode == 0, f"{command[0]} ended with {done.returncode}: {words[-1500:]}")
    return done.stdout
