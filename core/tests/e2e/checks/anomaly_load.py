"""One run of the check `anomalies`, without its broker: processes that do what chance says, and the
history of it. A program of its own, so that runs do not wait for each other.

Some workers send and poll, in transactions or without. A worker is a process after the other: when
one of them does not know how an operation ended, or chance says that it crashed, the next takes its
place. A line on stdin says that all faults are over; then everything is read once more from the
start, and what the partitions hold is written down. Key k is partition k % 2 of topic t{k / 2}.

The last line on stdout is JSON: whether all transactions came to an end, whether the last reading
came to the end, and how often each error was told.
"""

import argparse
import collections
import json
import os
import random
import struct
import sys
import threading
import time

import anomaly_java
import clients
import wire
from anomaly_librdkafka import Librdkafka, key_of, place

WORKERS = 5
TOPICS, ACTIVE_TOPICS, WRITES_PER_TOPIC = 12, 3, 300
CRASH_SECONDS = 30
STEPS_MAX = 4
ABORT_ONCE_IN = 32
REASSIGN_ONCE_IN = 64
SAMPLE_SECONDS = 0.5
# The longest transaction timeout, and how often the broker looks, twice over.
SETTLE_SECONDS = 40
CATCH_UP_SECONDS = 60
CREATE_SECONDS = 30


