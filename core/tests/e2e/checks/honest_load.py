"""The proof that the load generator tells the truth: a broker that is stopped for 200 ms shows.

The broker is stopped (SIGSTOP) in the middle of a run at a rate far below what it takes. Records
that fall due meanwhile wait for its end: evenly from none to all of it. So the slowest thousandth
of all records waited for the stop less a thousandth of the window, and not much longer. A generator
that sends late, or counts from when it could send, would not show it: its p99.9 would be that of
a run without a stop.

Whatever else the machine does can only add: the best of three runs counts.
"""

import json
import os
import signal
import subprocess
import time

from load import clean
from running import demand

STOP_SECONDS = 0.2
ABOVE_MS = 20
SHARE_MAX = 0.2
TRIES = 3

# Histograms are within one percent.
PRECISION = 0.01


def check(run):
    broker = run.broker(shards=2)
    window = 4 if run.quick else 10
    load = ["--broker", broker.address, "--topic", "honest", "--partitions", "2",
            "--connections", "2", "--value-bytes", "100", "--no-read-back"]
    most = clean(["produce", *load, "--rate", "max", "--seconds", "2"])
    most = most["produced_records"] / most["seconds"]
    # Requests of one record each are the hardest: the rate is a small share by any measure.
    rate = int(min(4000, most * SHARE_MAX / 10))
    run.say(f"{rate} records/s, {rate / most:.2%} of the maximum")
    for command in ["produce", "e2e"]:
        tries = []
        for _ in range(TRIES):
            tries.append(stopped(broker, command, load, rate, window))
            if tries[-1][3]:
                break
        told = "; ".join(f"p99.9 {found:.1f} ms of {low:.1f} to {high:.1f}, {sent:.1f} from sending"
                         for found, low, high, _, sent in tries)
        run.say(f"{command}, stopped for {STOP_SECONDS * 1000:.0f} ms: {told}")
        demand(tries[-1][3], f"{command}: {told}")
    broker.stop()


def stopped(broker, command, load, rate, window):
    """One run: p99.9 in ms, the bounds that arithmetic gives it, whether it lies there, and what it
    would be if it counted from when requests were sent."""
    words = [os.environ["TIDEMILL_BIN"], "bench", command, *load, "--rate", str(rate),
             "--seconds", str(window), "--warm-up", "1", "--output", "json"]
    generator = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        # Where in the window the stop lies does not matter.
        time.sleep(1 + window / 2)
        before = time.monotonic()
        os.kill(broker.pid, signal.SIGSTOP)
        begun = time.monotonic()
        time.sleep(STOP_SECONDS)
        ended = time.monotonic()
        os.kill(broker.pid, signal.SIGCONT)
        after = time.monotonic()
        output, said = generator.communicate(timeout=60)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
        generator.kill()
    demand(generator.returncode == 0, f"the run ended with {generator.returncode}: {said.decode()}")
    figures = json.loads(output)
    told = figures["e2e_ns" if command == "e2e" else "ack_ns"]
    demand(abs(told["count"] - rate * window) <= 3, f"{told['count']} of {rate * window} counted")
    found = told["p99.9"] / 1e6
    low = ((ended - begun) - window / 1000) * 1000 * (1 - PRECISION)
    high = ((after - before) * 1000 + ABOVE_MS) * (1 + PRECISION)
    return found, low, high, low <= found <= high, figures["service_ns"]["p99.9"] / 1e6
