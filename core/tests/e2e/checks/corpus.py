"""Real input: what lies on every Debian machine, with keys that repeat and lengths that vary.

A corpus is a file in which a record is its key, KEY_END, its value, RECORD_END: the form in which
kcat reads and writes records. It is made once and kept.
"""

import collections
import hashlib
import os
import pathlib

from running import KEPT, demand, output

KEY_END, RECORD_END = b"\x1f", b"\x1e"

# Where text is found, in the order in which it is taken.
TEXT = ["/usr/share/doc", "/usr/include", "/usr/share/perl", "/usr/lib/python3", "/usr/src",
        "/usr/share", "/usr/local", "/usr/lib"]
FILE_BYTES_MAX = 8 << 20


def package_index(count=None):
    """The stanzas of the Debian package index, each under the name of its package."""
    def stanzas():
        form = ["--format", "$(FILENAME)", "Created-By: Packages"]
        names = output(["apt-get", "indextargets", *form]).decode().split()
        for name in sorted(names):
            # The lists may be compressed in a way that only apt needs to know.
            text = output(["/usr/lib/apt/apt-helper", "cat-file", name])
            for stanza in text.split(b"\n\n"):
                if stanza.strip():
                    first = stanza.lstrip().split(b"\n", 1)[0]
                    demand(first.startswith(b"Package: "), f"a stanza begins with {first!r}")
                    yield first.removeprefix(b"Package: "), stanza
    return keep(f"packages-{count or 'all'}", stanzas(), count, count or 10_000)


def lines_of_text(count):
    """`count` lines of the text files on this machine, each under the name of its file."""
    return keep(f"lines-{count}", repeated(real_lines), count, count)


def real_lines():
    for top in TEXT:
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                path = pathlib.Path(folder, name)
                try:
                    if path.is_symlink() or FILE_BYTES_MAX < path.stat().st_size:
                        continue
                    text = path.read_bytes()
                except OSError:
                    continue
                if not any(mark in text for mark in (KEY_END, RECORD_END, b"\0")):
                    # kcat sends an empty value as null, so there are none.
                    yield from ((bytes(path), line) for line in text.split(b"\n") if line)


def repeated(source):
    """A small machine has less text than is wanted: the same again, told apart."""
    yield from source()
    for turn in range(1, 1000):
        mark = b" (%d)" % turn
        yield from ((key, value + mark) for key, value in source())


def keep(name, records, count, at_least):
    path = KEPT / "corpus" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        written = 0
        with open(draft, "wb", buffering=1 << 20) as file:
            for key, value in records:
                file.write(key + KEY_END + value + RECORD_END)
                written += 1
                if written == count:
                    break
        demand(at_least <= written, f"{written} records are fewer than the {at_least} wanted")
        draft.rename(path)
    return path


def records_of(stream):
    """The records of a file or a pipe in that form."""
    left = b""
    while chunk := stream.read(1 << 20):
        *whole, left = (left + chunk).split(RECORD_END)
        for record in whole:
            key, _, value = record.partition(KEY_END)
            yield key, value
    demand(not left, f"the last record is not whole: {left[-100:]!r}")


class Fingerprint:
    """What must be the same on both sides: for each key its values, in their order."""

    def __init__(self):
        self.count = 0
        self.bytes = 0
        self.by_key = collections.defaultdict(lambda: [0, hashlib.blake2b(digest_size=16)])

    @classmethod
    def of(cls, records):
        found = cls()
        for key, value in records:
            found.add(key, value)
        return found

    def add(self, key, value):
        entry = self.by_key[key]
        entry[0] += 1
        # The length keeps two values apart whose bytes would run together.
        entry[1].update(b"%d:" % len(value))
        entry[1].update(value)
        self.count += 1
        self.bytes += len(key) + len(value)

    def demand_same(self, other, where):
        demand(self.count == other.count, f"{where}: {self.count} sent, {other.count} came back")
        demand(self.by_key.keys() == other.by_key.keys(), f"{where}: other keys came back")
        for key, (count, digest) in self.by_key.items():
            there, other_digest = other.by_key[key]
            same = count == there and digest.digest() == other_digest.digest()
            demand(same, f"{where}: the {count} records under {key!r} came back changed")


def of_file(path):
    with open(path, "rb") as file:
        return Fingerprint.of(records_of(file))
