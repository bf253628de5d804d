"""Transactions of the Java client, the newest and one that knows only the older flow.

A producer writes numbered transactions, two members of a group move what is committed to a second
topic with the group's offsets in the same transactions, all of them abort some by choice. Meanwhile
the broker is killed -9 again and again, then the producer, and one member is replaced by another of
the same transactional id. What read_committed shows at the end is exact: each committed transaction
whole and in order, nothing of any other, each record moved once. Kafka's own tool then looks after
transactions that are open.
"""

import collections
import re
import time
import urllib.request

from clients import make_topic
from java_programs import Java
from kafka_tools import refusal, tool
from running import demand, free_port

TRANSACTIONS = "org.apache.kafka.tools.TransactionsCommand"
OLDER = "3.9.1"
PARTITIONS = 3
RECORDS = 7
QUICK_KILLS, FULL_KILLS = 4, 20
PATIENCE = 180


def check(run):
    settings = {"tidemill.admin.listener": f"127.0.0.1:{free_port()}",
                "group.initial.rebalance.delay.ms": "0"}
    for of, protocol in [("transactions", "consumer"), (f"transactions-{OLDER}", "classic")]:
        broker = run.broker(of, shards=2, settings=settings)
        flow(run, broker, of)
        fencing(run, broker, of)
        if of == "transactions":
            too_late(run, broker, of)
        torment(run, broker, of, protocol)
        if of == "transactions":
            tools(run, broker, of)
        broker.stop()


def flow(run, broker, of):
    """The newest client uses the newer flow without being told: it never names partitions before it
    writes, and each end of a transaction raises its epoch."""
    make_topic(broker.address, "flow", PARTITIONS)
    count = 5
    writer = Java(run, of, "Writer", broker.address, "flow", "flow", 0, count, PARTITIONS, RECORDS,
                  run.seed)
    writer.end()
    ends = len(writer.said("committed")) + len(writer.said("aborted"))
    named = requests(broker, "AddPartitionsToTxn")
    told = tool(TRANSACTIONS, "--bootstrap-server", broker.address, "describe",
                "--transactional-id", "flow")
    row = dict(zip(*[line.split("\t") for line in told.strip().splitlines()]))
    row = {name.strip(): value.strip() for name, value in row.items()}
    epoch, state = int(row["ProducerEpoch"]), row["TransactionState"]
    demand(state.startswith("Complete"), f"describe told {told}")
    if of == "transactions":
        demand(named == 0, f"the newest client sent AddPartitionsToTxn {named} times")
        demand(epoch == ends, f"after {ends} transactions its epoch is {epoch}")
    else:
        demand(ends <= named, f"{ends} transactions with {named} AddPartitionsToTxn")
        demand(epoch == 0, f"after {ends} transactions of the older flow its epoch is {epoch}")
    run.say(f"{of}: {ends} transactions, {named} AddPartitionsToTxn, epoch {epoch} after them")


