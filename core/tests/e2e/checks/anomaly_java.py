"""Processes of the check `anomalies` whose clients are Apache Kafka's own, in one Java machine.

The program is `java/anomalies/Processes.java`: a line of JSON says what a process is to do, a line
of JSON comes back when it is done. It decides what an error means as `anomaly_librdkafka` does.
"""

import json
import os
import pathlib
import queue
import subprocess
import threading

# Longer than all that a process may wait for by itself, one after the other.
ANSWER_SECONDS = 90


class Machine:
    """The Java machine and the pipes to it."""

    def __init__(self, classes, log):
        kept = os.environ["E2E_KEPT"]
        command = ["java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                   "-cp", f"{classes}:{kept}/kafka/*", "Processes"]
        # Its logger has no configuration and says what it thinks of that.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(log, "wb"), text=True)
        self.answers = {}
        self.writing = threading.Lock()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self.answers[answer["id"]].put(answer)
        for answers in list(self.answers.values()):
            answers.put({"error": "the Java machine ended", "type": "info", "broken": True})

    def ask(self, process, **question):
        answers = self.answers.setdefault(process, queue.Queue())
        with self.writing:
            self.process.stdin.write(json.dumps({"id": process, **question}) + "\n")
            self.process.stdin.flush()
        answer = answers.get(timeout=ANSWER_SECONDS)
        if "broken" in answer:
            raise RuntimeError(answer["error"])
        return answer


class Java:
    """The clients of one process, from their making until they are closed."""

    def __init__(self, machine, address, process, transactional_id, group, protocol):
        self.machine, self.process = machine, process
        told = self.ask(do="open", address=address, transactional=transactional_id, group=group,
                        protocol=protocol)
        if told["type"] != "ok":
            raise RuntimeError(told["error"])

    def ask(self, **question):
        return self.machine.ask(self.process, **question)

    def assign(self, keys, from_start=False):
        return self.ask(do="assign", keys=sorted(keys), from_start=from_start)

    def subscribe(self, keys):
        return self.ask(do="subscribe", keys=sorted(keys))

    def run(self, steps, abort_at):
        return self.ask(do="run", steps=steps, abort_at=abort_at)

    def at_end(self, ends):
        answer = self.ask(do="positions")
        found = {int(key): offset for key, offset in answer["positions"].items()}
        return all(end <= found.get(key, 0) for key, end in ends.items())

    def close(self):
        self.ask(do="close")


def compile_program(into):
    """Translates the program, unless it has been; where the classes lie."""
    kept = pathlib.Path(os.environ["E2E_KEPT"])
    source = pathlib.Path(os.environ["E2E_ROOT"]) / "core/tests/e2e/java/anomalies/Processes.java"
    subprocess.run(["javac", "-nowarn", "-cp", f"{kept}/kafka/*", "-d", str(into), str(source)],
                   check=True)
    return into
