"""Senseless bytes cost a connection at most.

Whatever is sent, the broker answers with an error of the protocol or closes the connection; it
stays up, another client's records go on being acknowledged and come back, no topic appears that
nobody asked for, and memory does not grow by what lengths and counts merely claim.
"""

import pathlib
import socket
import struct
import threading
import time

import clients
import wire
from running import ROOT, Failure, demand

GROWTH_BYTES_MAX = 96 << 20
# Whoever asks for an offset by time makes the broker open a batch: 64 MiB of it at most, which
# takes three times that while it grows.
OPENED_BYTES_MAX = 256 << 20
ANSWER_SECONDS = 30
# Kafka's codes for a batch that is not as it should be.
CORRUPT_MESSAGE, UNSUPPORTED_FORMAT, INVALID_RECORD, TOO_LARGE = 2, 43, 87, 10
INVALID_TOPIC, UNSUPPORTED_COMPRESSION = 17, 76
BAD_BATCH = {CORRUPT_MESSAGE, UNSUPPORTED_FORMAT, INVALID_RECORD, TOO_LARGE,
             UNSUPPORTED_COMPRESSION}


def check(run):
    broker = run.broker(shards=2)
    clients.make_topic(broker.address, "kept", 2)
    clients.make_topic(broker.address, "target", 1)
    bystander = Bystander(broker.address)
    warm_up(broker.address)
    before = broker.resident_bytes()
    told = []
    for name, attack in ATTACKS.items():
        if attack is bombs:
            grown = broker.resident_bytes() - before
            demand(grown <= GROWTH_BYTES_MAX, f"memory grew by {grown} bytes")
        begun = time.monotonic()
        count = attack(run, broker)
        broker.demand_alive(name)
        told.append(f"{count} {name} in {time.monotonic() - begun:.1f} s")
    grown = broker.resident_bytes() - before
    run.say("; ".join(told))
    acknowledged, slowest = bystander.stop()
    run.say(f"memory grew by {grown / 1e6:.0f} MB; meanwhile another client had {acknowledged} "
            f"records acknowledged, the slowest in {slowest * 1000:.0f} ms")
    demand(grown <= GROWTH_BYTES_MAX + OPENED_BYTES_MAX, f"memory grew by {grown} bytes")
    found = [message.value() for message in clients.messages(broker.address, "kept", [0])]
    demand(found == [b"%d" % n for n in range(acknowledged)], "the other client's records changed")
    left = [message.value() for message in clients.messages(broker.address, "target")]
    demand(all(value.startswith(b"good") for value in left), f"bad records were stored: {left[:3]}")
    # The broker's own are made when somebody asks for a coordinator.
    names = topics(broker.address) - {"__consumer_offsets", "__transaction_state"}
    demand(names == {"kept", "target"}, f"there are other topics now: {names}")
    broker.stop()


class Bystander:
    """A client that does nothing wrong, all the while."""

    def __init__(self, address):
        self.address = address
        self.stopping = threading.Event()
        self.failed = None
        self.count = 0
        self.slowest = 0.0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        from confluent_kafka import Producer

        refused = []
        told = lambda error, message: refused.append(str(error)) if error else None
        producer = Producer({"bootstrap.servers": self.address, "log_level": 3, "linger.ms": 0,
                             "acks": "all", "enable.idempotence": True})
        while not self.stopping.wait(0.01) and not refused:
            begun = time.monotonic()
            producer.produce("kept", b"%d" % self.count, partition=0, on_delivery=told)
            if producer.flush(30):
                refused.append("no answer in 30 s")
                break
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.count += 1
        self.failed = refused

    def stop(self):
        self.stopping.set()
        self.thread.join()
        demand(not self.failed, f"another client was disturbed: {self.failed}")
        return self.count, self.slowest


def topics(address):
    from confluent_kafka.admin import AdminClient

    return set(AdminClient({"bootstrap.servers": address, "log_level": 3}).list_topics(timeout=60).topics)


def warm_up(address):
    """The buffers of a broker that has worked a little, so that growth means growth."""
    for number in range(200):
        with wire.Connection(address) as connection:
            connection.send(wire.request(wire.METADATA, 1, struct.pack(">i", -1)))
            demand(connection.answer(), "an honest request is answered")
            connection.send(wire.produce("target", {0: wire.batch([b"good %d" % number * 100])}))
            answer = connection.answer()
            demand(wire.produce_errors(answer)[0][0] == 0, f"an honest produce got {answer!r}")


