"""Real text comes back byte for byte and in order per key, whoever wrote and whoever reads it.

The writer and the reader are never the same implementation where it can be avoided: a mistake that
both ends of one library share would not show.
"""

import time

import clients
import corpus

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PARTITIONS = 4


def check(run):
    broker = run.broker(shards=2)
    lines = 60_000 if run.quick else 2_000_000
    plan = [
        # corpus, writer, readers, codecs
        (corpus.package_index(10_000 if run.quick else None),
         "confluent-kafka", ["kafka-python", "kcat"], CODECS),
        (corpus.package_index(10_000 if run.quick else None), "kafka-python", ["kcat"], CODECS),
        (corpus.lines_of_text(lines), "kcat", ["confluent-kafka"], CODECS),
        (corpus.lines_of_text(lines), "confluent-kafka", ["kcat"], CODECS),
        (corpus.lines_of_text(lines), "kcat", ["kafka-python"], ["lz4"]),
    ]
    for path, writer, readers, codecs in plan:
        sent = corpus.of_file(path)
        for codec in codecs:
            topic = f"{path.name}-{writer}-{codec}-{readers[0]}"
            clients.make_topic(broker.address, topic, PARTITIONS)
            begun = time.monotonic()
            clients.PRODUCE[writer](broker.address, topic, codec, path)
            told = [f"{writer} wrote in {time.monotonic() - begun:.1f} s"]
            for reader in readers:
                begun = time.monotonic()
                found = corpus.Fingerprint.of(clients.CONSUME[reader](broker.address, topic))
                sent.demand_same(found, f"{path.name}, {codec}, {writer} to {reader}")
                told.append(f"{reader} read in {time.monotonic() - begun:.1f} s")
            size = f"{sent.count} records, {sent.bytes / 1e6:.0f} MB"
            run.say(f"{path.name} with {codec}: {size}, {', '.join(told)}")
            # The next topics need the space, and nothing else deletes as much as this.
            clients.delete_topic(broker.address, topic)
    survives_restarts(run, broker)


def survives_restarts(run, broker):
    """The same text is there after a kill, and after a clean stop with another number of shards."""
    path = corpus.package_index(10_000 if run.quick else None)
    sent = corpus.of_file(path)
    clients.make_topic(broker.address, "kept", PARTITIONS)
    clients.produce_kcat(broker.address, "kept", "zstd", path)
    broker.kill()
    broker.start()
    found = corpus.Fingerprint.of(clients.consume_kcat(broker.address, "kept"))
    sent.demand_same(found, "after a kill")
    broker.stop()
    broker.shards = 1
    broker.start()
    found = corpus.Fingerprint.of(clients.consume_confluent(broker.address, "kept"))
    sent.demand_same(found, "after a clean stop, with one shard instead of two")
    run.say(f"{sent.count} records outlived a kill and a change of the number of shards")
