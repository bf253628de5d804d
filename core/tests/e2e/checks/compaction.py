"""Compacted topics through Apache Kafka's own tools: the last value of every key is left.

Its producer writes keys again and again, and deletes some. When all that can be compacted is, its
log dump reads the segments, and its consumer the topic from the start: both must find of each key
what was written last, where it was written, and nothing else. Then what its tools set and
tell of such topics.
"""

import re
import time

from clients import make_topic
from kafka_tools import (
    COMPLAINTS, CONFIGS, CONSOLE_CONSUMER, CONSOLE_PRODUCER, DUMP, TOPICS, refusal, tool,
)
from running import Failure, demand

KEYS = 50
CODECS = ["none", "lz4", "gzip"]
SETTINGS = {"log.cleaner.backoff.ms": "100", "log.retention.check.interval.ms": "200"}
NULL = "nothing"
PATIENCE = 60

# Of each record the log dump tells one line.
RECORD = re.compile(r"^\| offset: (\d+) .*? key: (\S+)(?: payload: (\S+))?$", re.MULTILINE)


def check(run):
    broker = run.broker(shards=2, settings=SETTINGS)
    make_topic(broker.address, "accounts", config={
        "cleanup.policy": "compact", "segment.bytes": "32768", "min.cleanable.dirty.ratio": "0.01",
    })
    written, last, home = 0, {}, None
    for codec in CODECS:
        written = write(run, broker, codec, written, last)
        # There is no other partition yet: that of the consumers' offsets comes later.
        home = home or next(broker.data.glob("partitions/*/*/*.log")).parent
        segments = compacted(broker, home)
        replaced = [segment for segment in segments if segment.name.count(".") == 2]
        demand(replaced, f"no segment is compacted: {segments}")
        broker.stop()
        dumped = dump(segments)
        broker.start()
        # The active segment has keys of its own.
        demand(dumped == [row for row in ordered(last) if row[0] <= dumped[-1][0]],
               f"the sealed segments, {codec}: {unlike(dumped, last)}")
        demand(sum(key.startswith("key") for _, key, _ in dumped) == KEYS, f"{len(dumped)} records")
        consumed = consume(broker, len(last))
        demand(consumed == ordered(last), f"what is consumed, {codec}: {unlike(consumed, last)}")
        run.say(f"{codec}: of {written} records {len(last)} are left, the last of each key; "
                f"DumpLogSegments reads {len(dumped)} of them in {len(segments)} segments, "
                f"{len(replaced)} of them compacted")
    configurations(run, broker)
    dropped_when_old(run, broker)
    broker.stop()


def server(broker):
    return ["--bootstrap-server", broker.address]


def write(run, broker, codec, written, last):
    """Writes all keys often and notes in `last` where the last value of each is; returns where the
    log ends."""
    rows = []
    times = 60 if run.quick else 600
    for number in range(times):
        for key in range(KEYS):
            deleted = key % 5 == 0 and number % 3 == 2
            value = NULL if deleted else f"{codec}-{number}-{'x' * (key % 40)}"
            rows.append((f"key-{key}", value))
    # So that all of that is in sealed segments.
    for number in range(12):
        rows.append((f"filler-{codec}-{number}", run.random.randbytes(4500).hex()))
    for at, (key, value) in enumerate(rows, written):
        last[key] = (at, value)
    text = run.dir / "keyed.txt"
    text.write_text("".join(f"{key}\t{value}\n" for key, value in rows))
    tool(CONSOLE_PRODUCER, *server(broker), "--topic", "accounts", "--compression-codec", codec,
         "--reader-property", "parse.key=true", "--reader-property", f"null.marker={NULL}",
         feed=text)
    return written + len(rows)


def ordered(last):
    return sorted((at, key, value) for key, (at, value) in last.items())


def unlike(found, last):
    """What is there and should not be, and what is not: some of it."""
    wanted = ordered(last)
    more = [(at, key, value[:40]) for at, key, value in found if (at, key, value) not in wanted]
    less = [(at, key, value[:40]) for at, key, value in wanted if (at, key, value) not in found]
    return f"{len(found)} records; not wanted: {more[:3]}; missing: {less[:3]}"


