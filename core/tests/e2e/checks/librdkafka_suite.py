"""librdkafka's own tests of a broker, as their authors run them against Apache Kafka.

What is left out is named here, and in docs/protocols/kafka.md with its reason.
"""

import os
import re
import shlex
import subprocess

from kafka_tools import JAVA, TOPICS
from running import KEPT, ROOT, demand

SUITE = KEPT / "librdkafka" / "tests"

# The broker version whose behaviour the tests expect.
VERSION = "4.2.0"
TOGETHER = 5
# Of this version is the tool that makes topics for them.
OLDER_TOOLS = "3.9.1"

LEFT_OUT = {
    "0081": "in part: needs an authorizer, and SASL",
    "0097": "needs TLS",
    "0098": "needs three brokers",
    "0101": "needs three brokers",
    "0103": "in part: needs three brokers",
    "0107": "needs three brokers",
    "0109": "needs access control",
    "0111": "needs three brokers",
    "0115": "needs access control",
    "0119": "needs access control",
    "0126": "needs SASL",
    "0139": "meets a broker of its own, not ours",
    "0142": "needs SASL",
}
# What of those that are left out in part is done.
PARTS = {
    "0103": ["misuse_txn", "fenced_txn"],
    "0081": ["unclean_destroy", "CreateTopics", "DeleteTopics", "CreatePartitions",
             "DescribeConfigs", "DeleteRecords", "ListConsumerGroups",
             "DescribeConsumerGroups", "DescribeTopics", "DescribeCluster", "DeleteGroups",
             "DeleteConsumerGroupOffsets", "AlterConsumerGroupOffsets",
             "ListConsumerGroupOffsets", "ListOffsets"],
}
# Not there in this way: the test asks it of groups of the older kind only.
NOT_IN = {("consumer", "DescribeConsumerGroups")}
# What these see depends on a race within librdkafka that docs/protocols/kafka.md tells of: they must
# pass once in so many tries, alone and in this part. 0045 loses it with Apache Kafka, too.
RACES = {"0001_multiobj": (4, None),
         "0045_subscribe_many_updates": (8, "do_test_subscribe_many_updates")}
# Play with sockets behind the library's back, which must not be done to those of other tests.
ALONE = ["0049", "0075", "0076", "0086", "0088", "0094"]
# Without topics that make themselves. Not in the newer kind's way, in which Apache Kafka fails them,
# too: docs/protocols/kafka.md.
BY_HAND = ["0045"]

