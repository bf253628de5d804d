"""What compaction takes from those who produce meanwhile: p99 with it and without it.

Records with random keys of a fixed number of keys lie in one topic. Records are produced to another
one, open-loop at 30 % of what was found to be its maximum, in pairs of windows: in one of them the
first topic is compacted all the while, in the other it is not. Which comes first alternates. More
records of the same keys are written before compaction would run out of them.

Every record of every window is read back and verified, and when all is compacted, of some
partitions every key must have its last value where it was written, and nothing else be left.

    E2E_ONLY=as-shipped,one-by-one   those cases alone: each is a speed and a load
    E2E_BYTES=10000000000            so much keyed data at first
    E2E_SECONDS=20  E2E_PAIRS=5      the windows
"""

import os
import re
import statistics
import threading
import time
import urllib.request
import zlib

from load import clean
from running import Failure, demand, free_port, output

P99_RATIO_MAX = 1.5
SHARE = 0.3
SEGMENT_BYTES = 16 << 20
VALUE_BYTES = 460
# With its key and what a batch adds.
RECORD_BYTES = 491
KEYED = ["--value-bytes", VALUE_BYTES, "--connections", "2", "--linger", "20", "--batch-bytes",
         "262144", "--no-read-back", "--warm-up", "0", "--topic", "accounts"]
KEYED_BYTES_PER_SECOND = 120_000_000
WARM_UP = 2
# Until what the last window left behind is off the disk.
REST = 2
PATIENCE = 900
# Partitions that are read record by record.
READ = 2

# What compaction may move: as it is shipped, and as much as it can.
SPEEDS = {
    "as-shipped": {},
    "unbounded": {"log.cleaner.io.max.bytes.per.second": str(10 << 30)},
}
LOADS = {
    "batched": ["--value-bytes", "1024", "--partitions", "4", "--connections", "4",
                "--linger", "1"],
    "one-by-one": ["--value-bytes", "100", "--partitions", "4", "--connections", "16",
                   "--batch-bytes", "1"],
}
COMPACTED = re.compile(r'a log was compacted.* topic="?(\w+)"? partition=(\d+) compacted_to=(\d+)')


def check(run):
    plan = Plan(run.quick)
    broker = run.broker(shards=2, settings={
        "tidemill.admin.listener": f"127.0.0.1:{free_port()}", "log.cleaner.backoff.ms": "250",
    })
    make_accounts(broker, plan)
    write(broker, plan, plan.bytes)
    run.say(f"{plan.written / 1e9:.1f} GB in {plan.partitions} partitions, {plan.keys} keys each")
    rates = {name: rate_of(run, broker, name, load, plan) for name, load in plan.loads.items()}
    missed = []
    for speed in plan.speeds:
        restart(broker, plan, speed)
        for name, load in plan.loads.items():
            ratio = compare(run, broker, plan, f"{speed}, {name}", [*load, "--rate", rates[name]])
            if P99_RATIO_MAX < ratio:
                missed.append(f"{speed}, {name}: {ratio:.2f}")
    verify(run, broker, plan)
    broker.stop()
    demand(run.quick or not missed, f"p99 with compaction, of that without: {missed}")


class Plan:
    """How much of everything."""

    def __init__(self, quick):
        of = lambda name, small, whole: int(os.environ.get(name, small if quick else whole))
        self.bytes = of("E2E_BYTES", 100_000_000, 5_000_000_000)
        self.keys_in_all = of("E2E_KEYS", 200_000, 10_000_000)
        self.seconds = of("E2E_SECONDS", 2, 20)
        self.pairs = of("E2E_PAIRS", 1, 5)
        self.partitions = 4 if quick else 64
        self.segment_bytes = SEGMENT_BYTES // 8 if quick else SEGMENT_BYTES
        self.keys = self.keys_in_all // self.partitions
        only = os.environ.get("E2E_ONLY", "as-shipped,batched" if quick else "").split(",")
        chosen = lambda all: {name: all[name] for name in all if name in only} or all
        self.speeds, self.loads = chosen(SPEEDS), chosen(LOADS)
        # Keyed bytes so far, how many rounds of compaction were done by the last of them, and how
        # many the last window took.
        self.written = self.rounds_before = self.rounds_of_window = 0


def command(*words):
    return [os.environ["TIDEMILL_BIN"], *map(str, words)]


