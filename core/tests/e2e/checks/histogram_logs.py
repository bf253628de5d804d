"""HdrHistogram's own readers, in Java and in Python, find in our logs what our report tells.

The log is one that really was measured: messages between two shards of this machine.
"""

import json
import os
import pathlib

from running import demand, output

JAR = pathlib.Path("/usr/share/java/hdrhistogram.jar")
PROCESSOR = "org.HdrHistogram.HistogramLogProcessor"
QUANTILES = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "p99.99": 99.99, "max": 100}


def check(run):
    binary = os.environ["TIDEMILL_BIN"]
    result = run.dir / "mesh"
    seconds = "2" if run.quick else "10"
    output([binary, "perf", "mesh", "--seconds", seconds, "--out", str(result),
            "--keep", str(run.dir / "limits.toml")])
    told = json.loads(output([binary, "perf", "report", str(result), "--output", "json"]))
    log = result / "latency.hlog"
    in_python(run, log, told["tags"])
    in_java(run, log, told["tags"])


def in_python(run, log, tags):
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    found = {}
    reader = HistogramLogReader(str(log), HdrHistogram(1, 60_000_000_000, 2))
    while (interval := reader.get_next_interval_histogram()) is not None:
        sum_of_tag = found.setdefault(interval.get_tag(), HdrHistogram(1, 60_000_000_000, 2))
        sum_of_tag.add(interval)
    demand(found.keys() == tags.keys(), f"Python found {found.keys()}, we told {tags.keys()}")
    compared = 0
    for tag, ours in tags.items():
        theirs = found[tag]
        count = theirs.get_total_count()
        demand(count == ours["count"], f"{tag}: Python counts {count}, we {ours['count']}")
        for name in QUANTILES.keys() & ours.keys():
            # Python rounds a rank to the nearest, everybody else upwards: one rank to each side.
            near = [QUANTILES[name] + step * 100 / count for step in (-1, 0, 1)]
            values = [theirs.get_value_at_percentile(max(0, min(100, at))) for at in near]
            demand(values[0] <= ours[name] <= values[2],
                   f"{tag} {name}: Python reads {values[1]}, we told {ours[name]}")
            compared += 1
    run.say(f"Python reads the same {compared} percentiles in {len(tags)} tags")


def in_java(run, log, tags):
    compared = 0
    for tag in tags:
        # It reads nanoseconds and writes microseconds, as our .hgrm files do.
        told = output(["java", "-Xmx256m", "-cp", str(JAR), PROCESSOR, "-i", str(log), "-tag", tag,
                       "-outputValueUnitRatio", "1000"]).decode()
        ours, theirs = lines((log.parent / f"{tag}.hgrm").read_text()), lines(told)
        demand(ours and len(ours) == len(theirs), f"{tag}: {len(theirs)} lines, ours {len(ours)}")
        for (value, quantile, count), (told, at, below) in zip(ours, theirs):
            # Java writes two decimals of values, and rounds the half of a last digit up.
            same = abs(value - told) < 0.0051 and abs(quantile - at) < 1.1e-12 and count == below
            demand(same, f"{tag}: Java writes {told} {at} {below}, we {value} {quantile} {count}")
        compared += len(ours)
    run.say(f"Java writes the same {compared} lines of {len(tags)} distributions")


def lines(text):
    """The lines of a distribution as numbers: value, quantile, count."""
    rows = [line.split() for line in text.splitlines()]
    return [tuple(map(float, row[:3])) for row in rows if len(row) >= 3 and is_number(row[0])]


def is_number(text):
    return text.replace(".", "", 1).isdigit()
