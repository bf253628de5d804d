"""Groups under load: how long members take to settle, what offsets cost, how soon a first record comes.

The load speaks the protocol itself, a connection for each member; ten of the members of one group
are librdkafka's in the full form. The figures of a machine with nothing else to do are in
bench/runs; what is demanded here holds on a busy one as well.
"""

import threading
import time

from load import bench, clean
from running import demand

# A settled group is promised within two seconds of the last change on a machine of its own.
SETTLED_NS = 2_000_000_000
# The first record of a new group is promised within 100 ms there.
FIRST_NS = 100_000_000
# What a busy machine may take in addition.
PATIENCE = 20


def check(run):
    broker = run.broker(shards=2, settings={
        "group.initial.rebalance.delay.ms": 0,
        "group.consumer.heartbeat.interval.ms": 500,
    })
    at = ["--broker", broker.address]
    members = 20 if run.quick else 100
    groups = 50 if run.quick else 1000
    seconds = 2 if run.quick else 20
    for protocol in ["classic", "consumer"]:
        spoken = [*at, "--protocol", protocol]
        told = clean(["groups", "rebalance", *spoken, "--topic", "rebalance", "--partitions", 100,
                      "--members", members, "--rounds", 2 if run.quick else 10,
                      "--heartbeat", 500], seconds=300)
        for change in ["start", "leave", "join"]:
            longest = told[f"{change}_ns"]["max"]
            demand(longest <= PATIENCE * SETTLED_NS, f"{protocol}: {change} took {longest} ns")
        run.say(f"{protocol}: {members} members settled after a change within "
                f"{max(told['leave_ns']['max'], told['join_ns']['max']) / 1e6:.0f} ms")
        told = clean(["groups", "commit", *spoken, "--topic", "commit", "--partitions", 10,
                      "--groups", groups, "--rate", 1, "--seconds", seconds, "--warm-up", 1,
                      "--pid", broker.pid], seconds=300)
        due = groups * seconds
        demand(abs(told["commits"] - due) <= groups, f"{protocol}: {told['commits']} of {due} commits")
        run.say(f"{protocol}: {groups} groups that commit cost {told['broker_cores']:.1%} of a core")
        told = clean(["groups", "first", *spoken, "--topic", "first", "--times", 10])
        first = told["first_ns"]
        demand(first["p50"] <= PATIENCE * FIRST_NS, f"{protocol}: the first record took {first}")
        run.say(f"{protocol}: the first record of a new group after {first['p50'] / 1e6:.1f} ms")
    transactions(run, broker, at)
    missed(run, at)
    if not run.quick:
        real_clients(run, broker)
    broker.stop()


def transactions(run, broker, at):
    """Both flows: what is committed is read once, what is aborted never."""
    for flow in ["older", "newer"]:
        told = clean(["txn", *at, "--topic", f"txn-{flow}", "--flow", flow, "--partitions", 4,
                      "--partitions-each", 2, "--producers", 4, "--records", 20,
                      "--abort-every", 5, "--seconds", 5 if run.quick else 10, "--warm-up", 0,
                      "--pid", broker.pid])
        demand(0 < told["committed"] and 0 < told["aborted"], f"{flow}: {told}")
        run.say(f"{flow} flow: {told['committed_per_second']:.0f} transactions a second, "
                f"{told['read_records']} records read once")


def missed(run, at):
    """An objective that cannot be met is missed, and says so by its exit code."""
    code, _, said = bench(["groups", "rebalance", *at, "--topic", "rebalance", "--members", 2,
                           "--rounds", 1, "--within", 0.000001])
    demand(code == 11, f"the objective was missed, and the exit code is {code}: {said}")
    run.say("an objective that is missed is told")


def real_clients(run, broker):
    """Ten of librdkafka's consumers and ninety of ours are no different: all of theirs settle."""
    from confluent_kafka import Consumer
    topic = "rebalance"
    consumers = [Consumer({
        "bootstrap.servers": broker.address, "group.id": "real", "group.protocol": "consumer",
    }) for _ in range(10)]
    for consumer in consumers:
        consumer.subscribe([topic])
    over = threading.Event()

    def poll(consumer):
        while not over.is_set():
            consumer.poll(0.05)

    threads = [threading.Thread(target=poll, args=(consumer,)) for consumer in consumers]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    try:
        while True:
            owned = [p.partition for consumer in consumers for p in consumer.assignment()]
            if sorted(owned) == list(range(100)):
                break
            demand(time.monotonic() - begun < 60, f"ten real members do not settle: {sorted(owned)}")
            over.wait(0.05)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for consumer in consumers:
            consumer.close()
    run.say(f"ten of librdkafka's settled after {time.monotonic() - begun:.1f} s")
