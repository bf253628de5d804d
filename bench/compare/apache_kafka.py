"""Apache Kafka as one process on loopback, broker and controller in one: how it is set up.

For whoever starts it: the comparison beside this file, and a check in core/tests/e2e. Its jars are
those that Maven puts into one directory from the pom.xml beside this file. Before 3.3 it needs a
second process, ZooKeeper, whose jars come with it.
"""

import subprocess

ONE_NODE = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
    # Its first member waits so long for others; the usual 3 s are only patience in a test.
    "group.initial.rebalance.delay.ms": "100",
    # Tests write records that bear old dates; half a minute after its start they would be deleted.
    "log.retention.hours": "-1",
}


def prepare(jars, directory, port, log, settings=None):
    """Writes the configuration of a new broker and formats its data directory, `directory`/data.

    Returns the command that starts it, as often as one likes."""
    file = write(directory / "server.properties", {
        "process.roles": "broker,controller", "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{port + 1}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(directory / "data"), **ONE_NODE, **(settings or {}),
    })
    storage = [*java(jars), "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", file]
    subprocess.run(storage, stdout=log, stderr=log, check=True)
    return [*java(jars), "kafka.Kafka", file]


def prepare_old(jars, directory, port):
    """The same for a Kafka before 3.3: the command that starts its ZooKeeper, which comes first and
    may stay, and the one that starts the broker."""
    # A broker that was killed can come back after one of these seconds: its old session is over.
    session_ms = 1000
    zookeeper = write(directory / "zookeeper.properties", {
        "dataDir": str(directory / "zookeeper"), "clientPort": str(port + 1),
        "clientPortAddress": "127.0.0.1", "admin.enableServer": "false", "tickTime": str(session_ms // 2),
    })
    file = write(directory / "server.properties", {
        "broker.id": "1", "listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "zookeeper.connect": f"127.0.0.1:{port + 1}", "zookeeper.session.timeout.ms": str(session_ms),
        "log.dirs": str(directory / "data"), **ONE_NODE,
    })
    start = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
    return [*java(jars), start, zookeeper], [*java(jars), "kafka.Kafka", file]


def java(jars):
    """The heap of Kafka's own start script, and its collector."""
    return ["java", "-Xmx1g", "-Xms1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", f"{jars}/*"]


def write(file, settings):
    """Writes settings to a file and returns its name."""
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return str(file)
