"""Stock clients behind one face: each produces a corpus file, and each reads a topic to its end.

Three independent implementations of the protocol: kcat (Debian's librdkafka), confluent-kafka (its
newest librdkafka) and kafka-python (Python throughout). A reader yields (key, value) until the end
that each partition had when it began, and fails if an offset is missing on the way.
"""

import subprocess
import threading
import time

from corpus import KEY_END, RECORD_END, records_of
from running import demand, output

WAIT_SECONDS = 60


def make_topic(address, topic, partitions=1, config=None):
    """Makes a topic and waits until the broker says it is there."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address, "log_level": 3})
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=config or {})
    for future in admin.create_topics([wanted], request_timeout=WAIT_SECONDS).values():
        future.result(WAIT_SECONDS)


def delete_topic(address, topic):
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": address, "log_level": 3})
    for future in admin.delete_topics([topic], request_timeout=WAIT_SECONDS).values():
        future.result(WAIT_SECONDS)


def produce_kcat(address, topic, codec, path):
    marks = ["-K", KEY_END.decode(), "-D", RECORD_END.decode()]
    safe = ["-X", "acks=all", "-X", "enable.idempotence=true"]
    output(["kcat", "-P", "-q", "-b", address, "-t", topic, "-z", codec, *marks, *safe], path)


def produce_confluent(address, topic, codec, path):
    from confluent_kafka import Producer

    refused = []
    producer = Producer({
        "bootstrap.servers": address,
        "enable.idempotence": True,
        "compression.type": codec,
        "linger.ms": 5,
        "log_level": 3,
        "delivery.report.only.error": True,
    })
    told = lambda error, message: refused.append(error)
    with open(path, "rb") as file:
        for key, value in records_of(file):
            while True:
                try:
                    producer.produce(topic, value=value, key=key, on_delivery=told)
                    break
                except BufferError:
                    producer.poll(0.05)
    left = producer.flush(WAIT_SECONDS)
    demand(not left and not refused, f"{left} unsent, {len(refused)} refused: {refused[:1]}")


def produce_kafka_python(address, topic, codec, path):
    from kafka import KafkaProducer

    refused = []
    producer = KafkaProducer(
        bootstrap_servers=address,
        acks="all",
        compression_type=None if codec == "none" else codec,
        linger_ms=5,
    )
    with open(path, "rb") as file:
        for key, value in records_of(file):
            producer.send(topic, key=key, value=value).add_errback(refused.append)
    producer.flush(WAIT_SECONDS)
    producer.close()
    demand(not refused, f"{len(refused)} refused: {refused[:1]}")


def consume_kcat(address, topic):
    form = ["-f", f"%k{KEY_END.decode()}%s{RECORD_END.decode()}"]
    command = ["kcat", "-C", "-q", "-e", "-b", address, "-t", topic, "-o", "beginning", *form]
    with subprocess.Popen([*command, "-X", "check.crcs=true"], stdout=subprocess.PIPE) as process:
        yield from records_of(process.stdout)
    demand(process.returncode == 0, f"kcat ended with {process.returncode}")


def consume_confluent(address, topic):
    for message in messages(address, topic):
        yield message.key(), message.value()


def messages(address, topic, partitions=None, start=None):
    """The messages of a topic, from `start[partition]` or the beginning, to the end that each
    partition had when the reading began."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": address,
        "group.id": "unused: partitions are assigned by hand",
        "enable.auto.commit": False,
        "check.crcs": True,
        "log_level": 2,
    })
    try:
        if partitions is None:
            partitions = list(consumer.list_topics(topic, WAIT_SECONDS).topics[topic].partitions)
        expected = dict(start or {})
        ends = {}
        for number in partitions:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), WAIT_SECONDS)
            from_offset = expected.setdefault(number, first)
            demand(from_offset <= end, f"{topic} {number}: ends at {end}, below {from_offset}")
            if from_offset < end:
                ends[number] = end
        consumer.assign([TopicPartition(topic, n, expected[n]) for n in ends])
        deadline = time.monotonic() + WAIT_SECONDS
        while ends:
            # It waits for all it was asked for, or for the time; so both are small.
            batch = consumer.consume(1000, 0.1)
            if batch:
                deadline = time.monotonic() + WAIT_SECONDS
            late = deadline < time.monotonic()
            demand(not late, f"{topic}: nothing came for {WAIT_SECONDS} s, {len(ends)} unread")
            for message in batch:
                number, found = message.partition(), message.offset()
                demand(not message.error(), f"{topic} {number}: {message.error()}")
                if number not in ends:
                    continue
                wanted = expected[number]
                demand(found == wanted, f"{topic} {number}: offset {found} came after {wanted - 1}")
                expected[number] = found + 1
                if found + 1 == ends[number]:
                    del ends[number]
                yield message
    finally:
        consumer.close()


