"""Share groups (KIP-932) with Apache Kafka's own share consumer and tools.

Each record goes to one member; what was accepted never comes again, also after `kill -9` of the
broker; what is released comes again until the limit of deliveries, and so does what a member has for
longer than the group is set to, unless it asks for more time; what is rejected does not. What is in
a transaction comes when that is committed. Then what Kafka's tools for share groups tell and change.
"""

import collections
import concurrent.futures
import subprocess
import time

from clients import make_topic
from java_programs import Java, translated
from kafka_tools import CONFIGS, CONSOLE_PRODUCER, JAVA, tool
from running import demand

CONSUMER = "org.apache.kafka.tools.consumer.ConsoleShareConsumer"
GROUPS = "org.apache.kafka.tools.consumer.group.ShareGroupCommand"
ALL_GROUPS = "org.apache.kafka.tools.GroupsCommand"
PARTITIONS = 3
# How often a record is given out at most.
DELIVERIES = 5
# For how long a member has what it was given, where that is waited for: long enough for one that is
# held up for some seconds to ask for more time.
LOCK_SECONDS = 12


def check(run):
    broker = run.broker(shards=2, settings={"group.share.min.record.lock.duration.ms": "1000"})
    shared_out(run, broker)
    # Each mostly waits, for a time to be over or for what must not come.
    parts = [given_back, run_out, renewed, in_transactions, from_where]
    classes = translated(run, "share/Member.java")
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        for part in [pool.submit(part, run, broker, classes) for part in parts]:
            part.result()
    tools(run, broker)
    broker.stop()


def server(broker):
    return ["--bootstrap-server", broker.address]


def make_group(broker, group, **settings):
    settings = {"share_auto_offset_reset": "earliest", "share_record_lock_duration_ms": 15_000,
                **settings}
    words = ",".join(f"{name.replace('_', '.')}={value}" for name, value in settings.items())
    entity = ["--entity-type", "groups", "--entity-name", group]
    tool(CONFIGS, *server(broker), *entity, "--alter", "--add-config", words)


def produce(run, broker, topic, lines):
    text = run.dir / f"{topic}.txt"
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

    # Side by side to the end: one whose output nobody takes stands still, and its time runs out.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        members = [pool.submit(consume, broker, "work", "workers", patience_ms=10_000)
                   for _ in range(2)]
        rest = [member.result() for member in members]
    seen = collections.Counter(first + rest[0] + rest[1])
    twice = [line for line, times in seen.items() if 1 < times]
    demand(not twice, f"{len(twice)} records were accepted twice: {twice[:5]}")
    missing = set(lines) - set(seen)
    demand(not missing, f"{len(missing)} records came to nobody: {sorted(missing)[:5]}")
    both = [len(lines) for lines in rest]
    run.say(f"{count} records, accepted once each across kill -9 of the broker; "
            f"two members shared {both}")


def given_back(run, broker, _):
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


class Member(Java):
    """A member of a group that does what it is told."""

    def __init__(self, run, broker, classes, group, topic, name=""):
        super().__init__(run, "kafka", "Member", broker.address, group, topic, classes=classes,
                         log=f"member-{group}{name}")

    def asks(self, line):
        """What it says to a line."""
        before = len(self.lines)
        self.tell(line)
        said = lambda: self.lines[before:]
        self.wait_until(lambda: any(not line.startswith("record") for line in said()), line)
        return said()

    def poll(self, seconds):
        """What it is given, each as offset, deliveries and value."""
        return [line.split()[1:] for line in self.asks(f"poll {int(seconds * 1000)}")[:-1]]

    def says(self, verdict, offset):
        """What it says of a record, and what it is answered."""
        demand(self.asks(f"{verdict} {offset}") == ["told"], f"{verdict} {offset}: {self.lines}")
        return self.asks("commit")[0].split()[1]

    def takes(self, count, seconds=60):
        """Accepts the next records, so many; their values."""
        values = []
        deadline = time.monotonic() + seconds
        while len(values) < count and time.monotonic() < deadline:
            for offset, _, value in self.poll(deadline - time.monotonic()):
                demand(self.says("accept", offset) == "ok", f"accept {offset}: {self.lines}")
                values.append(value)
        return values

    def leave(self):
        self.process.stdin.close()
        self.end()


def run_out(run, broker, classes):
    """What a member has for too long another one is given, and the first one may say nothing of it."""
    make_topic(broker.address, "late")
    make_group(broker, "late", share_record_lock_duration_ms=LOCK_SECONDS * 1000)
    produce(run, broker, "late", ["a"])
    first = Member(run, broker, classes, "late", "late")
    begun = time.monotonic()
    given = first.poll(60)
    demand(given == [["0", "1", "a"]], f"the first member was given {given}")
    second = Member(run, broker, classes, "late", "late", "-second")
    given = second.poll(60)
    took = time.monotonic() - begun
    demand(given == [["0", "2", "a"]], f"when its time was over another was given {given}")
    demand(LOCK_SECONDS <= took, f"after {took:.1f} s another one was given what it had")
    told = first.says("accept", 0)
    demand(told == "InvalidRecordStateException", f"a late word was answered with {told}")
    told = second.says("accept", 0)
    demand(told == "ok", f"the one who had it was answered with {told}")
    for member in [first, second]:
        given = member.poll(1)
        demand(given == [], f"what was accepted came again: {given}")
        member.leave()
    run.say(f"after {LOCK_SECONDS} s another member is given what the first one had")


