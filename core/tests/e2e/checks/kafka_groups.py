"""Groups as Apache Kafka's tools see and treat them, and its verifiable clients.

Groups that live: what is described of their members, what is refused while there are some, and that
verifiable consumers read each record that a verifiable producer was acknowledged. Java's members find
topics by patterns. Groups at rest: every way to set offsets. Then the configurations of groups, deleted
records, and the broker's own topic read with Kafka's formatter.
"""

import collections
import json
import re
import time

from clients import make_topic
from java_programs import Java, translated
from kafka_tools import (CONFIGS, CONSOLE_CONSUMER, CONSOLE_PRODUCER, DELETE_RECORDS, FEATURES,
                         GROUPS, LOG_DIRS, OFFSETS, tool)
from running import demand

ALL_GROUPS = "org.apache.kafka.tools.GroupsCommand"
VERIFIABLE_PRODUCER = "org.apache.kafka.tools.VerifiableProducer"
VERIFIABLE_CONSUMER = "org.apache.kafka.tools.VerifiableConsumer"
OFFSETS_FORM = "org.apache.kafka.tools.consumer.OffsetsMessageFormatter"
PARTITIONS = 6


def check(run):
    broker = run.broker(shards=2, settings={"group.initial.rebalance.delay.ms": "0"})
    for protocol in ["classic", "consumer"]:
        alive(run, broker, protocol)
    by_pattern(run, broker)
    at_rest(run, broker)
    settings(run, broker)
    records(run, broker)
    broker.stop()


class Group:
    """What kafka-consumer-groups says of one."""

    def __init__(self, broker, name):
        self.name = name
        self.server = ["--bootstrap-server", broker.address]

    def ask(self, *arguments):
        return tool(GROUPS, *self.server, "--group", self.name, *arguments)

    def rows(self, *arguments):
        """The rows of a table, by the names of its columns."""
        lines = [line.split() for line in self.ask("--describe", *arguments).splitlines()]
        heads = [at for at, line in enumerate(lines) if line[:1] == ["GROUP"]]
        demand(heads, f"--describe {arguments} told {lines}")
        head = lines[heads[0]]
        return [dict(zip(head, row)) for row in lines[heads[0] + 1:] if row[:1] == [self.name]]


def by_pattern(run, broker):
    """Java's members find topics by patterns of either sort, and an operator takes members out."""
    topics, each = ["found-a", "found-b"], 50
    for topic in topics:
        make_topic(broker.address, topic, PARTITIONS)
        lines = "".join(f"{number}\n" for number in range(each))
        text = run.dir / f"{topic}.txt"
        text.write_text(lines)
        tool(CONSOLE_PRODUCER, "--bootstrap-server", broker.address, "--topic", topic, feed=text)
    classes = translated(run, "groups/Subscribed.java")
    for whose in ["client", "broker"]:
        member = Java(run, "kafka", "Subscribed", broker.address, f"by-{whose}", whose, "found-.*",
                      each * len(topics), classes=classes)
        member.end()
        demand(member.said("read") == [str(each * len(topics))], f"it read {member.lines}")
        demand(member.said("removed") == ["0"], f"an operator took it out: {member.lines}")
    run.say("Java's members of the newer protocol: patterns of either sort, taken out by an operator")


