"""A process of the check `anomalies` whose clients are librdkafka's: a producer and a consumer.

What an error means is decided here, and it decides what the judge may hold against the broker:
`fail` is said only of what certainly did not happen and never will, `info` of everything else.
"""

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

# Errors of a send after which the record certainly is not there.
DEFINITE = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.NOT_CONTROLLER,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError._FENCED,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._QUEUE_FULL,
}
# What a member of a group is told whose partitions are on their way to others: nothing is amiss.
REBALANCING = {
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError._ASSIGNMENT_LOST,
}
WAIT_SECONDS = 10
POLL_SECONDS = 0.1
POLLED_MAX = 200
# Nothing is ever trimmed here.
START = 0


class Aborted(Exception):
    """The transaction was to be aborted here."""


class Unanswered(Exception):
    """Nothing was told in time."""


class Librdkafka:
    """The clients of one process, from their making until they are closed."""

    def __init__(self, address, process, transactional_id, group, protocol):
        common = {
            "bootstrap.servers": address,
            "client.id": f"process-{process}",
            "broker.address.family": "v4",
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 300,
            "error_cb": lambda error: None,
            "log_level": 0,
        }
        produces = {"enable.idempotence": True, "acks": "all", "linger.ms": 0,
                    "retry.backoff.ms": 50}
        if transactional_id:
            # No record outlives its transaction: the timeouts of both are one here.
            produces |= {"transactional.id": transactional_id,
                         "transaction.timeout.ms": 2_000 + process % 3 * 2_000}
        else:
            produces |= {"message.timeout.ms": WAIT_SECONDS * 1000, "socket.timeout.ms": 3_000}
        consumes = {"group.id": group, "enable.auto.commit": False, "socket.timeout.ms": 10_000,
                    "auto.offset.reset": "earliest", "isolation.level": "read_committed",
                    "enable.partition.eof": True, "check.crcs": True, "group.protocol": protocol}
        if protocol == "classic":
            consumes |= {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 300}
        self.transactional = bool(transactional_id)
        self.producer = Producer(common | produces)
        self.consumer = Consumer(common | consumes)
        self.subscribed = False
        # Where reading goes on, by key; only of what is assigned.
        self.positions = {}
        self.ended = set()
        self.rebalanced = set()
        if self.transactional:
            self.producer.init_transactions(WAIT_SECONDS)

    def assign(self, keys, from_start=False):
        kept = {} if from_start else self.positions
        # An offset, not OFFSET_BEGINNING: partitions assigned anew while that is still asked for may
        # jump back to the beginning half a second later. An answer that came too late starts a
        # timer to ask again, which the right answer does not stop (librdkafka 2.12.1).
        self.positions = {key: kept.get(key, START) for key in keys}
        self.subscribed = False
        self.ended = set()
        self.consumer.assign([place(key, offset) for key, offset in self.positions.items()])
        return {"type": "ok"}

    def subscribe(self, keys):
        self.subscribed = True
        moved = lambda _, places: self.rebalanced.update(key_of(place) for place in places)
        topics = sorted({place(key).topic for key in keys})
        self.consumer.subscribe(topics, on_assign=moved, on_revoke=moved, on_lost=moved)
        return {"type": "ok"}

    def run(self, steps, abort_at):
        """Carries out a transaction, or the one step there is outside of any. `abort_at` is the
        step before which it is aborted; none if it lies behind the end."""
        done, read = [], {}
        self.rebalanced = set()
        outcome = self.transaction if self.transactional else self.single
        told = outcome(steps, abort_at, done, read)
        if told["type"] != "ok" and not told.get("over"):
            told["over"] = not self.rewind(read)
        return told | {"steps": done, "rebalanced": sorted(self.rebalanced)}

    def transaction(self, steps, abort_at, done, read):
        tried = False
        try:
            self.producer.begin_transaction()
            for number, step in enumerate([*steps, None]):
                if number == abort_at:
                    raise Aborted
                if step:
                    self.step(step, done, read)
            if self.subscribed and read:
                group = self.consumer.consumer_group_metadata()
                self.producer.send_offsets_to_transaction(next_offsets(read), group, WAIT_SECONDS)
            tried = True
            self.producer.commit_transaction(WAIT_SECONDS)
            return {"type": "ok"}
        except (Aborted, Unanswered, KafkaException, BufferError) as error:
            told = words(error)
        try:
            self.producer.abort_transaction(WAIT_SECONDS)
        except KafkaException as error:
            # Nobody ever asked for a commit, or nobody knows what became of it.
            outcome = "info" if tried else "fail"
            return {"type": outcome, "over": True, "error": f"{told}; abort: {words(error)}"}
        return {"type": "fail", "error": told}

    def single(self, steps, abort_at, done, read):
        step = steps[0]
        try:
            self.step(step, done, read)
            if self.subscribed and read:
                self.consumer.commit(offsets=next_offsets(read), asynchronous=False)
            return {"type": "ok"}
        except BufferError as error:
            return {"type": "fail", "error": words(error)}
        except Unanswered as error:
            return {"type": "info", "over": True, "error": words(error)}
        except KafkaException as error:
            code = error.args[0].code()
            if step[0] == "send":
                definite = code in DEFINITE
                over = not definite or error.args[0].fatal()
                return {"type": "fail" if definite else "info", "over": over,
                        "error": words(error)}
            known = code in REBALANCING
            return {"type": "fail" if known else "info", "over": not known, "error": words(error)}

    def step(self, step, done, read):
        if step[0] == "send":
            _, key, value = step
            done.append({"send": [key, value, None]})
            done[-1]["send"][2] = self.send(key, value)
        else:
            polled = []
            # What was polled before an error was polled all the same.
            done.append({"poll": polled})
            self.poll(polled, read)

    def send(self, key, value):
        answers = []
        told = lambda error, message: answers.append((error, message.offset()))
        where = place(key)
        self.producer.produce(where.topic, value=b"%d" % value, partition=where.partition,
                              on_delivery=told)
        deadline = time.monotonic() + WAIT_SECONDS + 2
        while not answers:
            self.producer.poll(0.05)
            if deadline < time.monotonic():
                raise Unanswered("no report of a delivery")
        error, offset = answers[0]
        if error:
            raise KafkaException(error)
        return offset

    def poll(self, polled, read):
        first = self.consumer.poll(POLL_SECONDS)
        more = self.consumer.consume(POLLED_MAX, 0) if first is not None else []
        broken = None
        for message in [first, *more] if first is not None else []:
            key = key_of(message)
            error = message.error()
            if error is None:
                offset = message.offset()
                polled.append([key, offset, int(message.value())])
                read.setdefault(key, [offset, 0])[1] = offset + 1
                self.positions[key] = offset + 1
                self.ended.discard(key)
            elif error.code() == KafkaError._PARTITION_EOF:
                self.ended.add(key)
            else:
                broken = broken or error
        if broken:
            raise KafkaException(broken)

    def rewind(self, read):
        """Back to where the operation began to read; false if that cannot be."""
        try:
            for key, (first, _) in read.items():
                self.positions[key] = first
            if not self.subscribed:
                self.assign(list(self.positions))
                return True
            held = {key_of(place) for place in self.consumer.assignment()}
            for key in held & set(read):
                self.consumer.seek(place(key, read[key][0]))
            return True
        except KafkaException:
            return False

    def at_end(self, ends):
        """Whether everything below these ends was read."""
        return all(key in self.ended or end <= self.positions.get(key, 0)
                   for key, end in ends.items())

    def close(self):
        # As if the process had died: neither leaves its group or ends its transaction. A clean
        # `Consumer.close` now and then waits for ever, with Python's lock in its hands, for the
        # answer to a question of its own (confluent-kafka 2.12.1, in a callback of a rebalance).
        self.producer = None
        self.consumer = None


def next_offsets(read):
    return [place(key, end) for key, (_, end) in read.items()]


def place(key, offset=0):
    return TopicPartition(f"t{key // 2}", key % 2, offset)


def key_of(place_or_message):
    """The key of a TopicPartition or of a message."""
    topic, number = place_or_message.topic, place_or_message.partition
    if callable(topic):
        topic, number = topic(), number()
    return int(topic[1:]) * 2 + number


def words(error):
    if error.args and isinstance(error.args[0], KafkaError):
        return f"{error.args[0].name()}: {error.args[0].str()}"
    return f"{type(error).__name__} {error}"
