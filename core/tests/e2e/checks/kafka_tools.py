"""Apache Kafka's own tools: the strictest readers of the protocol, and of the segments we write."""

import re
import subprocess
import time

from clients import delete_topic, make_topic
from running import KEPT, Failure, demand, output

TOPICS = "org.apache.kafka.tools.TopicCommand"
CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONFIGS = "kafka.admin.ConfigCommand"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
PRODUCER_PERFORMANCE = "org.apache.kafka.tools.ProducerPerformance"
DUMP = "org.apache.kafka.tools.DumpLogSegments"
LOG_DIRS = "org.apache.kafka.tools.LogDirsCommand"
ELECTION = "org.apache.kafka.tools.LeaderElectionCommand"
REASSIGN = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"
FEATURES = "org.apache.kafka.tools.FeatureCommand"
ACLS = "org.apache.kafka.tools.AclCommand"

# What the log dump says of a segment that is not as Kafka would have written it.
COMPLAINTS = ["isvalid: false", "Exception", "mismatch", "corrupt", "Found ", "rror"]


def check(run):
    broker = run.broker(shards=2)
    on_the_first_day(run, broker)
    for protocol in ["classic", "consumer"]:
        groups(run, broker, protocol)
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        # One topic in a data directory of its own, so that its segments need not be searched for.
        broker = run.broker(codec, settings={"log.segment.bytes": "4MiB"})
        load(run, broker, codec)
        broker.stop()
        dump(run, broker, codec)