def closed_or_answered(address, data, end_after=True, seconds=ANSWER_SECONDS):
    """The answers to `data`; the connection must end or answer, not hang."""
    answers = []
    with wire.Connection(address, seconds) as connection:
        try:
            connection.send(data)
            if end_after:
                connection.socket.shutdown(socket.SHUT_WR)
            while (answer := connection.answer()) is not None:
                answers.append(answer)
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise Failure(f"neither answer nor end after {data[:60]!r}") from None
    return answers


def random_bytes(run, broker):
    count = 300 if run.quick else 3000
    for _ in range(count):
        data = run.random.randbytes(run.random.choice([1, 3, 4, 10, 100, 1000, 20_000]))
        closed_or_answered(broker.address, data)
        closed_or_answered(broker.address, wire.frame(data))
    for text in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]),
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 64, b"\xff" * 64]:
        closed_or_answered(broker.address, text)
    return 2 * count + 5


def wrong_lengths(run, broker):
    """Lengths of two gigabytes, negative ones, ones without a body: closed at once or at the end."""
    lengths = [0x7FFFFFFF, 0x7FFF0000, 0x40000000, 104_857_601, -1, -2, -0x80000000, 0, 1, 7]
    for length in lengths:
        refused = length < 0 or 104_857_600 < length
        data = struct.pack(">i", length) + struct.pack(">hhih", 3, 1, 1, -1)
        closed_or_answered(broker.address, data, end_after=not refused)
    # Many who claim as much as is allowed, and send next to nothing, at the same time.
    idle = [wire.Connection(broker.address) for _ in range(200)]
    for connection in idle:
        connection.send(struct.pack(">ihh", 100_000_000, 0, 7) + b"abc")
    with wire.Connection(broker.address) as connection:
        connection.send(wire.request(wire.API_VERSIONS, 0, b""))
        demand(connection.answer(), "no answer beside many half frames")
    demand_growth_bounded(broker)
    for connection in idle:
        connection.close()
    return len(lengths) + len(idle)


def demand_growth_bounded(broker):
    resident = broker.resident_bytes()
    demand(resident < 3 << 30, f"{resident} bytes are held for frames that only claim a length")


def golden_frames():
    """Requests that real clients have sent, one of each kind."""
    for path in sorted(pathlib.Path(ROOT, "net/tests/golden").glob("*request*.hex")):
        lines = path.read_text().splitlines()
        yield bytes.fromhex("".join(line for line in lines[2:]))


