"""What a partition costs: in memory and CPU when it is idle, in throughput when it is not.

The load of the second half is made of frames that were built beforehand, so that it is the broker
and its disk that set the pace: one small batch per request, every one acknowledged from the disk,
as many requests on the way as before whether they go to one partition or to a thousand.
"""

import collections
import selectors
import struct
import time

import clients
import wire
from running import demand

IDLE_BYTES_AIM = 16 * 1024
# Kafka's clients ask for metadata and keep connections alive; the broker alone should do nothing.
IDLE_CPU_MAX = 0.01
SHARE_MIN = 0.5
ACTIVE = 1000
CONNECTIONS = 8
IN_FLIGHT = 16
VALUE = b"v" * 1000


def check(run):
    idle(run)
    active(run)


def idle(run):
    count = 2_000 if run.quick else 10_000
    seconds = 5 if run.quick else 20
    broker = run.broker("idle", shards=2)
    clients.make_topic(broker.address, "warm", 1)
    clients.delete_topic(broker.address, "warm")
    memory, cpu = broker.resident_bytes(), cpu_share(broker, seconds)
    begun = time.monotonic()
    for number in range(count // 1000):
        clients.make_topic(broker.address, f"idle-{number}", 1000)
    making = time.monotonic() - begun
    with_memory, with_cpu = broker.resident_bytes(), cpu_share(broker, seconds)
    each = (with_memory - memory) / count
    run.say(f"{count} idle partitions, made in {making:.1f} s: {each / 1024:.1f} KiB each, "
            f"{memory / 1e6:.0f} MB before; CPU {cpu:.2%} before, {with_cpu:.2%} with them")
    broker.kill()
    broker.start()
    memory, cpu = broker.resident_bytes(), cpu_share(broker, seconds)
    run.say(f"started again with them in {broker.ready_seconds * 1000:.0f} ms: "
            f"{memory / 1e6:.0f} MB, CPU {cpu:.2%}")
    broker.stop()
    demand(each <= IDLE_BYTES_AIM, f"an idle partition takes {each:.0f} bytes")
    demand(max(with_cpu, cpu) <= IDLE_CPU_MAX, f"an idle broker takes {with_cpu:.2%} of a core")


def cpu_share(broker, seconds):
    begun, before = time.monotonic(), broker.cpu_seconds()
    time.sleep(seconds)
    return (broker.cpu_seconds() - before) / (time.monotonic() - begun)


def active(run):
    seconds = 4 if run.quick else 15
    broker = run.broker("active", shards=2, settings={"tidemill.routing": "node"})
    clients.make_topic(broker.address, "one", 1)
    clients.make_topic(broker.address, "many", ACTIVE)
    rates = {}
    # Each set-up is measured between two of the other, lest a disk that tires decide; and again where
    # the machine may have had other things to do just then.
    for turn in range(5):
        for topic, partitions in [("one", 1), ("many", ACTIVE)]:
            before = broker.cpu_seconds()
            rate = throughput(broker.address, topic, partitions, seconds)
            rates[topic] = max(rates.get(topic, 0), rate)
            cpu = (broker.cpu_seconds() - before) / max(rate * seconds, 1) * 1e6
            run.say(f"{partitions} active: {rate:.0f} durable batches of 1 KB a second, "
                    f"{cpu:.0f} us of CPU each")
        share = rates["many"] / max(rates["one"], 1)
        if 0 < turn and SHARE_MIN <= share:
            break
    run.say(f"{ACTIVE} partitions reach {share:.0%} of the throughput of one")
    broker.stop()
    demand(SHARE_MIN <= share, f"{ACTIVE} partitions reach {share:.0%} of one's throughput")


def throughput(address, topic, partitions, seconds):
    """Durable produce requests per second, over a few connections that stay full."""
    data = wire.batch([VALUE])
    frames = collections.deque(
        wire.produce(topic, {number: data}) for number in range(partitions))
    selector = selectors.DefaultSelector()
    connections = [wire.Connection(address) for _ in range(CONNECTIONS)]

    def send(connection):
        connection.send(frames[0])
        frames.rotate(-1)

    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        for _ in range(IN_FLIGHT):
            send(connection)
    answered = 0
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        for key, _ in selector.select(5):
            connection = key.data
            more = connection.socket.recv(1 << 16)
            demand(more, "the broker closed a connection")
            connection.left += more
            while 4 <= len(connection.left):
                size = struct.unpack_from(">i", connection.left)[0] + 4
                if len(connection.left) < size:
                    break
                answer, connection.left = connection.left[4:size], connection.left[size:]
                (error, _), = wire.produce_errors(answer).values()
                demand(error == 0, f"a produce request got error {error}")
                answered += 1
                send(connection)
    for connection in connections:
        connection.close()
    return answered / seconds
