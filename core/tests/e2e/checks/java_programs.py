"""Java programs as processes: those of `core/tests/e2e/java`, and Apache Kafka's own.

`run` has translated ours into `target/e2e/java/NAME/classes`, beside the `jars` they need. They talk
to a check by lines on their standard output; all else they say goes to a file.
"""

import json
import signal
import subprocess
import threading
import time

from running import KEPT, ROOT, demand

# What only talks needs no just-in-time compiler of the second degree, and starts sooner.
SOON = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


def translated(run, source):
    """Where a program lies that needs nothing but Kafka's jars, translated for this run."""
    path = ROOT / "core/tests/e2e/java" / source
    subprocess.run(["javac", "-nowarn", "-cp", f"{KEPT}/kafka/*", "-d", str(run.dir), str(path)],
                   check=True)
    return run.dir


class Java:
    """One process, from its start on. It is ended with the run, if not before."""

    def __init__(self, run, of, main, *arguments, log=None, heap="256m", options=SOON, feed=None,
                 classes=None):
        # `of` is a directory below target/e2e/java: transactions, transactions-3.9.1, flink ...; or
        # "kafka", for Apache Kafka's own, and for what makes do with its jars and lies in `classes`.
        self.name = f"{of} {main}"
        self.path = run.dir / f"{log or main.rsplit('.', 1)[-1]}.log"
        home = KEPT / "java" / of
        path = f"{KEPT}/kafka/*" if of == "kafka" else f"{home}/classes:{home}/jars/*"
        path = f"{classes}:{path}" if classes else path
        command = ["java", f"-Xmx{heap}", *options, "-cp", path, main]
        with open(self.path, "ab") as file:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, text=True, cwd=run.dir,
            )
        run.at_end.append(self.kill)
        self.lines = []
        self.news = threading.Condition()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        self.process.wait()

    def said(self, word):
        """What followed this word, once for each line that began with it."""
        with self.news:
            rows = [line.split(" ", 1) for line in self.lines]
        return [row[1] if len(row) == 2 else "" for row in rows if row[0] == word]

    def events(self, name):
        """What tools say that tell each event as JSON: those of this name."""
        with self.news:
            told = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in told if event.get("name") == name]

    def wait_for(self, word, count=1, seconds=120):
        """Waits until a line began with this word so often; returns what followed the last one."""
        self.wait_until(lambda: count <= len(self.said(word)), f"{count} times `{word}`", seconds)
        return self.said(word)[-1]

    def wait_until(self, holds, what, seconds=120):
        """Waits until what it says makes this hold; it must not end before."""
        deadline = time.monotonic() + seconds
        while not holds():
            # All that it said is here once the listener has ended.
            ended = not self.listener.is_alive()
            demand(not ended or holds(),
                   f"{self.name} ended with {self.process.poll()} before {what}: {self.last_words()}")
            demand(time.monotonic() < deadline,
                   f"{self.name}: not in {seconds} s: {what}: {self.last_words()}")
            with self.news:
                self.news.wait(0.2)

    def demand_alive(self):
        demand(self.process.poll() is None,
               f"{self.name} ended with {self.process.poll()}: {self.last_words()}")

    def tell(self, words=""):
        """The words that our programs wait for; some wait for any."""
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()

    def end(self, seconds=120):
        """Waits for a good end."""
        self.wait_for("done", seconds=seconds)
        code = self.process.wait(seconds)
        demand(code == 0, f"{self.name} ended with {code}: {self.last_words()}")

    def stop(self, seconds=60):
        """The end that a service asks its processes for."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)
        self.listener.join(seconds)

    def kill(self):
        """kill -9; nothing if it has ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def last_words(self):
        lines = [*self.lines[-3:], *self.path.read_text(errors="replace").splitlines()[-12:]]
        return " | ".join(lines)