def truncated_and_twisted(run, broker):
    """Real requests, cut at every byte and with bytes changed, behind an honest length."""
    count = 0
    rounds = 3 if run.quick else 40
    for good in golden_frames():
        # A produce request changed in its client id alone is a good one: its records would stay.
        good = good.replace(b"target", b"nobody").replace(b"kept", b"none")
        step = max(1, len(good) // (20 if run.quick else 400))
        for end in range(0, len(good), step):
            closed_or_answered(broker.address, wire.frame(good[:end]))
            count += 1
        closed_or_answered(broker.address, struct.pack(">i", len(good)) + good[:len(good) // 2])
        for _ in range(rounds):
            twisted = bytearray(good)
            for _ in range(run.random.choice([1, 1, 2, 8])):
                twisted[run.random.randrange(8, len(twisted))] = run.random.choice(
                    [0, 0xFF, 0x7F, 0x80, run.random.randrange(256)])
            if b"create" in bytes(twisted) or twisted[:2] == b"\0\x13":
                continue
            # A twisted name in Metadata would make a topic: ask as one who does not want that.
            if twisted[:2] == b"\0\x03":
                continue
            closed_or_answered(broker.address, wire.frame(bytes(twisted)))
            count += 1
    return count


def absurd_counts(run, broker):
    count = 0
    for number in [0x7FFFFFFF, 0x7FFFFFF0, 100_000_000, 0x10000000, -2, -0x80000000]:
        head = struct.pack(">i", number)
        produced = struct.pack(">hhi", -1, -1, 1000)
        fetched = struct.pack(">iiiib", -1, 100, 1, 1 << 20, 0)
        for api, version, body in [
            (wire.METADATA, 1, head),
            (wire.METADATA, 4, head + b"\0\1a"),
            (wire.PRODUCE, 7, produced + head),
            (wire.PRODUCE, 7, produced + struct.pack(">i", 1) + wire.string("target") + head),
            (wire.PRODUCE, 7, produced + struct.pack(">i", 1) + wire.string("target")
             + struct.pack(">ii", 1, 0) + head),
            (wire.FETCH, 4, fetched + head),
            (wire.FETCH, 4, fetched + struct.pack(">i", 1) + wire.string("target") + head),
            (wire.LIST_OFFSETS, 1, struct.pack(">i", -1) + head),
            (wire.CREATE_TOPICS, 2, head),
            (wire.CREATE_TOPICS, 2, struct.pack(">i", 1) + wire.string("bad") + head),
            (wire.DELETE_TOPICS, 1, head),
        ]:
            closed_or_answered(broker.address, wire.request(api, version, body))
            count += 1
    # Over-long and endless varints where flexible versions count.
    for tail in [b"\xff" * 5 + b"\x0f", b"\xff" * 10, b"\x80" * 100, b"\xff\xff\xff\xff\x07"]:
        for api, version in [(3, 9), (0, 9), (1, 12), (18, 3), (19, 5), (20, 4), (22, 2), (60, 0)]:
            body = b"\0" + tail
            closed_or_answered(broker.address, wire.request(api, version, body))
            count += 1
    return count


def unknown_apis(run, broker):
    count = 0
    for api, version in [(9999, 0), (-1, 0), (4, 0), (58, 0), (80, 0), (3, 99), (3, -1), (0, 99),
                         (1, 3), (1, 99), (19, 0), (2, 0), (0, -5), (11, 0), (24, 0), (71, 0)]:
        answers = closed_or_answered(broker.address, wire.request(api, version, b"\0" * 8))
        demand(not answers, f"API {api} version {version} was answered: {answers[:1]!r}")
        count += 1
    # The one exception: a version of ApiVersions that is too new is told what is there (KIP-511).
    for version in [5, 99, 32767]:
        (answer,) = closed_or_answered(broker.address,
                                       wire.request(wire.API_VERSIONS, version, b"\0" * 8))
        error, keys, key = struct.unpack_from(">hih", answer, 4)
        demand((error, keys, key) == (35, 1, 18), f"ApiVersions {version} got {answer!r}")
        count += 1
    return count


def topic_names(run, broker):
    names = ["../../etc/passwd", "a/b", "/", "", ".", "..", "x" * 250, "x" * 32000, "a\0b", "a b",
             "ä", "a\nb", "con:", "a\\b", "%2e%2e"]
    for name in names:
        tail = struct.pack(">ih", 1, 1) + struct.pack(">ii", 0, 0)
        body = struct.pack(">i", 1) + wire.string(name) + tail + struct.pack(">ib", 5000, 0)
        (answer,) = closed_or_answered(broker.address,
                                       wire.request(wire.CREATE_TOPICS, 2, body))
        (length,) = struct.unpack_from(">h", answer, 12)
        (error,) = struct.unpack_from(">h", answer, 14 + length)
        demand(error == INVALID_TOPIC, f"creating {name[:40]!r} got error {error}")
        (answer,) = closed_or_answered(
            broker.address,
            wire.request(wire.METADATA, 4, struct.pack(">i", 1) + wire.string(name) + b"\1"))
        # Such a name is refused, or unknown; it never becomes a topic, which `check` looks for.
        demand(answer, f"metadata of {name[:40]!r} was not answered")
    data = wire.batch([b"bad"])
    for name in names:
        answers = closed_or_answered(broker.address, wire.produce(name, {0: data}))
        for answer in answers:
            (error, _), = wire.produce_errors(answer).values()
            demand(error != 0, f"a produce to {name[:40]!r} was acknowledged")
    # Not UTF-8.
    closed_or_answered(broker.address, wire.request(wire.METADATA, 1, struct.pack(">i", 1)
                                                    + wire.string(b"\xff\xfe\xc0")))
    return 3 * len(names) + 1


def bad_batches(run, broker):
    """Records that are not as they should be are refused by name, and nothing of them is stored."""
    good = wire.batch([b"bad %d" % n for n in range(10)])
    twisted = bytearray(good)
    twisted[-1] ^= 1
    cases = {
        "a wrong checksum": wire.batch([b"bad"], crc=12345),
        "a byte changed": bytes(twisted),
        "cut short": good[:-1],
        "only a header's half": good[:30],
        "a byte too many": good + b"\0",
        "two batches": good + good,
        "magic 0": wire.batch([b"bad"], magic=0),
        "magic 1": wire.batch([b"bad"], magic=1),
        "magic 3": wire.batch([b"bad"], magic=3),
        "a length of two gigabytes": wire.batch([b"bad"], length=0x7FFFFFFF),
        "a negative length": wire.batch([b"bad"], length=-5),
        "a count of two thousand million": wire.batch([b"bad"], count=0x7FFFFFFF),
        "a count below zero": wire.batch([b"bad"], count=-3),
        "a count that is not the last delta's": wire.batch([b"bad"], count=1, last_delta=7),
        "a last delta below zero": wire.batch([b"bad"], last_delta=-9),
        "no records": wire.batch([], count=0, last_delta=-1),
        "a codec nobody knows": wire.batch([b"bad"], attributes=7),
        "a control batch": wire.batch([b"bad"], attributes=0x20),
        "a transactional batch of nobody": wire.batch([b"bad"], attributes=0x10),
        "an idempotent batch without epoch": wire.batch([b"bad"], producer=(5, -1, 0)),
    }
    refused = 0
    for name, data in cases.items():
        answers = closed_or_answered(broker.address, wire.produce("target", {0: data}))
        for answer in answers:
            error, offset = wire.produce_errors(answer)[0]
            demand(error != 0, f"{name} was acknowledged at offset {offset}")
        refused += 1
    return refused + unreadable_compression(broker)


def unreadable_compression(broker):
    """Compressed bytes that are none may be stored, for they are stored as they came; then they
    come back as they came, and looking for a time in them harms nobody."""
    clients.make_topic(broker.address, "opaque", 1)
    for codec in range(1, 5):
        data = wire.batch(b"this is not compressed at all", attributes=codec, count=3)
        (answer,) = closed_or_answered(broker.address, wire.produce("opaque", {0: data}))
        error, _ = wire.produce_errors(answer)[0]
        demand(error == 0 or error in BAD_BATCH, f"codec {codec} without sense got error {error}")
        closed_or_answered(broker.address, offset_of_time("opaque"))
    clients.delete_topic(broker.address, "opaque")
    return 4


def offset_of_time(topic, time_ms=1):
    """A question that makes a broker look inside a batch."""
    place = wire.array([struct.pack(">iq", 0, time_ms)])
    body = struct.pack(">i", -1) + wire.array([wire.string(topic) + place])
    return wire.request(wire.LIST_OFFSETS, 1, body)


def bombs(run, broker):
    """A gigabyte of zeros in a megabyte: never unpacked as a whole, whatever becomes of it."""
    size = 1 << 30
    whole = gzip_of_zeros(size)
    before = broker.resident_bytes()
    clients.make_topic(broker.address, "bombs", 1)
    count = 0
    for attributes, data in [(1, whole), (4, zstd_of_zeros(size))]:
        bomb = wire.batch(data, attributes=attributes, count=1)
        for answer in closed_or_answered(broker.address, wire.produce("bombs", {0: bomb}),
                                         seconds=60):
            count += 1
            error, _ = wire.produce_errors(answer)[0]
            demand(error == 0 or error in BAD_BATCH, f"a bomb got error {error}")
    # Looking for a time makes a broker look inside; this must stay bounded as well.
    closed_or_answered(broker.address, offset_of_time("bombs"), seconds=60)
    grown = broker.resident_bytes() - before
    demand(grown <= OPENED_BYTES_MAX, f"a bomb took {grown} bytes of memory")
    clients.delete_topic(broker.address, "bombs")
    return count


def gzip_of_zeros(size):
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def zstd_of_zeros(size):
    import zstandard

    packer = zstandard.ZstdCompressor(level=1).compressobj()
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def many_connections(run, broker):
    """Connections that open and vanish in the middle of something."""
    count = 200 if run.quick else 2000
    good = wire.produce("target", {0: wire.batch([b"good and gone"])})
    for _ in range(count):
        with wire.Connection(broker.address) as connection:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                         struct.pack("ii", 1, 0))
            connection.send(good[: run.random.randrange(len(good) + 1)])
    return count


ATTACKS = {
    "frames of random bytes": random_bytes,
    "wrong lengths": wrong_lengths,
    "real requests cut or twisted": truncated_and_twisted,
    "absurd counts": absurd_counts,
    "unknown APIs and versions": unknown_apis,
    "bad topic names": topic_names,
    "bad batches": bad_batches,
    "connections reset": many_connections,
    "decompression bombs": bombs,
}