def restart(broker, plan, speed):
    """With another speed; the windows of the fastest are shorter, lest there be too little to do."""
    done = Figures(broker).rounds - plan.rounds_before
    broker.stop()
    broker.settings.update(SPEEDS[speed])
    broker.start()
    # They are counted anew.
    plan.rounds_before = -done
    plan.window = plan.seconds if speed == "as-shipped" else max(2, plan.seconds // 2)


def make_accounts(broker, plan):
    output(command("topic", "create", "accounts", "-b", broker.address, "-p", plan.partitions,
                   "-X", f"segment.bytes={plan.segment_bytes}",
                   "-X", "min.cleanable.dirty.ratio=0.01"))


def set_policy(broker, policy):
    output(command("config", "set", "topic", "accounts", "-b", broker.address,
                   "-X", f"cleanup.policy={policy}"))


def write(broker, plan, wanted):
    """Writes so many bytes of keyed records, and notes that all partitions are to be compacted."""
    seconds = max(1, wanted / KEYED_BYTES_PER_SECOND)
    told = clean(["produce", "--broker", broker.address, *KEYED, "--keys", plan.keys,
                  "--rate", int(wanted / RECORD_BYTES / seconds), "--seconds", seconds], PATIENCE)
    plan.written += told["produced_bytes"]
    plan.rounds_before = Figures(broker).rounds


def rate_of(run, broker, name, load, plan):
    """30 % of the most that is acknowledged in a closed loop."""
    most = clean(["produce", "--broker", broker.address, *load, "--rate", "max", "--topic", "most",
                  "--seconds", max(2, plan.seconds // 5), "--delete-topic", "--no-read-back"])
    most = most["produced_records"] / most["seconds"]
    run.say(f"{name}: at most {most:.0f} records/s, {' '.join(load)}")
    return int(most * SHARE)


class Figures:
    """What the page of metrics tells of compaction, and the kernel of the broker's threads."""

    def __init__(self, broker):
        page = f"http://{broker.settings['tidemill.admin.listener']}/metrics"
        with urllib.request.urlopen(page, timeout=30) as answer:
            text = answer.read().decode()
        total = lambda name: sum(float(found) for found in re.findall(
            rf"^tidemill_compaction_{name}_total{{.*}} (\S+)$", text, re.MULTILINE))
        self.at = time.monotonic()
        self.rounds = int(total("rounds"))
        self.failures = int(total("failures"))
        self.read, self.written = total("read_bytes"), total("written_bytes")
        self.removed = int(total("removed_records"))
        self.cpu = broker.cpu_seconds()

    @property
    def moved(self):
        return self.read + self.written


class Watch:
    """Takes the figures from the start of the window to its end, on a thread of its own."""

    def __init__(self, broker, plan, warm_up):
        self.found = []
        arguments = (broker, warm_up, plan.window)
        self.thread = threading.Thread(target=self.run, args=arguments, daemon=True)
        self.thread.start()

    def run(self, broker, warm_up, seconds):
        due = time.monotonic() + warm_up
        for _ in range(seconds + 1):
            time.sleep(max(0, due - time.monotonic()))
            self.found.append(Figures(broker))
            due += 1

    def end(self):
        self.thread.join()
        return self.found


def compare(run, broker, plan, case, load):
    """The pairs of windows of one case: p99 with compaction as a multiple of that without."""
    windows = {True: [], False: []}
    for pair in range(plan.pairs):
        for compacted in [pair % 2 == 1, pair % 2 == 0]:
            windows[compacted].append(window(run, broker, plan, case, load, compacted))
    middle = lambda compacted, name: statistics.median(row[name] for row in windows[compacted])
    for compacted in [False, True]:
        told = ", ".join(f"{name} {middle(compacted, name):.2f} ms"
                         for name in ["p50", "p99", "p99.9"])
        cpu, moved = middle(compacted, "cpu"), middle(compacted, "moved") / 1e6
        how = "with compaction" if compacted else "without"
        run.say(f"{case}, {how}, medians of {plan.pairs}: {told}; {cpu:.2f} of a core, "
                f"compaction moves {moved:.0f} MB/s")
    ratio = middle(True, "p99") / middle(False, "p99")
    run.say(f"{case}: p99 {ratio:.2f} times what it is without, p50 "
            f"{middle(True, 'p50') / middle(False, 'p50'):.2f}, p99.9 "
            f"{middle(True, 'p99.9') / middle(False, 'p99.9'):.2f}")
    return ratio


def window(run, broker, plan, case, load, compacted):
    if compacted:
        top_up(run, broker, plan)
    time.sleep(REST)
    set_policy(broker, "compact" if compacted else "delete")
    wait_until_moving(broker, compacted)
    watch = Watch(broker, plan, WARM_UP)
    told = clean(["produce", "--broker", broker.address, *load, "--topic", "load",
                  "--seconds", plan.window, "--warm-up", WARM_UP, "--delete-topic"], PATIENCE)
    found = watch.end()
    set_policy(broker, "delete")
    first, last = found[0], found[-1]
    seconds = last.at - first.at
    still = sum(later.moved == before.moved for before, later in zip(found, found[1:]))
    demand(last.failures == 0, f"{last.failures} compactions were given up")
    demand(still <= len(found) // 10 if compacted else still == len(found) - 1,
           f"{case}: compaction moved nothing in {still} of {len(found) - 1} seconds")
    row = {name: told["ack_ns"][name] / 1e6 for name in ["p50", "p99", "p99.9", "max"]}
    if compacted:
        plan.rounds_of_window = last.rounds - first.rounds
    row["cpu"] = (last.cpu - first.cpu) / seconds
    row["moved"] = (last.moved - first.moved) / seconds
    run.say(f"{case}, {'with' if compacted else 'without'}: p50 {row['p50']:.2f}, "
            f"p99 {row['p99']:.2f}, p99.9 {row['p99.9']:.2f}, max {row['max']:.1f} ms; "
            f"{row['cpu']:.2f} of a core; compaction reads "
            f"{(last.read - first.read) / seconds / 1e6:.0f} and writes "
            f"{(last.written - first.written) / seconds / 1e6:.0f} MB/s, "
            f"{last.rounds - first.rounds} rounds, {last.removed - first.removed} records removed; "
            f"generator late p99 {told['late_ns']['p99'] / 1e6:.2f} ms"
            f"{', and it may have set the pace' if told['generator_bound'] else ''}; "
            f"{told['verified_records']} records read back")
    return row


def top_up(run, broker, plan):
    """Compaction is not to run out of logs during a window: more is written in time."""
    left = plan.partitions - (Figures(broker).rounds - plan.rounds_before)
    if left < plan.partitions // 4 + max(2 * plan.rounds_of_window, plan.partitions // 2):
        write(broker, plan, plan.bytes // 2)
        run.say(f"{plan.written / 1e9:.1f} GB of keyed data written so far, "
                f"{broker.stored_bytes() / 1e9:.1f} GB on the disk")


def wait_until_moving(broker, wanted):
    """Until compaction runs, or until it does not any more."""
    deadline = time.monotonic() + 60
    before = Figures(broker).moved
    while time.monotonic() < deadline:
        time.sleep(1)
        now = Figures(broker).moved
        if (before < now) == wanted:
            return
        before = now
    raise Failure(f"compaction {'does not begin' if wanted else 'goes on'}")


def wait_until_clean(broker, plan):
    """Until nothing is left to be compacted, as fast as it goes."""
    begun = Figures(broker)
    set_policy(broker, "compact")
    deadline = time.monotonic() + PATIENCE
    idle, before = 0, begun.moved
    while idle < 3:
        demand(time.monotonic() < deadline, f"not compacted after {PATIENCE} s")
        time.sleep(1)
        now = Figures(broker)
        idle = idle + 1 if now.moved == before else 0
        before = now.moved
    set_policy(broker, "delete")
    return now.at - begun.at, now.moved - begun.moved


def verify(run, broker, plan):
    """All is compacted: of some partitions the last value of each key is left where it was written,
    what is behind that which was compacted, and nothing else."""
    restart(broker, plan, "unbounded")
    write(broker, plan, plan.bytes // 2)
    before = [list(records(broker, partition)) for partition in range(READ)]
    seconds, moved = wait_until_clean(broker, plan)
    run.say(f"then alone: {moved / seconds / 1e6:.0f} MB/s for {seconds:.0f} s, "
            f"{broker.stored_bytes() / 1e9:.1f} GB are left of {plan.written / 1e9:.1f} GB")
    lines = COMPACTED.findall(broker.log.read_text())
    demand(len({topic for topic, _, _ in lines}) == 1, f"not one topic is compacted: {lines[:9]}")
    ends = {int(partition): int(end) for _, partition, end in lines}
    keys = kept = 0
    for partition, rows in enumerate(before):
        last = {row[1]: row for row in rows if row[0] < ends[partition]}
        behind = [row for row in rows if ends[partition] <= row[0]]
        wanted = [*sorted(last.values()), *behind]
        found = list(records(broker, partition))
        unlike = sorted(set(wanted) ^ set(found))
        demand(found == wanted, f"partition {partition}, compacted to {ends[partition]}: "
                                f"{len(found)} records, not {len(wanted)}: {unlike[:4]}")
        demand(len(found) < len(rows), f"partition {partition}: nothing was left to be compacted")
        keys += len(last)
        kept += len(found)
    run.say(f"of {READ} partitions the last values of {keys} keys are where they were written; "
            f"{kept} of the {sum(map(len, before))} records before the last compaction are there")


def records(broker, partition):
    """(offset, key, checksum of the value) of all of a partition, in order."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": broker.address, "group.id": "unused", "check.crcs": True,
        "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 2,
    })
    try:
        consumer.assign([TopicPartition("accounts", partition, OFFSET_BEGINNING)])
        before = -1
        while True:
            some = consumer.consume(10_000, 1)
            demand(some, f"partition {partition}: nothing comes behind offset {before}")
            for message in some:
                error = message.error()
                if error and error.code() == KafkaError._PARTITION_EOF:
                    return
                demand(not error, f"partition {partition}: {error}")
                offset = message.offset()
                demand(before < offset, f"offset {offset} came after {before}")
                before = offset
                yield offset, message.key(), zlib.crc32(message.value())
    finally:
        consumer.close()
