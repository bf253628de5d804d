"""With 10 GB of data present a restart serves within a second, after a clean stop and after a kill,
also one at the end of 10 GB of load.

`Serves` is more than the line `ready`: a client that starts at the same moment has read the last
record of a partition and has been acknowledged a new one.
"""

import time

import clients
from running import demand

SERVES_SECONDS = 1.0
PARTITIONS = 16
VALUE_BYTES = 64 * 1024


def check(run):
    wanted = (512 << 20) if run.quick else 10_000_000_000
    broker = run.broker(shards=2)
    clients.make_topic(broker.address, "big", PARTITIONS)
    begun = time.monotonic()
    sent = [0] * PARTITIONS
    fill(run, broker.address, wanted, sent)
    seconds = time.monotonic() - begun
    stored = broker.stored_bytes()
    run.say(f"{sum(sent)} records stored in {seconds:.0f} s, {wanted / seconds / 1e6:.0f} MB/s, "
            f"{stored / 1e9:.1f} GB on the disk")
    demand(wanted <= stored, f"{stored} bytes on the disk")

    slowest = 0.0
    for how in ["a kill after all that load", "a clean stop", "a kill", "a kill after more load"]:
        if how == "a clean stop":
            broker.stop()
        else:
            if how == "a kill after more load":
                fill(run, broker.address, 256 << 20, sent)
            broker.kill()
        begun = time.monotonic()
        broker.start()
        served = serve_one(broker.address, begun, sent[0])
        run.say(f"after {how}: ready in {broker.ready_seconds * 1000:.0f} ms, "
                f"a record read in {served * 1000:.0f} ms")
        slowest = max(slowest, served, broker.ready_seconds)
    demand(slowest <= SERVES_SECONDS, f"it took {slowest:.2f} s to serve")


def fill(run, address, wanted_bytes, sent):
    """Stores so many bytes, and counts the records of each partition in `sent`."""
    from confluent_kafka import Producer

    refused = []
    producer = Producer({
        "bootstrap.servers": address,
        "acks": "all",
        "linger.ms": 10,
        "batch.size": 1_000_000,
        "queue.buffering.max.kbytes": 131_072,
        "delivery.report.only.error": True,
    })
    told = lambda error, message: refused.append(error)
    values = [run.random.randbytes(VALUE_BYTES) for _ in range(61)]
    count = -(-wanted_bytes // VALUE_BYTES)
    for number in range(count):
        sent[number % PARTITIONS] += 1
        while True:
            try:
                producer.produce("big", values[number % 61], partition=number % PARTITIONS,
                                 on_delivery=told)
                break
            except BufferError:
                producer.poll(0.02)
    left = producer.flush(120)
    demand(not left and not refused, f"{left} unsent, {len(refused)} refused: {refused[:1]}")


def serve_one(address, begun, sent):
    """How long after the start of the process a client has read the last record."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": address,
        "group.id": "unused",
        "enable.auto.commit": False,
    })
    place = TopicPartition("big", 0)
    first, end = consumer.get_watermark_offsets(place, 10)
    demand((first, end) == (0, sent), f"partition 0 holds {first}..{end}, not 0..{sent}")
    consumer.assign([TopicPartition("big", 0, end - 1)])
    message = consumer.poll(10)
    demand(message is not None and not message.error(), "the last record did not come")
    demand(len(message.value()) == VALUE_BYTES, "the last record is not whole")
    seconds = time.monotonic() - begun
    consumer.close()
    return seconds
