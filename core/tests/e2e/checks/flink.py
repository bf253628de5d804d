"""Flink counts words, exactly once, from Kafka's topics into Kafka's transactions.

One JobManager and one TaskManager, as processes; the job's state is in its checkpoints, and each
checkpoint commits a transaction. Lines are fed steadily, and meanwhile, in turn, the broker is killed
-9, the TaskManager is, and the job is stopped with a savepoint and goes on from it. Both ways in which
Flink names its transactions have their turn: one asks the broker which are open, the other tries the
names that may be.
"""

import json
import time
import urllib.error
import urllib.request

from java_programs import Java
from running import Failure, demand, free_port
from word_counts import WordCounts

# The job's main program hands lambdas and Kryo through places that Java 17 keeps closed.
OPEN = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in (
    "java.lang", "java.lang.reflect", "java.util", "java.util.concurrent", "java.io", "java.net",
    "java.nio", "java.text", "java.time", "sun.net.util")]
OPTIONS = ["-XX:+UseSerialGC", *OPEN]
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
NAMINGS = ["INCREMENTING", "POOLING"]
QUICK_ROUNDS, FULL_ROUNDS = 1, 4
PATIENCE = 120


def check(run):
    rounds = QUICK_ROUNDS if run.quick else FULL_ROUNDS
    for naming in NAMINGS:
        broker = run.broker(naming.lower(), shards=2)
        counts = WordCounts(run, broker)
        cluster = Cluster(run, broker, naming)
        cluster.submit()
        for _ in range(rounds):
            torment(run, broker, cluster)
        cluster.wait_for_checkpoints(1)
        counts.end()
        counts.demand_exact(wait_until_counted(counts, cluster))
        checkpoints = cluster.checkpoints()
        cluster.end()
        broker.stop()
        run.say(f"transactions named {naming.lower()}: {2 * rounds} kills of the broker and "
                f"of the TaskManager each, {rounds} savepoints: {counts.words} words, every count exact; "
                f"{checkpoints} checkpoints since the last savepoint")


def torment(run, broker, cluster):
    cluster.wait_for_checkpoints(2)
    time.sleep(run.random.uniform(0, 2))
    broker.kill()
    broker.start()
    cluster.wait_for_checkpoints(2)
    time.sleep(run.random.uniform(0, 2))
    cluster.workers.kill()
    cluster.start_workers()
    cluster.wait_for_checkpoints(2)
    savepoint = cluster.stop_with_savepoint()
    cluster.submit(savepoint)
    # Now the broker goes while the workers come back, too.
    cluster.wait_for_checkpoints(1)
    cluster.workers.kill()
    broker.kill()
    cluster.start_workers()
    broker.start()


def wait_until_counted(counts, cluster):
    """All counts, when there are as many as words, or when no more come in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        rows = counts.shown()
        if counts.words <= len(rows) or deadline < time.monotonic():
            return rows
        cluster.demand_alive()
        time.sleep(1)


class Cluster:
    """A JobManager and its one TaskManager, which are asked over HTTP."""

    def __init__(self, run, broker, naming):
        self.run = run
        self.broker = broker
        self.naming = naming
        self.rest = free_port()
        self.dir = run.dir / f"flink-{naming.lower()}"
        self.job = None
        self.starts = 0
        self.write_settings()
        self.manager = Java(run, "flink", JOB_MANAGER, "--configDir", self.dir, heap="320m",
                            options=OPTIONS, log=f"flink-{naming.lower()}-jobs")
        self.start_workers()

    def write_settings(self):
        self.dir.mkdir()
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": free_port(),
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self.rest,
            # Else what it tells of checkpoints is up to three seconds old.
            "web.refresh-interval": "50ms",
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.cpu.cores": 1,
            "taskmanager.memory.task.heap.size": "128m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.managed.size": "16m",
            "taskmanager.memory.network.min": "32m",
            "taskmanager.memory.network.max": "32m",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.jvm-metaspace.size": "128m",
            "taskmanager.memory.jvm-overhead.min": "64m",
            "taskmanager.memory.jvm-overhead.max": "64m",
            "io.tmp.dirs": self.dir,
            "execution.checkpointing.dir": f"file://{self.dir}/checkpoints",
            "execution.checkpointing.interval": "1s",
            "execution.checkpointing.timeout": "30s",
            "execution.checkpointing.tolerable-failed-checkpoints": 100,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 1000,
            "restart-strategy.fixed-delay.delay": "500ms",
            "heartbeat.interval": "1s",
            "heartbeat.timeout": "8s",
        }
        lines = "".join(f"{name}: {value}\n" for name, value in settings.items())
        (self.dir / "config.yaml").write_text(lines)

    def start_workers(self):
        self.starts += 1
        self.workers = Java(self.run, "flink", TASK_MANAGER, "--configDir", self.dir, heap="400m",
                            options=OPTIONS, log=f"flink-{self.naming.lower()}-tasks-{self.starts}")

    def submit(self, savepoint=None):
        self.wait_until(lambda: 0 < self.ask("/overview")["slots-total"], "the TaskManager is there")
        program = Java(self.run, "flink", "WordCountJob", self.dir, self.broker.address, "lines",
                       "counts", self.naming, *filter(None, [savepoint]), options=OPTIONS,
                       log=f"flink-{self.naming.lower()}-submit")
        program.end()
        [self.job] = program.said("job")

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.rest}{path}", data,
                                       {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)

    def checkpoints(self):
        return self.ask(f"/jobs/{self.job}/checkpoints")["counts"]["completed"]

    def wait_for_checkpoints(self, count):
        """Waits until the job has completed so many more checkpoints."""
        wanted = self.checkpoints() + count
        self.wait_until(lambda: wanted <= self.checkpoints(), f"{count} checkpoints")

    def stop_with_savepoint(self):
        wanted = {"targetDirectory": f"file://{self.dir}/savepoints", "drain": False}
        trigger = self.ask(f"/jobs/{self.job}/stop", wanted)["request-id"]
        told = {}

        def is_over():
            told.update(self.ask(f"/jobs/{self.job}/savepoints/{trigger}"))
            return told["status"]["id"] == "COMPLETED"

        self.wait_until(is_over, "the savepoint")
        operation = told["operation"]
        demand("location" in operation, f"no savepoint: {str(operation)[:2000]}")
        self.wait_until(lambda: self.ask(f"/jobs/{self.job}")["state"] == "FINISHED", "its end")
        return operation["location"]

    def wait_until(self, holds, what):
        deadline = time.monotonic() + PATIENCE
        while True:
            self.demand_alive()
            try:
                if holds():
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                what = f"{what} ({error})" if "(" not in what else what
            if deadline < time.monotonic():
                raise Failure(f"not in {PATIENCE} s: {what}: {self.workers.last_words()}")
            time.sleep(0.2)

    def demand_alive(self):
        self.manager.demand_alive()
        self.workers.demand_alive()

    def end(self):
        self.workers.kill()
        self.manager.kill()
