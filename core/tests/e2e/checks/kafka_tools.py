"""Apache Kafka's own tools: the strictest readers of the protocol, and of the segments we write."""

import re

from running import KEPT, Failure, demand, output

TOPICS = "org.apache.kafka.tools.TopicCommand"
CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONFIGS = "kafka.admin.ConfigCommand"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
PRODUCER_PERFORMANCE = "org.apache.kafka.tools.ProducerPerformance"
DUMP = "org.apache.kafka.tools.DumpLogSegments"

# What the log dump says of a segment that is not as Kafka would have written it.
COMPLAINTS = ["isvalid: false", "Exception", "mismatch", "corrupt", "Found ", "rror"]


def check(run):
    on_the_first_day(run, run.broker(shards=2))
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        # One topic in a data directory of its own, so that its segments need not be searched for.
        broker = run.broker(codec, settings={"log.segment.bytes": "4MiB"})
        load(run, broker, codec)
        broker.stop()
        dump(run, broker, codec)


def tool(name, *arguments, feed=None):
    # Tools that only talk need no just-in-time compiler of the second degree, and start sooner.
    java = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", f"{KEPT}/kafka/*"]
    return output([*java, name, *arguments], feed).decode()


def on_the_first_day(run, broker):
    """What an operator does with a new cluster."""
    server = ["--bootstrap-server", broker.address]
    tool(TOPICS, *server, "--create", "--topic", "first", "--partitions", "3",
         "--config", "retention.ms=7200000")
    listed = tool(TOPICS, *server, "--list").split()
    demand(listed == ["first"], f"--list told {listed}")
    told = tool(TOPICS, *server, "--describe", "--topic", "first")
    demand("PartitionCount: 3" in told and "retention.ms=7200000" in told, told)

    text = run.dir / "lines.txt"
    text.write_text("".join(f"line {n}\n" for n in range(1000)))
    tool(CONSOLE_PRODUCER, *server, "--topic", "first", feed=text)
    offsets = tool(OFFSETS, *server, "--topic", "first")
    total = sum(int(line.rsplit(":", 1)[1]) for line in offsets.split())
    demand(total == 1000, f"GetOffsetShell told {offsets}")
    earliest = tool(OFFSETS, *server, "--topic", "first", "--time", "earliest").split()
    demand(all(line.endswith(":0") for line in earliest), f"earliest told {earliest}")

    entity = ["--entity-type", "topics", "--entity-name", "first"]
    tool(CONFIGS, *server, *entity, "--alter", "--add-config", "retention.ms=3600000")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("retention.ms=3600000" in told, told)
    tool(CONFIGS, *server, *entity, "--alter", "--delete-config", "retention.ms")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("retention.ms=3600000" not in told, told)
    told = tool(CONFIGS, *server, "--entity-type", "brokers", "--entity-name", "1", "--describe",
                "--all")
    demand("num.partitions=1" in told, f"--all told {told[:500]}")

    tool(TOPICS, *server, "--alter", "--topic", "first", "--partitions", "5")
    told = tool(TOPICS, *server, "--describe", "--topic", "first")
    demand("PartitionCount: 5" in told, told)
    tool(TOPICS, *server, "--delete", "--topic", "first")
    listed = tool(TOPICS, *server, "--list").split()
    demand(listed == [], f"after --delete, --list told {listed}")
    run.say("topics, configurations, offsets and the console producer")


def load(run, broker, codec):
    """Kafka's load generator, with every record acknowledged from the disk."""
    count = 60_000 if run.quick else 1_000_000
    server = ["--bootstrap-server", broker.address]
    tool(TOPICS, *server, "--create", "--topic", "load", "--partitions", "1")
    told = tool(
        PRODUCER_PERFORMANCE, "--topic", "load", "--num-records", str(count),
        "--record-size", "300", "--throughput", "-1", "--producer-props",
        f"bootstrap.servers={broker.address}", "acks=all", "linger.ms=5",
        f"compression.type={codec}",
    )
    last = told.strip().splitlines()[-1]
    demand(last.startswith(f"{count} records sent"), told)
    run.say(f"ProducerPerformance, {codec}: {last}")


def dump(run, broker, codec):
    """Every sealed segment is read record by record without complaint, and none is missing."""
    segments = sorted(broker.data.glob("partitions/*/*/*.log"))
    # ProducerPerformance sends random letters, which no codec halves.
    demand(2 <= len(segments), f"{len(segments)} segments of 4 MiB")
    expected = 0
    # The last one is still open: behind its records lie zeros that Kafka would not have written.
    sealed = segments[:1] if run.quick else segments[:-1]
    for segment in sealed:
        demand(segment.name == f"{expected:020}.log", f"{segment} instead of offset {expected}")
        told = tool(DUMP, "--deep-iteration", "--print-data-log", "--files", segment)
        for line in told.splitlines():
            complains = any(word in line for word in COMPLAINTS)
            if complains and not line.startswith("| offset"):
                raise Failure(f"{segment}: {line}")
        offsets = [int(found) for found in re.findall(r"^\| offset: (\d+)", told, re.MULTILINE)]
        demand(offsets, f"{segment}: no records")
        dense = offsets == list(range(expected, expected + len(offsets)))
        demand(dense, f"{segment}: the offsets {offsets[0]}..{offsets[-1]} are not dense")
        demand(f"compresscodec: {codec}" in told, f"{segment}: not compressed with {codec}")
        expected += len(offsets)
    run.say(f"DumpLogSegments, {codec}: {expected} records in {len(sealed)} sealed segments")
