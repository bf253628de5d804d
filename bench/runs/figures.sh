#!/bin/sh
# All figures of one run, each beside its floor, printed as text (or with JSON=1 as JSON lines).
#
#   bench/runs/figures.sh [DIRECTORY]
#
# Builds the program, starts a broker on a data directory below DIRECTORY (default: target), puts
# load on it, stops it and removes the data. Nothing else should run on the machine meanwhile. What
# is printed belongs into bench/runs/YYYY-MM-DD-<machine>.md with the machine and the commit.
set -eu

place=${1:-target}
seconds=${SECONDS_EACH:-10}
port=${PORT:-29192}
target=${CARGO_TARGET_DIR:-target}
cargo build --release --quiet -p tidemill
bench="$target/release/tidemill bench"
[ -z "${JSON:-}" ] || bench="$bench --output json"

data=$(mktemp -d "$place/figures.XXXXXX")
broker=""
stop() {
    [ -z "$broker" ] || kill "$broker" 2>/dev/null || true
    [ -z "$broker" ] || wait "$broker" || true
    broker=""
}
trap 'stop; rm -rf "$data"' EXIT INT TERM

# start SETTINGS... : a broker on an empty data directory, serving.
start() {
    stop
    rm -rf "$data/broker"
    mkfifo "$data/ready"
    "$target/release/tidemill" start --data-dir "$data/broker" --listen "127.0.0.1:$port" "$@" \
        >"$data/ready" 2>"$data/log" &
    broker=$!
    # Kept open: the broker may print more when it stops.
    exec 3<"$data/ready"
    read -r line <&3
    rm "$data/ready"
    echo "# $line $*"
}
produce() {
    $bench produce --broker "127.0.0.1:$port" --pid "$broker" --seconds "$seconds" --rate max "$@"
}
consume() {
    $bench consume --broker "127.0.0.1:$port" --pid "$broker" --seconds 600 "$@"
}

small="--batch-bytes 250 --value-bytes 100 --in-flight 1"

echo "# the floor"
$bench floor write --dir "$data" --seconds "$seconds"
$bench floor write --dir "$data" --seconds "$seconds" --write-bytes 4096 --depth 1
$bench floor receive --rate max --connections 4 --seconds "$seconds"
$bench floor receive --name "floor echo" --rate max --connections 64 $small --seconds "$seconds"
$bench floor send --seconds "$seconds"

start
produce --name "produce 64 KiB" --no-read-back --topic large --partitions 4 --connections 4
consume --name "fetch 64 KiB, all of it" --topic large
produce --name "produce 64 KiB, one follower each" --topic tail --partitions 4 --connections 4 \
    --fan-out 1 --reader-connections 4
start
produce --name "produce small, 64 connections" --topic small --partitions 8 --connections 64 $small
start
produce --name "produce small, 1000 partitions" --topic many --partitions 1000 --connections 1000 \
    $small
start
produce --name "produce small, 1 partition, 1000 connections" --topic one --partitions 1 \
    --connections 1000 $small

start
produce --name "owner-aware endpoints" --topic routes --partitions 8 --connections 64 $small
start --set tidemill.routing=node
produce --name "node routing" --topic routes --partitions 8 --connections 64 $small

# The four workloads that other brokers were measured with (their figures stand in the dated files here).
start
produce --name "1 KB, 1,000 a request, 8 producers" --no-read-back --topic peer-large --partitions 8 \
    --connections 8 --value-bytes 1000 --batch-bytes 1000000
produce --name "100 B, 100 a request, 8 producers" --no-read-back --topic peer-medium --partitions 8 \
    --connections 8 --value-bytes 100 --batch-bytes 10800
produce --name "100 B, one a request, 8 producers" --topic peer-small --partitions 8 \
    --connections 8 $small
produce --name "100 B, one a request, one producer" --topic peer-one --partitions 1 \
    --connections 1 $small
