"""The load generator when the broker goes away: the run ends, says why, and blames nobody falsely.

A broker that is killed and comes back is used again, and what fell due meanwhile counts from when
it was due. One that stays away ends the run soon, with what was measured until then.
"""

import json
import os
import signal
import subprocess
import time

from running import demand

# Whatever is awaited comes within this, also on a machine that has other things to do.
PATIENCE = 60


def check(run):
    comes_back(run)
    stays_away(run)
    is_not_there(run)


def load(broker, topic, words):
    command = [os.environ["TIDEMILL_BIN"], "bench", *map(str, words), "--broker", broker.address,
               "--topic", topic, "--partitions", "4", "--connections", "3", "--linger", "1",
               "--warm-up", "0.2", "--output", "json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(generator, seconds):
    output, said = generator.communicate(timeout=seconds)
    lines = [json.loads(line) for line in output.decode().splitlines()]
    return generator.returncode, lines[-1] if lines else None, said.decode(errors="replace")


def await_records(broker, topic, count):
    """Waits until so many records of a load are stored."""
    command = [os.environ["TIDEMILL_BIN"], "topic", "describe", topic, "--output", "json",
               "-b", broker.address]
    deadline = time.monotonic() + PATIENCE
    stored = 0
    while stored < count:
        demand(time.monotonic() < deadline, f"{topic}: {stored} records within {PATIENCE} s")
        told = subprocess.run(command, capture_output=True, timeout=PATIENCE)
        if told.returncode == 0:
            stored = sum(row["end_offset"] for row in json.loads(told.stdout)["partitions"])


def comes_back(run):
    broker = run.broker("back", shards=2)
    for command in ["produce", "e2e"]:
        away = 1.0
        generator = load(broker, command, [command, "--rate", "3000", "--seconds", "12"])
        await_records(broker, command, 3000)
        # Something is under way when it is killed.
        os.kill(broker.pid, signal.SIGSTOP)
        time.sleep(0.1)
        broker.kill()
        time.sleep(away)
        broker.start()
        code, told, said = end(generator, 60)
        demand(code == 1, f"{command}: requests without an answer are no clean run, not {code}: {said}")
        demand(told["lost"] == 0, f"{command}: nothing acknowledged was lost: {told['complaints']}")
        remarks = " ".join(told["remarks"])
        demand("connected again" in remarks, f"{command}: {remarks}")
        # What was due is counted, the slowest after as long as nobody answered; what got no answer
        # with the time it waited, not left out.
        due = 3000 * 12
        counted, refused, doubt = told["ack_ns"]["count"], told["refused"], told["unanswered"]
        demand(due - 3 <= counted + refused <= due + 3 + refused, f"{command}: {counted} of {due} counted")
        demand(0 < doubt < due * 0.5, f"{command}: {doubt} records were in flight")
        waited = told["ack_ns"]["max"] / 1e9
        demand(away <= waited < away + PATIENCE, f"{command}: the slowest waited {waited:.1f} s")
        run.say(f"{command}, broker away {away} s: {counted} of {due} counted, "
                f"{doubt} in doubt, slowest {waited:.2f} s")
    broker.stop()


def stays_away(run):
    broker = run.broker("away", shards=2)
    generator = load(broker, "away", ["e2e", "--rate", "3000", "--seconds", "120",
                                      "--reconnect", "3", "--result", run.dir / "result"])
    await_records(broker, "away", 6000)
    broker.kill()
    begun = time.monotonic()
    code, told, said = end(generator, PATIENCE)
    took = time.monotonic() - begun
    demand(code == 1 and told, f"a lost broker makes the run end with 1, not {code}: {said}")
    demand(took < 3 + PATIENCE / 2, f"it ended after {took:.1f} s, not 3: it was to go on for two minutes")
    demand("not back within 3 s" in told["complaints"][0], f"it says why: {told['complaints']}")
    demand(told["ack_ns"]["count"] > 3000, "what was measured before is told")
    demand((run.dir / "result" / "report.html").stat().st_size > 0, "the result is kept")
    run.say(f"given up {took:.1f} s after the kill: {said.strip().splitlines()[0]}")


def is_not_there(run):
    command = [os.environ["TIDEMILL_BIN"], "bench", "produce", "--broker", "127.0.0.1:1"]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, timeout=90)
    took = time.monotonic() - begun
    demand(done.returncode == 1, f"no broker is a failure, not {done.returncode}")
    demand(took < PATIENCE / 2, f"no broker: told after {took:.1f} s")
    run.say("no broker: " + " ".join(done.stderr.decode().split()))
