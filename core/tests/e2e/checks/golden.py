"""Records what real clients send, for the golden bytes of `net/tests/golden`.

A proxy stands between the clients and the broker, and the broker tells clients the proxy's address
as its own. Of each client, API and version the longest request that is not too long to be read is
kept: it says most. With `--write` they become files beside the ones that are there. Then
`NET_GOLDEN_REWRITE=1 cargo test -p tidemill-net --test golden` writes what each of them means,
which is to be read before it is committed.
"""

import re
import select
import socket
import struct
import threading

import clients
import kafka_tools
from running import ROOT, demand, free_port, output

FOLDER = "net/tests/golden"
LINE_BYTES = 32
# What a frame may hold to be worth keeping as text.
FRAME_BYTES_MAX = 600

# Kafka's names of the APIs that we serve, from their table; a request for any other is not ours to
# read.
ROW = re.compile(r"^\| (\w+) \| (\d+) \|", re.MULTILINE)
NAMES = {int(number): name for name, number in
         ROW.findall((ROOT / "docs" / "protocols" / "kafka.md").read_text())}


def check(run):
    port = free_port()
    settings = {"tidemill.routing": "node", "advertised.listeners": f"127.0.0.1:{port}"}
    broker = run.broker(settings=settings)
    proxy = Proxy(port, broker.port)
    small = run.dir / "small.txt"
    small.write_bytes(b"key\x1fvalue\x1e")
    for name, use in CLIENTS.items():
        proxy.client = name
        use(proxy.address, name, small)
        seen = [api for client, api, _ in proxy.requests if client == name]
        demand(0 in seen, f"{name} produced past the proxy")
    proxy.close()
    kept = proxy.requests
    for client in CLIENTS:
        told = [f"{NAMES.get(api, api)} {version}"
                for name, api, version in sorted(kept) if name == client]
        run.say(f"{client}: {', '.join(told)}")
    unknown = {api for _, api, _ in kept} - NAMES.keys()
    demand(not unknown, f"clients use APIs we do not serve: {unknown}")
    if run.asked.write:
        write(kept)
        run.say(f"{len(kept)} requests written to {FOLDER}")
    broker.stop()


def write(requests):
    for (client, api, version), frame in requests.items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", NAMES[api]).lower()
        digits = frame.hex()
        lines = [digits[at:at + 2 * LINE_BYTES] for at in range(0, len(digits), 2 * LINE_BYTES)]
        text = [f"request {NAMES[api]} {version}", "means ?", *lines]
        (ROOT / FOLDER / f"{name}-{version}-request-{client}.hex").write_text("\n".join(text) + "\n")


class Proxy:
    """Passes bytes on both ways and keeps a request of each kind."""

    def __init__(self, port, broker_port):
        self.address = f"127.0.0.1:{port}"
        self.broker_port = broker_port
        self.client = None
        self.requests = {}
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                incoming, _ = self.listener.accept()
            except OSError:
                return
            outgoing = socket.create_connection(("127.0.0.1", self.broker_port))
            threading.Thread(target=self.serve, args=(incoming, outgoing), daemon=True).start()

    def serve(self, incoming, outgoing):
        client, left = self.client, b""
        ends = {incoming: outgoing, outgoing: incoming}
        try:
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    ends[end].sendall(data)
                    if end is incoming:
                        left = self.record(client, left + data)
        except OSError:
            pass
        finally:
            incoming.close()
            outgoing.close()

    def record(self, client, data):
        while 4 <= len(data):
            size = struct.unpack_from(">i", data)[0] + 4
            if len(data) < size:
                break
            frame, data = data[4:size], data[size:]
            api, version = struct.unpack_from(">hh", frame)
            place = client, api, version
            known = self.requests.get(place, b"")
            if len(frame) <= FRAME_BYTES_MAX and len(known) < len(frame):
                self.requests[place] = frame
        return data

    def close(self):
        self.listener.close()


def use_kcat(address, name, small):
    clients.produce_kcat(address, name, "gzip", small)
    list(clients.consume_kcat(address, name))
    output(["kcat", "-L", "-b", address])
    output(["kcat", "-Q", "-b", address, "-t", f"{name}:0:0"])


def use_confluent(address, name, small):
    from confluent_kafka import Producer, TopicPartition
    from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource,
                                       NewPartitions, OffsetSpec)

    clients.make_topic(address, name, 2)
    clients.produce_confluent(address, name, "lz4", small)
    # Without idempotence the request carries no producer.
    plain = Producer({"bootstrap.servers": address, "acks": 1})
    plain.produce(name, b"v")
    plain.flush(10)
    list(clients.consume_confluent(address, name))
    admin = AdminClient({"bootstrap.servers": address, "log_level": 3})
    topic = ConfigResource(ConfigResource.Type.TOPIC, name)
    admin.describe_configs([topic])[topic].result(10)
    change = ConfigEntry("retention.ms", "3600000",
                         incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[change])
    admin.incremental_alter_configs([topic])[topic].result(10)
    admin.create_partitions([NewPartitions(name, 3)])[name].result(10)
    place = TopicPartition(name, 0)
    admin.list_offsets({place: OffsetSpec.latest()})[place].result(10)
    admin.delete_records([TopicPartition(name, 0, 0)])
    admin.describe_cluster().result(10)
    clients.delete_topic(address, name)


def use_kafka_python(address, name, small):
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name, 1, 1)])
    clients.produce_kafka_python(address, name, "gzip", small)
    list(clients.consume_kafka_python(address, name))
    admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    admin.describe_cluster()
    admin.delete_topics([name])
    admin.close()


def use_java(address, name, small):
    server = ["--bootstrap-server", address]
    tool = kafka_tools.tool
    tool(kafka_tools.TOPICS, *server, "--create", "--topic", name, "--partitions", "1")
    tool(kafka_tools.TOPICS, *server, "--describe", "--topic", name)
    tool(kafka_tools.TOPICS, *server, "--alter", "--topic", name, "--partitions", "2")
    tool(kafka_tools.CONSOLE_PRODUCER, *server, "--topic", name, feed=small)
    tool(kafka_tools.OFFSETS, *server, "--topic", name)
    entity = ["--entity-type", "topics", "--entity-name", name]
    tool(kafka_tools.CONFIGS, *server, *entity, "--alter", "--add-config", "retention.ms=3600000")
    tool(kafka_tools.CONFIGS, *server, *entity, "--describe")
    tool(kafka_tools.CONSOLE_CONSUMER, *server, "--topic", name, "--partition", "0",
         "--offset", "earliest", "--timeout-ms", "2000")
    tool(kafka_tools.DELETE_RECORDS, *server, "--offset-json-file", delete_records_of(small, name))
    tool(kafka_tools.TOPICS, *server, "--delete", "--topic", name)


def delete_records_of(small, name):
    path = small.with_name("delete-records.json")
    path.write_text('{"version": 1, "partitions": '
                    f'[{{"topic": "{name}", "partition": 0, "offset": 0}}]}}')
    return path


CLIENTS = {
    "kcat": use_kcat,
    "confluent-kafka": use_confluent,
    "kafka-python": use_kafka_python,
    "java": use_java,
}
