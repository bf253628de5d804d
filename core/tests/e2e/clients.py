"""Produces records from standard input, or consumes all there are to standard output.

    clients.py produce|consume confluent|kafka-python HOST:PORT TOPIC CODEC

A record is its key, 0x1f, its value, 0x1e. Consuming ends at the end that each partition had when
it began.
"""

import sys

KEY_END, RECORD_END = b"\x1f", b"\x1e"


def records():
    for record in sys.stdin.buffer.read().split(RECORD_END):
        if record:
            key, _, value = record.partition(KEY_END)
            yield key, value


def write(key, value):
    sys.stdout.buffer.write(key + KEY_END + value + RECORD_END)


def produce_confluent(address, topic, codec):
    from confluent_kafka import Producer

    refused = []
    told = lambda error, message: refused.append(error) if error else None
    producer = Producer({
        "bootstrap.servers": address,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": codec,
        "linger.ms": 5,
    })
    for key, value in records():
        while True:
            try:
                producer.produce(topic, value=value, key=key, on_delivery=told)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(60)
    assert left == 0 and not refused, (left, refused[:3])


def produce_kafka_python(address, topic, codec):
    from kafka import KafkaProducer

    producer = KafkaProducer(
        bootstrap_servers=address,
        acks="all",
        compression_type=None if codec == "none" else codec,
        linger_ms=5,
    )
    pending = [producer.send(topic, key=key, value=value) for key, value in records()]
    producer.flush(60)
    for future in pending:
        future.get(timeout=60)
    producer.close()


def consume_confluent(address, topic, codec):
    from confluent_kafka import Consumer, TopicPartition, OFFSET_BEGINNING

    consumer = Consumer({
        "bootstrap.servers": address,
        "group.id": "none",
        "enable.auto.commit": False,
        "check.crcs": True,
    })
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    left = 0
    for number in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), 30)
        left += high - low
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    while left:
        message = consumer.poll(30)
        assert message is not None, f"{left} records did not come"
        assert not message.error(), message.error()
        write(message.key(), message.value())
        left -= 1
    consumer.close()


def consume_kafka_python(address, topic, codec):
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=address,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        check_crcs=True,
        consumer_timeout_ms=30_000,
    )
    partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    low, high = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    left = sum(high[p] - low[p] for p in partitions)
    consumer.seek_to_beginning(*partitions)
    while left:
        message = next(consumer)
        write(message.key, message.value)
        left -= 1
    consumer.close()


if __name__ == "__main__":
    what, library, address, topic, codec = sys.argv[1:]
    globals()[f"{what}_{library.replace('-', '_')}"](address, topic, codec)
