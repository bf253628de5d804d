"""A group changes its kind under its members: rolling restarts from one protocol to the other, and back.

Three of librdkafka's consumers read what a producer writes all the while; one after the other is
closed and started again with the other `group.protocol`. Every record is read, and none again that
is below an offset whose commit was acknowledged: a record comes twice only where a commit was missed.
So it is with members that keep what they may in a rebalance, with static ones that do not, and with
a broker that is killed while the group changes, and while it has members of both. Then Apache Kafka's verifiable consumers.
"""

import threading
import time

from clients import make_topic
from java_programs import Java
from kafka_groups import VERIFIABLE_CONSUMER, assigned, produce, session
from running import demand

PARTITIONS = 6
MEMBERS = 3
SETTLED_SECONDS = 60
# How many records a member reads between two commits, and how long the producer waits.
COMMIT_EVERY = 20
PAUSE_SECONDS = 0.005


def check(run):
    broker = run.broker(shards=2, settings={
        "group.initial.rebalance.delay.ms": 0,
        "group.consumer.heartbeat.interval.ms": 500,
    })
    roll(run, broker, "keeping", "cooperative-sticky", is_static=False, kills=False)
    roll(run, broker, "static", "range", is_static=True, kills=True)
    if not run.quick:
        roll(run, broker, "letting-go", "range,roundrobin", is_static=False, kills=True)
        roll(run, broker, "static-keeping", "cooperative-sticky", is_static=True, kills=False)
    java(run, broker)
    broker.stop()


def roll(run, broker, name, strategy, is_static, kills):
    """Up and down again, under a producer; `kills`: with a kill -9 on the way each time."""
    make_topic(broker.address, name, PARTITIONS)
    ledger = Ledger()
    writer = Writer(broker, name)
    start = lambda number, protocol: Member(ledger, broker, name, number, protocol, strategy, is_static)
    members = [start(number, "classic") for number in range(MEMBERS)]
    try:
        settle(members, broker, name, "classic")
        for protocol, mixed in [("consumer", "consumer"), ("classic", "consumer")]:
            for number in range(MEMBERS):
                members[number].stop()
                members[number] = start(number, protocol)
                is_last = number == MEMBERS - 1
                if kills and number == 0:
                    broker.kill()
                    broker.start()
                settle(members, broker, name, protocol if is_last else mixed)
                if kills and number == 1:
                    # Now that members of both kinds have their shares.
                    broker.kill()
                    broker.start()
                    settle(members, broker, name, mixed)
                seen = len(ledger.read)
                wait_for(lambda: seen + 50 <= len(ledger.read), "records come", members)
        written = writer.stop()
        wait_for(lambda: len(written) <= len(ledger.read), "all is read", members)
    finally:
        writer.stop()
        for member in members:
            member.stop()
    missing = written - ledger.read.keys()
    demand(not missing, f"{name}: never read: {sorted(missing)[:5]}, {len(missing)} in all")
    demand(not ledger.wrong, f"{name}: read again though committed: {ledger.wrong[:5]}")
    again = sum(ledger.read.values()) - len(ledger.read)
    run.say(f"{name} ({strategy}): {len(written)} records, {again} of them again, {ledger.refused} of "
            f"{ledger.commits} commits refused; six restarts{' and four kills' if kills else ''}")


class Ledger:
    """What all members of a group have read and committed."""

    def __init__(self):
        self.lock = threading.Lock()
        self.read = {}
        self.committed = {}
        self.wrong = []
        self.commits = self.refused = 0

    def has_read(self, who, place):
        with self.lock:
            self.read[place] = self.read.get(place, 0) + 1
            partition, offset = place
            if offset < self.committed.get(partition, 0):
                self.wrong.append((who, place, self.committed[partition]))

    def has_committed(self, offsets):
        with self.lock:
            self.commits += 1
            for partition, offset in offsets.items():
                self.committed[partition] = max(offset, self.committed.get(partition, 0))

    def was_refused(self):
        with self.lock:
            self.commits += 1
            self.refused += 1


