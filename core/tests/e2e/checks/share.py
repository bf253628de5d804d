"""Share groups (KIP-932) with Apache Kafka's own share consumer and tools.

Each record goes to one member; what was accepted never comes again, also after `kill -9` of the
broker; what is released comes again until the limit of deliveries; what is rejected does not. Then
what Kafka's tools for share groups tell and change.
"""

import collections
import subprocess
import time

from clients import make_topic
from kafka_tools import CONFIGS, CONSOLE_PRODUCER, JAVA, tool
from running import demand

CONSUMER = "org.apache.kafka.tools.consumer.ConsoleShareConsumer"
GROUPS = "org.apache.kafka.tools.consumer.group.ShareGroupCommand"
ALL_GROUPS = "org.apache.kafka.tools.GroupsCommand"
PARTITIONS = 3
# How often a record is given out at most.
DELIVERIES = 5


def check(run):
    broker = run.broker(shards=2)
    shared_out(run, broker)
    given_back(run, broker)
    tools(run, broker)
    broker.stop()


def server(broker):
    return ["--bootstrap-server", broker.address]


def make_group(broker, group):
    entity = ["--entity-type", "groups", "--entity-name", group]
    tool(CONFIGS, *server(broker), *entity, "--alter", "--add-config",
         "share.auto.offset.reset=earliest,share.record.lock.duration.ms=15000")


def produce(run, broker, topic, lines):
    text = run.dir / "lines.txt"
    text.write_text("".join(f"{line}\n" for line in lines))
    tool(CONSOLE_PRODUCER, *server(broker), "--topic", topic, feed=text)


def consume(broker, topic, group, *arguments, patience_ms=8000):
    """What a member is given until nothing more comes, and what it acknowledges."""
    told = tool(CONSUMER, *server(broker), "--topic", topic, "--group", group, "--timeout-ms",
                str(patience_ms), *arguments)
    return told.split()


def shared_out(run, broker):
    count = 1_000 if run.quick else 20_000
    make_topic(broker.address, "work", PARTITIONS)
    make_group(broker, "workers")
    lines = [f"line-{number}" for number in range(count)]
    produce(run, broker, "work", lines)
    first = consume(broker, "work", "workers", "--max-messages", str(count // 3))
    demand(len(first) == count // 3, f"{len(first)} records instead of {count // 3}")
    broker.kill()
    broker.start()

    others = [subprocess.Popen([*JAVA, CONSUMER, *server(broker), "--topic", "work", "--group",
                                "workers", "--timeout-ms", "20000"], stdout=subprocess.PIPE)
              for _ in range(2)]
    rest = [member.communicate(timeout=300)[0].decode().split() for member in others]
    seen = collections.Counter(first + rest[0] + rest[1])
    twice = [line for line, times in seen.items() if 1 < times]
    demand(not twice, f"{len(twice)} records were accepted twice: {twice[:5]}")
    missing = set(lines) - set(seen)
    demand(not missing, f"{len(missing)} records came to nobody: {sorted(missing)[:5]}")
    both = [len(lines) for lines in rest]
    run.say(f"{count} records, accepted once each across kill -9 of the broker; "
            f"two members shared {both}")


def given_back(run, broker):
    make_topic(broker.address, "again", 1)
    make_group(broker, "refusers")
    produce(run, broker, "again", ["a", "b", "c"])
    seen = collections.Counter(consume(broker, "again", "refusers", "--release"))
    demand(seen == {line: DELIVERIES for line in "abc"}, f"released records came {seen}")
    produce(run, broker, "again", ["d", "e"])
    told = consume(broker, "again", "refusers", "--reject")
    demand(told == ["d", "e"], f"after the limit came {told}")
    told = consume(broker, "again", "refusers")
    demand(told == [], f"rejected records came again: {told}")
    run.say(f"released records come {DELIVERIES} times, rejected ones once")


def rows(broker, group, *arguments):
    """The rows of a table of kafka-share-groups, by the names of its columns."""
    told = tool(GROUPS, *server(broker), "--describe", "--group", group, *arguments)
    # Without anything to tell of there is no table.
    if "has no offset information" in told or not told.strip():
        return []
    lines = [line.split() for line in told.splitlines()]
    heads = [at for at, line in enumerate(lines) if line[:1] == ["GROUP"]]
    demand(heads, f"--describe {arguments} told {told}")
    head = lines[heads[0]]
    return [dict(zip(head, row)) for row in lines[heads[0] + 1:] if row[:1] == [group]]


def tools(run, broker):
    listed = tool(GROUPS, *server(broker), "--list").split()
    demand(sorted(listed) == ["refusers", "workers"], f"--list told {listed}")
    told = tool(ALL_GROUPS, *server(broker), "--list")
    demand("Share" in told, f"GroupsCommand told {told}")
    offsets = rows(broker, "refusers")
    demand([row["START-OFFSET"] for row in offsets] == ["5"], f"offsets: {offsets}")
    demand([row["LAG"] for row in offsets] == ["0"], f"lag: {offsets}")
    state = rows(broker, "refusers", "--state")
    demand(state[0]["STATE"] == "Empty", f"state: {state}")
    member = subprocess.Popen([*JAVA, CONSUMER, *server(broker), "--topic", "again", "--group",
                               "refusers"], stdout=subprocess.PIPE)
    run.at_end.append(member.kill)
    await_members(broker, "refusers")
    member.terminate()
    member.wait()

    reset = ["--reset-offsets", "--group", "refusers", "--topic", "again", "--to-earliest"]
    await_empty(broker, "refusers")
    tool(GROUPS, *server(broker), *reset, "--execute")
    told = consume(broker, "again", "refusers")
    demand(told == list("abcde"), f"after a reset came {told}")
    tool(GROUPS, *server(broker), "--delete-offsets", "--group", "refusers", "--topic", "again")
    demand(rows(broker, "refusers") == [], "offsets are still there")
    for group in ["refusers", "workers"]:
        tool(GROUPS, *server(broker), "--delete", "--group", group)
    demand(tool(GROUPS, *server(broker), "--list").split() == [], "groups are still there")
    run.say("kafka-share-groups lists, describes, resets and deletes")


def await_members(broker, group):
    for _ in range(30):
        members = rows(broker, group, "--members")
        if members:
            return demand("again:0" in str(members[0]), f"members: {members}")
        time.sleep(1)
    demand(False, "no member within 30 s")


def await_empty(broker, group):
    for _ in range(60):
        if rows(broker, group, "--state")[0]["STATE"] == "Empty":
            return
        time.sleep(1)
    demand(False, "the member is still there")