def alive(run, broker, protocol):
    count = 3_000 if run.quick else 100_000
    topic, group = f"live-{protocol}", Group(broker, f"living-{protocol}")
    make_topic(broker.address, topic, PARTITIONS)
    readers = [verifiable_consumer(run, broker, protocol, topic, number) for number in (1, 2)]
    for reader in readers:
        reader.wait_until(lambda: assigned(reader) == PARTITIONS // 2, "half of the partitions")
    produce(run, broker, topic, count)
    wait_until_read(readers, count)

    [state] = group.rows("--state")
    demand(state["STATE"] == "Stable" and state["#MEMBERS"] == "2", f"--state told {state}")
    members = group.rows("--members", "--verbose")
    shares = sorted(int(member["#PARTITIONS"]) for member in members)
    demand(shares == [PARTITIONS // 2] * 2, f"--members told {members}")
    # A partition that got no record has no offset either.
    rows = [row for row in group.rows("--offsets") if row["LOG-END-OFFSET"] != "0"]
    told = [(row["CURRENT-OFFSET"], row["LAG"]) for row in rows]
    demand(sum(int(offset) for offset, _ in told) == count, f"--offsets told {rows}")
    demand(all(lag == "0" for _, lag in told), f"--offsets told {rows}")
    demand(len({row["CONSUMER-ID"] for row in rows}) == 2, f"--offsets told {rows}")
    told = tool(GROUPS, *group.server, "--list", "--state", "stable")
    demand(re.search(rf"^{group.name}\s+Stable", told, re.MULTILINE), f"--list told {told}")
    # The tool tells what was refused, and ends well all the same.
    told = group.ask("--reset-offsets", "--to-earliest", "--all-topics", "--execute")
    demand("inactive" in told, f"a reset while there are members told {told[-300:]}")
    told = group.ask("--delete")
    demand("GroupNotEmpty" in told or "not empty" in told, f"--delete told {told[-300:]}")

    readers[0].stop()
    readers[1].wait_until(lambda: assigned(readers[1]) == PARTITIONS, "all partitions are its own")
    produce(run, broker, topic, count)
    wait_until_read(readers, 2 * count)
    readers[1].stop()
    told = group.ask("--delete")
    demand("was successful" in told, f"--delete told {told}")
    run.say(f"{2 * count} records between a verifiable producer and a group of two verifiable "
            f"consumers, group.protocol={protocol}")


def verifiable_consumer(run, broker, protocol, topic, number):
    return Java(run, "kafka", VERIFIABLE_CONSUMER, "--bootstrap-server", broker.address,
                "--topic", topic, "--group-id", f"living-{protocol}", "--group-protocol", protocol,
                "--reset-policy", "earliest", *session(protocol),
                log=f"verifiable-consumer-{protocol}-{number}")


def session(protocol):
    """The newer kind of groups has its times at the broker."""
    return ["--session-timeout", "10000"] if protocol == "classic" else []


def assigned(reader):
    """How many partitions a verifiable consumer has, by what it said of them."""
    owned = set()
    with reader.news:
        told = [json.loads(line) for line in reader.lines if line.startswith("{")]
    for event in told:
        named = {(each["topic"], each["partition"]) for each in event.get("partitions", [])
                 if isinstance(each, dict) and "topic" in each}
        if event["name"] == "partitions_assigned":
            owned |= named
        elif event["name"] == "partitions_revoked":
            owned -= named
    return len(owned)


def produce(run, broker, topic, count):
    producer = Java(run, "kafka", VERIFIABLE_PRODUCER, "--bootstrap-server", broker.address,
                    "--topic", topic, "--max-messages", count, "--acks", "-1",
                    "--repeating-keys", "100")
    producer.wait_until(lambda: producer.events("tool_data"), "it has produced all", 300)
    [told] = producer.events("tool_data")
    demand(told["acked"] == count, f"the verifiable producer told {told}")
    places = {(event["partition"], event["offset"])
              for event in producer.events("producer_send_success")}
    demand(len(places) == count, f"{count} acknowledged at {len(places)} places")


def wait_until_read(readers, count):
    """Every record is read, once, and committed; each partition starts at 0."""
    def read():
        return sum(event["count"] for reader in readers
                   for event in reader.events("records_consumed"))

    def committed():
        offsets = collections.Counter()
        for reader in readers:
            for event in reader.events("offsets_committed"):
                demand(event["success"], f"a commit failed: {event}")
                for place in event["offsets"]:
                    at = place["partition"]
                    offsets[at] = max(offsets[at], place["offset"])
        return offsets.total()

    readers[-1].wait_until(lambda: count <= committed(), f"{count} records are committed")
    demand(read() == count, f"{read()} records were read, {count} written")


def at_rest(run, broker):
    """Two partitions of a hundred records each, the first half of which is two hours old, the others
    one: each way to set offsets is told beforehand, carried out, and found again."""
    from confluent_kafka import Producer

    make_topic(broker.address, "rest", 2)
    now = int(time.time() * 1000)
    hour = 3_600_000
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(200):
        written = now - (2 if number < 100 else 1) * hour
        producer.produce("rest", str(number), partition=number % 2, timestamp=written)
    demand(producer.flush(60) == 0, "records were not taken")
    between = time.strftime("%Y-%m-%dT%H:%M:%S.000", time.gmtime((now - 1.5 * hour) / 1000))
    group = Group(broker, "resting")
    reset = lambda *how: group.ask("--reset-offsets", *how)
    kept = run.dir / "offsets.csv"
    topic = ["--topic", "rest"]
    steps = [
        (["--to-earliest", *topic], 0), (["--to-offset", "10", *topic], 10),
        (["--shift-by", "15", *topic], 25), (["--shift-by", "-100", *topic], 0),
        (["--to-latest", "--all-topics"], 100), (["--by-duration", "PT90M", *topic], 50),
        (["--to-earliest", "--topic", "rest:0,1"], 0), (["--to-datetime", between, *topic], 50),
        (["--to-current", "--all-topics"], 50),
    ]
    for how, expected in steps:
        before = {row["PARTITION"]: row["CURRENT-OFFSET"] for row in at(group)}
        planned = new_offsets(reset(*how, "--dry-run")) if not run.quick else None
        demand(planned in (None, [expected] * 2), f"{how} --dry-run told {planned}")
        if planned:
            after = {row["PARTITION"]: row["CURRENT-OFFSET"] for row in at(group)}
            demand(before == after, f"{how} --dry-run has set {after}")
        told = new_offsets(reset(*how, "--execute"))
        demand(told == [expected] * 2, f"{how} told {told} instead of {expected}")
    found = [int(row["CURRENT-OFFSET"]) for row in at(group)]
    demand(found == [50, 50], f"after all resets --describe told {found}")
    kept.write_text(reset("--to-offset", "70", *topic, "--export", "--dry-run"))
    rows = [line.split(",") for line in kept.read_text().split()]
    demand(sorted(row[-1] for row in rows) == ["70", "70"], f"--export told {rows}")
    told = new_offsets(reset("--from-file", kept, "--execute"))
    demand(told == [70, 70], f"--from-file told {told}")
    told = tool(GROUPS, *group.server, "--reset-offsets", "--all-groups", "--all-topics",
                "--to-earliest", "--execute")
    demand(new_offsets(told) == [0, 0], f"--all-groups told {told}")
    told = group.ask("--delete-offsets", "--topic", "rest")
    demand(not at(group), f"after --delete-offsets: {told}")
    run.say("kafka-consumer-groups: members, states, offsets set in eleven ways")


def at(group):
    """What it has committed; nothing if there is no such group."""
    told = tool(GROUPS, *group.server, "--describe", "--all-groups")
    rows = [line.split() for line in told.splitlines() if line.startswith(group.name)]
    rows = [dict(zip(["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET"], row)) for row in rows]
    return [row for row in rows if row["CURRENT-OFFSET"] != "-"]


def new_offsets(told):
    return [int(found) for found in re.findall(r"^resting +rest +\d +(\d+)", told, re.MULTILINE)]


def settings(run, broker):
    """The configurations of groups, and what there is of each kind."""
    server = ["--bootstrap-server", broker.address]
    entity = ["--entity-type", "groups", "--entity-name", "living-consumer"]
    tool(CONFIGS, *server, *entity, "--alter", "--add-config", "consumer.session.timeout.ms=50000")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("consumer.session.timeout.ms=50000" in told, f"the configuration of a group: {told}")
    tool(CONFIGS, *server, *entity, "--alter", "--delete-config", "consumer.session.timeout.ms")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("50000" not in told, f"the configuration of a group: {told}")
    told = tool(ALL_GROUPS, *server, "--list")
    demand("living" not in told, f"kafka-groups --list told {told}")
    told = tool(FEATURES, *server, "describe")
    for feature in ["group.version", "transaction.version"]:
        demand(re.search(rf"Feature: {feature}\s.*FinalizedVersionLevel: \S*[1-9]", told),
               f"kafka-features told {told}")
    run.say("kafka-configs of groups, kafka-groups, kafka-features")


def records(run, broker):
    """Records are deleted below an offset, and each tool tells so."""
    server = ["--bootstrap-server", broker.address]
    wanted = run.dir / "delete.json"
    places = [{"topic": "rest", "partition": 0, "offset": 30},
              {"topic": "rest", "partition": 1, "offset": -1}]
    wanted.write_text(json.dumps({"version": 1, "partitions": places}))
    told = tool(DELETE_RECORDS, *server, "--offset-json-file", wanted)
    demand("low_watermark: 30" in told and "low_watermark: 100" in told, f"it told {told}")
    for when, expected in [("earliest", [30, 100]), ("latest", [100, 100])]:
        told = tool(OFFSETS, *server, "--topic-partitions", "rest:0-2", "--time", when)
        found = [int(line.rsplit(":", 1)[1]) for line in told.split()]
        demand(found == expected, f"--time {when} told {told}")
    told = tool(CONSOLE_CONSUMER, *server, "--topic", "rest", "--partition", "0", "--offset",
                "earliest", "--max-messages", "70", "--timeout-ms", "30000",
                "--formatter-property", "print.offset=true",
                "--formatter-property", "print.timestamp=true")
    offsets = [int(found) for found in re.findall(r"^CreateTime:\d+\tOffset:(\d+)\t", told,
                                                  re.MULTILINE)]
    demand(offsets == list(range(30, 100)), f"the console consumer told {told[:300]}")
    told = tool(LOG_DIRS, *server, "--describe", "--topic-list", "rest")
    demand('"partition":"rest-1"' in told, f"kafka-log-dirs told {told}")
    told = tool(CONSOLE_CONSUMER, *server, "--topic", "__consumer_offsets", "--from-beginning",
                "--formatter", OFFSETS_FORM, "--timeout-ms", "10000")
    found = collections.Counter(re.findall(r'"group":"([^"]+)"', told))
    demand(0 < found["resting"] and 0 < found["living-classic"],
           f"__consumer_offsets told of {found}")
    run.say(f"kafka-delete-records, kafka-get-offsets, kafka-log-dirs; {found.total()} records of "
            "__consumer_offsets in Kafka's own form")
