"""Kafka Streams counts words with `exactly_once_v2`, and the count is exact.

Lines are fed steadily. Meanwhile the broker is killed -9 again and again, and so is the application;
its stores are in memory, so each start reads them from the changelog.
"""

import time

from java_programs import Java
from running import demand
from word_counts import PARTITIONS, WordCounts

QUICK_KILLS, FULL_KILLS = 4, 16
# Between kills of the broker; every second time the application goes, too.
SECONDS_BETWEEN = 6
PATIENCE = 180


def check(run):
    kills = QUICK_KILLS if run.quick else FULL_KILLS
    broker = run.broker(shards=2, settings={"group.initial.rebalance.delay.ms": "0"})
    counts = WordCounts(run, broker)
    application, starts = None, 0
    for kill in range(kills):
        if kill % 2 == 0:
            # The first one, or the one that takes up where another was killed.
            if application is not None:
                time.sleep(run.random.uniform(0, 2))
                application.kill()
            starts += 1
            application = Java(run, "streams", "WordCount", broker.address, "lines", "counts",
                               run.dir / "state", log=f"streams-{starts}")
            application.wait_until(lambda: application.said("state")[-1:] == ["RUNNING"],
                                   "it is running", PATIENCE)
        time.sleep(run.random.uniform(0.5, 1) * SECONDS_BETWEEN)
        broker.kill()
        broker.start()
    counts.end()
    counts.demand_exact(wait_until_counted(counts, application))
    application.tell()
    application.end()
    first = first_kept(broker, "word-count-words-repartition")
    demand(0 < first, "Streams has deleted nothing of what it has read of its repartition topic")
    kept = policy(broker, "word-count-counts-changelog")
    demand(kept == "compact", f"Streams has made its changelog with cleanup.policy={kept}")
    replaced = application.said("replaced")
    run.say(f"exactly_once_v2: {kills} kills of the broker, {starts - 1} of the application: "
            f"{counts.words} words, every count exact; {len(replaced)} threads replaced; "
            "its changelog is a compacted topic")


def policy(broker, topic):
    """What the topic's cleanup.policy is."""
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 3})
    [told] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return told.result(60)["cleanup.policy"].value


def wait_until_counted(counts, application):
    """All counts, when there are as many as words, or when no more come in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        rows = counts.shown()
        if counts.words <= len(rows) or deadline < time.monotonic():
            return rows
        application.demand_alive()
        time.sleep(1)


def first_kept(broker, topic):
    """The first offset of its partitions that is still there, summed up."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "unused"})
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    firsts = [consumer.get_watermark_offsets(place, 60)[0] for place in places]
    consumer.close()
    return sum(firsts)