def compacted(broker, home):
    """The sealed segments, when all of them are compacted and what was replaced is gone.

    A segment of which everything stays is left as it is, so that names do not tell.
    """
    deadline = time.monotonic() + PATIENCE
    before = None
    while time.monotonic() < deadline:
        segments = sorted(home.glob("*.log"))
        bases = [int(segment.name.split(".")[0]) for segment in segments]
        ends = re.findall(r"a log was compacted.* compacted_to=(\d+)", broker.log.read_text())
        if ends and int(ends[-1]) == bases[-1] and segments == before:
            return segments[:-1]
        before = segments
        time.sleep(1)
    raise Failure(f"not compacted after {PATIENCE} s: {[segment.name for segment in segments]}")


def dump(segments):
    """What Kafka's log dump finds in the segments, without complaint."""
    rows = []
    for segment in segments:
        told = tool(DUMP, "--deep-iteration", "--print-data-log", "--files", segment)
        for line in told.splitlines():
            if any(word in line for word in COMPLAINTS) and not line.startswith("| offset"):
                raise Failure(f"{segment}: {line}")
        found = RECORD.findall(told)
        demand(len(found) == told.count("\n| offset: "), f"{segment}: {told[:1000]}")
        rows += [(int(at), key, value or NULL) for at, key, value in found]
    demand(rows, f"no records in {segments}")
    demand(rows == sorted(rows), "the offsets of the segments do not rise")
    return rows


def consume(broker, count):
    """The whole topic; one record more than there should be is waited for."""
    told = tool(CONSOLE_CONSUMER, *server(broker), "--topic", "accounts", "--from-beginning",
                "--max-messages", str(count + 1), "--timeout-ms", "10000", "--formatter-property",
                "print.key=true", "--formatter-property", "print.offset=true",
                "--formatter-property", f"null.literal={NULL}")
    found = re.findall(r"^Offset:(\d+)\t(\S+)\t(\S+)$", told, re.MULTILINE)
    return [(int(at), key, value) for at, key, value in found]


def configurations(run, broker):
    tool(TOPICS, *server(broker), "--create", "--topic", "settings", "--config",
         "cleanup.policy=compact,delete", "--config", "min.cleanable.dirty.ratio=0.3")
    told = tool(TOPICS, *server(broker), "--describe", "--topic", "settings")
    demand("cleanup.policy=compact,delete" in told, f"--describe told {told}")
    demand("min.cleanable.dirty.ratio=0.3" in told, f"--describe told {told}")
    entity = [*server(broker), "--entity-type", "topics", "--entity-name", "settings"]
    for policy in ["compact", "delete", "compact,delete"]:
        tool(CONFIGS, *entity, "--alter", "--add-config",
             f"cleanup.policy=[{policy}],min.cleanable.dirty.ratio=0.75,delete.retention.ms=1000")
        told = tool(CONFIGS, *entity, "--describe")
        for setting in [f"cleanup.policy={policy} ", "min.cleanable.dirty.ratio=0.75 ",
                        "delete.retention.ms=1000 "]:
            demand(setting in told, f"{setting}was set, but --describe told {told}")
    for wrong in ["cleanup.policy=shrink", "min.cleanable.dirty.ratio=1.5"]:
        told = refusal(CONFIGS, *entity, "--alter", "--add-config", wrong)
        demand("InvalidConfigurationException" in told, f"{wrong}: {told}")
    run.say("kafka-topics and kafka-configs set and tell the settings of compacted topics")


def dropped_when_old(run, broker):
    """A policy is changed while the topic is in use: what is old goes, whatever its key."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "unused"})
    place = TopicPartition("accounts", 0)
    demand(consumer.get_watermark_offsets(place, 60)[0] == 0, "compaction has moved the start")
    tool(CONFIGS, *server(broker), "--entity-type", "topics", "--entity-name", "accounts",
         "--alter", "--add-config", "cleanup.policy=[compact,delete],retention.ms=1")
    deadline = time.monotonic() + PATIENCE
    while consumer.get_watermark_offsets(place, 60)[0] == 0:
        demand(time.monotonic() < deadline, f"nothing is dropped after {PATIENCE} s")
        time.sleep(0.5)
    start, end = consumer.get_watermark_offsets(place, 60)
    consumer.close()
    run.say(f"compact,delete with retention.ms=1: {start} of {end} offsets are dropped")