def renewed(run, broker, classes):
    """Who needs more time asks for it (KIP-1222), and keeps what it has as often as it does."""
    make_topic(broker.address, "long")
    make_group(broker, "long", share_record_lock_duration_ms=LOCK_SECONDS * 1000)
    produce(run, broker, "long", ["a"])
    slow = Member(run, broker, classes, "long", "long")
    given = slow.poll(60)
    demand(given == [["0", "1", "a"]], f"the member was given {given}")
    other = Member(run, broker, classes, "long", "long", "-other")
    other.tell(f"poll {LOCK_SECONDS * 2000}")
    times = 0
    while not other.said("polled"):
        time.sleep(LOCK_SECONDS / 3)
        told = slow.says("renew", 0)
        demand(told == "ok", f"asked for more time it was answered with {told}")
        given = slow.poll(1)
        demand(given == [["0", "1", "a"]], f"after it had asked for more time it was given {given}")
        times += 1
    demand(other.lines[-1] == "polled 0", f"another one was given {other.lines}")
    told = slow.says("accept", 0)
    demand(told == "ok", f"it accepts what it had for long, and is told {told}")
    given = other.poll(1)
    demand(given == [], f"what was accepted came to another one: {given}")
    for member in [slow, other]:
        member.leave()
    run.say(f"a member that asked for more time {times} times kept what it had")


def in_transactions(run, broker, classes):
    """A group that reads what is committed is given that, in order, and nothing behind what is open."""
    from confluent_kafka import Producer

    make_topic(broker.address, "deals")
    make_group(broker, "careful", share_isolation_level="read_committed")
    make_group(broker, "careless")
    producer = Producer({"bootstrap.servers": broker.address, "transactional.id": "deals",
                         "log_level": 3})
    plain = Producer({"bootstrap.servers": broker.address, "log_level": 3})
    producer.init_transactions(60)

    def transaction(values, end):
        producer.begin_transaction()
        for value in values:
            producer.produce("deals", value)
        demand(producer.flush(60) == 0, "records of a transaction were not taken")
        end()

    def behind(value):
        plain.produce("deals", value)
        demand(plain.flush(60) == 0, "a record was not taken")

    transaction("ab", producer.commit_transaction)
    transaction("xy", producer.abort_transaction)
    transaction("c", producer.commit_transaction)
    transaction("d", lambda: behind("e"))
    careful = Member(run, broker, classes, "careful", "deals")
    told = careful.takes(3)
    demand(told == list("abc"), f"of what was committed came {told}")
    told = careful.poll(2)
    demand(told == [], f"of what was open, or behind it, came {told}")
    producer.commit_transaction()
    told = careful.takes(2)
    demand(told == list("de"), f"when all was committed came {told}")
    transaction("z", producer.abort_transaction)
    behind("f")
    told = careful.takes(1)
    demand(told == ["f"], f"behind an aborted transaction came {told}")
    careful.leave()
    lag = rows(broker, "careful")[0]["LAG"]
    demand(lag == "0", f"a group that has read everything is behind by {lag}")
    careless = Member(run, broker, classes, "careless", "deals")
    told = careless.takes(9)
    demand(told == list("abxycdezf"), f"to a group that reads everything came {told}")
    careless.leave()
    run.say("what is in transactions comes when they are committed")


def from_where(run, broker, classes):
    """A new group begins where it is set to."""
    make_topic(broker.address, "since")
    make_group(broker, "newest", share_auto_offset_reset="latest")
    make_group(broker, "recent", share_auto_offset_reset="by_duration:PT1H")
    produce(run, broker, "since", ["a"])
    newest = Member(run, broker, classes, "newest", "since")
    told = newest.poll(5)
    demand(told == [], f"of what was there before it came {told}")
    produce(run, broker, "since", ["b"])
    for member, expected in [(newest, ["b"]),
                             (Member(run, broker, classes, "recent", "since"), ["a", "b"])]:
        told = member.takes(len(expected))
        demand(told == expected, f"{told} came instead of {expected}")
        member.leave()
    run.say("groups begin where they are set to")


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
    groups = ["careful", "careless", "late", "long", "newest", "recent", "refusers", "workers"]
    demand(sorted(listed) == groups, f"--list told {listed}")
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
    # A group is placed before its first member.
    place = ["--reset-offsets", "--group", "placed", "--topic", "again", "--to-latest"]
    tool(GROUPS, *server(broker), *place, "--execute")
    placed = rows(broker, "placed")
    demand([row["START-OFFSET"] for row in placed] == ["5"], f"offsets: {placed}")
    groups.append("placed")
    tool(GROUPS, *server(broker), "--delete-offsets", "--group", "refusers", "--topic", "again")
    demand(rows(broker, "refusers") == [], "offsets are still there")
    tool(GROUPS, *server(broker), "--delete", *sum([["--group", group] for group in groups], []))
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
