// Processes of the check `anomalies` with Apache Kafka's own clients, all in one Java machine.
//
// A line of JSON on stdin says what a process is to do; a line of JSON on stdout tells what came of
// it. Each process has a thread of its own, and does one thing after the other. What an error means
// is decided here: `fail` is said only of what certainly did not happen and never will.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.BrokerNotAvailableException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.NotControllerException;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class Processes {
    static final ObjectMapper JSON = new ObjectMapper();
    static final Duration POLL = Duration.ofMillis(100);
    static final int WAIT_MS = 10_000;

    // Errors of a send after which the record certainly is not there.
    static final List<Class<? extends Exception>> DEFINITE = List.of(
        AuthorizationException.class, InvalidProducerEpochException.class,
        InvalidTopicException.class, NotControllerException.class,
        OutOfOrderSequenceException.class, ProducerFencedException.class,
        UnknownTopicOrPartitionException.class, BrokerNotAvailableException.class);
    // After these a producer is of no more use.
    static final List<Class<? extends Exception>> FATAL = List.of(
        OutOfOrderSequenceException.class, ProducerFencedException.class,
        AuthorizationException.class);

    public static void main(String[] arguments) throws Exception {
        Map<Integer, LinkedBlockingQueue<JsonNode>> processes = new ConcurrentHashMap<>();
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonNode question = JSON.readTree(line);
            processes.computeIfAbsent(question.get("id").asInt(), id -> {
                var questions = new LinkedBlockingQueue<JsonNode>();
                var thread = new Thread(() -> new Process(id).live(questions));
                thread.setDaemon(true);
                thread.start();
                return questions;
            }).add(question);
        }
    }

    static synchronized void answer(int id, ObjectNode answer) {
        System.out.println(answer.put("id", id));
        System.out.flush();
    }

    static TopicPartition place(int key) {
        return new TopicPartition("t" + key / 2, key % 2);
    }

    static int keyOf(String topic, int partition) {
        return Integer.parseInt(topic.substring(1)) * 2 + partition;
    }

    static boolean isAny(Throwable error, List<Class<? extends Exception>> kinds) {
        return kinds.stream().anyMatch(kind -> kind.isInstance(error));
    }

    // The transaction was to be aborted here.
    static final class Aborted extends RuntimeException {}

    // The clients of one process.
    static final class Process implements ConsumerRebalanceListener {
        final int id;
        KafkaProducer<String, String> producer;
        KafkaConsumer<String, String> consumer;
        boolean transactional;
        boolean subscribed;
        Set<Integer> rebalanced = new TreeSet<>();

        Process(int id) {
            this.id = id;
        }

        void live(LinkedBlockingQueue<JsonNode> questions) {
            while (true) {
                ObjectNode answer;
                JsonNode question = null;
                try {
                    question = questions.take();
                    answer = act(question);
                } catch (Exception error) {
                    String does = question == null ? "" : question.get("do").asText();
                    answer = JSON.createObjectNode().put("type", "info")
                        .put("error", does + ": " + words(error)).put("over", true);
                    // Clients that were never made cannot be used.
                    if (does.equals("open")) {
                        answer.put("unopened", true);
                        close();
                    }
                }
                answer(id, answer);
            }
        }

        ObjectNode act(JsonNode question) throws Exception {
            return switch (question.get("do").asText()) {
                case "open" -> open(question);
                case "assign" -> assign(question);
                case "subscribe" -> subscribe(question);
                case "run" -> run(question);
                case "positions" -> positions();
                default -> {
                    close();
                    yield ok();
                }
            };
        }

        ObjectNode open(JsonNode question) {
            var common = new Properties();
            common.put("bootstrap.servers", question.get("address").asText());
            common.put("client.id", "process-" + id);
            common.put("reconnect.backoff.ms", "20");
            common.put("reconnect.backoff.max.ms", "300");
            common.put("retry.backoff.ms", "50");
            var produces = new Properties();
            produces.putAll(common);
            produces.put("acks", "all");
            produces.put("enable.idempotence", "true");
            produces.put("retries", "1000");
            produces.put("linger.ms", "0");
            produces.put("delivery.timeout.ms", String.valueOf(WAIT_MS));
            produces.put("request.timeout.ms", "3000");
            produces.put("max.block.ms", String.valueOf(WAIT_MS));
            transactional = !question.get("transactional").isNull();
            if (transactional) {
                produces.put("transactional.id", question.get("transactional").asText());
                produces.put("transaction.timeout.ms", id % 2 == 0 ? "1000" : "5000");
            }
            var consumes = new Properties();
            consumes.putAll(common);
            String protocol = question.get("protocol").asText();
            consumes.put("group.id", question.get("group").asText());
            consumes.put("group.protocol", protocol);
            consumes.put("enable.auto.commit", "false");
            consumes.put("auto.offset.reset", "earliest");
            consumes.put("isolation.level", "read_committed");
            consumes.put("request.timeout.ms", String.valueOf(WAIT_MS));
            consumes.put("default.api.timeout.ms", String.valueOf(WAIT_MS));
            consumes.put("allow.auto.create.topics", "false");
            if (protocol.equals("classic")) {
                consumes.put("session.timeout.ms", "6000");
                consumes.put("heartbeat.interval.ms", "300");
            }
            var write = new StringSerializer();
            var read = new StringDeserializer();
            producer = new KafkaProducer<>(produces, write, write);
            consumer = new KafkaConsumer<>(consumes, read, read);
            if (transactional) {
                producer.initTransactions();
            }
            return ok();
        }

        // Partitions that stay are read on; new ones from where the group is, or their start.
        ObjectNode assign(JsonNode question) {
            subscribed = false;
            List<TopicPartition> places = places(question);
            consumer.assign(places);
            if (question.get("from_start").asBoolean()) {
                consumer.seekToBeginning(places);
            }
            return ok();
        }

        ObjectNode subscribe(JsonNode question) {
            subscribed = true;
            var topics = new TreeSet<String>();
            places(question).forEach(place -> topics.add(place.topic()));
            consumer.subscribe(topics, this);
            return ok();
        }

        ObjectNode positions() {
            ObjectNode answer = ok();
            ObjectNode found = answer.putObject("positions");
            for (TopicPartition place : consumer.assignment()) {
                long position = consumer.position(place, POLL.multipliedBy(20));
                found.put(String.valueOf(keyOf(place.topic(), place.partition())), position);
            }
            return answer;
        }

        ObjectNode run(JsonNode question) {
            rebalanced.clear();
            ArrayNode done = JSON.createArrayNode();
            // By partition: the first offset that was polled, and the one behind the last.
            var read = new HashMap<TopicPartition, long[]>();
            JsonNode steps = question.get("steps");
            ObjectNode told = transactional
                ? transaction(steps, question.get("abort_at").asInt(), done, read)
                : single(steps.get(0), done, read);
            if (!told.get("type").asText().equals("ok") && !told.has("over") && !rewind(read)) {
                told.put("over", true);
            }
            told.set("steps", done);
            ArrayNode moved = told.putArray("rebalanced");
            rebalanced.forEach(moved::add);
            return told;
        }

        ObjectNode transaction(
            JsonNode steps, int abortAt, ArrayNode done, Map<TopicPartition, long[]> read) {
            boolean tried = false;
            String why;
            boolean over = false;
            try {
                producer.beginTransaction();
                for (int number = 0; number <= steps.size(); number++) {
                    if (number == abortAt) {
                        throw new Aborted();
                    }
                    if (number < steps.size()) {
                        step(steps.get(number), done, read);
                    }
                }
                if (subscribed && !read.isEmpty()) {
                    producer.sendOffsetsToTransaction(offsets(read), consumer.groupMetadata());
                }
                tried = true;
                producer.commitTransaction();
                return ok();
            } catch (Exception error) {
                why = words(error);
                over = isAny(cause(error), FATAL);
            }
            var told = JSON.createObjectNode();
            try {
                producer.abortTransaction();
            } catch (Exception error) {
                // Nobody ever asked for a commit, or nobody knows what became of it.
                told.put("type", tried ? "info" : "fail").put("over", true);
                return told.put("error", why + "; abort: " + words(error));
            }
            if (over) {
                told.put("over", true);
            }
            return told.put("type", "fail").put("error", why);
        }

        ObjectNode single(JsonNode step, ArrayNode done, Map<TopicPartition, long[]> read) {
            var told = JSON.createObjectNode();
            boolean sends = step.get(0).asText().equals("send");
            try {
                step(step, done, read);
                if (subscribed && !read.isEmpty()) {
                    consumer.commitSync(offsets(read));
                }
                return ok();
            } catch (Exception error) {
                Throwable cause = cause(error);
                boolean known = sends
                    ? isAny(cause, DEFINITE)
                    : cause instanceof CommitFailedException
                        || cause instanceof RebalanceInProgressException;
                if (!known || isAny(cause, FATAL)) {
                    told.put("over", true);
                }
                return told.put("type", known ? "fail" : "info").put("error", words(error));
            }
        }

        void step(JsonNode step, ArrayNode done, Map<TopicPartition, long[]> read)
            throws Exception {
            if (step.get(0).asText().equals("send")) {
                int key = step.get(1).asInt();
                ArrayNode sent = done.addObject().putArray("send");
                sent.add(key).add(step.get(2).asLong()).addNull();
                TopicPartition place = place(key);
                var record = new ProducerRecord<String, String>(
                    place.topic(), place.partition(), null, step.get(2).asText());
                long offset = producer.send(record).get(WAIT_MS, TimeUnit.MILLISECONDS).offset();
                sent.remove(2);
                sent.add(offset);
                return;
            }
            ArrayNode polled = done.addObject().putArray("poll");
            for (ConsumerRecord<String, String> record : consumer.poll(POLL)) {
                var place = new TopicPartition(record.topic(), record.partition());
                read.computeIfAbsent(place, p -> new long[] {record.offset(), 0})[1] =
                    record.offset() + 1;
                polled.addArray().add(keyOf(record.topic(), record.partition()))
                    .add(record.offset()).add(Long.parseLong(record.value()));
            }
        }

        // Back to where the operation began to read; false if that cannot be.
        boolean rewind(Map<TopicPartition, long[]> read) {
            try {
                Set<TopicPartition> held = consumer.assignment();
                read.forEach((place, range) -> {
                    if (held.contains(place)) {
                        consumer.seek(place, range[0]);
                    }
                });
                return true;
            } catch (Exception error) {
                return false;
            }
        }

        void close() {
            if (producer != null) {
                producer.close(Duration.ZERO);
            }
            if (consumer != null) {
                consumer.close(CloseOptions.timeout(Duration.ofSeconds(2)));
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> places) {
            places.forEach(place -> rebalanced.add(keyOf(place.topic(), place.partition())));
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> places) {
            onPartitionsAssigned(places);
        }
    }

    static Map<TopicPartition, OffsetAndMetadata> offsets(Map<TopicPartition, long[]> read) {
        var offsets = new HashMap<TopicPartition, OffsetAndMetadata>();
        read.forEach((place, range) -> offsets.put(place, new OffsetAndMetadata(range[1])));
        return offsets;
    }

    static List<TopicPartition> places(JsonNode question) {
        var places = new ArrayList<TopicPartition>();
        question.get("keys").forEach(key -> places.add(place(key.asInt())));
        return places;
    }

    static ObjectNode ok() {
        return JSON.createObjectNode().put("type", "ok");
    }

    static Throwable cause(Throwable error) {
        return error instanceof ExecutionException ? error.getCause() : error;
    }

    static String words(Throwable error) {
        Throwable cause = cause(error);
        return cause.getClass().getSimpleName() + " " + cause.getMessage();
    }
}