LINE = re.compile(r"^\|\s*(\S+)\s*\|\s*(PASSED|FAILED|SKIPPED)\s*\|[^|]*\|\s*(.*?)\s*\|?$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# Three ways, as the tests' authors do: groups of the older kind, of the newer, and a producer that
# numbers its records.
WAYS = {
    "classic": ({}, []),
    "consumer": ({"TEST_CONSUMER_GROUP_PROTOCOL": "consumer"}, []),
    "idempotent": ({}, ["-P"]),
}


def check(run):
    told = (ROOT / "docs" / "protocols" / "kafka.md").read_text()
    for number in LEFT_OUT:
        demand(number in told, f"docs/protocols/kafka.md does not say why {number} is left out")
    # 0077 gives compaction 20 s, from whenever it has written.
    broker = run.broker(settings={"num.partitions": 4, "log.cleaner.backoff.ms": 1000}, shards=2)
    by_hand = run.broker("by-hand", settings={"num.partitions": 4,
                                              "auto.create.topics.enable": "false"})
    # It asks for a replica on every broker it is told of: with several shards, for more than nodes.
    one_shard = run.broker("one-shard", settings={"num.partitions": 4})
    ways = os.environ.get("E2E_WAYS", "classic" if run.quick else " ".join(WAYS)).split()
    failed = {}
    for way in ways:
        environment, options = WAYS[way]
        skipped = {"TESTS_SKIP": ",".join([*LEFT_OUT, *ALONE])}
        passed = suite(run, broker, way, environment | skipped, [f"-p{TOGETHER}", *options], failed)
        only = {"TESTS": ",".join(ALONE)}
        passed += suite(run, broker, f"{way}-alone", environment | only, ["-p1", *options], failed)
        if way != "consumer":
            only = {"TESTS": ",".join(BY_HAND)}
            passed += suite(run, by_hand, f"{way}-by-hand", environment | only,
                            ["-p1", "-s", "noautocreate", *options], failed)
        parts = [(test, part) for test, parts in PARTS.items() for part in parts
                 if (way, part) not in NOT_IN]
        for test, part in parts:
            only = {"TESTS": test, "SUBTESTS": part}
            name = f"{way}-{test}-{part}"
            suite(run, one_shard, name, environment | only, ["-p1", *options], failed)
            # A part that is not there any more would pass.
            met = re.search(rf"\[ \S*{part}\S*.*PASS", (run.dir / f"{name}.log").read_text(
                errors="replace"))
            if not met:
                failed.setdefault(name, "there is no such part")
        broker.demand_alive(f"the tests ({way})")
        run.say(f"{way}: {passed} tests passed, and of {len(parts)} parts of {', '.join(PARTS)} "
                f"{sum(f'{way}-{test}-{part}' not in failed for test, part in parts)}")
    demand(not failed, "; ".join(f"{name}: {why}" for name, why in failed.items()))


def suite(run, broker, name, environment, options, failures):
    """Runs the tests that `environment` selects; returns how many have passed, adds those that have
    not to `failures`, so that one run tells of all.

    Some of them ask how long something took: what fails beside others may show once more, alone,
    that it passes.
    """
    ends = tests(run, broker, name, environment, options)
    failed = sorted(test for test, (end, _) in ends.items() if end == "FAILED")
    if "SUBTESTS" not in environment:
        only = {name: value for name, value in environment.items() if name != "TESTS_SKIP"}
        for test in failed:
            run.say(f"{name}: {test} once more, alone: {ends[test][1]}")
            tries, part = RACES.get(test, (1, None))
            alone = only | {"TESTS": test[:4]} | ({"SUBTESTS": part} if part else {})
            for tried in range(tries):
                again = tests(run, broker, f"{name}-again-{test}-{tried}", alone, [*options, "-p1"])
                ends[test] = again.get(test, ends[test])
                if ends[test][0] == "PASSED":
                    run.say(f"{name}: {test} passes alone, the {tried + 1}. time of at most {tries}")
                    break
        failed = [test for test in failed if ends[test][0] == "FAILED"]
    for test in failed:
        failures[f"{name} {test}"] = ends[test][1]
    passed = sum(end == "PASSED" for end, _ in ends.values())
    if not passed:
        failures.setdefault(name, f"no test came to its end; see {run.dir / name}.log")
    return passed


def tests(run, broker, name, environment, options):
    """How each test ended, and why."""
    conf = run.dir / "test.conf"
    conf.write_text(f"metadata.broker.list={broker.address}\ntest.topic.random=true\n")
    log = run.dir / f"{name}.log"
    # Some call Kafka's script for topics: the program behind it is among Kafka's jars. Compaction
    # (0077) is tried with segments of 10,000 bytes: the newest tool takes none below 1 MiB, we none
    # below 16 KiB.
    script = run.dir / "kafka" / "bin" / "kafka-topics.sh"
    script.parent.mkdir(parents=True, exist_ok=True)
    program = shlex.join([*JAVA[:-1], f"{KEPT}/kafka-{OLDER_TOOLS}/*", TOPICS])
    script.write_text("#!/bin/sh\nfor word do\n    shift\n    case $word in\n"
                      "    segment.bytes=10000) word=segment.bytes=16384 ;;\n    esac\n"
                      f'    set -- "$@" "$word"\ndone\nexec {program} "$@"\n')
    script.chmod(0o755)
    libraries = [str((SUITE.parent / part).resolve()) for part in ("src", "src-cpp")]
    environment = os.environ | environment | {
        "RDKAFKA_TEST_CONF": str(conf.resolve()),
        "KAFKA_PATH": str(script.parent.parent.resolve()),
        "BROKERS": broker.address,
        "TEST_KAFKA_VERSION": VERSION,
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    quick = ["-Q"] if run.quick else []
    command = ["./test-runner", "-L", *quick, "-V", VERSION, *options]
    with open(log, "wb") as out:
        # Its exit code says no more than the lines do.
        subprocess.run(command, cwd=SUITE, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                       stderr=subprocess.STDOUT, timeout=900 if run.quick else 3600)
    lines = (LINE.match(COLOUR.sub("", line)) for line in
             log.read_text(errors="replace").splitlines())
    return {found[1]: (found[2], found[3]) for found in lines if found and found[1] != "<MAIN>"}
