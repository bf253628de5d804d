"""kill -9 under load: no acknowledged record is lost, none is doubled, offsets are dense.

One idempotent producer with acks=all lives through all kills of a set-up: it keeps its sequence
numbers across the restarts, so a broker that forgets what it has taken in, or what it has promised,
shows at once. Every record carries its partition and a number of its own, counted up from 0.
After each restart everything since the last look is read back, and at the end everything at all:

- what was acknowledged is there, at the very offset that was told, once;
- what was not acknowledged is there once or not at all;
- numbers rise with the offsets, and no offset is missing.
"""

import array
import collections
import threading
import time

import clients
from running import demand

SETUPS = [(1, 1), (1, 2), (64, 1), (64, 2)]
QUICK_CYCLES, FULL_CYCLES = 20, 200
# In flight and unacknowledged at once, over all partitions.
UNDELIVERED_MAX = 3_000
LOAD_SECONDS = (0.05, 0.6)
# There is next to nothing to recover; a start that takes longer has done something needless. Some
# of it is for machines that have other things to do.
READY_SECONDS = 40
CODECS = ["none", "lz4", "zstd"]


def check(run):
    cycles = run.asked.cycles or (QUICK_CYCLES if run.quick else FULL_CYCLES)
    for number, (partitions, shards) in enumerate(SETUPS):
        share = cycles // len(SETUPS) + (1 if number < cycles % len(SETUPS) else 0)
        if share:
            torment(run, partitions, shards, share, CODECS[number % len(CODECS)])


def torment(run, partitions, shards, cycles, codec):
    name = f"{partitions}-partitions-{shards}-shards"
    # A small journal and small segments, so that kills meet recycling and rolling too.
    settings = {"log.segment.bytes": "8MiB", "tidemill.journal.bytes": "64MiB"}
    broker = run.broker(name, shards=shards, settings=settings)
    clients.make_topic(broker.address, "t", partitions)
    load = Load(broker.address, partitions, codec, run.random.getrandbits(32))
    audit = Audit(broker.address, load)
    slowest = 0.0
    for cycle in range(cycles):
        time.sleep(run.random.uniform(*LOAD_SECONDS))
        broker.kill()
        before = load.acknowledged_count
        # Every third start is with the other number of shards.
        broker.shards = 3 - shards if cycle % 3 == 2 else shards
        broker.start()
        slowest = max(slowest, broker.ready_seconds)
        demand(broker.ready_seconds <= READY_SECONDS,
               f"{name}: {broker.ready_seconds:.1f} s until it served again")
        audit.look()
        # A cycle counts only if the load is back: the next kill is to hit something.
        load.wait_for(before + 1)
    load.stop()
    audit.look()
    total = Audit(broker.address, load)
    total.look()
    total.demand_complete()
    broker.stop()
    run.say(
        f"{partitions} partitions, {shards} shards, {codec}: {cycles} kills, "
        f"{load.acknowledged_count} acknowledged, {total.count} stored, "
        f"slowest start {slowest * 1000:.0f} ms"
    )


class Load:
    """A producer on a thread of its own that never gives up."""

    def __init__(self, address, partitions, codec, seed):
        from confluent_kafka import Producer

        self.partitions = partitions
        self.filling = filling(seed)
        # What was acknowledged, in the order in which it was told: partition, number, offset.
        self.told = []
        self.sent = collections.Counter()
        self.refused = []
        self.stopping = False
        self.producer = Producer({
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": codec,
            "linger.ms": 2,
            "batch.num.messages": 200,
            "message.timeout.ms": 300_000,
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 100,
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 100,
            "error_cb": lambda error: None,
            "log_level": 2,
        })
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def acknowledged_count(self):
        return len(self.told)

    def run(self):
        undelivered = 0
        turn = 0

        def told(error, message):
            nonlocal undelivered
            undelivered -= 1
            if error:
                self.refused.append(str(error))
                return
            number = int(message.value().split(b" ", 1)[0])
            self.told.append((message.partition(), number, message.offset()))

        while not self.stopping and not self.refused:
            while undelivered < UNDELIVERED_MAX:
                partition = turn % self.partitions
                number = self.sent[partition]
                value = b"%d %s" % (number, self.filling[turn % len(self.filling)])
                try:
                    self.producer.produce("t", value=value, partition=partition, on_delivery=told)
                except BufferError:
                    break
                self.sent[partition] += 1
                undelivered += 1
                turn += 1
                if turn % 200 == 0:
                    break
            # Polite enough that the broker, too, gets the processor.
            self.producer.poll(0.001)

    def wait_for(self, count):
        deadline = time.monotonic() + 60
        while self.acknowledged_count < count:
            demand(not self.refused, f"the producer gave up: {self.refused[:1]}")
            demand(time.monotonic() < deadline, "no acknowledgement within 60 s of a restart")
            time.sleep(0.01)

    def stop(self):
        self.stopping = True
        self.thread.join()
        left = self.producer.flush(120)
        demand(left == 0, f"{left} records were never answered")
        demand(not self.refused, f"the producer gave up: {self.refused[:1]}")
        demand(len(self.told) == sum(self.sent.values()), "some records were not answered")


def filling(seed):
    """Values of many lengths, from 0 bytes to 4 KiB, most of them short; none like the last."""
    import random

    source = random.Random(seed)
    return [source.randbytes(source.choice([0, 10, 10, 100, 100, 100, 1000, 4096]) // 2)
            .hex().encode() for _ in range(997)]


class Audit:
    """Reads what is stored, from where the last look ended, and holds it against what was told."""

    def __init__(self, address, load):
        self.address = address
        self.load = load
        self.next_offset = {n: 0 for n in range(load.partitions)}
        # By partition and number: the offset at which that record is stored.
        self.found = [array.array("q") for _ in range(load.partitions)]
        self.checked = 0

    @property
    def count(self):
        return sum(len(offsets) for offsets in self.found)

    def look(self):
        told = self.load.acknowledged_count
        partitions = list(range(self.load.partitions))
        for message in clients.messages(self.address, "t", partitions, self.next_offset):
            partition, offset = message.partition(), message.offset()
            number = int(message.value().split(b" ", 1)[0])
            # The producer gives up nothing, so no number may be missing or come twice.
            wanted = len(self.found[partition])
            demand(number == wanted, f"partition {partition}, offset {offset}: record {number} "
                                     f"instead of {wanted}")
            self.found[partition].append(offset)
            self.next_offset[partition] = offset + 1
        for partition, number, offset in self.load.told[self.checked:told]:
            stored = self.found[partition]
            found = stored[number] if number < len(stored) else None
            demand(found == offset, f"partition {partition}, record {number}: acknowledged at "
                                    f"{offset}, found at {found}")
        self.checked = told

    def demand_complete(self):
        everything = sum(self.load.sent.values())
        demand(self.count == everything, f"{everything} acknowledged, {self.count} stored")