class Load:
    def __init__(self, asked):
        self.asked = asked
        self.random = random.Random(asked.seed)
        self.lock = threading.Lock()
        self.history = open(asked.history, "w")
        self.next_process = 0
        self.errors = collections.Counter()
        self.next_value = collections.Counter()
        self.writes = collections.Counter()
        self.retired = 0
        # The highest offset that was acknowledged and that was polled, by key.
        self.sent, self.polled = {}, {}
        self.stopping = threading.Event()
        self.broken = []
        self.machine = asked.classes and anomaly_java.Machine(asked.classes, asked.java_log)

    def process(self):
        with self.lock:
            self.next_process += 1
            return self.next_process

    def client(self, process, name):
        transactional_id = name if self.asked.transactions else None
        protocol = self.asked.protocol
        if self.machine:
            return anomaly_java.Java(self.machine, self.asked.address, process, transactional_id,
                                     "everybody", protocol)
        return Librdkafka(self.asked.address, process, transactional_id, "everybody", protocol)

    def record(self, process, action, does):
        """Does it and writes down what came of it. An operation that is never told stays
        unfinished; nothing else of this process follows."""
        begin = now()
        told = does()
        end = now()
        kind, what = action
        if kind == "txn":
            what = {"steps": told.get("steps", []), "rebalanced": told.get("rebalanced", [])}
        self.write(process, told["type"], begin, end, {kind: what})
        if "error" in told:
            with self.lock:
                self.errors[f"{told['type']} {told['error'][:160]}"] += 1
        return told

    def write(self, process, outcome, begin, end, action):
        line = {"process": process, "type": outcome, "begin": begin, "end": end, "f": action}
        with self.lock:
            self.history.write(json.dumps(line, separators=(",", ":")) + "\n")
            steps = action.get("txn", {}).get("steps", []) if outcome == "ok" else []
            for step in steps:
                if "send" in step:
                    key, _, offset = step["send"]
                    self.sent[key] = max(self.sent.get(key, 0), offset or 0)
                for key, offset, _ in step.get("poll", []):
                    self.polled[key] = max(self.polled.get(key, 0), offset)

    def steps(self, chance):
        """What an operation is to do, and before which step it is to be aborted."""
        count = chance.randint(1, STEPS_MAX) if self.asked.transactions else 1
        steps = []
        with self.lock:
            for _ in range(count):
                if chance.random() < 0.5:
                    steps.append(["poll"])
                    continue
                key = chance.choice(self.active_keys())
                self.next_value[key] += 1
                self.writes[key // 2] += 1
                steps.append(["send", key, self.next_value[key]])
                oldest = self.retired
                if WRITES_PER_TOPIC <= self.writes[oldest] and oldest + ACTIVE_TOPICS < TOPICS:
                    self.retired += 1
        stops = [n for n in range(count + 1) if chance.randrange(ABORT_ONCE_IN) == 0]
        return steps, stops[0] if stops and self.asked.transactions else -1

    def active_keys(self):
        return [key for topic in range(self.retired, self.retired + ACTIVE_TOPICS)
                for key in (2 * topic, 2 * topic + 1)]

    def keys(self, chance):
        """Some keys to read: of those in use, and sometimes those that are yet to be read."""
        with self.lock:
            active = self.active_keys()
            keys = set(chance.sample(active, chance.randint(1, len(active))))
            if chance.randrange(3) == 0:
                keys |= {key for key, end in self.sent.items() if self.polled.get(key, -1) < end}
        if self.asked.subscribe:
            keys = {key for key in range(2 * TOPICS) if key // 2 in {k // 2 for k in keys}}
        return keys

    def begin(self, process, client, chance):
        keys = self.keys(chance)
        if self.asked.subscribe:
            act = lambda: client.subscribe(keys)
            self.record(process, ("subscribe", sorted(keys)), act)
        else:
            self.record(process, ("assign", sorted(keys)), lambda: client.assign(keys))

    def work(self, number):
        """A worker: one process after the other until the end."""
        chance = random.Random(f"{self.asked.seed} {number}")
        while not self.stopping.is_set():
            process = self.process()
            # Sometimes the next process takes over what its predecessor left behind, sometimes the
            # broker has to see to that alone.
            name = f"worker-{number}" if chance.random() < 0.5 else f"process-{process}"
            try:
                client = self.client(process, name)
            except Exception as error:
                with self.lock:
                    self.errors[f"open {str(error)[:160]}"] += 1
                time.sleep(0.3)
                continue
            self.live(process, client, chance)
            close(client)

    def live(self, process, client, chance):
        crash_at = time.monotonic() + chance.expovariate(1 / CRASH_SECONDS)
        self.begin(process, client, chance)
        while not self.stopping.is_set() and time.monotonic() < crash_at:
            if chance.randrange(REASSIGN_ONCE_IN) == 0:
                self.begin(process, client, chance)
            steps, abort_at = self.steps(chance)
            act = lambda: client.run(steps, abort_at)
            told = self.record(process, ("txn", None), act)
            if told["type"] == "info" or told.get("over"):
                return
            time.sleep(chance.uniform(0.0, 0.04))

    def sample(self):
        """Asks for the ends of all keys, as one process, until the load stops."""
        process = self.process()
        ends = Ends(self.asked.address)
        while not self.stopping.wait(SAMPLE_SECONDS):
            begin = now()
            try:
                told = ends.ask()
            except Exception as error:
                with self.lock:
                    self.errors[f"ends {str(error)[:160]}"] += 1
                # Its client would ask with the leader's old epoch for a good while.
                ends = Ends(self.asked.address)
                continue
            self.write(process, "ok", begin, now(), {"ends": told})

    def guard(self, does, *arguments):
        try:
            does(*arguments)
        except BaseException as error:
            self.broken.append(f"{type(error).__name__} {error}")
            raise

    def run(self):
        topics_at(self.asked.address)
        tasks = [(self.work, number) for number in range(WORKERS)] + [(self.sample,)]
        threads = [threading.Thread(target=self.guard, args=task, daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        time.sleep(self.asked.seconds)
        self.stopping.set()
        sys.stdin.readline()
        deadline = time.monotonic() + anomaly_java.ANSWER_SECONDS
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))
        stuck = sum(thread.is_alive() for thread in threads)
        ends = self.settle()
        caught_up = self.read_all(ends)
        self.store(ends)
        with self.lock:
            self.history.close()
        return {"stuck": stuck, "settled": ends["settled"], "caught_up": caught_up,
                "broken": self.broken, "errors": self.errors.most_common(12)}

    def settle(self):
        """Waits until no transaction is open, and tells where the partitions end."""
        ends, begun = Ends(self.asked.address), time.monotonic()
        process = self.process()
        while True:
            begin = now()
            try:
                told = ends.ask()
            except Exception:
                if SETTLE_SECONDS < time.monotonic() - begun:
                    raise
                ends = Ends(self.asked.address)
                continue
            self.write(process, "ok", begin, now(), {"ends": told})
            settled = all(high == stable for _, high, stable in told)
            if settled or SETTLE_SECONDS < time.monotonic() - begun:
                return {"settled": settled, "stable": {key: stable for key, _, stable in told}}
            time.sleep(0.3)

    def read_all(self, ends):
        """A new process reads every key from its start to its end."""
        process = self.process()
        client = self.client(process, f"last-{process}")
        keys = sorted(ends["stable"])
        self.record(process, ("assign", keys), lambda: client.assign(keys, from_start=True))
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not client.at_end(ends["stable"]):
            if deadline < time.monotonic():
                return False
            told = self.record(process, ("txn", None), lambda: client.run([["poll"]], -1))
            if told.get("over"):
                return self.read_all(ends)
        return True

    def store(self, ends):
        process = self.process()
        for key in ends["stable"]:
            begin = now()
            self.write(process, "ok", begin, now(), {"log": stored(self.asked.address, key)})


class Ends:
    """Asks where partitions end."""

    def __init__(self, address):
        from confluent_kafka.admin import AdminClient

        self.admin = AdminClient({"bootstrap.servers": address, "log_level": 0,
                                  "broker.address.family": "v4", "error_cb": lambda error: None,
                                  "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 300})

    def ask(self):
        """The high watermark and the last stable offset of every key. The latter is asked for
        first: neither goes back, so it is never found above the other."""
        from confluent_kafka import IsolationLevel

        stable = self.latest(IsolationLevel.READ_COMMITTED)
        high = self.latest(IsolationLevel.READ_UNCOMMITTED)
        return [[key, high[key], stable[key]] for key in sorted(high)]

    def latest(self, isolation):
        from confluent_kafka.admin import OffsetSpec

        asked = {place(key): OffsetSpec.latest() for key in range(2 * TOPICS)}
        futures = self.admin.list_offsets(asked, isolation_level=isolation, request_timeout=5)
        found = {key_of(where): future.result(10).offset for where, future in futures.items()}
        # librdkafka tells an offset below zero, and no error, if its request was never answered.
        if min(found.values()) < 0:
            raise RuntimeError("no answer")
        return found


def topics_at(address):
    deadline = time.monotonic() + CREATE_SECONDS
    for topic in range(TOPICS):
        while True:
            try:
                clients.make_topic(address, f"t{topic}", 2)
                break
            except Exception as error:
                if "TOPIC_ALREADY_EXISTS" in str(error):
                    break
                if deadline < time.monotonic():
                    raise
                time.sleep(0.2)


def stored(address, key):
    """All batches of a partition, as the judge wants them told."""
    start = at = 0
    batches, end = [], None
    with wire.Connection(address) as connection:
        while end is None or at < end:
            where = place(key, at)
            asked = struct.pack(">iqi", where.partition, at, 1 << 20)
            topic = wire.array([wire.string(where.topic) + wire.array([asked])])
            head = struct.pack(">iiiib", -1, 100, 1, 1 << 22, 0)
            connection.send(wire.request(wire.FETCH, 4, head + topic))
            answer = connection.answer()
            # Behind the correlation, the throttle and the one topic's name: the one partition.
            position = 4 + 4 + 4 + 2 + len(where.topic) + 4
            _, error, end, _, aborted = struct.unpack_from(">ihqqi", answer, position)
            if error:
                raise RuntimeError(f"{where.topic} {where.partition}: fetch at {at}: {error}")
            position += 26 + 16 * max(aborted, 0)
            (size,) = struct.unpack_from(">i", answer, position)
            records = answer[position + 4:position + 4 + size]
            for batch in batches_of(records):
                batches.append(batch)
                at = batch["last"] + 1
    return {"key": key, "start": start, "end": end, "batches": batches}


def batches_of(data):
    position = 0
    while position + 12 <= len(data):
        base, length = struct.unpack_from(">qi", data, position)
        if len(data) < position + 12 + length:
            return
        attributes, last = struct.unpack_from(">hi", data, position + 21)
        (producer,) = struct.unpack_from(">q", data, position + 43)
        (count,) = struct.unpack_from(">i", data, position + 57)
        body = data[position + 61:position + 12 + length]
        if attributes & 7:
            raise RuntimeError(f"the batch at {base} is compressed")
        batch = {"base": base, "last": base + last, "producer": producer}
        records = list(records_of(body, count))
        if attributes & 32:
            # The key of a marker: its version, and what it says.
            batch["kind"] = "commit" if struct.unpack(">hh", records[0][1][:4])[1] else "abort"
        else:
            batch["kind"] = "transactional" if attributes & 16 else "plain"
            batch["records"] = [[base + delta, int(value)] for delta, _, value in records]
        yield batch
        position += 12 + length


def records_of(body, count):
    """The offset, relative to its batch, the key and the value of each record."""
    position = 0
    for _ in range(count):
        length, position = varint(body, position)
        end = position + length
        _, at = varint(body, position + 1)
        delta, at = varint(body, at)
        parts = []
        for _ in range(2):
            size, at = varint(body, at)
            parts.append(body[at:at + max(size, 0)])
            at += max(size, 0)
        yield delta, *parts
        position = end


def varint(data, position):
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if byte < 0x80:
            return number >> 1 ^ -(number & 1), position


def close(client):
    """Clients may take their time to close, and no process waits for another's."""
    def act():
        try:
            client.close()
        except Exception:
            # It was to go away, and it is of no more use.
            pass
    threading.Thread(target=act, daemon=True).start()


def now():
    return time.monotonic_ns() // 1000


def arguments():
    parser = argparse.ArgumentParser()
    for name in ["address", "history", "protocol"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--transactions", action="store_true")
    parser.add_argument("--subscribe", action="store_true")
    parser.add_argument("--classes", help="of the Java program; librdkafka without")
    parser.add_argument("--java-log", default=os.devnull)
    return parser.parse_args()


if __name__ == "__main__":
    outcome = Load(arguments()).run()
    print(json.dumps(outcome), flush=True)
    # Clients that cannot be closed keep nobody waiting.
    os._exit(0)