# Tools that only talk need no just-in-time compiler of the second degree, and start sooner.
JAVA = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", f"{KEPT}/kafka/*"]


def tool(name, *arguments, feed=None):
    return output([*JAVA, name, *arguments], feed).decode()


def refusal(name, *arguments):
    """What a tool says that must fail."""
    done = subprocess.run([*JAVA, name, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=600)
    demand(done.returncode != 0, f"{name} succeeded: {done.stdout.decode()}")
    return done.stdout.decode()


def on_the_first_day(run, broker):
    """What an operator does with a new cluster."""
    server = ["--bootstrap-server", broker.address]
    tool(TOPICS, *server, "--create", "--topic", "first", "--partitions", "3",
         "--config", "retention.ms=7200000")
    listed = tool(TOPICS, *server, "--list").split()
    demand(listed == ["first"], f"--list told {listed}")
    told = tool(TOPICS, *server, "--describe", "--topic", "first")
    demand("PartitionCount: 3" in told and "retention.ms=7200000" in told, told)

    text = run.dir / "lines.txt"
    text.write_text("".join(f"line {n}\n" for n in range(1000)))
    tool(CONSOLE_PRODUCER, *server, "--topic", "first", feed=text)
    offsets = tool(OFFSETS, *server, "--topic", "first")
    total = sum(int(line.rsplit(":", 1)[1]) for line in offsets.split())
    demand(total == 1000, f"GetOffsetShell told {offsets}")
    earliest = tool(OFFSETS, *server, "--topic", "first", "--time", "earliest").split()
    demand(all(line.endswith(":0") for line in earliest), f"earliest told {earliest}")

    entity = ["--entity-type", "topics", "--entity-name", "first"]
    tool(CONFIGS, *server, *entity, "--alter", "--add-config", "retention.ms=3600000")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("retention.ms=3600000" in told, told)
    tool(CONFIGS, *server, *entity, "--alter", "--delete-config", "retention.ms")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("retention.ms=3600000" not in told, told)
    told = tool(CONFIGS, *server, "--entity-type", "brokers", "--entity-name", "1", "--describe",
                "--all")
    demand("num.partitions=1" in told, f"--all told {told[:500]}")

    tool(TOPICS, *server, "--alter", "--topic", "first", "--partitions", "5")
    told = tool(TOPICS, *server, "--describe", "--topic", "first")
    demand("PartitionCount: 5" in told, told)
    tool(TOPICS, *server, "--delete", "--topic", "first")
    listed = tool(TOPICS, *server, "--list").split()
    demand(listed == [], f"after --delete, --list told {listed}")
    run.say("topics, configurations, offsets and the console producer")
    administration(run, broker, server)


def administration(run, broker, server):
    """What tools ask of a cluster beside its topics, told as it is on one node."""
    tool(TOPICS, *server, "--create", "--topic", "admin", "--partitions", "2")
    told = tool(LOG_DIRS, *server, "--describe", "--topic-list", "admin")
    found = str(broker.data.resolve()) in told and '"partition":"admin-1"' in told
    demand(found, f"LogDirsCommand told {told}")
    told = tool(ELECTION, *server, "--election-type", "preferred", "--topic", "admin",
                "--partition", "0")
    demand("already elected" in told, f"LeaderElectionCommand told {told}")
    tool(ELECTION, *server, "--election-type", "preferred", "--all-topic-partitions")
    told = tool(REASSIGN, *server, "--list")
    demand("No partition reassignments found" in told, f"--list told {told}")
    told = tool(QUORUM, *server, "describe", "--status")
    demand(re.search(r"LeaderId:\s+1\b", told), f"MetadataQuorumCommand told {told}")
    told = tool(QUORUM, *server, "describe", "--replication")
    demand("Leader" in told, f"--replication told {told}")
    tool(FEATURES, *server, "describe")
    told = refusal(ACLS, *server, "--list")
    demand("No Authorizer" in told, f"AclCommand told {told}")

    entity = ["--entity-type", "brokers", "--entity-default"]
    tool(CONFIGS, *server, *entity, "--alter", "--add-config", "log.retention.ms=5400000")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("log.retention.ms=5400000" in told, f"the default of all brokers told {told}")
    told = tool(CONFIGS, *server, "--entity-type", "topics", "--entity-name", "admin",
                "--describe", "--all")
    demand("retention.ms=5400000" in told, f"--all told {told[:500]}")
    tool(CONFIGS, *server, *entity, "--alter", "--delete-config", "log.retention.ms")
    quotas(server)
    tool(TOPICS, *server, "--delete", "--topic", "admin")
    librdkafka(run, broker)
    run.say("log dirs, elections, reassignments, the quorum, features, access rules, node configs, "
            "quotas")


def quotas(server):
    """A client that is allowed 50 kB a second takes three seconds and more for 900 kB: the first
    500 kB are ten seconds' worth, and free."""
    entity = ["--entity-type", "clients", "--entity-name", "slow"]
    tool(CONFIGS, *server, *entity, "--alter", "--add-config", "producer_byte_rate=50000")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("producer_byte_rate=50000" in told, f"the quota of a client: {told}")
    begun = time.monotonic()
    tool(PRODUCER_PERFORMANCE, "--topic", "admin", "--num-records", "3000", "--record-size", "300",
         "--throughput", "-1", "--producer-props", f"bootstrap.servers={server[1]}",
         "client.id=slow", "acks=all")
    took = time.monotonic() - begun
    demand(3 < took < 60, f"900 kB at 50 kB a second took {took:.1f} s")
    tool(CONFIGS, *server, *entity, "--alter", "--delete-config", "producer_byte_rate")
    told = tool(CONFIGS, *server, *entity, "--describe")
    demand("producer_byte_rate" not in told, f"the quota is still there: {told}")
    # Of users it asks for passwords, too.
    entity = ["--entity-type", "users"]
    tool(CONFIGS, *server, *entity, "--entity-name", "alice", "--alter", "--add-config",
         "producer_byte_rate=1000000")
    for whose in [entity, [*entity, "--entity-name", "alice"]]:
        told = tool(CONFIGS, *server, *whose, "--describe")
        demand("producer_byte_rate=1000000" in told, f"the quota of a user: {told}")
    told = refusal(CONFIGS, *server, *entity, "--entity-name", "alice", "--alter", "--add-config",
                   "SCRAM-SHA-256=[password=secret]")
    demand("No password can be set" in told, f"a password was set: {told}")
    tool(CONFIGS, *server, *entity, "--entity-name", "alice", "--alter", "--delete-config",
         "producer_byte_rate")


def librdkafka(run, broker):
    """The same by librdkafka's admin client."""
    from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
    from confluent_kafka.admin import (
        AclBinding, AclOperation, AclPermissionType, AdminClient, ConfigResource,
        ResourcePatternType, ResourceType,
    )
    from confluent_kafka import ElectionType

    make_topic(broker.address, "admin", 2)
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 3})
    topic = ConfigResource(ResourceType.TOPIC, "admin", set_config={"retention.ms": "1000"})
    for future in admin.alter_configs([topic]).values():
        future.result(60)
    told = admin.describe_configs([ConfigResource(ResourceType.TOPIC, "admin")])
    [configs] = [future.result(60) for future in told.values()]
    demand(configs["retention.ms"].value == "1000", f"{configs['retention.ms']}")
    # Of describe_acls librdkafka tells an empty list, whatever the error.
    rule = AclBinding(ResourceType.TOPIC, "admin", ResourcePatternType.LITERAL, "User:a", "*",
                      AclOperation.WRITE, AclPermissionType.ALLOW)
    [made] = admin.create_acls([rule]).values()
    try:
        made.result(60)
        raise Failure("librdkafka made an access rule")
    except KafkaException as error:
        code = error.args[0].code()
        demand(code == KafkaError.SECURITY_DISABLED, f"create_acls ended with {error}")
    partition = TopicPartition("admin", 1)
    told = admin.elect_leaders(ElectionType.PREFERRED, [partition]).result(60)
    code = told[partition].code()
    demand(code == KafkaError.ELECTION_NOT_NEEDED, f"elect_leaders ended with {told}")
    [described] = admin.describe_topics(TopicCollection(["admin"]),
                                        include_authorized_operations=True).values()
    described = described.result(60)
    demand(AclOperation.WRITE in described.authorized_operations, f"{described}")
    cluster = admin.describe_cluster(include_authorized_operations=True).result(60)
    demand(AclOperation.ALTER in cluster.authorized_operations, f"{cluster}")
    delete_topic(broker.address, "admin")


def groups(run, broker, protocol):
    """A group of Kafka's console consumer, and what kafka-consumer-groups does with it."""
    server = ["--bootstrap-server", broker.address]
    topic, group = f"read-{protocol}", f"readers-{protocol}"
    tool(TOPICS, *server, "--create", "--topic", topic, "--partitions", "3")
    text = run.dir / "lines.txt"
    text.write_text("".join(f"line {n}\n" for n in range(900)))
    tool(CONSOLE_PRODUCER, *server, "--topic", topic, feed=text)
    consume = [CONSOLE_CONSUMER, *server, "--topic", topic, "--group", group,
               "--consumer-property", f"group.protocol={protocol}", "--timeout-ms", "30000"]
    told = tool(*consume, "--from-beginning", "--max-messages", "900")
    lines = sorted(line for line in told.splitlines() if line.startswith("line "))
    demand(lines == sorted(text.read_text().splitlines()), f"{group} has read {len(lines)} lines")

    def described():
        """Of each partition: the committed offset and the lag."""
        told = tool(GROUPS, *server, "--describe", "--group", group)
        rows = re.findall(rf"^{group} +{topic} +(\d) +(\d+) +\d+ +(\d+)", told, re.MULTILINE)
        return {int(at): (int(offset), int(lag)) for at, offset, lag in rows}

    rows = described()
    demand(sum(offset for offset, _ in rows.values()) == 900, f"committed: {rows}")
    demand(all(lag == 0 for _, lag in rows.values()), f"nothing is left: {rows}")
    told = tool(GROUPS, *server, "--describe", "--state", "--group", group)
    demand("Empty" in told, f"--state told {told}")
    told = tool(GROUPS, *server, "--list", "--type")
    demand(re.search(rf"^{group} +{protocol.capitalize()}", told, re.MULTILINE), told)

    tool(GROUPS, *server, "--reset-offsets", "--to-earliest", "--topic", topic, "--group", group,
         "--execute")
    rows = described()
    demand(all(offset == 0 for offset, _ in rows.values()), f"after the reset: {rows}")
    told = tool(*consume, "--max-messages", "900")
    lines = [line for line in told.splitlines() if line.startswith("line ")]
    demand(len(lines) == 900, f"after the reset {len(lines)} lines were read")
    told = tool(GROUPS, *server, "--delete-offsets", "--topic", f"{topic}:2", "--group", group)
    demand("Successful" in told and 2 not in described(), f"--delete-offsets told {told}")
    told = tool(GROUPS, *server, "--delete", "--group", group)
    demand("was successful" in told, f"--delete told {told}")
    demand(group not in tool(GROUPS, *server, "--list").split(), "a deleted group is listed")
    tool(TOPICS, *server, "--delete", "--topic", topic)
    run.say(f"kafka-consumer-groups and the console consumer, group.protocol={protocol}")


def load(run, broker, codec):
    """Kafka's load generator, with every record acknowledged from the disk."""
    count = 60_000 if run.quick else 1_000_000
    server = ["--bootstrap-server", broker.address]
    tool(TOPICS, *server, "--create", "--topic", "load", "--partitions", "1")
    told = tool(
        PRODUCER_PERFORMANCE, "--topic", "load", "--num-records", str(count),
        "--record-size", "300", "--throughput", "-1", "--producer-props",
        f"bootstrap.servers={broker.address}", "acks=all", "linger.ms=5",
        f"compression.type={codec}",
    )
    last = told.strip().splitlines()[-1]
    demand(last.startswith(f"{count} records sent"), told)
    run.say(f"ProducerPerformance, {codec}: {last}")


def dump(run, broker, codec):
    """Every sealed segment is read record by record without complaint, and none is missing."""
    segments = sorted(broker.data.glob("partitions/*/*/*.log"))
    # ProducerPerformance sends random letters, which no codec halves.
    demand(2 <= len(segments), f"{len(segments)} segments of 4 MiB")
    expected = 0
    # The last one is still open: behind its records lie zeros that Kafka would not have written.
    sealed = segments[:1] if run.quick else segments[:-1]
    for segment in sealed:
        demand(segment.name == f"{expected:020}.log", f"{segment} instead of offset {expected}")
        told = tool(DUMP, "--deep-iteration", "--print-data-log", "--files", segment)
        for line in told.splitlines():
            complains = any(word in line for word in COMPLAINTS)
            if complains and not line.startswith("| offset"):
                raise Failure(f"{segment}: {line}")
        offsets = [int(found) for found in re.findall(r"^\| offset: (\d+)", told, re.MULTILINE)]
        demand(offsets, f"{segment}: no records")
        dense = offsets == list(range(expected, expected + len(offsets)))
        demand(dense, f"{segment}: the offsets {offsets[0]}..{offsets[-1]} are not dense")
        demand(f"compresscodec: {codec}" in told, f"{segment}: not compressed with {codec}")
        expected += len(offsets)
    run.say(f"DumpLogSegments, {codec}: {expected} records in {len(sealed)} sealed segments")
