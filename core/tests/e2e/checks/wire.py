"""Raw Kafka frames, for what no honest client would send and for load that costs the client little.

Only old versions without tagged fields: what the checks need is a frame that is right but for the
one thing that is wrong.
"""

import socket
import struct

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS = 0, 1, 2, 3, 18
CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID = 19, 20, 22


def crc32c_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


TABLE = tuple(crc32c_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def varint(number):
    number = number << 1 ^ number >> 63
    number &= (1 << 64) - 1
    out = bytearray()
    while 0x7F < number:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def record(delta, value):
    body = b"\0" + varint(0) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(records, attributes=0, count=None, last_delta=None, crc=None, magic=2, length=None,
          producer=(-1, -1, -1)):
    """A record batch of one encoded (perhaps compressed) run of records."""
    if isinstance(records, list):
        count = len(records) if count is None else count
        records = b"".join(record(n, value) for n, value in enumerate(records))
    last_delta = count - 1 if last_delta is None else last_delta
    tail = struct.pack(">hiqqqhii", attributes, last_delta, 1, 1, *producer, count) + records
    crc = crc32c(tail) if crc is None else crc
    length = len(tail) + 9 if length is None else length
    return struct.pack(">qiibI", 0, length, 0, magic, crc) + tail


def string(text):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">h", len(text)) + text


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


def frame(body):
    return struct.pack(">i", len(body)) + body


def request(api, version, body, correlation=1, client=b"e2e"):
    return frame(struct.pack(">hhi", api, version, correlation) + string(client) + body)


def produce(topic, partitions, acks=-1, version=7, correlation=1, timeout_ms=30_000):
    """`partitions` maps a number to the bytes that stand where records should."""
    places = [struct.pack(">ii", number, len(data)) + data for number, data in partitions.items()]
    body = struct.pack(">hhi", -1, acks, timeout_ms) + array([string(topic) + array(places)])
    return request(PRODUCE, version, body, correlation)


def produce_errors(answer):
    """The error of each partition in an answer to `produce`, as {number: (error, offset)}."""
    at = 4
    (topics,) = struct.unpack_from(">i", answer, at)
    at += 4
    found = {}
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", answer, at)
        at += 2 + length
        (partitions,) = struct.unpack_from(">i", answer, at)
        at += 4
        for _ in range(partitions):
            number, error, offset, _, _ = struct.unpack_from(">ihqqq", answer, at)
            at += 30
            found[number] = error, offset
    return found


class Connection:
    """One connection that sends what it is given and reads whole frames."""

    def __init__(self, address, seconds=10):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """The next frame without its length; None if the connection was closed instead."""
        head = self.take(4)
        return head and self.take(struct.unpack(">i", head)[0])

    def take(self, size):
        while len(self.left) < size:
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not more:
                return None
            self.left += more
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
