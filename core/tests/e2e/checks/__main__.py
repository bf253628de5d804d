"""Runs the checks that were asked for, one after the other, and counts how they ended.

A check is a module with `check(run)`: it returns when all it promises holds, and raises when
something does not. What it measures it tells with `run.say`.
"""

import argparse
import importlib
import sys
import time
import traceback

from running import Run

# In the order in which they run: what fails first says most about the rest.
CHECKS = {
    "real-text": "real_text",
    "kafka-tools": "kafka_tools",
    "compaction": "compaction",
    "compaction-load": "compaction_load",
    "kafka-groups": "kafka_groups",
    "group-kinds": "group_kinds",
    "share": "share",
    "java-transactions": "java_transactions",
    "streams": "streams",
    "flink": "flink",
    "spark": "spark",
    "client-kafka": "client_kafka",
    "librdkafka-suite": "librdkafka_suite",
    "bad-input": "bad_input",
    "kill-9": "kill_9",
    "anomalies": "anomalies",
    "full-disk": "full_disk",
    "many-partitions": "many_partitions",
    "golden": "golden",
    "histogram-logs": "histogram_logs",
    "prometheus": "prometheus",
    "load": "load",
    "groups": "groups",
    "load-faults": "load_faults",
    "honest-load": "honest_load",
    "big-restart": "big_restart",
    "start": "start",
    "oldest-kernel": "oldest_kernel",
}


def arguments():
    parser = argparse.ArgumentParser(prog="core/tests/e2e/run")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the checks to run; all if none")
    parser.add_argument("--quick", action="store_true", help="small inputs: what CI runs")
    parser.add_argument("--list", action="store_true", help="name the checks and end")
    parser.add_argument("--cycles", type=int, help="how often kill-9 kills, in all")
    parser.add_argument("--seed", type=int, help="repeat the random choices of an earlier run")
    parser.add_argument("--write", action="store_true", help="golden: keep what was recorded")
    parsed = parser.parse_args()
    for name in parsed.names:
        if name not in CHECKS:
            parser.error(f"no check is named {name}; there are {', '.join(CHECKS)}")
    return parsed


def main():
    asked = arguments()
    if asked.list:
        print("\n".join(CHECKS))
        return 0
    passed = failed = 0
    for name in asked.names or CHECKS:
        run = Run(name, asked)
        started = time.monotonic()
        try:
            importlib.import_module(CHECKS[name]).check(run)
            run.demand_no_panic()
        except KeyboardInterrupt:
            # No broker outlives the run, and no file system stays mounted.
            run.end(failed=True)
            raise
        except Exception as error:
            failed += 1
            run.end(failed=True)
            traceback.print_exc()
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"FAILED {name}: {reason}", flush=True)
        else:
            passed += 1
            run.end(failed=False)
            print(f"ok {name} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
