"""Prometheus takes what we tell it: the scrapes, every expression of the dashboard, every alert.

A real server scrapes a broker under a small load and is asked each expression, as Grafana would;
promtool reads the pages as they come and fires each alert on made-up series.
"""

import json
import math
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from running import demand, free_port, output

# What makes each alert fire, and the minute at which it has: series and values in promtool's words.
FIRES = {
    "TidemillDown": ({"up": "0x10"}, 2),
    "TidemillNotReady": ({"tidemill_ready": "0x10"}, 2),
    "TidemillDiskFailed": ({'tidemill_shard_fenced{shard="1"}': "1x10"}, 1),
    "TidemillShardSilent": ({'tidemill_shard_up{shard="1"}': "0x10"}, 2),
    "TidemillShardBusy": ({'tidemill_shard_busy_seconds_total{shard="1"}': "0+57x40"}, 30),
    "TidemillStalls": ({'tidemill_shard_stalls_total{shard="1"}': "0+5x40"}, 30),
    "TidemillProduceSlow": (
        {
            'tidemill_request_seconds_bucket{kind="produce",le="0.25"}': "0+90x40",
            'tidemill_request_seconds_bucket{kind="produce",le="0.5"}': "0+100x40",
            'tidemill_request_seconds_bucket{kind="produce",le="+Inf"}': "0+100x40",
        },
        30,
    ),
    "TidemillNetworkMemoryFull": (
        {
            'tidemill_shard_network_memory_bytes{shard="1"}': "95x40",
            'tidemill_shard_network_memory_limit_bytes{shard="1"}': "100x40",
        },
        30,
    ),
    "TidemillCompactionFails": (
        {'tidemill_compaction_failures_total{shard="1"}': "0+1x100"},
        100,
    ),
    "TidemillUncompactable": (
        {'tidemill_compaction_uncompactable_partitions{shard="1"}': "0 1 1"},
        1,
    ),
    "TidemillTransactionsRefused": (
        {'tidemill_transactions_refused_total{shard="1"}': "0 0 1 1"},
        2,
    ),
    "TidemillRestarted": ({"process_start_time_seconds": "1 1 2 2 3 3 3"}, 6),
}

# Series of a broker that is well: none of the alerts fires on it.
WELL = {
    "up": "1x40",
    "tidemill_ready": "1x40",
    'tidemill_shard_fenced{shard="0"}': "0x40",
    'tidemill_shard_up{shard="0"}': "1x40",
    'tidemill_shard_busy_seconds_total{shard="0"}': "0+30x40",
    'tidemill_shard_stalls_total{shard="0"}': "0 1 1 1 1 1 1 1x33",
    'tidemill_request_seconds_bucket{kind="produce",le="0.25"}': "0+100x40",
    'tidemill_request_seconds_bucket{kind="produce",le="+Inf"}': "0+100x40",
    'tidemill_shard_network_memory_bytes{shard="0"}': "10x40",
    'tidemill_shard_network_memory_limit_bytes{shard="0"}': "100x40",
    'tidemill_compaction_failures_total{shard="0"}': "0 0 1 1x37",
    'tidemill_compaction_uncompactable_partitions{shard="0"}': "0x40",
    'tidemill_transactions_refused_total{shard="0"}': "7x40",
    "process_start_time_seconds": "5x40",
}


def check(run):
    binary = os.environ["TIDEMILL_BIN"]
    admin = f"127.0.0.1:{free_port()}"
    broker = run.broker(shards=2, settings={"tidemill.admin.listener": admin})
    rules = run.dir / "alerts.yml"
    rules.write_bytes(output([binary, "perf", "alerts"]))
    alerts_fire(run, rules)
    ended = threading.Event()
    load = threading.Thread(target=keep_busy, args=(binary, broker, ended))
    load.start()
    try:
        server = Server(run, admin, rules)
        pages_are_clean(run, admin)
        board = json.loads(output([binary, "perf", "dashboard"]))
        expressions_find_something(run, server, board)
        rules_are_well(run, server)
    finally:
        ended.set()
        load.join()


def keep_busy(binary, broker, ended):
    """Produces and reads, one process after the other, until told to end."""
    text = "".join(f"key {i}:{'x' * 500}\n" for i in range(200)).encode()
    to = ["-b", broker.address, "-t", "scraped"]
    while not ended.is_set():
        subprocess.run([binary, "produce", *to, "-K", ":"], input=text, capture_output=True)
        subprocess.run([binary, "consume", *to, "-e"], capture_output=True)


def pages_are_clean(run, admin):
    """promtool's own rules of what a page of metrics looks like."""
    for path in ("/metrics", "/metrics?full"):
        page = get(f"http://{admin}{path}")
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True)
        words = (done.stdout + done.stderr).decode()
        demand(done.returncode == 0 and not words.strip(), f"{path}: promtool says {words[:800]}")
    run.say("promtool finds nothing to say of /metrics and /metrics?full")


