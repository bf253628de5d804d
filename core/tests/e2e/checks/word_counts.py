"""Words counted exactly once: what stream engines are fed, and what must come out.

Whoever counts writes out every single count, under its word. Then each word must show 1, 2, 3 and so
on without a gap or a repetition: what was counted twice, not at all, or in a state that was lost shows
in every later count.
"""

import collections
import random

from clients import Feeder, committed, make_topic
from running import demand

PARTITIONS = 3
WORDS = [f"word-{number}" for number in range(40)]
WORDS_PER_LINE = 6


class WordCounts:
    """Lines that are fed steadily into the topic `lines`; their counts come out of `counts`."""

    def __init__(self, run, broker, lines_per_second=60):
        self.address = broker.address
        make_topic(self.address, "lines", PARTITIONS)
        make_topic(self.address, "counts", PARTITIONS)
        self.chance = random.Random(run.random.getrandbits(32))
        self.expected = collections.Counter()
        self.stopping = False
        self.feeder = Feeder(self.address, "lines", self.lines(), lines_per_second)

    def lines(self):
        while not self.stopping:
            words = self.chance.choices(WORDS, k=WORDS_PER_LINE)
            self.expected.update(words)
            yield None, " ".join(words)

    def end(self):
        """No line more; those there were are written when this returns."""
        self.stopping = True
        self.feeder.end()

    @property
    def words(self):
        return self.expected.total()

    def shown(self):
        """(partition, word, count) of all that is committed."""
        return committed(self.address, "counts")

    def demand_exact(self, rows):
        shown = collections.defaultdict(list)
        for _, word, count in rows:
            shown[word.decode()].append(int(count))
        for word, count in self.expected.items():
            counts = shown.pop(word, [])
            wrong = [pair for pair in zip(counts, range(1, count + 1)) if pair[0] != pair[1]]
            demand(len(counts) == count and not wrong,
                   f"{word} is there {count} times, {len(counts)} counts show; wrong are "
                   f"(count, place) {wrong[:3]}")
        demand(not shown, f"never written, but counted: {list(shown)[:3]}")
