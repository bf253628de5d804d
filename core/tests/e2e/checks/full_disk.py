"""A full disk is a state: no false acknowledgement, the process stays up, reads go on, and all is
well again when space returns, without a restart.

The disk is a small ext4 file system in a file, so that ENOSPC is the kernel's own. It fills up
twice: once until another program's file on it goes away, once until a topic is deleted.
"""

import os
import pathlib
import subprocess
import time

import clients
from running import Failure, demand, output

DISK_BYTES = 320 << 20
BALLAST_BYTES = 96 << 20
LAST_BALLAST_BYTES = 8 << 20
JOURNAL = "64MiB"
VALUE_BYTES = 32 * 1024
# After so long without an acknowledgement the disk counts as full.
QUIET_SECONDS = 6
HEALED_SECONDS = 60


def check(run):
    disk = mount(run)
    ballast = disk / "ballast"
    for path, size in [(ballast, BALLAST_BYTES), (disk / "last-ballast", LAST_BALLAST_BYTES)]:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    settings = {"tidemill.journal.bytes": JOURNAL, "log.segment.bytes": "16MiB"}
    broker = run.broker(dir=disk / "broker", settings=settings)
    for topic in ["kept", "filler"]:
        clients.make_topic(broker.address, topic, 1)
    ledger = Ledger(broker.address)
    demand(ledger.produce("kept", 1000, 60) == 1000, "there is space at first")

    fill(run, broker, ledger, "the disk filled up")
    ballast.unlink()
    demand(ledger.wait_until_accepted("filler"), f"not healed by free space: {broker.last_words()}")
    run.say("healed when another program's file was deleted")

    fill(run, broker, ledger, "it filled up again")
    clients.delete_topic(broker.address, "filler")
    ledger.forget("filler")
    demand(ledger.wait_until_accepted("kept"), f"not healed by a deletion: {broker.last_words()}")
    ledger.demand_readable("kept")
    run.say("healed when a topic was deleted")

    starts_again(run, broker, ledger, disk)
    broker.stop()


def starts_again(run, broker, ledger, disk):
    """After a kill on a full disk it starts, or it says what it lacks and starts once that is there;
    either way nothing acknowledged is missing."""
    clients.make_topic(broker.address, "again", 1)
    stored = ledger.produce("again", 100_000, QUIET_SECONDS, VALUE_BYTES)
    broker.kill()
    try:
        broker.start()
        told = "started while it was full"
    except Failure:
        demand("NoSpace" in broker.last_words(), f"refused without a reason: {broker.last_words()}")
        broker.process.wait(60)
        broker.process = None
        (disk / "last-ballast").unlink()
        broker.start()
        told = f"started only when {LAST_BALLAST_BYTES >> 20} MiB were free"
    ledger.demand_readable("kept")
    ledger.demand_readable("again")
    run.say(f"filled up with {stored} records and killed: {told}; all were readable")


def fill(run, broker, ledger, told):
    stored = ledger.produce("filler", 1_000_000, QUIET_SECONDS, VALUE_BYTES)
    demand(stored, f"not one record was stored before {told}")
    broker.demand_alive(told)
    free = os.statvfs(broker.dir)
    ledger.demand_readable("kept")
    ledger.demand_readable("filler")
    broker.demand_alive(f"{told} and all was read")
    run.say(f"{told} after {stored} records ({stored * VALUE_BYTES / 1e6:.0f} MB), "
            f"{free.f_bavail * free.f_frsize / 1e6:.0f} MB left; all were readable")


class Ledger:
    """What was acknowledged, by topic: {number: offset}."""

    def __init__(self, address):
        self.address = address
        self.acknowledged = {}
        self.number = 0

    def forget(self, topic):
        del self.acknowledged[topic]

    def produce(self, topic, count, quiet_seconds, size=100):
        """Sends until `count` are acknowledged or nothing is for a while; tells how many were."""
        from confluent_kafka import Producer

        told_now = 0
        last_told = time.monotonic()
        waiting = 0
        mine = self.acknowledged.setdefault(topic, {})

        def told(error, message):
            nonlocal told_now, last_told, waiting
            waiting -= 1
            if error is None:
                mine[int(message.key())] = message.offset()
                told_now += 1
                last_told = time.monotonic()

        producer = Producer({
            "bootstrap.servers": self.address,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 1,
            "message.timeout.ms": 300_000,
            "error_cb": lambda error: None,
            "log_level": 0,
        })
        sent = 0
        while told_now < count and time.monotonic() < last_told + quiet_seconds:
            while sent < count and waiting < 64:
                key, value = b"%d" % self.number, b"%d " % self.number
                producer.produce(topic, value.ljust(size, b"x"), key, 0, on_delivery=told)
                self.number += 1
                sent += 1
                waiting += 1
            producer.poll(0.05)
        # What has not been answered may yet be stored: it is neither expected nor a fault.
        producer.purge()
        producer.poll(0)
        return told_now

    def wait_until_accepted(self, topic):
        deadline = time.monotonic() + HEALED_SECONDS
        while time.monotonic() < deadline:
            if self.produce(topic, 20, 3) == 20:
                return True
        return False

    def demand_readable(self, topic):
        found = {}
        for message in clients.messages(self.address, topic, [0]):
            number = int(message.key())
            demand(number not in found, f"{topic}: record {number} is stored twice")
            demand(message.value().split()[0] == message.key(), f"{topic}: {number} was changed")
            found[number] = message.offset()
        for number, offset in self.acknowledged[topic].items():
            demand(found.get(number) == offset, f"{topic}: record {number} was acknowledged at "
                                                f"{offset} and found at {found.get(number)}")


def mount(run):
    image, at = run.dir / "disk.img", pathlib.Path(run.dir, "disk").absolute()
    at.mkdir()
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    output(["mkfs.ext4", "-q", "-F", "-m", "0", image])
    rights = [] if os.geteuid() == 0 else ["sudo"]
    output([*rights, "mount", "-o", "loop", image, at])
    run.at_end.append(lambda: subprocess.run([*rights, "umount", "-l", at], check=False))
    if rights:
        output([*rights, "chown", str(os.geteuid()), at])
    return at