def committed(address, topic):
    """(partition, key, value) of all that read_committed shows now, each partition in its order."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": address,
        "group.id": "unused: partitions are assigned by hand",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "log_level": 2,
    })
    rows = []
    try:
        unread = set(consumer.list_topics(topic, WAIT_SECONDS).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
        deadline = time.monotonic() + WAIT_SECONDS
        while unread:
            demand(time.monotonic() < deadline, f"{topic}: nothing came for {WAIT_SECONDS} s")
            for message in consumer.consume(1000, 0.1):
                deadline = time.monotonic() + WAIT_SECONDS
                error = message.error()
                if error and error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
                    continue
                demand(not error, f"{topic} {message.partition()}: {error}")
                rows.append((message.partition(), message.key(), message.value()))
    finally:
        consumer.close()
    return rows


class Feeder:
    """Writes records on a thread of its own, so many a second, whatever becomes of the broker; each
    is stored once."""

    def __init__(self, address, topic, records, per_second):
        from confluent_kafka import Producer

        self.refused = []
        self.written = 0
        self.producer = Producer({
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": 300_000,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 2,
        })
        arguments = (topic, records, per_second)
        self.thread = threading.Thread(target=self.run, args=arguments, daemon=True)
        self.thread.start()

    def run(self, topic, records, per_second):
        begun = time.monotonic()
        for number, (key, value) in enumerate(records):
            due = begun + number / per_second
            self.producer.poll(max(0, due - time.monotonic()))
            self.producer.produce(topic, value, key, on_delivery=self.told)

    def told(self, error, message):
        if error:
            self.refused.append(str(error))
        else:
            self.written += 1

    def end(self):
        """Waits until all is written."""
        self.thread.join()
        left = self.producer.flush(WAIT_SECONDS)
        demand(not left and not self.refused,
               f"{left} records unsent, {len(self.refused)} refused: {self.refused[:1]}")


def consume_kafka_python(address, topic):
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=address,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        check_crcs=True,
        consumer_timeout_ms=WAIT_SECONDS * 1000,
        fetch_max_bytes=16 << 20,
    )
    places = [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(places)
    first, last = consumer.beginning_offsets(places), consumer.end_offsets(places)
    left = sum(last[place] - first[place] for place in places)
    consumer.seek_to_beginning(*places)
    expected = {place.partition: first[place] for place in places}
    while left:
        record = next(consumer, None)
        demand(record is not None, f"{topic}: {left} records did not come")
        wanted = expected[record.partition]
        demand(record.offset == wanted, f"{topic}: offset {record.offset} instead of {wanted}")
        expected[record.partition] += 1
        left -= 1
        yield record.key, record.value
    consumer.close()


PRODUCE = {
    "kcat": produce_kcat,
    "confluent-kafka": produce_confluent,
    "kafka-python": produce_kafka_python,
}
CONSUME = {
    "kcat": consume_kcat,
    "confluent-kafka": consume_confluent,
    "kafka-python": consume_kafka_python,
}