def expressions_find_something(run, server, board):
    """Every line of every panel is drawn: its expression is understood and has values."""
    asked = []
    for panel in board["panels"]:
        for target in panel["targets"]:
            asked.append((panel["title"], target["expr"]))
    deadline = time.monotonic() + 90
    while asked:
        left = []
        for title, expression in asked:
            query = expression.replace("$instance", ".*").replace("$__rate_interval", "10s")
            values = [float(series["value"][1]) for series in server.ask(query)]
            if not any(map(math.isfinite, values)):
                left.append((title, expression))
        demand(not left or time.monotonic() < deadline, f"nothing is found by {left[:3]}")
        # A rate needs a second scrape, and a quantile a request between two.
        if left:
            time.sleep(1)
        asked = left
    names = server.get("/api/v1/label/instance/values?match[]=tidemill_build_info")
    demand(len(names) == 1, f"the dashboard's list of brokers is {names}")
    run.say(f"every line of the {len(board['panels'])} panels has values in a real Prometheus")


def rules_are_well(run, server):
    groups = server.get("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    demand(len(rules) == len(FIRES), f"{len(rules)} rules, {len(FIRES)} are known here")
    for rule in rules:
        demand(rule["health"] in ("ok", "unknown"), f"{rule['name']}: {rule.get('lastError')}")
        demand(rule["state"] == "inactive", f"{rule['name']} fires on a broker that is well")
    run.say(f"{len(rules)} alerts are evaluated, none fires on a broker that is well")


def alerts_fire(run, rules):
    """Each alert fires on what it is for, all of them with their texts filled in; none else."""
    output(["promtool", "check", "rules", str(rules)])
    names = re.findall(r"- alert: (\w+)", rules.read_text())
    demand(sorted(names) == sorted(FIRES), f"alerts without a series here: {set(names) ^ set(FIRES)}")
    cases = [case(rules, WELL, 40, names)]
    for name, (series, minute) in FIRES.items():
        cases.append(case(rules, series, minute, [name]))
    for number, text in enumerate(cases):
        path = run.dir / f"alerts-{number}.json"
        path.write_text(json.dumps(text))
        done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True)
        words = (done.stdout + done.stderr).decode()
        # Without the expected texts promtool prints those it found: firing is all that is asked.
        fired = {name for name in names if f'alertname="{name}"' in words}
        wanted = set() if number == 0 else {list(FIRES)[number - 1]}
        demand(fired == wanted, f"of {wanted} fired {fired}: {words[:1500]}")
        demand("{{" not in words.partition("got:")[2], f"a text is not filled in: {words[:1500]}")
    run.say(f"{len(FIRES)} alerts fire on what they are for")


def case(rules, series, minute, alerts):
    """A file of promtool's unit tests, which says nothing fires."""
    inputs = []
    for name, values in series.items():
        name, _, rest = name.partition("{")
        own = ['job="tidemill"', 'instance="a:9644"', *filter(None, [rest.rstrip("}")])]
        inputs.append({"series": f"{name}{{{','.join(own)}}}", "values": values})
    asked = [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []} for name in alerts]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": asked}
    return {"rule_files": [str(rules.resolve())], "evaluation_interval": "1m", "tests": [test]}


class Server:
    """Debian's Prometheus, on loopback, scraping once a second."""

    def __init__(self, run, admin, rules):
        self.address = f"127.0.0.1:{free_port()}"
        config = run.dir / "prometheus.json"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules.resolve())],
            "scrape_configs": [
                {"job_name": "tidemill", "static_configs": [{"targets": [admin]}]},
            ],
        }))
        self.log = open(run.dir / "prometheus.log", "wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--web.listen-address={self.address}",
             f"--storage.tsdb.path={run.dir / 'prometheus'}"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        run.at_end.append(self.stop)
        deadline = time.monotonic() + 60
        while not self.is_ready():
            demand(self.process.poll() is None, "Prometheus ended; see prometheus.log")
            demand(time.monotonic() < deadline, "Prometheus is not ready after a minute")
            time.sleep(0.2)

    def is_ready(self):
        try:
            get(f"http://{self.address}/-/ready")
            return True
        except OSError:
            return False

    def get(self, path):
        answer = json.loads(get(f"http://{self.address}{path}"))
        demand(answer["status"] == "success", f"{path}: {answer}")
        return answer["data"]

    def ask(self, query):
        """The series that an expression has now."""
        result = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        demand(result["resultType"] == "vector", f"{query} is no vector")
        return result["result"]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def get(address):
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read()