class Member:
    """One consumer and the thread that polls it."""

    def __init__(self, ledger, broker, name, number, protocol, strategy, is_static):
        from confluent_kafka import Consumer

        settings = {
            "bootstrap.servers": broker.address,
            "group.id": name,
            "group.protocol": protocol,
            "client.id": f"{name}-{number}-{protocol}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 2,
        }
        if protocol == "classic":
            settings |= {"partition.assignment.strategy": strategy, "session.timeout.ms": 10_000,
                         "heartbeat.interval.ms": 500}
        if is_static:
            settings["group.instance.id"] = f"instance-{number}"
        self.name, self.topic, self.ledger = settings["client.id"], name, ledger
        self.next = {}
        self.uncommitted = 0
        self.failed = None
        self.over = threading.Event()
        self.consumer = Consumer(settings)
        self.consumer.subscribe([name], on_revoke=self.revoked, on_lost=self.lost)
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.thread.start()

    def go_on(self):
        try:
            while not self.over.is_set():
                self.poll()
            self.commit(self.next)
            self.consumer.close()
        except Exception as error:
            self.failed = error

    def poll(self):
        message = self.consumer.poll(0.05)
        if message is None or message.error():
            return
        partition, offset = message.partition(), message.offset()
        self.ledger.has_read(self.name, (partition, offset))
        self.next[partition] = offset + 1
        self.uncommitted += 1
        if COMMIT_EVERY <= self.uncommitted:
            self.commit(self.next)

    def commit(self, offsets):
        from confluent_kafka import KafkaException, TopicPartition

        self.uncommitted = 0
        if not offsets:
            return
        wanted = [TopicPartition(self.topic, *place) for place in offsets.items()]
        try:
            told = self.consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException:
            return self.ledger.was_refused()
        taken = {place.partition: place.offset for place in told if not place.error}
        self.ledger.has_committed(taken)

    def revoked(self, _, places):
        mine = {place.partition: self.next.pop(place.partition)
                for place in places if place.partition in self.next}
        self.commit(mine)

    def lost(self, _, places):
        for place in places:
            self.next.pop(place.partition, None)

    def owned(self):
        return {place.partition for place in self.consumer.assignment()}

    def stop(self):
        self.over.set()
        self.thread.join(SETTLED_SECONDS)
        demand(not self.thread.is_alive(), f"{self.name} does not end")
        demand(self.failed is None, f"{self.name}: {self.failed!r}")


class Writer:
    """A producer that writes a record every few milliseconds, and its thread."""

    def __init__(self, broker, topic):
        from confluent_kafka import Producer

        self.producer = Producer({"bootstrap.servers": broker.address, "enable.idempotence": True,
                                  "log_level": 2})
        self.topic, self.written, self.refused = topic, set(), []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.thread.start()

    def go_on(self):
        number = 0
        while not self.over.wait(PAUSE_SECONDS):
            self.producer.produce(self.topic, str(number), partition=number % PARTITIONS,
                                  on_delivery=self.told)
            self.producer.poll(0)
            number += 1

    def told(self, error, message):
        if error:
            self.refused.append(error)
        else:
            self.written.add((message.partition(), message.offset()))

    def stop(self):
        """Ends it, and tells where all the records are."""
        self.over.set()
        self.thread.join()
        demand(self.producer.flush(60) == 0 and not self.refused, f"not written: {self.refused[:3]}")
        return self.written


def settle(members, broker, group, kind):
    """All partitions are read, each by one member, and everybody reads some."""
    def shared_out():
        owned = [member.owned() for member in members]
        return all(owned) and sorted(n for each in owned for n in each) == list(range(PARTITIONS))

    wait_for(shared_out, f"{group} is shared out", members)
    wait_for(lambda: kind_of(broker, group) == kind, f"{group} is of the kind {kind}", members)


def wait_for(holds, what, members):
    deadline = time.monotonic() + SETTLED_SECONDS
    while not holds():
        owned = {member.name: sorted(member.owned()) for member in members}
        failed = [member.failed for member in members if member.failed]
        demand(not failed, f"not {what}: {failed}")
        demand(time.monotonic() < deadline, f"not in {SETTLED_SECONDS} s: {what}; {owned}")
        time.sleep(0.05)


def kind_of(broker, group):
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 2})
    listed = admin.list_consumer_groups().result(SETTLED_SECONDS).valid
    return next((each.type.name.lower() for each in listed if each.group_id == group), None)


def java(run, broker):
    """Two verifiable consumers, one after the other, with the newer protocol and back."""
    count, topic = 600 if run.quick else 20_000, "java-kinds"
    make_topic(broker.address, topic, PARTITIONS)
    start = lambda protocol, number: Java(
        run, "kafka", VERIFIABLE_CONSUMER, "--bootstrap-server", broker.address, "--topic", topic,
        "--group-id", topic, "--group-protocol", protocol, "--reset-policy", "earliest",
        *session(protocol), log=f"{topic}-{protocol}-{number}")
    readers = [start("classic", number) for number in (0, 1)]
    everybody, written = list(readers), 0
    for step in [None, ("consumer", 0), ("consumer", 1), ("classic", 0), ("classic", 1)]:
        if step:
            protocol, number = step
            readers[number].stop()
            readers[number] = start(protocol, len(everybody))
            everybody.append(readers[number])
        for reader in readers:
            reader.wait_until(lambda: assigned(reader) == PARTITIONS // 2, f"half of them at {step}")
        produce(run, broker, topic, count)
        written += count
        wait_until_all_read(everybody, readers[-1], written)
    demand(kind_of(broker, topic) == "classic", "it is a classic group again")
    for reader in readers:
        reader.stop()
    run.say(f"{written} records to two verifiable consumers, each restarted with the newer protocol "
            "and back")


def wait_until_all_read(everybody, alive, count):
    """Those that have ended said what they read; who is alive is waited for."""
    read = lambda: sum(event["count"] for reader in everybody
                       for event in reader.events("records_consumed"))
    alive.wait_until(lambda: count <= read(), f"{count} records are read")
    demand(read() == count, f"{read()} records were read, {count} written")