def requests(broker, api):
    page = f"http://{broker.settings['tidemill.admin.listener']}/metrics"
    with urllib.request.urlopen(page, timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(rf'^tidemill_api_requests_total{{api="{api}"}} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


def fencing(run, broker, of):
    make_topic(broker.address, "fenced")
    program = Java(run, of, "Fenced", broker.address, "fenced")
    program.end()
    demand(program.said("fenced") and program.said("refused"),
           f"a producer that was replaced goes on: {program.lines}")
    [fenced] = program.said("fenced")
    values = [value for _, _, value in committed(run, broker, of, "fenced")]
    demand(values == ["second, committed"], f"read_committed shows {values}")
    run.say(f"{of}: a producer that was replaced meets {fenced.split(':')[0]}, then "
            "ProducerFencedException")


def too_late(run, broker, of):
    """Who stays in a transaction for too long has lost it, and nothing else."""
    make_topic(broker.address, "late")
    program = Java(run, of, "Late", broker.address, "late")
    program.end()
    [late] = program.said("late")
    values = [value for _, _, value in committed(run, broker, of, "late")]
    demand(values == ["in time"], f"read_committed shows {values}")
    run.say(f"{of}: a producer whose time was over meets {late.split(':')[0]}, aborts and goes on")


def torment(run, broker, of, protocol):
    kills = QUICK_KILLS if run.quick else FULL_KILLS
    per_kill = 30
    make_topic(broker.address, "from", PARTITIONS)
    make_topic(broker.address, "to", PARTITIONS)
    end = kills * per_kill * 2
    write = lambda first, log: Java(
        run, of, "Writer", broker.address, "from", "writer", first, end, PARTITIONS, RECORDS,
        run.random.getrandbits(32), log=f"{of}-{log}")
    move = lambda id, log: Java(
        run, of, "Mover", broker.address, "from", "to", "movers", id, protocol,
        run.random.getrandbits(32), log=f"{of}-{log}")

    writers, movers = [write(0, "writer-1")], [move("a", "mover-a"), move("b", "mover-b")]
    for mover in movers:
        mover.wait_for("ready")
    for kill in range(kills):
        writer = writers[-1]
        writer.wait_for("committed", len(writer.said("committed")) + per_kill, PATIENCE)
        broker.kill()
        broker.start()
        if kill == kills // 2:
            # Its last transaction is open, or its commit is not answered: who follows ends it.
            writer.kill()
            following = 1 + int(writer.said("begun")[-1].split(".")[0])
            writers.append(write(following, "writer-2"))
            # The group's member goes without a word, too, and another takes its id.
            movers[1].kill()
            movers[1] = move("b", "mover-b-2")
    writers[-1].end(PATIENCE)
    source = demand_whole(committed(run, broker, of, "from"), writers)
    moved = wait_until_moved(run, broker, of, len(source))
    for mover in movers:
        mover.tell()
    for mover in movers:
        mover.end()
    twice = [value for value, count in collections.Counter(moved).items() if 1 < count]
    demand(not twice, f"{of}: moved twice: {twice[:5]}")
    lost = set(source) - set(moved)
    demand(not lost, f"{of}: not moved: {sorted(lost)[:5]}")
    demand(len(source) == len(moved), f"{of}: {set(moved) - set(source)} was never committed")
    aborted = sum(len(program.said("aborted")) for program in [*writers, *movers])
    run.say(f"{of}: {kills} kills of the broker, one of the writer, one of a member "
            f"(group.protocol={protocol}): {len(source)} records committed and moved once, "
            f"{aborted} transactions aborted")


def committed(run, broker, of, topic):
    """(partition, offset, value) of all that read_committed shows."""
    reader = Java(run, of, "Reader", broker.address, topic)
    reader.end(PATIENCE)
    rows = [line.split(" ", 2) for line in reader.lines if line != "done"]
    return [(int(partition), int(offset), value) for partition, offset, value in rows]


def demand_whole(rows, writers):
    """Each transaction that was told as committed is there whole, none that was aborted, and the one
    whose writer was killed wholly or not at all; in each partition in the order of writing."""
    told = {name for writer in writers for name in writer.said("committed")}
    unknown = set()
    for writer in writers:
        ended = {*writer.said("committed"), *writer.said("aborted")}
        unknown |= set(writer.said("begun")) - ended
    places = collections.defaultdict(set)
    last = {}
    for partition, offset, value in rows:
        number, attempt, place = map(int, value.split("."))
        demand(place not in places[f"{number}.{attempt}"], f"{value} is there twice")
        places[f"{number}.{attempt}"].add(place)
        before = last.get(partition, (-1,))
        demand(before < (number, attempt, place), f"{partition}: {value} comes after {before}")
        last[partition] = (number, attempt, place)
    for name, found in places.items():
        demand(name in told or name in unknown, f"{name} shows, which was never committed")
        demand(len(found) == RECORDS, f"of the transaction {name} only {sorted(found)} shows")
    missing = told - places.keys()
    demand(not missing, f"committed and lost: {sorted(missing)[:5]}")
    return [value for _, _, value in rows]


def wait_until_moved(run, broker, of, count):
    """The second topic, when it has as many records as the first, or does not grow any more."""
    deadline = time.monotonic() + PATIENCE
    while True:
        moved = [value for _, _, value in committed(run, broker, of, "to")]
        if count <= len(moved) or deadline < time.monotonic():
            return moved


def tools(run, broker, of):
    """Kafka's own tool for transactions: what is open shows, and can be ended from outside."""
    server = ["--bootstrap-server", broker.address]
    make_topic(broker.address, "held")
    holder = Java(run, of, "Holder", broker.address, "held", "holder")
    holder.wait_for("held")
    told = tool(TRANSACTIONS, *server, "list")
    demand(re.search(r"^holder\s.*\sOngoing", told, re.MULTILINE), f"list told {told}")
    listed = [line.split()[0] for line in told.splitlines()[1:] if line.strip()]
    demand(len(listed) == len(set(listed)), f"list names one twice: {told}")
    told = tool(TRANSACTIONS, *server, "describe", "--transactional-id", "holder")
    demand("Ongoing" in told and "held-0" in told, f"describe told {told}")
    told = tool(TRANSACTIONS, *server, "describe-producers", "--topic", "held", "--partition", "0")
    rows = [line.split() for line in told.strip().splitlines()[1:]]
    demand(len(rows) == 1 and rows[0][-1] == "0", f"describe-producers told {told}")
    told = tool(TRANSACTIONS, *server, "find-hanging", "--broker-id", "1",
                "--max-transaction-timeout", "0")
    demand("holder" not in told, f"find-hanging takes what its coordinator knows for hanging: {told}")
    holder.tell()
    holder.wait_for("committed")
    demand(len(committed(run, broker, of, "held")) == 3, "a transaction that was held is not whole")

    make_topic(broker.address, "hanging")
    holder = Java(run, of, "Holder", broker.address, "hanging", "lost")
    holder.wait_for("held")
    holder.kill()
    demand(not committed(run, broker, of, "hanging"), "what is open shows")
    tool(TRANSACTIONS, *server, "abort", "--topic", "hanging", "--partition", "0",
         "--start-offset", "0")
    told = tool(TRANSACTIONS, *server, "describe-producers", "--topic", "hanging", "--partition", "0")
    rows = [line.split() for line in told.strip().splitlines()[1:]]
    demand(rows and rows[0][-1] == "None", f"after its abort describe-producers told {told}")
    demand(not committed(run, broker, of, "hanging"), "what was aborted shows")
    told = refusal(TRANSACTIONS, *server, "describe", "--transactional-id", "nobody")
    demand("the ID could not be found" in told, f"describe of nobody told {told[-500:]}")
    run.say("kafka-transactions: list, describe, describe-producers, find-hanging, abort")
