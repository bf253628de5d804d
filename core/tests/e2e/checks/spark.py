"""Spark counts words with Structured Streaming, from a checkpoint, and loses and doubles nothing.

Spark's sink writes at least once: a micro-batch whose end was not kept is written again, the same. So
the counts of a word never fall, an equal one that follows is such a repetition, and the last one is
exact, though the broker and the application are killed -9 in turn.
"""

import collections
import time

from java_programs import Java
from running import demand
from word_counts import WordCounts

# What Spark's own scripts open of Java 17.
OPEN = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in (
    "java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio",
    "java.util", "java.util.concurrent", "java.util.concurrent.atomic", "jdk.internal.ref",
    "sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar")]
OPTIONS = ["-XX:+UseSerialGC", "-Djdk.reflect.useDirectMethodHandle=false", *OPEN]
QUICK_ROUNDS, FULL_ROUNDS = 2, 8
PATIENCE = 120


def check(run):
    rounds = QUICK_ROUNDS if run.quick else FULL_ROUNDS
    broker = run.broker(shards=2)
    counts = WordCounts(run, broker)
    failures = 0
    for number in range(rounds):
        query = start(run, broker, number)
        batches(query, 2)
        time.sleep(run.random.uniform(0, 2))
        broker.kill()
        broker.start()
        batches(query, 2)
        time.sleep(run.random.uniform(0, 2))
        failures += len(query.said("failed"))
        query.kill()
    query = start(run, broker, rounds)
    batches(query, 2)
    counts.end()
    repeated, seen = demand_exact(wait_until_counted(counts, query), counts)
    query.tell()
    query.end()
    broker.stop()
    run.say(f"{rounds} kills of the broker, {rounds} of the application: {counts.words} words, every "
            f"last count exact; {repeated} of {seen} counts written again, {failures} queries failed "
            "and were started again")


def start(run, broker, number):
    query = Java(run, "spark", "WordCountQuery", broker.address, "lines", "counts", run.dir / "spark",
                 heap="600m", options=OPTIONS, log=f"spark-{number}")
    query.wait_for("started", 1, PATIENCE)
    return query


def batches(query, count):
    query.wait_for("batch", len(query.said("batch")) + count, PATIENCE)


def wait_until_counted(counts, query):
    """All that is shown, when the last counts are what they should be, or when no more comes in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        rows = counts.shown()
        last = {word.decode(): int(count) for _, word, count in rows}
        if last == counts.expected or deadline < time.monotonic():
            return rows
        query.demand_alive()
        time.sleep(1)


def demand_exact(rows, counts):
    """How many counts were written again, of how many."""
    shown = collections.defaultdict(list)
    for _, word, count in rows:
        shown[word.decode()].append(int(count))
    repeated = 0
    for word, seen in shown.items():
        pairs = list(zip(seen, seen[1:]))
        falls = [pair for pair in pairs if pair[1] < pair[0]]
        demand(not falls, f"counts of {word} fall: {falls[:3]}")
        repeated += sum(first == second for first, second in pairs)
    last = {word: seen[-1] for word, seen in shown.items()}
    wrong = {word: (last.get(word), count) for word, count in counts.expected.items()
             if last.get(word) != count}
    demand(not wrong, f"(told, true) of {len(wrong)} words: {list(wrong.items())[:3]}")
    demand(last.keys() == counts.expected.keys(), "words that were never written are counted")
    return repeated, len(rows)
